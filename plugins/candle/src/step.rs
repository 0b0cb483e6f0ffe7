//! Steps of decoding: one new position a sequence.
//!
//! What differs from one step to the next lies in device memory of fixed addresses: ids, position, rotary angles, mask.
//! The launches of a step are therefore the same each time. The first step on a cache runs plainly, but keeps its memory;
//! the second is recorded as a CUDA graph with the same memory; it and those after it are one launch each.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use candle_core::cuda_backend::cudarc::driver::CudaGraph;
use qbench_architectures::{AttentionShape, Pass};
use qbench_kernels::{CUdeviceptr, attention_step::AttentionStep};
use qbench_sdk::{
    Error, Result,
    log::{Level, log},
};

use crate::{
    buffer::{Buffer, Scratch},
    error,
    gpu::Gpu,
    key_values::KeyValues,
};

/// Positions that the room for masks grows by.
const POSITIONS: usize = 256;

/// Memory that operations may keep for the next step; beyond it steps run plainly. A step's activations are some
/// kilobytes a sequence: more means that weights are turned into floats, which must not stay.
const MOST_SCRATCH: usize = 64 << 20;

/// What steps keep on the device, and the last one's recording.
#[derive(Default)]
pub(crate) struct Steps {
    input: RefCell<Option<Rc<Input>>>,
    workspace: RefCell<Option<Workspace>>,
    recording: RefCell<Option<Recording>>,
    refused: Cell<bool>,
}

/// A step's tokens: ids, rows, the position, cosines, sines and the mask, each aligned to 16 bytes.
pub(crate) struct Input {
    buffer: Buffer,
    layout: Layout,
}

/// Where the parts of an [`Input`] start.
#[derive(Clone, Copy, PartialEq)]
struct Layout {
    batch: usize,
    /// Values of a rotary table's row.
    half: usize,
    /// Bytes of a sequence's mask.
    positions: usize,
}

impl Layout {
    fn starts(self) -> [usize; 7] {
        let word = size_of::<u32>();
        let parts = [
            self.batch * word,
            self.batch * word,
            word,
            self.half * word,
            self.half * word,
            self.batch * self.positions,
        ];
        let mut starts = [0; 7];
        for (index, bytes) in parts.into_iter().enumerate() {
            starts[index + 1] = starts[index] + bytes.next_multiple_of(16);
        }
        starts
    }
}

impl Input {
    fn at(&self, part: usize) -> CUdeviceptr {
        self.buffer.address() + self.layout.starts()[part] as u64
    }

    pub(crate) fn ids(&self) -> CUdeviceptr {
        self.at(0)
    }

    pub(crate) fn last_rows(&self) -> CUdeviceptr {
        self.at(1)
    }

    pub(crate) fn position(&self) -> CUdeviceptr {
        self.at(2)
    }

    pub(crate) fn cos(&self) -> CUdeviceptr {
        self.at(3)
    }

    pub(crate) fn sin(&self) -> CUdeviceptr {
        self.at(4)
    }

    pub(crate) fn mask(&self) -> CUdeviceptr {
        self.at(5)
    }

    /// Bytes between two sequences' masks.
    pub(crate) fn mask_stride(&self) -> usize {
        self.layout.positions
    }
}

/// Scratch of the attention, for so many rows and bytes.
struct Workspace {
    rows: usize,
    buffer: Buffer,
}

/// Everything that the launches of a step depend on.
#[derive(PartialEq)]
struct Key {
    input: CUdeviceptr,
    layout: Layout,
    padded: bool,
    workspace: Option<CUdeviceptr>,
    /// Room of the first cache; all have the same.
    capacity: usize,
    caches: Vec<[CUdeviceptr; 2]>,
}

/// A step that ran, with the memory that it ran in, and its launches once they were recorded.
struct Recording {
    /// Before the memory that it uses.
    graph: Option<CudaGraph>,
    key: Key,
    scratch: Arc<Scratch>,
    logits: Buffer,
}

impl Steps {
    /// Brings a step's tokens to the device, into the memory of the step before where it fits.
    pub(crate) fn upload(&self, gpu: &Gpu, pass: &Pass<'_>) -> Result<Rc<Input>> {
        let tokens = &pass.tokens;
        let seen = pass.past + 1;
        let layout = Layout {
            batch: tokens.batch,
            half: pass.cos.len(),
            positions: seen.next_multiple_of(POSITIONS),
        };
        let starts = layout.starts();
        let mut bytes = vec![0_u8; starts[6]];
        let mut put = |part: usize, values: &[u8]| {
            bytes[starts[part]..starts[part] + values.len()].copy_from_slice(values);
        };
        let rows: Vec<u32> = (0..tokens.batch as u32).collect();
        put(0, bytemuck::cast_slice(tokens.ids));
        put(1, bytemuck::cast_slice(&rows));
        put(2, &(pass.past as i32).to_ne_bytes());
        put(3, bytemuck::cast_slice(pass.cos));
        put(4, bytemuck::cast_slice(pass.sin));
        for (sequence, mask) in tokens.mask.chunks_exact(seen).enumerate() {
            let start = starts[5] + sequence * layout.positions;
            bytes[start..start + seen].copy_from_slice(mask);
        }
        let mut kept = self.input.borrow_mut();
        let input = match kept.as_ref().filter(|input| input.layout == layout) {
            Some(input) => input.clone(),
            None => Rc::new(Input {
                buffer: gpu.buffer(bytes.len())?,
                layout,
            }),
        };
        gpu.write(&input.buffer, 0, &bytes)?;
        *kept = Some(input.clone());
        Ok(input)
    }

    /// Scratch of one layer's attention; layers take turns.
    pub(crate) fn workspace(
        &self,
        gpu: &Gpu,
        batch: usize,
        shape: &AttentionShape,
        capacity: usize,
    ) -> Result<CUdeviceptr> {
        let rows = batch * shape.heads;
        let bytes = gpu
            .kernels
            .attention_step
            .workspace(batch, shape.heads, shape.head_dim, capacity);
        let mut kept = self.workspace.borrow_mut();
        if let Some(workspace) = kept
            .as_ref()
            .filter(|workspace| (workspace.rows, workspace.buffer.bytes()) == (rows, bytes))
        {
            return Ok(workspace.buffer.address());
        }
        let buffer = gpu.lasting_buffer(bytes)?;
        gpu.clear(&buffer, AttentionStep::zeros(batch, shape.heads))?;
        let address = buffer.address();
        *kept = Some(Workspace { rows, buffer });
        Ok(address)
    }

    /// Runs a step: `operations` write the logits of `logit_bytes` into the buffer that they are given. Recorded and
    /// repeated where that is possible.
    pub(crate) fn run(
        &self,
        gpu: &Gpu,
        (input, padded): (&Rc<Input>, bool),
        caches: &mut [KeyValues],
        logit_bytes: usize,
        operations: &dyn Fn(&mut [KeyValues], &Buffer) -> Result<()>,
        read: &mut dyn FnMut(&Buffer) -> Result<()>,
    ) -> Result<()> {
        let key = |caches: &[KeyValues]| -> Result<Key> {
            Ok(Key {
                input: input.buffer.address(),
                layout: input.layout,
                padded,
                workspace: self
                    .workspace
                    .borrow()
                    .as_ref()
                    .map(|workspace| workspace.buffer.address()),
                capacity: caches.first().map_or(0, KeyValues::capacity),
                caches: caches.iter().map(KeyValues::addresses).collect::<Result<_>>()?,
            })
        };
        let mut last = self.recording.borrow_mut();
        let now = key(caches)?;
        if let Some(recording) = last.as_mut().filter(|recording| recording.key == now) {
            if recording.graph.is_none() && !self.refused.get() {
                match record(gpu, recording, caches, operations) {
                    Ok(graph) => recording.graph = Some(graph),
                    Err(error) => self.refuse(&error.to_string()),
                }
            }
            match &recording.graph {
                Some(graph) => graph.launch().map_err(error::driver)?,
                None => gpu.within(&recording.scratch, || operations(caches, &recording.logits))?,
            }
            return read(&recording.logits);
        }
        // The memory of the step before is free for this one.
        *last = None;
        if self.refused.get() {
            let logits = gpu.buffer(logit_bytes)?;
            operations(caches, &logits)?;
            return read(&logits);
        }
        let scratch = Arc::new(Scratch::default());
        let logits = gpu.within(&scratch, || {
            let logits = gpu.buffer(logit_bytes)?;
            operations(caches, &logits)?;
            Ok(logits)
        })?;
        read(&logits)?;
        if scratch.bytes() > MOST_SCRATCH + logit_bytes {
            self.refuse(&format!(
                "a step takes {:.0} MB of scratch memory",
                scratch.bytes() as f64 / 1e6
            ));
        } else {
            *last = Some(Recording {
                graph: None,
                key: key(caches)?,
                scratch,
                logits,
            });
        }
        Ok(())
    }

    /// Whether steps are launched plainly for good.
    #[cfg(test)]
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.get()
    }

    fn refuse(&self, why: &str) {
        self.refused.set(true);
        log(
            Level::Warning,
            "candle",
            &format!("steps of decoding are launched one kernel at a time, not as a CUDA graph: {why}"),
        );
    }
}

fn record(
    gpu: &Gpu,
    recording: &Recording,
    caches: &mut [KeyValues],
    operations: &dyn Fn(&mut [KeyValues], &Buffer) -> Result<()>,
) -> Result<CudaGraph> {
    let before = recording.scratch.bytes();
    let graph =
        gpu.record_graph(|| gpu.within(&recording.scratch, || operations(caches, &recording.logits)))?;
    if recording.scratch.bytes() == before {
        Ok(graph)
    } else {
        Err(Error::Internal(
            "a step asked for other memory than the one before".to_owned(),
        ))
    }
}
