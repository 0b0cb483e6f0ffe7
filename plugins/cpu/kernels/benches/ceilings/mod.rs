//! What the machine can do at most.

use std::hint::black_box;

use qbench_cpu_kernels::InstructionSet;

/// A loop that does nothing but one thing.
pub(crate) struct Ceiling {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) work: f64,
    pub(crate) run: Box<dyn FnMut()>,
    pub(crate) rates: Vec<f64>,
}

/// Turns of a loop of 16 independent sums.
const TURNS: usize = 2_000_000;

/// Bytes of memory to be read: far more than the caches hold.
const READ: usize = 256 << 20;

/// The rates of f32, of bf16 and of byte multiply-adds (where there is none, that of what stands in for them), and of
/// reading memory.
pub(crate) fn all(set: InstructionSet) -> Vec<Ceiling> {
    let memory = vec![1_u64; READ / 8];
    let operations = |name, lanes: usize, run: unsafe fn()| Ceiling {
        name,
        unit: "op",
        work: 2.0 * (TURNS * 16 * lanes) as f64,
        // SAFETY: the set's instructions are there: it comes from `from_environment`.
        run: Box::new(move || unsafe { run() }),
        rates: Vec::new(),
    };
    let mut ceilings = match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Dot => vec![
            operations("f32 multiply-adds", 16, x86::f32_512),
            operations("bf16 dot products", 32, x86::bf16),
            operations("byte dot products", 64, x86::i8),
        ],
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => vec![
            operations("f32 multiply-adds", 16, x86::f32_512),
            operations("f32 multiply-adds", 16, x86::f32_512),
            operations("i16 dot products", 32, x86::i16_512),
        ],
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => vec![
            operations("f32 multiply-adds", 8, x86::f32_256),
            operations("f32 multiply-adds", 8, x86::f32_256),
            operations("i16 dot products", 16, x86::i16_256),
        ],
        _ => panic!("no ceiling is known for {set}; run with another instruction set"),
    };
    ceilings.push(Ceiling {
        name: "memory read",
        unit: "B",
        work: READ as f64,
        run: Box::new(move || {
            black_box(memory.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value)));
        }),
        rates: Vec::new(),
    });
    ceilings
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{
        arch::x86_64::{
            __m256, __m256i, __m512, __m512bh, __m512i, _mm256_add_epi32, _mm256_fmadd_ps, _mm256_madd_epi16,
            _mm256_set1_epi32, _mm256_set1_ps, _mm512_add_epi32, _mm512_dpbf16_ps, _mm512_dpbusd_epi32,
            _mm512_fmadd_ps, _mm512_madd_epi16, _mm512_set1_epi32, _mm512_set1_ps,
        },
        hint::black_box,
    };

    use super::TURNS;

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
