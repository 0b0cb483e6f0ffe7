use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use qbench_sdk::cuda_kernel::{KernelSource, LaunchGeometry};
use qbench_sdk::layout::{BlockCodebook, Blocks, Dense, NibbleOrder, Scale};
use qbench_sdk::{
    CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, QuantScheme, Result, SchemeInfo,
    Weights,
};
use safetensors::Dtype;

use super::{directory, f32s};
use crate::checkpoint::{Checkpoint, ModulePolicy, StoredWeights};

/// Stores the sign of each weight as a code of 8 bits, with a scale of 1; remembers the type that it was given.
struct Sign(AtomicUsize);

impl QuantScheme for Sign {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "sign".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, _source: DType) -> Result<Layout> {
        if cols % 2 == 1 {
            return Err(Error::Unsupported("odd columns".to_owned()));
        }
        Ok(Layout::BlockCodebook(BlockCodebook {
            rows,
            cols,
            bits: 8,
            order: NibbleOrder::HighFirst,
            blocks: Blocks::Flat,
            block: 64,
            scale: Scale::F32,
        }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        _: &Layout,
        buffers: &mut [&mut [u8]],
        _: CallContext,
    ) -> Result<()> {
        self.0.fetch_add(1, Relaxed);
        let [codes, codebook, absmax] = buffers else {
            panic!("{} buffers", buffers.len())
        };
        codebook[..8].copy_from_slice(&f32s(&[-1.0, 1.0]));
        for scale in absmax.as_chunks_mut::<4>().0 {
            *scale = 1.0_f32.to_le_bytes();
        }
        let mut row = vec![0.0; source.cols()];
        for index in 0..source.rows() {
            source.read_row(index, &mut row)?;
            for (code, value) in codes[index * row.len()..].iter_mut().zip(&row) {
                *code = u8::from(*value >= 0.0);
            }
        }
        Ok(())
    }
    fn cuda_kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        Ok(Some(CudaKernel {
            name: format!("sign {} x {}", layout.rows(), layout.cols()),
            source: KernelSource::Ptx("//".to_owned()),
            entries: BTreeMap::from([(DType::F32, "sign".to_owned())]),
            geometry: LaunchGeometry {
                threads: 32,
                tile_rows: 1,
                tile_cols: 32,
                shared_bytes: 0,
            },
            constants: Vec::new(),
        }))
    }
}

/// Stores weights densely in their own type, with the first byte changed to `change`.
struct Plain {
    change: Option<u8>,
}

impl QuantScheme for Plain {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "plain".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, dtype: DType) -> Result<Layout> {
        Ok(Layout::Dense(Dense { rows, cols, dtype }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        _: &Layout,
        buffers: &mut [&mut [u8]],
        _: CallContext,
    ) -> Result<()> {
        buffers[0].copy_from_slice(source.data());
        if let Some(change) = self.change {
            buffers[0][0] = change;
        }
        Ok(())
    }
}

const LINEAR: &str = "layers.0.q_proj.weight";

/// A checkpoint with one Linear, its bias, and the output head, in f32.
fn checkpoint() -> (tempfile::TempDir, Arc<Checkpoint>) {
    // 1 + 2^-11 and 1 + 3 · 2^-11 lie halfway between two f16 values; the even ones are 1 and 1 + 2^-9.
    let values = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, -2.0, 0.5];
    let directory = directory(
        "{}",
        &[
            (LINEAR, Dtype::F32, vec![2, 2], f32s(&values)),
            ("layers.0.q_proj.bias", Dtype::F32, vec![2], f32s(&[0.25, 4.0])),
            ("lm_head.weight", Dtype::F32, vec![1, 2], f32s(&[3.0, 5.0])),
        ],
    );
    let checkpoint = Arc::new(Checkpoint::open(directory.path()).unwrap());
    (directory, checkpoint)
}

fn stored(scheme: impl QuantScheme, compute: DType) -> (tempfile::TempDir, StoredWeights) {
    let (directory, checkpoint) = checkpoint();
    let weights = StoredWeights::new(checkpoint, Arc::new(scheme), &ModulePolicy::default(), compute, 2);
    (directory, weights.unwrap())
}

#[test]
fn the_policy_decides_what_the_scheme_stores() {
    let (_directory, weights) = stored(Sign(AtomicUsize::new(0)), DType::F32);
    let layouts = weights.layouts();
    assert_eq!(layouts.len(), 1);
    assert_eq!(
        (layouts[0].0.kind(), layouts[0].1),
        ("qbench.block-codebook/1", 1)
    );

    let tensor = weights.tensor(LINEAR).unwrap();
    assert_eq!(tensor.buffer(0), [1, 1, 0, 1]);
    assert!(tensor.buffer(3).is_empty());
    let kernel = tensor.cuda_kernel().unwrap().unwrap();
    assert_eq!(kernel.name, "sign 2 x 2");
    assert_eq!(weights.cuda_kernel(&layouts[0].0).unwrap(), Some(kernel));
    assert_eq!(tensor.buffer(0).as_ptr() as usize % 64, 0);
    let mut out = [0; 8];
    let mut row = MatrixMut::new(&mut out, 1, 2, DType::F32).unwrap();
    tensor
        .dequantize(1, &mut row, CallContext::single_threaded())
        .unwrap();
    assert_eq!(out.to_vec(), f32s(&[-1.0, 1.0]));

    let head = weights.tensor("lm_head.weight").unwrap();
    assert_eq!(head.buffer(0), f32s(&[3.0, 5.0]));
    assert_eq!(head.dense_dtype(), Some(DType::F32));
    assert_eq!(head.cuda_kernel().unwrap(), None);
    let mut row = MatrixMut::new(&mut out, 1, 2, DType::F32).unwrap();
    head.dequantize(0, &mut row, CallContext::single_threaded())
        .unwrap();
    assert_eq!(out.to_vec(), f32s(&[3.0, 5.0]));
}

#[test]
fn a_scheme_that_stores_the_source_gets_the_mapped_bytes() {
    let (_directory, weights) = stored(Plain { change: None }, DType::F32);
    let _tensor = weights.tensor(LINEAR).unwrap();
    assert_eq!(
        (weights.memory().mapped_bytes, weights.memory().owned_bytes),
        (16, 0)
    );
    assert_eq!(weights.records()[0].quantize_seconds, 0.0);
}

#[test]
fn a_dense_scheme_that_changes_values_is_not_passed_over() {
    let (_directory, weights) = stored(Plain { change: Some(0xab) }, DType::F32);
    let tensor = weights.tensor(LINEAR).unwrap();
    assert_eq!(tensor.buffer(0)[0], 0xab);
    assert_eq!(
        (weights.memory().mapped_bytes, weights.memory().owned_bytes),
        (0, 16)
    );
}

#[test]
fn the_source_is_rounded_to_the_precision_of_the_run() {
    let (_directory, weights) = stored(Plain { change: None }, DType::F16);
    let tensor = weights.tensor(LINEAR).unwrap();
    let halves: Vec<u16> = tensor
        .buffer(0)
        .as_chunks::<2>()
        .0
        .iter()
        .map(|c| u16::from_le_bytes(*c))
        .collect();
    assert_eq!(halves, [0x3c00, 0x3c02, 0xc000, 0x3800]);
    // What is not quantised stays as it is; the backend rounds it.
    assert_eq!(
        weights.tensor("lm_head.weight").unwrap().dense_dtype(),
        Some(DType::F32)
    );
}

#[test]
fn bytes_are_counted_until_they_are_dropped() {
    let (_directory, weights) = stored(Sign(AtomicUsize::new(0)), DType::F32);
    let quantised = 4 + 256 * 4 + 4;
    let head = weights.tensor("lm_head.weight").unwrap();
    let linear = weights.tensor(LINEAR).unwrap();
    let memory = weights.memory();
    assert_eq!((memory.mapped_bytes, memory.owned_bytes), (8, quantised));
    drop(linear);
    drop(weights.tensor("layers.0.q_proj.bias").unwrap());
    drop(head);
    let memory = weights.memory();
    assert_eq!((memory.mapped_bytes, memory.owned_bytes), (0, 0));
    assert_eq!(
        (memory.peak_owned_bytes, memory.peak_bytes),
        (quantised, quantised + 8)
    );
}

#[test]
fn each_tensor_has_one_record() {
    let (_directory, weights) = stored(Sign(AtomicUsize::new(0)), DType::F32);
    for name in [LINEAR, "lm_head.weight", LINEAR] {
        weights.tensor(name).unwrap();
    }
    let records = weights.records();
    assert_eq!(records.len(), 2);
    let linear = &records[0];
    assert_eq!((linear.name.as_str(), linear.rows, linear.cols), (LINEAR, 2, 2));
    assert_eq!(
        (linear.source, linear.source_bytes, linear.bytes),
        (DType::F32, 16, 1032)
    );
    assert!(linear.quantised && linear.quantize_seconds > 0.0);
    assert_eq!(linear.bits_per_weight, 1032.0 * 8.0 / 4.0);
    assert!(!records[1].quantised);
    assert_eq!(records[1].bits_per_weight, 32.0);
}

#[test]
fn a_weight_is_quantised_once_a_request() {
    let (_directory, checkpoint) = checkpoint();
    let scheme = Arc::new(Sign(AtomicUsize::new(0)));
    let policy = ModulePolicy::default();
    let weights = StoredWeights::new(checkpoint, Arc::clone(&scheme) as _, &policy, DType::F32, 1).unwrap();
    assert_eq!(scheme.0.load(Relaxed), 0, "planning reads no data");
    drop(weights.tensor(LINEAR).unwrap());
    assert_eq!(scheme.0.load(Relaxed), 1);
}

#[test]
fn errors_name_the_weight() {
    let (_directory, checkpoint) = checkpoint();
    let odd = directory("{}", &[("a.weight", Dtype::F32, vec![1, 3], f32s(&[0.0; 3]))]);
    let odd = Arc::new(Checkpoint::open(odd.path()).unwrap());
    let policy = ModulePolicy::default();
    let scheme: Arc<dyn QuantScheme> = Arc::new(Sign(AtomicUsize::new(0)));
    let error = StoredWeights::new(odd, Arc::clone(&scheme), &policy, DType::F32, 1)
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(
        error.contains("`sign`") && error.contains("`a.weight` (1 x 3, f32)"),
        "{error}"
    );

    let weights = StoredWeights::new(checkpoint, scheme, &policy, DType::F32, 1).unwrap();
    let error = weights.tensor("layers.9.q_proj.weight").err().unwrap();
    assert!(
        matches!(&error, Error::NotFound(text) if text.contains("layers.9.q_proj.weight")),
        "{error}"
    );
}
