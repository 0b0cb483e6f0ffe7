//! Weights that their scheme's own kernel turns into floats.

use std::collections::BTreeMap;

use qbench_architectures::Ops;
use qbench_sdk::{
    AlignedBuffer, CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, Result, StoredTensor,
    backend::{DequantizeWhen, Execution},
    cuda_kernel::{KernelSource, LaunchGeometry},
    layout::{BufferSpec, Custom},
};

use super::{PRECISIONS, Random, activations, assert_close, ops, product, read, rounding, tokens};

/// `scale · (code - zero)`: a byte a weight and a scale a row, with an empty buffer between the two. A block of 64 threads
/// writes 2 rows of 48 columns.
const SOURCE: &str = r#"
typedef unsigned long long u64;
struct Float {
    typedef float type;
    static __device__ float narrow(float value) { return value; }
};
struct Half {
    typedef unsigned short type;
    static __device__ unsigned short narrow(float value) {
        unsigned short bits;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
        return bits;
    }
};
struct Brain {
    typedef unsigned short type;
    static __device__ unsigned short narrow(float value) {
        unsigned bits = __float_as_uint(value);
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    }
};
template <class T>
__device__ void decode(typename T::type *out, u64 first_row, u64 rows, u64 cols, const unsigned char *codes,
                       const void *nothing, const float *scales, long long zero) {
    for (u64 i = threadIdx.x; i < 96; i += blockDim.x) {
        u64 row = blockIdx.x * 2ull + i / 48, col = blockIdx.y * 48ull + i % 48;
        if (row >= rows || col >= cols || nothing) continue;
        int code = codes[(first_row + row) * cols + col];
        out[row * cols + col] = T::narrow(scales[first_row + row] * (float)(code - zero));
    }
}
#define ENTRY(name, T)                                                                                              \
    extern "C" __global__ void name(T::type *out, u64 first_row, u64 rows, u64 cols, const unsigned char *codes,  \
                                    const void *nothing, const float *scales, long long zero) {                     \
        decode<T>(out, first_row, rows, cols, codes, nothing, scales, zero);                                        \
    }
ENTRY(decode_f32, Float)
ENTRY(decode_f16, Half)
ENTRY(decode_bf16, Brain)
"#;

/// The same, as nvcc 13.0 compiled it for compute capability 8.0 (`nvcc -ptx -arch=compute_80 --fmad=false`).
const PTX: &str = include_str!("scheme_kernel.ptx");

const ZERO: i64 = 100;

struct Stored {
    layout: Layout,
    buffers: Vec<AlignedBuffer>,
    source: KernelSource,
    entries: BTreeMap<DType, String>,
}

impl Stored {
    fn new(random: &mut Random, rows: usize, cols: usize, source: KernelSource) -> Self {
        let codes: Vec<u8> = (0..rows * cols).map(|_| random.next() as u8).collect();
        let scales = random.values(rows, DType::F32);
        Self {
            layout: Layout::Custom(Custom {
                kind: "org.example.bytes/1".to_owned(),
                rows,
                cols,
                buffers: vec![
                    BufferSpec::new("codes", rows * cols, DType::U8),
                    BufferSpec::new("nothing", 0, DType::U8),
                    BufferSpec::new("scales", rows, DType::F32),
                ],
                ..Custom::default()
            }),
            buffers: vec![
                AlignedBuffer::from_bytes(&codes),
                AlignedBuffer::zeroed(0),
                AlignedBuffer::from_bytes(bytemuck::cast_slice(&scales)),
            ],
            source,
            entries: PRECISIONS
                .map(|precision| (precision, format!("decode_{precision}")))
                .into(),
        }
    }

    fn values(&self) -> Vec<f32> {
        let scales: &[f32] = bytemuck::cast_slice(&self.buffers[2]);
        self.buffers[0]
            .iter()
            .enumerate()
            .map(|(index, code)| scales[index / self.layout.cols()] * (i64::from(*code) - ZERO) as f32)
            .collect()
    }
}

impl StoredTensor for Stored {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], |buffer| buffer)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        let values = self.values();
        let cols = self.layout.cols();
        (0..out.rows()).try_for_each(|row| out.write_row(row, &values[(first_row + row) * cols..][..cols]))
    }

    fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        Err(Error::Unsupported("no product".to_owned()))
    }

    fn cuda_kernel(&self) -> Result<Option<CudaKernel>> {
        Ok(Some(CudaKernel {
            name: "decode".to_owned(),
            source: self.source.clone(),
            entries: self.entries.clone(),
            geometry: LaunchGeometry {
                threads: 64,
                tile_rows: 2,
                tile_cols: 48,
                shared_bytes: 0,
            },
            constants: vec![ZERO],
        }))
    }
}

/// The values as the precision holds them.
fn rounded(values: &[f32], precision: DType) -> Vec<f32> {
    let mut bytes = vec![0; values.len() * precision.size()];
    qbench_sdk::narrow(values, precision, &mut bytes).unwrap();
    let mut out = vec![0.0; values.len()];
    qbench_sdk::widen(&bytes, precision, &mut out).unwrap();
    out
}

#[test]
#[ignore = "needs an NVIDIA GPU and NVRTC"]
fn a_schemes_kernel_writes_what_the_scheme_dequantises() {
    let sources = [
        KernelSource::CudaC(SOURCE.to_owned()),
        KernelSource::Ptx(PTX.to_owned()),
    ];
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(31);
        for source in &sources {
            for (rows, cols) in [(1, 1), (5, 7), (64, 96), (131, 1000)] {
                let what = format!("{precision} {rows} x {cols}");
                let stored = Stored::new(&mut random, rows, cols, source.clone());
                let values = rounded(&stored.values(), precision);
                let loaded = ops.load_linear(Box::new(stored), None).unwrap();
                let expected = Execution::SchemeKernel {
                    kernel: "decode".to_owned(),
                    to: precision,
                };
                assert_eq!(loaded.execution, expected, "{what}");
                // Packed: codes, a byte that stands for the empty buffer, scales.
                assert_eq!(loaded.bytes, (rows * cols + 1 + rows * 4) as u64, "{what}");
                let ids: Vec<u32> = (0..rows as u32).rev().collect();
                let batch = tokens(&ops, &ids, &vec![1; rows], 1, 0, 4);
                let table = read(&ops, &ops.embed(&loaded.value, &batch).unwrap());
                for (row, found) in table.chunks_exact(cols).rev().enumerate() {
                    assert_eq!(found, &values[row * cols..][..cols], "{what}, row {row}");
                }
                for count in [1, 5, 70] {
                    let x = random.values(count * cols, precision);
                    let out = ops.linear(&activations(&ops, &x, cols), &loaded.value).unwrap();
                    let truth = product(&x, &values, cols, None);
                    assert_close(&read(&ops, &out), &truth, rounding(precision) + 4e-6, &what);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU and NVRTC"]
fn what_is_wrong_with_a_schemes_kernel_is_said() {
    let mut ops = ops(DType::F32);
    let mut error = |change: &dyn Fn(&mut Stored)| {
        let source = KernelSource::CudaC(SOURCE.to_owned());
        let mut stored = Stored::new(&mut Random(32), 3, 5, source);
        change(&mut stored);
        match ops.load_linear(Box::new(stored), None) {
            Ok(loaded) => panic!("{:?}", loaded.execution),
            Err(error) => error,
        }
    };
    let broken = SOURCE.replace("int code", "int kode");
    let log = error(&|stored| stored.source = KernelSource::CudaC(broken.clone()));
    assert!(
        matches!(&log, Error::InvalidArgument(text) if text.contains("`decode`") && text.contains("\"code\" is undefined")),
        "{log}"
    );
    let log = error(&|stored| stored.source = KernelSource::Ptx(PTX.replace("ld.param", "ld.parameter")));
    assert!(
        matches!(&log, Error::InvalidArgument(text) if text.contains("`decode`") && text.contains("ptxas")),
        "{log}"
    );
    let log = error(&|stored| {
        stored.entries.insert(DType::F32, "decode_f64".to_owned());
    });
    assert!(
        matches!(&log, Error::InvalidArgument(text) if text.contains("`decode_f64`")),
        "{log}"
    );
    // The device goes on.
    assert!(ops.gpu.buffer(1 << 20).is_ok());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn without_an_entry_for_the_precision_it_is_not_used() {
    let mut ops = ops(DType::F16);
    let mut stored = Stored::new(&mut Random(33), 8, 24, KernelSource::Ptx(PTX.to_owned()));
    stored.entries.remove(&DType::F16);
    let loaded = ops.load_linear(Box::new(stored), None).unwrap();
    let at_load = Execution::Dequantize {
        to: DType::F16,
        when: DequantizeWhen::Load,
    };
    assert_eq!(loaded.execution, at_load);
}
