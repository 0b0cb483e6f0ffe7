//! A scheme and a backend go through the boundary and come back, in one process.

use std::{collections::BTreeMap, sync::Arc};

use qbench_abi::{
    CudaKernelRunner_Ref, Extension,
    abi_stable::{
        StableAbi,
        library::{__call_root_module_loader, AbiHeaderRef, CheckTypeLayout, LibHeader, RootModuleResult},
        std_types::{ROption, RStr, RString},
    },
};

use super::root;
use crate::{
    Backend, CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, Model, Options, QuantScheme,
    Result, SchemeInfo, StoredTensor, Weights,
    backend::{
        BackendInfo, Cache, DeviceInfo, Execution, ForwardOutput, LayerOutput, LoadRequest, LogitRows,
        Memory, ModelInfo, TokenBatch,
    },
    cuda_kernel::{KernelSource, LaunchGeometry},
    host::Plugin,
    layout::Dense,
};

struct Copying {
    panics: bool,
}

impl QuantScheme for Copying {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "copy".to_owned(),
            summary: "bytes as they are".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, dtype: DType) -> Result<Layout> {
        Ok(Layout::Dense(Dense { rows, cols, dtype }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        _layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        assert!(!self.panics, "on purpose, with {} threads", context.threads);
        buffers[0].copy_from_slice(source.data());
        Ok(())
    }

    /// Twice the bytes of the layout, which depend on the type that it is made from.
    fn workspace_bytes(&self, layout: &Layout) -> u64 {
        2 * layout.bytes() as u64
    }

    fn cuda_kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        match layout.rows() {
            2 => Ok(Some(kernel())),
            3 => Ok(Some(CudaKernel {
                name: "broken".to_owned(),
                entries: BTreeMap::new(),
                ..kernel()
            })),
            _ => Ok(None),
        }
    }
}

/// A kernel whose every field could be lost on the way.
fn kernel() -> CudaKernel {
    CudaKernel {
        name: "copying".to_owned(),
        source: KernelSource::CudaC(
            "// \"quoted\" \\ \u{b5}\n\textern \"C\" __global__ void copy() {}".to_owned(),
        ),
        entries: BTreeMap::from([
            (DType::F32, "copy".to_owned()),
            (DType::BF16, "copy_bf16".to_owned()),
        ]),
        geometry: LaunchGeometry {
            threads: 96,
            tile_rows: 2,
            tile_cols: 64,
            shared_bytes: 128,
        },
        constants: vec![i64::MIN, 7],
    }
}

crate::register_scheme!(|options: &Options| {
    let mut options = options.clone();
    let panics = options.take("panics", false)?;
    options.finish(&["panics"])?;
    Ok::<_, Error>(Copying { panics })
});

/// Answers each token id with the first weight plus the id.
struct Echo;
struct EchoModel(f32);

impl Drop for EchoModel {
    fn drop(&mut self) {
        panic!("on purpose, while dropped");
    }
}

impl Backend for Echo {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "echo".to_owned(),
            ..BackendInfo::default()
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Err(Error::NotFound("no device on purpose".to_owned()))
    }

    fn negotiate(&self, _device: &str, layout: &Layout, _compute: DType) -> Result<Execution> {
        Ok(Execution::Native {
            kernel: layout.kind().to_owned(),
        })
    }

    fn negotiate_with_kernel(
        &self,
        _device: &str,
        _layout: &Layout,
        compute: DType,
        kernel: &CudaKernel,
    ) -> Result<Execution> {
        Ok(Execution::SchemeKernel {
            kernel: format!("{kernel:?}"),
            to: compute,
        })
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        let tensor = request.weights.tensor(&request.weights.names()?[0])?;
        assert_eq!(tensor.cuda_kernel()?, Some(kernel()));
        let mut first = vec![0.0; tensor.layout().cols()];
        tensor.dense().expect("a dense weight").read_row(0, &mut first)?;
        Ok(Box::new(EchoModel(first[0])))
    }
}

impl Model for EchoModel {
    fn info(&self) -> Result<ModelInfo> {
        Ok(ModelInfo {
            vocab_size: 7,
            ..ModelInfo::default()
        })
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        assert_eq!(batch.cache, Cache::Start);
        output.hidden[0].data[0] = self.0 + batch.ids[0] as f32;
        let (rows, logits) = output.logits.as_mut().expect("logits are asked for");
        assert_eq!(*rows, LogitRows::Last);
        logits[0] = 5.0;
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            allocated: 1,
            peak_allocated: 2,
            reserved: Some(3),
            measured_by: "nobody".to_owned(),
        })
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        Err(Error::OutOfMemory("on purpose".to_owned()))
    }
}

crate::register_backend!(|_: &Options| Ok::<_, Error>(Echo));

extern "C" fn manifest() -> qbench_abi::AbiResult<RString> {
    root::manifest_json("unit-test", "1.2.3", "MIT")
}

extern "C" fn construct() -> RootModuleResult {
    __call_root_module_loader(|| root::root_module(manifest))
}

fn plugin() -> Plugin {
    // SAFETY: `construct` builds a module of the named type.
    static HEADER: LibHeader =
        unsafe { LibHeader::from_constructor::<qbench_abi::PluginRoot_Ref>(construct, CheckTypeLayout::Yes) };
    let address: *const LibHeader = &raw const HEADER;
    // SAFETY: a reference to a header is what a library's symbol resolves to; this is the address of one.
    Plugin::open(unsafe { std::mem::transmute::<*const LibHeader, AbiHeaderRef>(address) }).unwrap()
}

struct OneTensor(Vec<u8>, Layout);

impl StoredTensor for OneTensor {
    fn layout(&self) -> &Layout {
        &self.1
    }
    fn buffer(&self, index: usize) -> &[u8] {
        if index == 0 { &self.0 } else { &[] }
    }
    fn dequantize(&self, _: usize, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        Err(Error::Unsupported("not here".to_owned()))
    }
    fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        Err(Error::Unsupported("not here".to_owned()))
    }
    fn cuda_kernel(&self) -> Result<Option<CudaKernel>> {
        Ok(Some(kernel()))
    }
}

struct OneWeight;

impl Weights for OneWeight {
    fn names(&self) -> Result<Vec<String>> {
        Ok(vec!["w".to_owned()])
    }
    fn tensor(&self, name: &str) -> Result<Box<dyn StoredTensor>> {
        assert_eq!(name, "w");
        let layout = Layout::Dense(Dense {
            rows: 1,
            cols: 2,
            dtype: DType::F32,
        });
        Ok(Box::new(OneTensor(
            [1.5_f32, 2.5].iter().flat_map(|v| v.to_le_bytes()).collect(),
            layout,
        )))
    }
}

#[test]
fn a_plugin_lists_what_it_registered() {
    let plugin = plugin();
    assert_eq!(plugin.manifest().unwrap().name, "unit-test");
    assert_eq!(plugin.schemes().unwrap()[0].id, "copy");
    assert_eq!(plugin.backends().unwrap()[0].id, "echo");
    assert!(matches!(
        plugin.open_scheme("copies", &Options::none()),
        Err(Error::NotFound(_))
    ));
    let misspelt = Options::parse("panic=true").unwrap();
    assert!(matches!(
        plugin.open_scheme("copy", &misspelt),
        Err(Error::InvalidArgument(_))
    ));
}

#[test]
fn a_scheme_fills_the_hosts_buffers() {
    let scheme = plugin().open_scheme("copy", &Options::none()).unwrap();
    let layout = scheme.layout(2, 2, DType::BF16).unwrap();
    let source = [1, 2, 3, 4, 5, 6, 7, 8];
    let mut buffer = [0; 8];
    let matrix = Matrix::new(&source, 2, 2, DType::BF16).unwrap();
    scheme
        .quantize(
            matrix,
            &layout,
            &mut [&mut buffer],
            CallContext::single_threaded(),
        )
        .unwrap();
    assert_eq!(buffer, source);
    let mut row = [0; 4];
    let mut out = MatrixMut::new(&mut row, 1, 2, DType::BF16).unwrap();
    scheme
        .dequantize(&layout, &[&buffer], 1, &mut out, CallContext::single_threaded())
        .unwrap();
    assert_eq!(row, [5, 6, 7, 8]);
}

#[test]
fn declared_workspace_is_that_of_the_layout_asked_about() {
    let scheme = plugin().open_scheme("copy", &Options::none()).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let layout = scheme.layout(2, 3, dtype).unwrap();
        assert_eq!(scheme.workspace_bytes(&layout), 2 * 6 * dtype.size() as u64);
    }
}

#[test]
fn a_kernel_crosses_the_boundary_unchanged() {
    let plugin = plugin();
    let scheme = plugin.open_scheme("copy", &Options::none()).unwrap();
    let layout = |rows| scheme.layout(rows, 2, DType::F32).unwrap();
    assert_eq!(scheme.cuda_kernel(&layout(2)).unwrap(), Some(kernel()));
    assert_eq!(scheme.cuda_kernel(&layout(1)).unwrap(), None);
    let error = scheme.cuda_kernel(&layout(3)).unwrap_err();
    assert!(
        matches!(&error, Error::InvalidArgument(text) if text.contains("`broken`: it has no entry")),
        "{error}"
    );
    let backend = plugin.open_backend("echo", &Options::none()).unwrap();
    let execution = backend
        .negotiate_with_kernel("cpu", &layout(2), DType::BF16, &kernel())
        .unwrap();
    assert_eq!(
        execution,
        Execution::SchemeKernel {
            kernel: format!("{:?}", kernel()),
            to: DType::BF16
        }
    );
}

#[test]
fn a_table_of_another_type_is_left_alone() {
    let scheme = super::scheme::export(Box::new(Copying { panics: false }));
    let layout = Layout::Dense(Dense {
        rows: 2,
        cols: 2,
        dtype: DType::F32,
    });
    let mistyped = |id| {
        let extension = scheme.extension(id).into_option().unwrap();
        ROption::RSome(Extension {
            layout: <CudaKernelRunner_Ref as StableAbi>::LAYOUT,
            ..extension
        })
    };
    assert!(super::cuda_kernel::of(mistyped, &layout).unwrap().is_none());
    assert!(
        super::cuda_kernel::of(|id| scheme.extension(id), &layout)
            .unwrap()
            .is_some()
    );
    assert!(
        scheme
            .extension(RStr::from("qbench.unheard-of/1"))
            .into_option()
            .is_none()
    );
}

#[test]
fn a_panic_becomes_an_error() {
    let scheme = plugin()
        .open_scheme("copy", &Options::parse("panics=true").unwrap())
        .unwrap();
    let layout = scheme.layout(1, 1, DType::F32).unwrap();
    let source = Matrix::new(&[0; 4], 1, 1, DType::F32).unwrap();
    let error = scheme
        .quantize(source, &layout, &mut [&mut [0; 4]], CallContext { threads: 3 })
        .unwrap_err();
    assert!(
        matches!(&error, Error::Panic(text) if text.contains("on purpose, with 3 threads")),
        "{error}"
    );
}

#[test]
fn a_backend_loads_the_hosts_weights_and_runs() {
    let backend = plugin().open_backend("echo", &Options::none()).unwrap();
    assert!(matches!(backend.devices(), Err(Error::NotFound(text)) if text == "no device on purpose"));
    let layout = Layout::Dense(Dense {
        rows: 1,
        cols: 2,
        dtype: DType::F32,
    });
    let execution = backend.negotiate("cpu", &layout, DType::F32).unwrap();
    assert_eq!(execution.to_string(), "native: qbench.dense/1");
    let mut model = backend
        .load(LoadRequest {
            config_json: "{}",
            weights: Arc::new(OneWeight),
            device: "cpu",
            compute: DType::F32,
            threads: 1,
        })
        .unwrap();
    assert_eq!(model.info().unwrap().vocab_size, 7);
    let (mut hidden, mut logits) = ([0.0], [0.0; 7]);
    let mut output = ForwardOutput {
        hidden: vec![LayerOutput {
            layer: 0,
            data: &mut hidden,
        }],
        pooled: Vec::new(),
        logits: Some((LogitRows::Last, &mut logits)),
    };
    let batch = TokenBatch {
        ids: &[4],
        mask: &[1],
        batch: 1,
        length: 1,
        cache: Cache::Start,
    };
    model.forward(batch, &mut output).unwrap();
    assert_eq!((hidden[0], logits[0]), (5.5, 5.0));
    assert_eq!(model.memory().unwrap().reserved, Some(3));
    assert!(matches!(model.reset_peak_memory(), Err(Error::OutOfMemory(_))));
    // The model panics in its `Drop`; a panic that came through would end this process.
    drop(model);
}

#[test]
fn a_panic_with_a_payload_that_panics_becomes_an_error() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a payload that is dropped");
        }
    }
    let caught = super::guard::<()>(|| std::panic::panic_any(Bomb));
    assert_eq!(caught.unwrap_err().code, qbench_abi::ErrorCode::PANIC);
}
