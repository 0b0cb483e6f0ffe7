//! Every operation against its definition in f64, on a GPU. `with-cuda cargo test -- --ignored` runs them.
//!
//! Under test all memory of the GPU starts as NaN: what an operation does not write shows.

use qbench_architectures::{AttentionShape, Ops, Pass};
use qbench_sdk::{
    AlignedBuffer, CallContext, DType, Layout, Matrix, MatrixMut, Result, StoredTensor,
    backend::{Cache, TokenBatch},
    layout::{
        self, BlockCodebook, Blocks, Dense, Int8Vectorwise, NibbleOrder, Scale, int8::quantize_activations,
    },
    narrow, widen,
};

use super::{Activations, CudaOps, Tokens};
use crate::{
    driver,
    gpu::{Buffer, Gpu},
};

const PRECISIONS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// A reproducible generator (SplitMix64; Steele et al. 2014) of nearly normal values: sums of uniform ones.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Values of deviation 1 that the precision holds exactly.
    fn values(&mut self, count: usize, precision: DType) -> Vec<f32> {
        let mut values: Vec<f32> = (0..count)
            .map(|_| {
                let sum: f64 = (0..3)
                    .map(|_| (self.next() >> 11) as f64 / (1_u64 << 53) as f64)
                    .sum();
                (2.0 * sum - 3.0) as f32
            })
            .collect();
        let mut bytes = vec![0; count * precision.size()];
        narrow(&values, precision, &mut bytes).unwrap();
        widen(&bytes, precision, &mut values).unwrap();
        values
    }
}

/// Half a unit in the last place of a value of size 1.
fn rounding(precision: DType) -> f64 {
    match precision {
        DType::BF16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        _ => 1.0 / 16_777_216.0,
    }
}

/// Fails where a value is farther from the truth than `tolerance` times the largest truth.
fn assert_close(values: &[f32], truth: &[f64], tolerance: f64, what: &str) {
    assert_eq!(values.len(), truth.len(), "{what}");
    let largest = truth.iter().fold(1e-30_f64, |max, value| max.max(value.abs()));
    let worst = values
        .iter()
        .zip(truth)
        .map(|(value, truth)| (f64::from(*value) - truth).abs())
        // A NaN is the worst of all.
        .fold(0.0_f64, |max, error| if error <= max { max } else { error });
    assert!(
        worst <= tolerance * largest,
        "{what}: off by {worst:e}, allowed {:e}",
        tolerance * largest
    );
}

fn ops(precision: DType) -> CudaOps {
    let gpu = Gpu::open(driver::find("cuda:0").unwrap()).unwrap();
    CudaOps::new(gpu, precision, 1).unwrap()
}

fn activations(ops: &CudaOps, values: &[f32], width: usize) -> Activations {
    let mut bytes = vec![0; values.len() * ops.precision.size()];
    narrow(values, ops.precision, &mut bytes).unwrap();
    let out = ops.empty(values.len() / width, width).unwrap();
    // SAFETY: the activations have room for their values.
    unsafe { ops.gpu.write_at(out.address().unwrap(), &bytes) }.unwrap();
    out
}

fn floats(ops: &CudaOps, values: &[f32]) -> Buffer {
    ops.gpu.upload(bytemuck::cast_slice(values)).unwrap()
}

fn read(ops: &CudaOps, x: &Activations) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.rows * x.width];
    ops.copy_out(x, &mut out).unwrap();
    out
}

/// A pass of sequences with this mask; angles of 0.1 times position plus pair.
fn tokens(ops: &CudaOps, ids: &[u32], mask: &[u8], batch: usize, past: usize, half: usize) -> Tokens {
    let length = ids.len() / batch;
    let angles: Vec<f32> = (0..length * half)
        .map(|i| 0.1 * ((past + i / half) as f32 + (i % half) as f32))
        .collect();
    let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
    ops.begin(&Pass {
        tokens: TokenBatch {
            ids,
            mask,
            batch,
            length,
            cache: Cache::None,
        },
        past,
        cos: &cos,
        sin: &sin,
    })
    .unwrap()
}

/// A weight in memory.
struct MemoryTensor {
    layout: Layout,
    buffers: Vec<AlignedBuffer>,
}

impl StoredTensor for MemoryTensor {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn buffer(&self, index: usize) -> &[u8] {
        self.buffers.get(index).map_or(&[], |buffer| buffer)
    }

    fn dequantize(&self, first_row: usize, out: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        layout::decode(&self.layout, &self.buffers(), first_row, out)
    }

    fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
        Err(qbench_sdk::Error::Unsupported("no product".to_owned()))
    }
}

fn dense(rows: usize, cols: usize, dtype: DType, values: &[f32]) -> MemoryTensor {
    let mut bytes = vec![0; values.len() * dtype.size()];
    narrow(values, dtype, &mut bytes).unwrap();
    MemoryTensor {
        layout: Layout::Dense(Dense { rows, cols, dtype }),
        buffers: vec![AlignedBuffer::from_bytes(&bytes)],
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn norms_and_sums() {
    for precision in PRECISIONS {
        let ops = ops(precision);
        let mut random = Random(1);
        for (rows, width) in [(1, 8), (5, 96), (3, 7), (70, 3072), (9, 770), (2, 5001)] {
            let what = format!("{precision} {rows} x {width}");
            let x = random.values(rows * width, precision);
            let y = random.values(rows * width, precision);
            let weight = random.values(width, precision);
            let weights = floats(&ops, &weight);
            let norm = |x: &[f32]| -> Vec<f64> {
                x.chunks_exact(width)
                    .flat_map(|row| {
                        let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
                        let factor = 1.0 / (square / width as f64 + 1e-5).sqrt();
                        row.iter()
                            .zip(&weight)
                            .map(move |(x, w)| f64::from(*x) * factor * f64::from(*w))
                            .collect::<Vec<_>>()
                    })
                    .collect()
            };
            // One rounding, and f32 sums of a few thousand squares.
            let tolerance = rounding(precision) + 1e-6;
            let on_gpu = activations(&ops, &x, width);
            let normed = ops.rms_norm(&on_gpu, &weights, 1e-5).unwrap();
            assert_close(&read(&ops, &normed), &norm(&x), tolerance, &what);

            let delta = activations(&ops, &y, width);
            let (sum, normed) = ops.add_rms_norm(on_gpu, &delta, &weights, 1e-5).unwrap();
            let sums = read(&ops, &sum);
            let truth: Vec<f64> = x
                .iter()
                .zip(&y)
                .map(|(x, y)| f64::from(*x) + f64::from(*y))
                .collect();
            assert_close(&sums, &truth, tolerance, &what);
            // Of the rounded sum.
            assert_close(&read(&ops, &normed), &norm(&sums), tolerance, &what);

            let (left, right) = (activations(&ops, &x, width), activations(&ops, &y, width));
            assert_eq!(read(&ops, &ops.add(left, &right).unwrap()), sums, "{what}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn rotations_gathers_and_means() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(2);
        for (batch, length, q_heads, k_heads, head_dim) in
            [(2, 5, 3, 1, 64), (1, 70, 2, 2, 96), (3, 4, 1, 1, 6)]
        {
            let what = format!("{precision} {batch} {length} {head_dim}");
            let rows = batch * length;
            let ids: Vec<u32> = (0..rows).map(|i| (i * 7 % 11) as u32).collect();
            let mut mask = vec![1; rows];
            mask[0] = 0;
            mask[rows - length..].fill(0);
            let tokens = tokens(&ops, &ids, &mask, batch, 0, head_dim / 2);
            let rotated = |x: &[f32], heads: usize| -> Vec<f64> {
                let mut out = vec![0.0; x.len()];
                for (head, (x, out)) in x
                    .chunks_exact(head_dim)
                    .zip(out.chunks_exact_mut(head_dim))
                    .enumerate()
                {
                    let position = head / heads % length;
                    for pair in 0..head_dim / 2 {
                        let angle = 0.1 * (position as f32 + pair as f32);
                        let (cos, sin) = (f64::from(angle.cos()), f64::from(angle.sin()));
                        let (a, b) = (f64::from(x[pair]), f64::from(x[pair + head_dim / 2]));
                        out[pair] = a * cos - b * sin;
                        out[pair + head_dim / 2] = b * cos + a * sin;
                    }
                }
                out
            };
            let q = random.values(rows * q_heads * head_dim, precision);
            let k = random.values(rows * k_heads * head_dim, precision);
            let (turned_q, turned_k) = ops
                .rope(
                    activations(&ops, &q, q_heads * head_dim),
                    activations(&ops, &k, k_heads * head_dim),
                    head_dim,
                    &tokens,
                )
                .unwrap();
            let tolerance = rounding(precision) + 1e-6;
            assert_close(&read(&ops, &turned_q), &rotated(&q, q_heads), tolerance, &what);
            assert_close(&read(&ops, &turned_k), &rotated(&k, k_heads), tolerance, &what);

            let width = q_heads * head_dim;
            let table = random.values(11 * width, precision);
            let linear = ops
                .load_linear(Box::new(dense(11, width, precision, &table)), None)
                .unwrap()
                .value;
            let embedded = read(&ops, &ops.embed(&linear, &tokens).unwrap());
            for (row, id) in embedded.chunks_exact(width).zip(&ids) {
                assert_eq!(row, &table[*id as usize * width..][..width], "{what}");
            }

            let states = activations(&ops, &q, width);
            let last = read(&ops, &ops.last_positions(&states, &tokens).unwrap());
            for (sequence, row) in last.chunks_exact(width).enumerate() {
                assert_eq!(
                    row,
                    &q[((sequence + 1) * length - 1) * width..][..width],
                    "{what}"
                );
            }
            let mut means = vec![f32::NAN; batch * width];
            ops.read_pooled(ops.mean_pool(&states, &tokens).unwrap(), &mut means)
                .unwrap();
            let truth: Vec<f64> = (0..batch * width)
                .map(|i| {
                    let (sequence, col) = (i / width, i % width);
                    let tokens: Vec<usize> = (sequence * length..(sequence + 1) * length)
                        .filter(|row| mask[*row] == 1)
                        .collect();
                    let sum: f64 = tokens.iter().map(|row| f64::from(q[row * width + col])).sum();
                    sum / tokens.len().max(1) as f64
                })
                .collect();
            assert_close(&means, &truth, 1e-7, &what);
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn attention_is_its_definition() {
    for precision in PRECISIONS {
        let ops = ops(precision);
        let mut random = Random(3);
        // Probabilities are rounded to the precision before their product with the values, the result once more.
        let tolerance = 2.0 * rounding(precision) + 4e-6;
        for (heads, kv_heads, head_dim, length, past, causal, window) in [
            (3, 1, 256, 130, 0, true, None),
            (4, 2, 128, 65, 0, true, Some(16)),
            (6, 2, 64, 300, 0, true, None),
            (8, 8, 96, 257, 0, true, None),
            (2, 1, 192, 129, 0, false, None),
            (2, 2, 6, 5, 40, true, None),
            (2, 1, 10, 1, 90, true, Some(7)),
            (4, 1, 256, 1, 300, true, None),
            (2, 1, 64, 3, 64, true, None),
            (2, 1, 96, 150, 33, true, Some(100)),
            (2, 1, 32, 70, 0, false, None),
        ] {
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: (head_dim as f32).powf(-0.5),
                causal,
                window,
            };
            let what = format!("{precision} {shape:?} length {length} past {past}");
            let (batch, positions, kv_width) = (3, past + length, kv_heads * head_dim);
            let q = random.values(batch * length * heads * head_dim, precision);
            let keys = random.values(batch * positions * kv_width, precision);
            let values = random.values(batch * positions * kv_width, precision);
            for padded in [false, true] {
                let mut mask = vec![1; batch * positions];
                if padded {
                    // Not padded, padded on the right, padded on the left.
                    mask[2 * positions - positions / 3..2 * positions].fill(0);
                    mask[2 * positions..2 * positions + positions / 3].fill(0);
                }
                let truth = naive_attention((&q, &keys, &values, &mask), batch, length, past, &shape);
                let mut cache = ops.new_cache(batch, &shape).unwrap();
                // What the cache holds already arrives in two passes, so that it grows.
                let part = |from: usize, to: usize, all: &[f32]| -> Vec<f32> {
                    all.chunks_exact(positions * kv_width)
                        .flat_map(|sequence| &sequence[from * kv_width..to * kv_width])
                        .copied()
                        .collect()
                };
                let half = past / 2;
                for (from, to) in [(0, half), (half, past)] {
                    if from < to {
                        let all = vec![1; batch * to];
                        let tokens = tokens(
                            &ops,
                            &vec![0; batch * (to - from)],
                            &all,
                            batch,
                            from,
                            head_dim / 2,
                        );
                        ops.attention(
                            activations(
                                &ops,
                                &vec![0.0; batch * (to - from) * heads * head_dim],
                                heads * head_dim,
                            ),
                            activations(&ops, &part(from, to, &keys), kv_width),
                            activations(&ops, &part(from, to, &values), kv_width),
                            &shape,
                            &tokens,
                            Some(&mut cache),
                        )
                        .unwrap();
                    }
                }
                let tokens = tokens(&ops, &vec![0; batch * length], &mask, batch, past, head_dim / 2);
                let out = ops
                    .attention(
                        activations(&ops, &q, heads * head_dim),
                        activations(&ops, &part(past, positions, &keys), kv_width),
                        activations(&ops, &part(past, positions, &values), kv_width),
                        &shape,
                        &tokens,
                        (past > 0).then_some(&mut cache),
                    )
                    .unwrap();
                assert_close(&read(&ops, &out), &truth, tolerance, &what);
            }
        }
    }
}

/// The definition, one query and one key at a time.
fn naive_attention(
    (q, keys, values, mask): (&[f32], &[f32], &[f32], &[u8]),
    batch: usize,
    length: usize,
    past: usize,
    shape: &AttentionShape,
) -> Vec<f64> {
    let dim = shape.head_dim;
    let (width, stride, positions) = (shape.heads * dim, shape.kv_heads * dim, past + length);
    let mut out = vec![0.0; q.len()];
    for sequence in 0..batch {
        let at = sequence * positions;
        for i in 0..length {
            for head in 0..shape.heads {
                let query = &q[(sequence * length + i) * width + head * dim..][..dim];
                let kv = head * shape.kv_heads / shape.heads * dim;
                let seen = |j: &usize| {
                    mask[at + j] == 1
                        && (!shape.causal || *j <= past + i)
                        && shape.window.is_none_or(|window| j + window > past + i)
                };
                let weights: Vec<(usize, f64)> = (0..positions)
                    .filter(seen)
                    .map(|j| {
                        let key = &keys[(at + j) * stride + kv..][..dim];
                        let dot: f64 = query
                            .iter()
                            .zip(key)
                            .map(|(a, b)| f64::from(*a) * f64::from(*b))
                            .sum();
                        (j, (dot * f64::from(shape.scale)).exp())
                    })
                    .collect();
                let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
                let out = &mut out[(sequence * length + i) * width + head * dim..][..dim];
                for (j, weight) in weights {
                    let value = &values[(at + j) * stride + kv..][..dim];
                    for (out, value) in out.iter_mut().zip(value) {
                        *out += weight / sum * f64::from(*value);
                    }
                }
            }
        }
    }
    out
}

fn product(x: &[f32], weight: &[f32], cols: usize, bias: Option<&[f32]>) -> Vec<f64> {
    x.chunks_exact(cols)
        .flat_map(|x| {
            weight.chunks_exact(cols).enumerate().map(move |(row, weight)| {
                let dot: f64 = x
                    .iter()
                    .zip(weight)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum();
                dot + bias.map_or(0.0, |bias| f64::from(bias[row]))
            })
        })
        .collect()
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_dense_weights() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(4);
        for (tokens, rows, cols) in [
            (1, 64, 96),
            (1, 70, 2000),
            (3, 33, 264),
            (4, 9, 8),
            (5, 33, 65),
            (70, 256, 384),
            (130, 1000, 7),
        ] {
            let what = format!("{precision} {tokens} {rows} x {cols}");
            let x = random.values(tokens * cols, precision);
            let weight = random.values(rows * cols, precision);
            let bias = random.values(rows, precision);
            // f32 sums of up to 2000 products of size 1, and one rounding.
            let tolerance = rounding(precision) + 4e-6;
            for stored in [precision, DType::F32] {
                for biased in [false, true] {
                    let on_gpu = biased.then(|| floats(&ops, &bias));
                    let linear = ops
                        .load_linear(Box::new(dense(rows, cols, stored, &weight)), on_gpu)
                        .unwrap()
                        .value;
                    let truth = product(&x, &weight, cols, biased.then_some(bias.as_slice()));
                    let input = activations(&ops, &x, cols);
                    let out = ops.linear(&input, &linear).unwrap();
                    assert_close(&read(&ops, &out), &truth, tolerance, &what);
                    let mut logits = vec![f32::NAN; tokens * rows];
                    ops.project(&input, &linear, &mut logits).unwrap();
                    assert_close(&logits, &truth, 4e-6, &what);
                }
            }
        }
        let (x, gate, up, down) = (
            random.values(9 * 64, precision),
            random.values(40 * 64, precision),
            random.values(40 * 64, precision),
            random.values(64 * 40, precision),
        );
        let mut load = |rows, cols, values: &[f32]| {
            ops.load_linear(Box::new(dense(rows, cols, precision, values)), None)
                .unwrap()
                .value
        };
        let weights = (load(40, 64, &gate), load(40, 64, &up), load(64, 40, &down));
        let inner: Vec<f32> = product(&x, &gate, 64, None)
            .into_iter()
            .zip(product(&x, &up, 64, None))
            .map(|(gate, up)| (gate / (1.0 + (-gate).exp()) * up) as f32)
            .collect();
        let out = ops
            .gated_mlp(&activations(&ops, &x, 64), &weights.0, &weights.1, &weights.2)
            .unwrap();
        // Four roundings on the way, two of them of factors of the same product.
        let tolerance = 6.0 * rounding(precision) + 4e-6;
        assert_close(
            &read(&ops, &out),
            &product(&inner, &down, 40, None),
            tolerance,
            "gated MLP",
        );
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_codebook_weights() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(5);
        for (rows, cols, block, blocks, order, scale, bits) in [
            (128, 320, 64, Blocks::Flat, NibbleOrder::HighFirst, Scale::F32, 4),
            (
                37,
                100,
                64,
                Blocks::Flat,
                NibbleOrder::HighFirst,
                Scale::Coded { block: 256 },
                4,
            ),
            (30, 70, 32, Blocks::PerRow, NibbleOrder::LowFirst, Scale::F32, 4),
            (16, 64, 32, Blocks::PerRow, NibbleOrder::LowFirst, Scale::F32, 8),
        ] {
            let layout = Layout::BlockCodebook(BlockCodebook {
                rows,
                cols,
                bits,
                order,
                blocks,
                block,
                scale,
            });
            let buffers = layout
                .buffers()
                .iter()
                .map(|spec| match spec.dtype {
                    DType::F32 => {
                        let values = random.values(spec.bytes / 4, DType::F32);
                        AlignedBuffer::from_bytes(bytemuck::cast_slice(&values))
                    }
                    _ => AlignedBuffer::from_bytes(
                        &(0..spec.bytes).map(|_| random.next() as u8).collect::<Vec<_>>(),
                    ),
                })
                .collect();
            let what = format!("{precision} {layout:?}");
            let tensor = MemoryTensor { layout, buffers };
            let mut bytes = vec![0; rows * cols * precision.size()];
            tensor
                .dequantize(
                    0,
                    &mut MatrixMut::new(&mut bytes, rows, cols, precision).unwrap(),
                    CallContext::single_threaded(),
                )
                .unwrap();
            let mut weight = vec![0.0; rows * cols];
            widen(&bytes, precision, &mut weight).unwrap();
            let linear = ops.load_linear(Box::new(tensor), None).unwrap().value;
            for tokens in [1, 3, 17, 70, 300, 800] {
                let x = random.values(tokens * cols, precision);
                let out = ops.linear(&activations(&ops, &x, cols), &linear).unwrap();
                assert_close(
                    &read(&ops, &out),
                    &product(&x, &weight, cols, None),
                    // The few-token kernel rounds the table where the reference rounds table times scale.
                    2.0 * rounding(precision) + 2e-6,
                    &format!("{what}, {tokens} tokens"),
                );
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_int8_weights() {
    for precision in PRECISIONS {
        let mut ops = ops(precision);
        let mut random = Random(6);
        for (rows, cols, biased) in [
            (128, 320, false),
            (37, 100, true),
            (33, 7, false),
            (256, 768, true),
        ] {
            let layout = Layout::Int8Vectorwise(Int8Vectorwise { rows, cols });
            let codes: Vec<i8> = (0..rows * cols).map(|_| (random.next() % 255) as i8).collect();
            let scales = random.values(rows, DType::F32);
            let bias = random.values(rows, precision);
            let buffers = vec![
                AlignedBuffer::from_bytes(bytemuck::cast_slice(&codes)),
                AlignedBuffer::from_bytes(bytemuck::cast_slice(&scales)),
                AlignedBuffer::from_bytes(&6.0_f32.to_ne_bytes()),
            ];
            let on_gpu = biased.then(|| floats(&ops, &bias));
            let linear = ops
                .load_linear(Box::new(MemoryTensor { layout, buffers }), on_gpu)
                .unwrap()
                .value;
            for tokens in [1, 5, 70, 300] {
                for outliers in [false, true] {
                    let mut x = random.values(tokens * cols, precision);
                    if outliers {
                        // In two columns, and one only just.
                        x[(tokens - 1) * cols + 3] = 40.0;
                        x[cols - 1] = -6.0;
                    }
                    let quantized = quantize_activations(&x, tokens, cols, 6.0).unwrap();
                    let sums = quantized.product_i32(&codes, rows);
                    let mut truth: Vec<f64> = quantized
                        .dequantize(&sums, &scales, biased.then_some(bias.as_slice()))
                        .into_iter()
                        .map(f64::from)
                        .collect();
                    for (index, value) in truth.iter_mut().enumerate() {
                        let (token, row) = (index / rows, index % rows);
                        for col in &quantized.outlier_columns {
                            let weight = f64::from(codes[row * cols + col]) * f64::from(scales[row]) / 127.0;
                            *value += f64::from(x[token * cols + col]) * weight;
                        }
                    }
                    let what = format!("{precision} {tokens} {rows} x {cols}, outliers {outliers}");
                    assert_eq!(
                        quantized.outlier_columns.len(),
                        if outliers { 2 } else { 0 },
                        "{what}"
                    );
                    let out = ops.linear(&activations(&ops, &x, cols), &linear).unwrap();
                    // The sum, the outliers' weights and the whole are each rounded once.
                    assert_close(&read(&ops, &out), &truth, 3.0 * rounding(precision) + 2e-6, &what);
                }
            }
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn memory_is_counted_and_its_end_is_said() {
    let ops = ops(DType::BF16);
    let before = ops.memory().unwrap();
    let buffer = ops.gpu.buffer(100 << 20).unwrap();
    let during = ops.memory().unwrap();
    drop(buffer);
    ops.synchronize().unwrap();
    let after = ops.memory().unwrap();
    assert!(
        during.allocated >= before.allocated + (100 << 20),
        "{before:?} {during:?}"
    );
    assert!(
        after.peak_allocated >= during.allocated && after.allocated == before.allocated,
        "{after:?}"
    );
    ops.reset_peak_memory().unwrap();
    assert_eq!(ops.memory().unwrap().peak_allocated, before.allocated);
    let error = ops.gpu.buffer(1 << 45).err().unwrap();
    assert!(
        matches!(&error, qbench_sdk::Error::OutOfMemory(text) if text.contains("asked for") && text.contains("free")),
        "{error}"
    );
    // The device goes on.
    assert!(ops.gpu.buffer(1 << 20).is_ok());
}
