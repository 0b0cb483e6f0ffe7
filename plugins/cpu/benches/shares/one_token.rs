//! Products of one token, bound by reading the weights: matrices in turn, more of them than the caches hold.

use std::hint::black_box;

use qbench_cpu_kernels::{
    InstructionSet, Operand, can_dot,
    codebook::{self, Rounding, Tokens},
    dots,
    matrix::Block,
};

use crate::{
    Subject,
    ceilings::Limit,
    memory::{beyond_caches, floats},
    weights::{Weights, elements, run},
};

/// Weight rows and columns of a model with hidden size 768.
const SHAPES: [(usize, usize); 3] = [(768, 768), (3072, 768), (768, 3072)];

pub(crate) fn all(set: InstructionSet) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for shape in SHAPES {
        for operand in [Operand::F32, Operand::Bf16, Operand::I8] {
            if can_dot(set, operand) {
                subjects.push(dense(set, operand, shape));
            }
        }
        if codebook::can_dot(set, shape.1, 64) {
            for rounding in [Rounding::F32, Rounding::Bf16] {
                subjects.push(codes(set, rounding, shape));
            }
        }
    }
    subjects
}

fn subject(
    name: String,
    matrices: Vec<Weights>,
    rows: usize,
    product: impl Fn(&Weights, &mut Block<'_, f32>) + Send + 'static,
) -> Subject {
    let mut out = vec![0.0_f32; rows];
    let bytes = matrices.iter().map(Weights::bytes).sum();
    Subject::new(name, bytes, Limit::Read, move || {
        for matrix in &matrices {
            product(matrix, &mut Block::new(&mut out, 1, rows));
            black_box(&out);
        }
    })
}

fn dense(set: InstructionSet, operand: Operand, (rows, cols): (usize, usize)) -> Subject {
    let matrices = beyond_caches(|| Weights::dense(operand, (rows, cols)), Weights::bytes);
    let x = elements(operand, cols);
    let name = format!("one token {operand:?} {rows} x {cols}");
    subject(name, matrices, rows, move |matrix, out| {
        let Weights::Dense { bytes } = matrix else {
            unreachable!("made of elements above");
        };
        let row_bytes = cols * operand.size();
        if operand == Operand::I8 {
            let mut sums = vec![0_i32; rows];
            dots(
                set,
                operand,
                &x,
                bytes,
                row_bytes,
                &mut Block::new(&mut sums, 1, rows),
            );
            black_box(&sums);
        } else {
            dots(set, operand, &x, bytes, row_bytes, out);
        }
    })
}

fn codes(set: InstructionSet, rounding: Rounding, (rows, cols): (usize, usize)) -> Subject {
    let matrices = beyond_caches(|| Weights::codes((rows, cols)), Weights::bytes);
    let x = floats(cols);
    let name = format!("one token 4-bit {rounding:?} {rows} x {cols}");
    subject(name, matrices, rows, move |matrix, out| {
        let Weights::Codes { codes, scales } = matrix else {
            unreachable!("made of codes above");
        };
        let run = run(codes, scales, 0, cols, rounding);
        let x = Tokens::new(set, rounding, run.block, &x, cols);
        codebook::dots(set, run, &x, out);
    })
}
