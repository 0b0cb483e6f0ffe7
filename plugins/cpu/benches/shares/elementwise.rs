//! What touches each value a few times: norms, sums, rotations, activations.
//!
//! Buffers are taken in turn, more than the caches hold; in a model some of what a pass reads may lie in a cache still.
//! Softmax has no row: its scores never leave the caches, and attention's rows contain it.

use std::hint::black_box;

use qbench_cpu::passes::{add, rms_norm, rope, silu_times};
use qbench_sdk::DType;

use crate::{
    Subject,
    ceilings::Limit,
    memory::{beyond_caches, floats},
};

const TOKENS: usize = 1000;

/// Widths of a model with hidden size 768.
const HIDDEN: usize = 768;
const INNER: usize = 3072;
const HEAD: usize = 96;

pub(crate) fn all() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for precision in [DType::F32, DType::BF16] {
        let weight = floats(HIDDEN);
        // A turn whose sine and cosine are 0.6 and 0.8: values keep their size however often it is done.
        let angles = TOKENS * HEAD / 2;
        let (cos, sin) = (vec![0.8; angles], vec![0.6; angles]);
        subjects.extend([
            subject(
                &format!("norm {precision}"),
                HIDDEN,
                Limit::Copy,
                move |[x, out]| rms_norm(x, &weight, 1e-5, precision, out),
            ),
            subject(&format!("add {precision}"), HIDDEN, Limit::Read, move |[x, y]| {
                add(x, y, precision);
            }),
            subject(
                &format!("rotation {precision}"),
                HIDDEN,
                Limit::Read,
                move |[x]| rope(x, HIDDEN, TOKENS, (&cos, &sin), precision),
            ),
            subject(
                &format!("gated activation {precision}"),
                INNER,
                Limit::Read,
                move |[gate, up]| silu_times(gate, up, precision),
            ),
        ]);
    }
    subjects
}

/// A pass over buffers of `TOKENS` rows. One that writes another buffer than it reads stands beside a copy, which does
/// the same. One that changes a buffer in place stands beside reading all that it reads: what is written was fetched for
/// that already, and travels back while more is read.
fn subject<const BUFFERS: usize>(
    name: &str,
    width: usize,
    limit: Limit,
    pass: impl Fn([&mut [f32]; BUFFERS]) + Send + 'static,
) -> Subject {
    let values = TOKENS * width;
    let buffers_bytes = BUFFERS * values * size_of::<f32>();
    let mut turn = beyond_caches(|| [(); BUFFERS].map(|()| floats(values)), |_| buffers_bytes);
    let bytes = turn.len() * buffers_bytes;
    let work = if limit == Limit::Copy { bytes / 2 } else { bytes };
    Subject::new(format!("{name} {TOKENS} x {width}"), work, limit, move || {
        for buffers in &mut turn {
            pass(buffers.each_mut().map(Vec::as_mut_slice));
            black_box(&buffers);
        }
    })
}
