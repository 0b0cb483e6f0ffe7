//! Uses every entry of plugin ABI 1 once: two schemes (a described layout, and one of its own with a decoder, a product
//! and a CUDA kernel) and a backend whose model answers with what the host handed to it.

use std::{collections::BTreeMap, sync::Arc};

use qbench_sdk::{
    Backend, CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, Model, Options, QuantScheme, Result,
    SchemeInfo, Weights,
    backend::{
        BackendInfo, Cache, DeviceInfo, Execution, ForwardOutput, LoadRequest, LogitRows, Memory, ModelInfo, TokenBatch,
        WeightInfo,
    },
    cuda_kernel::{KernelSource, LaunchGeometry},
    export_plugin,
    layout::{BlockCodebook, Blocks, BufferSpec, Custom, NibbleOrder, Scale},
    log::{self, Level},
};

/// The sign of each weight, and the mean magnitude of 64 of them.
struct Sign;

impl QuantScheme for Sign {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "frozen_sign".to_owned(),
            aliases: vec!["frozen".to_owned()],
            summary: "signs, built with the first release of the sdk".to_owned(),
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, _source: DType) -> Result<Layout> {
        Ok(Layout::BlockCodebook(BlockCodebook {
            rows,
            cols,
            bits: 4,
            order: NibbleOrder::HighFirst,
            blocks: Blocks::PerRow,
            block: 64,
            scale: Scale::F32,
        }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        _layout: &Layout,
        buffers: &mut [&mut [u8]],
        _context: CallContext,
    ) -> Result<()> {
        let [codes, codebook, absmax] = buffers else {
            return Err(Error::InvalidArgument(format!("{} buffers", buffers.len())));
        };
        codebook[..8].copy_from_slice(&[(-1.0_f32).to_le_bytes(), 1.0_f32.to_le_bytes()].concat());
        let (row_bytes, row_blocks) = (source.cols().div_ceil(2), source.cols().div_ceil(64));
        let mut values = vec![0.0; source.cols()];
        for row in 0..source.rows() {
            source.read_row(row, &mut values)?;
            for (col, value) in values.iter().enumerate() {
                let code = u8::from(*value >= 0.0);
                codes[row * row_bytes + col / 2] |= if col % 2 == 0 { code << 4 } else { code };
            }
            for (block, values) in values.chunks(64).enumerate() {
                let mean = values.iter().map(|value| value.abs()).sum::<f32>() / values.len() as f32;
                let at = (row * row_blocks + block) * 4;
                absmax[at..at + 4].copy_from_slice(&mean.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// Halves of f32 values, in a layout of its own. The option `fails` makes it panic.
struct Halving {
    fails: bool,
}

impl Halving {
    fn open(options: &Options) -> Result<Self> {
        let mut options = options.clone();
        let fails = options.take("fails", false)?;
        options.finish(&["fails"])?;
        Ok(Self { fails })
    }
}

impl QuantScheme for Halving {
    fn info(&self) -> SchemeInfo {
        SchemeInfo {
            id: "frozen_halving".to_owned(),
            summary: "halves, built with the first release of the sdk".to_owned(),
            options: vec![("fails".to_owned(), "false".to_owned())],
            ..SchemeInfo::default()
        }
    }

    fn layout(&self, rows: usize, cols: usize, source: DType) -> Result<Layout> {
        if source != DType::F32 {
            return Err(Error::Unsupported(format!("weights of type {source}")));
        }
        Ok(Layout::Custom(Custom {
            kind: "org.example.halving/1".to_owned(),
            rows,
            cols,
            buffers: vec![BufferSpec::new("halves", rows * cols, DType::F32)],
            parameters: Options::none().to_string().into(),
        }))
    }

    fn quantize(
        &self,
        source: Matrix<'_>,
        _layout: &Layout,
        buffers: &mut [&mut [u8]],
        context: CallContext,
    ) -> Result<()> {
        assert!(!self.fails, "on purpose, with {} threads", context.threads);
        let mut values = vec![0.0; source.cols()];
        for row in 0..source.rows() {
            source.read_row(row, &mut values)?;
            for (col, value) in values.iter().enumerate() {
                let at = (row * source.cols() + col) * 4;
                buffers[0][at..at + 4].copy_from_slice(&(value / 2.0).to_le_bytes());
            }
        }
        Ok(())
    }

    fn dequantize(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        first_row: usize,
        out: &mut MatrixMut<'_>,
        _context: CallContext,
    ) -> Result<()> {
        let halves = Matrix::new(buffers[0], layout.rows(), layout.cols(), DType::F32)?;
        let mut values = vec![0.0; layout.cols()];
        for row in 0..out.rows() {
            halves.read_row(first_row + row, &mut values)?;
            values.iter_mut().for_each(|value| *value *= 2.0);
            out.write_row(row, &values)?;
        }
        Ok(())
    }

    fn matmul(
        &self,
        layout: &Layout,
        buffers: &[&[u8]],
        input: Matrix<'_>,
        output: &mut MatrixMut<'_>,
        _context: CallContext,
    ) -> Result<()> {
        let halves = Matrix::new(buffers[0], layout.rows(), layout.cols(), DType::F32)?;
        let (mut x, mut w) = (vec![0.0; layout.cols()], vec![0.0; layout.cols()]);
        for token in 0..input.rows() {
            input.read_row(token, &mut x)?;
            let mut y = Vec::with_capacity(layout.rows());
            for row in 0..layout.rows() {
                halves.read_row(row, &mut w)?;
                y.push(x.iter().zip(&w).map(|(x, w)| x * 2.0 * w).sum::<f32>());
            }
            output.write_row(token, &y)?;
        }
        Ok(())
    }

    fn cuda_kernel(&self, layout: &Layout) -> Result<Option<CudaKernel>> {
        Ok((layout.rows() > 1).then(|| CudaKernel {
            name: "halving".to_owned(),
            source: KernelSource::CudaC("extern \"C\" __global__ void halving() {}".to_owned()),
            entries: BTreeMap::from([(DType::F32, "halving".to_owned())]),
            geometry: LaunchGeometry {
                threads: 128,
                tile_rows: 1,
                tile_cols: 1024,
                shared_bytes: 16,
            },
            constants: vec![-1],
        }))
    }

    fn workspace_bytes(&self, layout: &Layout) -> u64 {
        8 * layout.cols() as u64
    }
}

/// Runs nothing: its model adds the first weight to what it is given.
struct Echo;

struct EchoModel {
    first: f32,
    weights: Vec<WeightInfo>,
}

impl Backend for Echo {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            id: "frozen_echo".to_owned(),
            summary: "answers with what it is given".to_owned(),
            library: "none".to_owned(),
            architectures: vec!["echo".to_owned()],
            precisions: vec![DType::F32],
            ..BackendInfo::default()
        }
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![DeviceInfo {
            id: "cpu".to_owned(),
            name: "an echo".to_owned(),
            memory_bytes: Some(7),
            ..DeviceInfo::default()
        }])
    }

    fn negotiate(&self, device: &str, layout: &Layout, compute: DType) -> Result<Execution> {
        match (device, layout) {
            ("cpu", Layout::Custom(_)) => Ok(Execution::SchemeMatmul),
            ("cpu", _) => Ok(Execution::Native {
                kernel: format!("{compute} {}", layout.kind()),
            }),
            _ => Err(Error::NotFound(format!("device {device}"))),
        }
    }

    fn negotiate_with_kernel(
        &self,
        _device: &str,
        _layout: &Layout,
        compute: DType,
        kernel: &CudaKernel,
    ) -> Result<Execution> {
        Ok(Execution::SchemeKernel {
            kernel: kernel.name.clone(),
            to: compute,
        })
    }

    fn load(&self, request: LoadRequest<'_>) -> Result<Box<dyn Model>> {
        log::log(Level::Warning, "frozen", request.config_json);
        let weights: Arc<dyn Weights> = request.weights;
        let (mut first, mut infos) = (None, Vec::new());
        for name in weights.names()? {
            let tensor = weights.tensor(&name)?;
            let layout = tensor.layout().clone();
            let mut row = vec![0; layout.cols() * 4];
            let mut out = MatrixMut::new(&mut row, 1, layout.cols(), DType::F32)?;
            tensor.dequantize(0, &mut out, CallContext::single_threaded())?;
            let mut value = [0.0];
            out.as_matrix().row(0)[..4]
                .as_chunks::<4>()
                .0
                .iter()
                .for_each(|bytes| value[0] = f32::from_le_bytes(*bytes));
            first.get_or_insert(value[0]);
            // A product with a matrix of ones: the sum of the first row.
            let ones = 1.0_f32.to_le_bytes().repeat(layout.cols());
            let mut product = vec![0; layout.rows() * 4];
            let product = tensor.matmul(
                Matrix::new(&ones, 1, layout.cols(), DType::F32)?,
                &mut MatrixMut::new(&mut product, 1, layout.rows(), DType::F32)?,
                CallContext::single_threaded(),
            );
            infos.push(WeightInfo {
                name,
                rows: layout.rows(),
                cols: layout.cols(),
                layout: layout.kind().to_owned(),
                bytes: tensor.buffers().iter().map(|buffer| buffer.len() as u64).sum(),
                execution: match (tensor.cuda_kernel()?, product) {
                    (Some(kernel), _) => Execution::SchemeKernel {
                        kernel: kernel.name,
                        to: request.compute,
                    },
                    (None, Ok(())) => Execution::SchemeMatmul,
                    (None, Err(error)) => Execution::Unsupported {
                        reason: error.to_string(),
                    },
                },
            });
        }
        Ok(Box::new(EchoModel {
            first: first.ok_or_else(|| Error::NotFound("a weight".to_owned()))?,
            weights: infos,
        }))
    }
}

impl Model for EchoModel {
    fn info(&self) -> Result<ModelInfo> {
        Ok(ModelInfo {
            architecture: "echo".to_owned(),
            vocab_size: 3,
            hidden_size: 1,
            weights: self.weights.clone(),
            ..ModelInfo::default()
        })
    }

    fn forward(&mut self, batch: TokenBatch<'_>, output: &mut ForwardOutput<'_>) -> Result<()> {
        if batch.cache != Cache::None {
            return Err(Error::Unsupported("a cache".to_owned()));
        }
        for hidden in &mut output.hidden {
            for (out, (id, mask)) in hidden.data.iter_mut().zip(batch.ids.iter().zip(batch.mask)) {
                *out = self.first + *id as f32 * f32::from(*mask) + hidden.layer as f32;
            }
        }
        for pooled in &mut output.pooled {
            pooled.data.fill(batch.length as f32);
        }
        if let Some((rows, logits)) = &mut output.logits {
            logits.fill(if *rows == LogitRows::Last { 1.0 } else { 2.0 });
        }
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        Ok(())
    }

    fn device_seconds(&mut self) -> Result<Option<f64>> {
        Ok(Some(0.25))
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            allocated: 1,
            peak_allocated: 2,
            reserved: None,
            measured_by: "nobody".to_owned(),
        })
    }

    fn reset_peak_memory(&mut self) -> Result<()> {
        Err(Error::OutOfMemory("on purpose".to_owned()))
    }
}

export_plugin! {
    schemes: [
        |options: &Options| options.finish(&[]).map(|()| Sign),
        Halving::open,
    ],
    backends: [|options: &Options| options.finish(&[]).map(|()| Echo)],
}
