//! What the machine can do at most.

use std::hint::black_box;

use qbench_cpu_kernels::InstructionSet;

use crate::Subject;

/// What bounds a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Multiply-adds of f32.
    Float,
    /// Products of bf16, or what stands in for them.
    Bf16,
    /// Products of integers of the least width that the set multiplies.
    Integer,
    /// Bytes read from memory.
    Read,
    /// Bytes copied in memory, each counted once.
    Copy,
}

impl Limit {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Float | Self::Bf16 | Self::Integer => "op",
            Self::Read | Self::Copy => "B",
        }
    }
}

/// Turns of a loop of 16 independent sums.
const TURNS: usize = 2_000_000;

/// Bytes of memory to be read: far more than the caches hold.
const READ: usize = 256 << 20;

/// Number of loops.
pub(crate) const COUNT: usize = 5;

/// Loops that do nothing but one thing, one for each limit.
pub(crate) fn all(set: InstructionSet) -> Vec<Subject> {
    let operations = |name: &str, limit, lanes: usize, run: unsafe fn()| {
        // SAFETY: the set's instructions are there: it comes from `from_environment`.
        Subject::new(name.to_owned(), 2 * TURNS * 16 * lanes, limit, move || unsafe {
            run();
        })
    };
    let memory = |name: &str, limit, run| Subject::new(name.to_owned(), READ, limit, run);
    let (from, mut to) = (vec![1_u8; READ], vec![0_u8; READ]);
    let copy: Box<dyn FnMut() + Send> = Box::new(move || {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
    });
    let from = vec![1_u8; READ];
    let read: Box<dyn FnMut() + Send> = Box::new(move || match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 | InstructionSet::Avx512Dot => {
            // SAFETY: the instructions are there.
            black_box(unsafe { x86::read_512(&from) });
        }
        _ => {
            black_box(
                from.as_chunks::<8>()
                    .0
                    .iter()
                    .fold(0, |sum, bytes| sum ^ u64::from_ne_bytes(*bytes)),
            );
        }
    });
    let mut ceilings = match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Dot => vec![
            operations("f32 multiply-adds", Limit::Float, 16, x86::f32_512),
            operations("bf16 dot products", Limit::Bf16, 32, x86::bf16),
            operations("byte dot products", Limit::Integer, 64, x86::i8),
        ],
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => vec![
            operations("f32 multiply-adds", Limit::Float, 16, x86::f32_512),
            operations("f32 multiply-adds for bf16", Limit::Bf16, 16, x86::f32_512),
            operations("i16 dot products", Limit::Integer, 32, x86::i16_512),
        ],
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => vec![
            operations("f32 multiply-adds", Limit::Float, 8, x86::f32_256),
            operations("f32 multiply-adds for bf16", Limit::Bf16, 8, x86::f32_256),
            operations("i16 dot products", Limit::Integer, 16, x86::i16_256),
        ],
        _ => panic!("no ceiling is known for {set}; run with another instruction set"),
    };
    ceilings.push(memory("memory read", Limit::Read, read));
    ceilings.push(memory("memory copy", Limit::Copy, copy));
    ceilings
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::{
            __m256, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T1, _mm_prefetch, _mm256_add_epi32,
            _mm256_fmadd_ps, _mm256_madd_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm512_add_epi32,
            _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_madd_epi16,
            _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_xor_si512,
        },
        hint::black_box,
    };

    use super::TURNS;

    /// All bytes combined, in pieces of which four streams are read at once and fetched ahead: one stream alone leaves
    /// memory idle at the end of each page.
    #[target_feature(enable = "avx512f")]
    pub(super) fn read_512(bytes: &[u8]) -> __m512i {
        const AHEAD: usize = 4 << 10;
        const PIECE: usize = 256 << 10;
        let mut sums = [_mm512_setzero_si512(); 4];
        for piece in bytes.as_chunks::<PIECE>().0 {
            for at in (0..PIECE / 4).step_by(64) {
                for (stream, sum) in sums.iter_mut().enumerate() {
                    let from = piece.as_ptr().wrapping_add(stream * PIECE / 4 + at);
                    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(AHEAD).cast());
                    // SAFETY: 64 bytes of that stream are left.
                    *sum = _mm512_xor_si512(*sum, unsafe { _mm512_loadu_si512(from.cast()) });
                }
            }
        }
        let [a, b, c, d] = sums;
        _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d))
    }

    macro_rules! peak {
        ($name:ident, $features:literal, $vector:ty, $start:expr, $dot:expr) => {
            /// # Safety
            /// The processor has the features.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name() {
                let (a, b) = (black_box($start), black_box($start));
                let mut sums: [$vector; 16] = [$start; 16];
                for _ in 0..TURNS {
                    for sum in &mut sums {
                        *sum = $dot(*sum, a, b);
                    }
                }
                black_box(sums);
            }
        };
    }

    peak!(f32_512, "avx512f", __m512, _mm512_set1_ps(1e-20), |sum, a, b| {
        _mm512_fmadd_ps(a, b, sum)
    });
    peak!(f32_256, "avx2,fma", __m256, _mm256_set1_ps(1e-20), |sum, a, b| {
        _mm256_fmadd_ps(a, b, sum)
    });
    peak!(
        i16_512,
        "avx512f,avx512bw",
        __m512i,
        _mm512_set1_epi32(1),
        |sum, a, b| _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
    );
    peak!(i16_256, "avx2", __m256i, _mm256_set1_epi32(1), |sum, a, b| {
        _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
    });
    peak!(
        i8,
        "avx512f,avx512vnni",
        __m512i,
        _mm512_set1_epi32(1),
        |sum, a, b| { _mm512_dpbusd_epi32(sum, a, b) }
    );
    peak!(
        bf16,
        "avx512f,avx512bf16",
        __m512,
        _mm512_set1_ps(1.0),
        |sum, a: __m512, b: __m512| {
            // SAFETY: both types are vectors of 512 bits, of any bit pattern.
            let (a, b) = unsafe {
                (
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                )
            };
            _mm512_dpbf16_ps(sum, a, b)
        }
    );
}
