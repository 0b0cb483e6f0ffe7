//! Attention of one sequence: whole passes, and steps of one query.

use std::hint::black_box;

use qbench_architectures::AttentionShape;
use qbench_cpu::{
    Kernels,
    passes::{Sequence, attention},
};
use qbench_cpu_kernels::InstructionSet;
use qbench_sdk::DType;

use crate::{
    Subject,
    ceilings::Limit,
    memory::{beyond_caches, floats},
};

/// Heads, heads of keys, and the width of a head, of a model with hidden size 768.
const PLAIN: (usize, usize, usize) = (8, 8, 96);

/// Likewise, three heads for each head of keys.
const GROUPED: (usize, usize, usize) = (12, 4, 256);

pub(crate) fn all(set: InstructionSet) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for precision in [DType::F32, DType::BF16] {
        for (heads, tokens) in [(PLAIN, 256), (PLAIN, 1000), (PLAIN, 4096), (GROUPED, 1000)] {
            subjects.push(whole_pass(set, precision, heads, tokens));
        }
    }
    for (heads, positions) in [(PLAIN, 1024), (PLAIN, 4096), (GROUPED, 4096)] {
        subjects.push(step(set, heads, positions));
    }
    subjects
}

/// Keys and values of one layer.
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
    mask: Vec<u8>,
}

impl Layer {
    fn new(shape: &AttentionShape, positions: usize) -> Self {
        let count = positions * shape.kv_heads * shape.head_dim;
        Self {
            keys: floats(count),
            values: floats(count),
            mask: vec![1; positions],
        }
    }

    /// Bytes of keys and values.
    fn bytes(&self) -> usize {
        size_of_val(&*self.keys) + size_of_val(&*self.values)
    }

    fn sequence(&self) -> Sequence<'_> {
        Sequence {
            keys: &self.keys,
            values: &self.values,
            mask: &self.mask,
        }
    }
}

/// Beside the multiply-adds of the precision. What counts is the causal triangle: for each query and each key that it
/// sees one multiply-add with each dimension of the key, one with each of the value. Products beyond the triangle,
/// interleaving, and softmax are time without work.
fn whole_pass(set: InstructionSet, precision: DType, heads: (usize, usize, usize), tokens: usize) -> Subject {
    let shape = shape(heads);
    let layer = Layer::new(&shape, tokens);
    let width = shape.heads * shape.head_dim;
    let (q, mut out) = (floats(tokens * width), vec![0.0; tokens * width]);
    let seen = tokens * (tokens + 1) / 2;
    let limit = match precision {
        DType::BF16 => Limit::Bf16,
        _ => Limit::Float,
    };
    let name = format!("attention {precision} of {tokens}, {}", describe(&shape));
    Subject::new(name, 4 * seen * width, limit, move || {
        let (kernels, sequences) = (Kernels::Own(set), [layer.sequence()]);
        attention(kernels, &q, &sequences, tokens, 0, &shape, precision, &mut out);
        black_box(&out);
    })
}

/// Beside reading memory: a query needs two multiply-adds for each key and value it meets, which are f32 at any
/// precision. Each byte counts once, though heads of a group read the same. Layers are taken in turn, as a model does.
fn step(set: InstructionSet, heads: (usize, usize, usize), positions: usize) -> Subject {
    let shape = shape(heads);
    let layers = beyond_caches(|| Layer::new(&shape, positions), Layer::bytes);
    let width = shape.heads * shape.head_dim;
    let (q, mut out) = (floats(width), vec![0.0; width]);
    let name = format!("attention step of {positions}, {}", describe(&shape));
    let bytes = layers.iter().map(Layer::bytes).sum();
    Subject::new(name, bytes, Limit::Read, move || {
        let (kernels, past) = (Kernels::Own(set), positions - 1);
        for layer in &layers {
            let sequences = [layer.sequence()];
            attention(kernels, &q, &sequences, 1, past, &shape, DType::F32, &mut out);
            black_box(&out);
        }
    })
}

fn shape((heads, kv_heads, head_dim): (usize, usize, usize)) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        causal: true,
        window: None,
    }
}

fn describe(shape: &AttentionShape) -> String {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    if heads == kv_heads {
        format!("{heads} heads of {head_dim}")
    } else {
        format!("{heads}/{kv_heads} heads of {head_dim}")
    }
}
