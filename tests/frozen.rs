//! The promise of plugin ABI 1: a plugin as it was built with the first release's sdk loads in this host and runs.
//!
//! The library is in the repository, stripped, and never built anew; `frozen/README.md` says how it was made. It is for
//! Linux on x86-64, as is this test.
#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{path::PathBuf, sync::Arc};

use qbench_sdk::{
    Backend, CallContext, DType, Error, Layout, Matrix, MatrixMut, Options, QuantScheme, Result,
    StoredTensor, Weights,
    backend::{Cache, Execution, ForwardOutput, LayerOutput, LoadRequest, LogitRows, TokenBatch},
    cuda_kernel::KernelSource,
    host::Plugin,
};
use qbench_tests::{benchmark_table, repository, rows, small_run};

const ONE_THREAD: CallContext = CallContext { threads: 1 };

fn library() -> PathBuf {
    repository().join("tests/frozen/libtestplugin_frozen.so")
}

fn plugin() -> Plugin {
    qbench::plugins::load(&library()).unwrap()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect()
}

/// A weight of 2 x 3 as a scheme of the plugin stores it.
struct Stored {
    scheme: Arc<dyn QuantScheme>,
    layout: Layout,
    buffers: Vec<Vec<u8>>,
}

const VALUES: [f32; 6] = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0];

fn stored(id: &str) -> Stored {
    let scheme: Arc<dyn QuantScheme> = plugin().open_scheme(id, &Options::none()).unwrap().into();
    let layout = scheme.layout(2, 3, DType::F32).unwrap();
    let mut buffers: Vec<Vec<u8>> = layout
        .buffers()
        .iter()
        .map(|buffer| vec![0; buffer.bytes])
        .collect();
    let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let source = bytes(&VALUES);
    let source = Matrix::new(&source, 2, 3, DType::F32).unwrap();
    scheme.quantize(source, &layout, &mut slices, ONE_THREAD).unwrap();
    Stored {
        scheme,
        layout,
        buffers,
    }
}

impl StoredTensor for Stored {
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], Vec::as_slice)
    }
    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        self.scheme
            .dequantize(&self.layout, &self.buffers(), first_row, out, context)
    }
    fn matmul(&self, input: Matrix<'_>, output: &mut MatrixMut<'_>, context: CallContext) -> Result<()> {
        self.scheme
            .matmul(&self.layout, &self.buffers(), input, output, context)
    }
    fn cuda_kernel(&self) -> Result<Option<qbench_sdk::CudaKernel>> {
        self.scheme.cuda_kernel(&self.layout)
    }
}

struct TwoWeights;

impl Weights for TwoWeights {
    fn names(&self) -> Result<Vec<String>> {
        Ok(vec!["frozen_halving".to_owned(), "frozen_sign".to_owned()])
    }
    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>> {
        Ok(Box::new(stored(name)))
    }
}

#[test]
fn it_says_what_it_said_at_the_first_release() {
    let plugin = plugin();
    assert_eq!(plugin.abi(), "rust 1.0.0");
    let manifest = plugin.manifest().unwrap();
    assert_eq!(
        (
            manifest.name.as_str(),
            manifest.version.as_str(),
            manifest.sdk.as_str()
        ),
        ("qbench-testplugin-frozen", "1.0.0", "0.1.0")
    );
    let schemes = plugin.schemes().unwrap();
    assert_eq!(schemes[0].id, "frozen_halving");
    assert_eq!(schemes[0].options, [("fails".to_owned(), "false".to_owned())]);
    assert_eq!(
        (schemes[1].id.as_str(), &*schemes[1].aliases),
        ("frozen_sign", &["frozen".to_owned()][..])
    );
    let backends = plugin.backends().unwrap();
    assert_eq!(
        (backends[0].id.as_str(), &*backends[0].precisions),
        ("frozen_echo", &[DType::F32][..])
    );
}

#[test]
fn its_schemes_store_decode_and_multiply() {
    let sign = stored("frozen_sign");
    let mut row = [0; 12];
    let mut out = MatrixMut::new(&mut row, 1, 3, DType::F32).unwrap();
    sign.dequantize(1, &mut out, ONE_THREAD).unwrap();
    assert_eq!(floats(&row), [-5.0, 5.0, -5.0]);
    assert_eq!(sign.cuda_kernel().unwrap(), None);

    let halving = stored("frozen_halving");
    assert_eq!(floats(halving.buffer(0)), [0.5, -1.0, 1.5, -2.0, 2.5, -3.0]);
    assert_eq!(halving.scheme.workspace_bytes(&halving.layout), 24);
    let mut out = MatrixMut::new(&mut row, 1, 3, DType::F32).unwrap();
    halving.dequantize(1, &mut out, ONE_THREAD).unwrap();
    assert_eq!(floats(&row), VALUES[3..]);
    let input = bytes(&[1.0, 1.0, 2.0]);
    let mut product = [0; 8];
    halving
        .matmul(
            Matrix::new(&input, 1, 3, DType::F32).unwrap(),
            &mut MatrixMut::new(&mut product, 1, 2, DType::F32).unwrap(),
            ONE_THREAD,
        )
        .unwrap();
    assert_eq!(floats(&product), [5.0, -11.0]);
    let kernel = halving.cuda_kernel().unwrap().unwrap();
    assert_eq!(
        (kernel.entry(DType::F32), &*kernel.constants),
        (Some("halving"), &[-1][..])
    );
    assert_eq!((kernel.geometry.threads, kernel.geometry.shared_bytes), (128, 16));
    assert!(matches!(kernel.source, KernelSource::CudaC(_)));
}

#[test]
fn its_errors_and_panics_arrive() {
    let plugin = plugin();
    let halving = plugin.open_scheme("frozen_halving", &Options::none()).unwrap();
    let error = halving.layout(1, 1, DType::BF16).unwrap_err();
    assert!(
        matches!(&error, Error::Unsupported(text) if text == "weights of type bf16"),
        "{error}"
    );
    let fails = plugin
        .open_scheme("frozen_halving", &Options::parse("fails=true").unwrap())
        .unwrap();
    let layout = fails.layout(1, 1, DType::F32).unwrap();
    let error = fails
        .quantize(
            Matrix::new(&[0; 4], 1, 1, DType::F32).unwrap(),
            &layout,
            &mut [&mut [0; 4]],
            CallContext { threads: 3 },
        )
        .unwrap_err();
    assert!(
        matches!(&error, Error::Panic(text) if text.contains("with 3 threads")),
        "{error}"
    );
    assert!(matches!(
        plugin.open_scheme("other", &Options::none()),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn its_backend_loads_todays_weights_and_runs() {
    let backend: Box<dyn Backend> = plugin().open_backend("frozen_echo", &Options::none()).unwrap();
    assert_eq!(backend.devices().unwrap()[0].memory_bytes, Some(7));
    let halving = stored("frozen_halving");
    let negotiated = backend.negotiate("cpu", &halving.layout, DType::F32).unwrap();
    assert_eq!(negotiated, Execution::SchemeMatmul);
    let kernel = halving.cuda_kernel().unwrap().unwrap();
    let negotiated = backend
        .negotiate_with_kernel("cpu", &halving.layout, DType::F16, &kernel)
        .unwrap();
    assert_eq!(
        negotiated.to_string(),
        "scheme kernel: halving to f16 at each forward"
    );
    assert!(matches!(
        backend.negotiate("tpu", &halving.layout, DType::F32),
        Err(Error::NotFound(_))
    ));

    let mut model = backend
        .load(LoadRequest {
            config_json: "{}",
            weights: Arc::new(TwoWeights),
            device: "cpu",
            compute: DType::F32,
            threads: 1,
        })
        .unwrap();
    let info = model.info().unwrap();
    let executions: Vec<String> = info
        .weights
        .iter()
        .map(|weight| weight.execution.to_string())
        .collect();
    assert_eq!(executions[0], "scheme kernel: halving to f32 at each forward");
    assert!(executions[1].starts_with("unsupported: "), "{executions:?}");
    assert_eq!(info.weights[0].bytes, 24);

    let (mut hidden, mut pooled, mut logits) = ([0.0; 2], [0.0], [0.0; 3]);
    let mut output = ForwardOutput {
        hidden: vec![LayerOutput {
            layer: 10,
            data: &mut hidden,
        }],
        pooled: vec![LayerOutput {
            layer: 1,
            data: &mut pooled,
        }],
        logits: Some((LogitRows::Last, &mut logits)),
    };
    let batch = TokenBatch {
        ids: &[100, 200],
        mask: &[1, 0],
        batch: 1,
        length: 2,
        cache: Cache::None,
    };
    model.forward(batch, &mut output).unwrap();
    model.synchronize().unwrap();
    assert_eq!((hidden, pooled, logits), ([111.0, 11.0], [2.0], [1.0; 3]));
    let cached = TokenBatch {
        cache: Cache::Continue,
        ..batch
    };
    assert!(matches!(
        model.forward(cached, &mut ForwardOutput::default()),
        Err(Error::Unsupported(_))
    ));
    assert_eq!(model.device_seconds().unwrap(), Some(0.25));
    let memory = model.memory().unwrap();
    assert_eq!((memory.peak_allocated, memory.reserved), (2, None));
    assert!(matches!(model.reset_peak_memory(), Err(Error::OutOfMemory(_))));
}

#[test]
fn its_modes_are_measured_and_what_they_refuse_is_said() {
    let outdir = tempfile::tempdir().unwrap();
    let output = small_run(outdir.path())
        .arg("--plugin")
        .arg(library())
        .output()
        .unwrap();
    // The default model is stored in bf16, which one of the two schemes does not take.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let cells = rows(&benchmark_table(outdir.path()));
    let row = |mode: &str| cells.iter().find(|row| row["quantization"] == mode).unwrap();
    assert!(!row("frozen_sign")["tokens_per_s"].is_empty(), "{output:?}");
    assert!(
        row("frozen_halving")
            .values()
            .any(|value| value.contains("weights of type bf16")),
        "{output:?}"
    );
}
