//! Every layout against the sdk's reference and against what bitsandbytes computed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use qbench_sdk::{
    AlignedBuffer, CudaKernel, DType, Error, Layout,
    backend::{DequantizeWhen, Execution},
    cuda_kernel::{KernelSource, LaunchGeometry},
    layout::{
        BlockCodebook, Blocks, BufferSpec, Custom, Dense, Int8Vectorwise, NibbleOrder, Scale, ScaledFp8, fp8,
        int8::quantize_activations,
    },
};
use safetensors::SafeTensors;
use tch::{Device, Kind};

use super::{Linear, execution};
use crate::{
    context::Context,
    options::KernelChoice,
    test_support::{
        MemoryTensor, PRECISIONS, Random, assert_close, bytes, contexts, product, read, rounding,
    },
};

fn load(context: &Context, stored: &MemoryTensor, bias: Option<&[f32]>) -> Linear {
    Linear::load(context, stored.boxed(), bias.map(|bias| context.floats(bias)))
        .unwrap()
        .value
}

fn codebooks() -> Vec<BlockCodebook> {
    let mut layouts = Vec::new();
    for (rows, cols) in [(128, 320), (37, 100), (3, 129), (1, 7)] {
        for (block, blocks) in [(64, Blocks::Flat), (32, Blocks::PerRow), (48, Blocks::PerRow)] {
            for (bits, order) in [
                (4, NibbleOrder::HighFirst),
                (4, NibbleOrder::LowFirst),
                (8, NibbleOrder::HighFirst),
            ] {
                for scale in [Scale::F32, Scale::Coded { block: 256 }, Scale::Coded { block: 3 }] {
                    layouts.push(BlockCodebook {
                        rows,
                        cols,
                        bits,
                        order,
                        blocks,
                        block,
                        scale,
                    });
                }
            }
        }
    }
    layouts
}

#[test]
fn codebooks_are_decoded_to_the_bit() {
    for context in contexts() {
        for (index, layout) in codebooks().into_iter().enumerate() {
            let stored = MemoryTensor::random(Layout::BlockCodebook(layout), &mut Random(index as u64));
            let dense = load(&context, &stored, None).dense(&context).unwrap();
            let what = format!("{} {:?}", context.name(), stored.layout);
            assert_eq!(bytes(&dense), stored.decoded(context.precision), "{what}");
        }
    }
}

/// Bits of a value, those of both zeros and of all NaNs being the same: bitsandbytes' own paths differ there.
fn comparable(bytes: &[u8], dtype: DType) -> Vec<u32> {
    let mut values = vec![0.0_f32; bytes.len() / dtype.size()];
    qbench_sdk::widen(bytes, dtype, &mut values).unwrap();
    values
        .into_iter()
        .map(|value| {
            if value.is_nan() {
                u32::MAX
            } else {
                (value + 0.0).to_bits()
            }
        })
        .collect()
}

#[test]
fn bitsandbytes_own_codes_are_decoded_to_its_values() {
    // Named on a machine where the tests run but were not built.
    let repository = std::env::var_os("QBENCH_TEST_REPOSITORY").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.."),
        PathBuf::from,
    );
    let folder = repository.join("tests/fixtures/bitsandbytes");
    let tables = fs::read(folder.join("tables.safetensors")).unwrap();
    let tables = SafeTensors::deserialize(&tables).unwrap();
    let mut compared = 0;
    for context in contexts() {
        let float = context.precision.to_string();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            // Its instruction for bf16 drops subnormal results, which is not its own formula.
            if !name.starts_with("q4_") || (name == "q4_denormal" && context.precision == DType::BF16) {
                continue;
            }
            let file = fs::read(&path).unwrap();
            let file = SafeTensors::deserialize(&file).unwrap();
            let [rows, cols] = file.tensor("x").unwrap().shape().try_into().unwrap();
            for (mode, table) in [("nf4", "nf4_code"), ("fp4", "fp4_code_by_nibble")] {
                let of = |part: &str| file.tensor(&format!("{float}.{part}")).ok();
                let (Some(codes), Some(absmax), Some(truth)) = (
                    of(&format!("{mode}.packed")),
                    of("absmax"),
                    of(&format!("{mode}.deq")),
                ) else {
                    continue;
                };
                let buffers = [codes.data(), tables.tensor(table).unwrap().data(), absmax.data()];
                let stored = MemoryTensor::new(
                    Layout::BlockCodebook(BlockCodebook {
                        rows,
                        cols,
                        bits: 4,
                        order: NibbleOrder::HighFirst,
                        blocks: Blocks::Flat,
                        block: 64,
                        scale: Scale::F32,
                    }),
                    buffers.map(AlignedBuffer::from_bytes).into(),
                );
                let dense = load(&context, &stored, None).dense(&context).unwrap();
                assert_eq!(
                    comparable(&bytes(&dense), context.precision),
                    comparable(truth.data(), context.precision),
                    "{} {name} {mode}",
                    context.name()
                );
                compared += 1;
            }
        }
    }
    assert!(compared >= 56, "{compared} cases");
}

#[test]
fn products_of_codebooks() {
    for context in contexts() {
        let precision = context.precision;
        for (index, layout) in codebooks().into_iter().step_by(7).enumerate() {
            let mut random = Random(index as u64);
            let (rows, cols) = (layout.rows, layout.cols);
            let stored = MemoryTensor::random(Layout::BlockCodebook(layout), &mut random);
            let linear = load(&context, &stored, None);
            for tokens in [1, 3, 17, 70] {
                let x = random.values(tokens * cols, precision);
                let out = linear
                    .forward(&context, &context.activations(&x, cols), context.kind())
                    .unwrap();
                let truth = product(&x, &stored.values(precision), cols, None);
                // Our kernel for few tokens rounds the table where the reference rounds table times scale.
                let tolerance = 2.0 * rounding(precision) + 4e-6;
                let what = format!("{} {tokens} tokens, {rows} x {cols}", context.name());
                assert_close(&read(&out), &truth, tolerance, &what);
            }
        }
    }
}

#[test]
fn products_of_dense_weights() {
    for context in contexts() {
        let precision = context.precision;
        let mut random = Random(4);
        for (tokens, rows, cols) in [
            (1, 64, 96),
            (1, 70, 2000),
            (5, 33, 65),
            (70, 256, 384),
            (130, 1000, 7),
        ] {
            let x = random.values(tokens * cols, precision);
            let weight = random.values(rows * cols, precision);
            let bias = random.values(rows, precision);
            let input = context.activations(&x, cols);
            for stored in PRECISIONS {
                let stored = MemoryTensor::dense(rows, cols, stored, &weight);
                let weight = stored.values(precision);
                for bias in [None, Some(bias.as_slice())] {
                    let what = format!("{} {tokens} {rows} x {cols}", context.name());
                    let linear = load(&context, &stored, bias);
                    let truth = product(&x, &weight, cols, bias);
                    let out = linear.forward(&context, &input, context.kind()).unwrap();
                    // f32 sums of up to 2000 products of size 1, and one rounding; on a GPU three, since torch lets cuBLAS
                    // split a sum and add the parts in the precision.
                    let roundings = if context.device.is_cuda() { 3.0 } else { 1.0 };
                    assert_close(&read(&out), &truth, roundings * rounding(precision) + 4e-6, &what);
                    let logits = linear.forward(&context, &input, Kind::Float).unwrap();
                    assert_close(&read(&logits), &truth, 4e-6, &format!("{what}, as f32"));
                }
            }
        }
    }
}

#[test]
fn products_of_int8_weights() {
    for context in contexts() {
        let precision = context.precision;
        let mut random = Random(6);
        for (rows, cols, biased) in [
            (128, 320, false),
            (37, 100, true),
            (33, 7, false),
            (40, 2500, true),
        ] {
            let layout = Layout::Int8Vectorwise(Int8Vectorwise { rows, cols });
            let mut stored = MemoryTensor::random(layout, &mut random);
            stored.buffers[2] = AlignedBuffer::from_bytes(&6.0_f32.to_ne_bytes());
            let codes: Vec<i8> = stored.buffers[0].iter().map(|code| *code as i8).collect();
            let scales: Vec<f32> = bytemuck::cast_slice(&stored.buffers[1]).to_vec();
            let bias = biased.then(|| random.values(rows, precision));
            let linear = load(&context, &stored, bias.as_deref());
            for tokens in [1, 5, 70] {
                for outliers in [false, true] {
                    let mut x = random.values(tokens * cols, precision);
                    if outliers {
                        // In two columns, and one only just.
                        x[(tokens - 1) * cols + 3] = 40.0;
                        x[cols - 1] = -6.0;
                    }
                    let quantized = quantize_activations(&x, tokens, cols, 6.0).unwrap();
                    assert_eq!(quantized.outlier_columns.len(), if outliers { 2 } else { 0 });
                    let sums = quantized.product_i32(&codes, rows);
                    let exact = quantized.dequantize(&sums, &scales, bias.as_deref());
                    let mut truth: Vec<f64> = exact.iter().copied().map(f64::from).collect();
                    for (index, value) in truth.iter_mut().enumerate() {
                        let (token, row) = (index / rows, index % rows);
                        for col in &quantized.outlier_columns {
                            let weight = f64::from(codes[row * cols + col]) * f64::from(scales[row]) / 127.0;
                            *value += f64::from(x[token * cols + col]) * weight;
                        }
                    }
                    let what = format!("{} {tokens} {rows} x {cols}, outliers {outliers}", context.name());
                    let input = context.activations(&x, cols);
                    let out = linear.forward(&context, &input, context.kind()).unwrap();
                    // The sum, the outliers' weights and the whole are each rounded once.
                    assert_close(&read(&out), &truth, 3.0 * rounding(precision) + 2e-6, &what);
                    if !outliers && context.gpu.is_none() {
                        let wide = linear.forward(&context, &input, Kind::Float).unwrap();
                        assert_eq!(
                            read(&wide),
                            exact,
                            "{what}: every operation is named, so bits are equal"
                        );
                    }
                }
            }
            let table = linear.dense(&context).unwrap();
            assert_eq!(bytes(&table), stored.decoded(precision), "{}", context.name());
        }
    }
}

#[test]
fn products_of_fp8_weights_are_the_references() {
    for context in contexts() {
        let mut random = Random(7);
        let (rows, cols, tokens) = (33, 70, 9);
        let mut stored = MemoryTensor::random(Layout::ScaledFp8(ScaledFp8 { rows, cols }), &mut random);
        // 0x7f and 0xff are no numbers.
        stored.buffers[0]
            .iter_mut()
            .for_each(|code| *code = if *code & 0x7f == 0x7f { 1 } else { *code });
        let scales: Vec<f32> = bytemuck::cast_slice(&stored.buffers[1]).to_vec();
        let mut x = random.values(tokens * cols, context.precision);
        x[..cols].fill(0.0);
        let linear = load(&context, &stored, None);
        let input = context.activations(&x, cols);
        let out = linear.forward(&context, &input, Kind::Float).unwrap();
        let truth = fp8::product(&x, cols, &stored.buffers[0], &scales);
        if context.gpu.is_some() {
            // Tensor cores add with fewer bits than f32 has before a sum becomes f32.
            let truth: Vec<f64> = truth.into_iter().map(f64::from).collect();
            assert_close(&read(&out), &truth, 1e-3, &context.name());
        } else {
            assert_eq!(read(&out), truth, "{}", context.name());
        }
        assert_eq!(
            bytes(&linear.dense(&context).unwrap()),
            stored.decoded(context.precision)
        );
    }
}

#[test]
fn a_custom_layout_is_turned_into_floats_by_its_scheme() {
    for context in contexts() {
        let (rows, cols) = (30, 50);
        let layout = Layout::Custom(Custom {
            kind: "org.example.own/1".to_owned(),
            rows,
            cols,
            ..Custom::default()
        });
        let mut stored = MemoryTensor::new(layout.clone(), Vec::new());
        stored.floats = Random(8).values(rows * cols, DType::F32);
        let loaded = Linear::load(&context, stored.boxed(), None).unwrap();
        let at_load = Execution::Dequantize {
            to: context.precision,
            when: DequantizeWhen::Load,
        };
        assert_eq!(loaded.execution, at_load);
        assert_eq!(loaded.bytes, (rows * cols * context.precision.size()) as u64);
        assert_eq!(
            bytes(&loaded.value.dense(&context).unwrap()),
            stored.decoded(context.precision)
        );
    }
}

#[test]
fn what_cannot_be_run_is_said() {
    let context = Context::new(Device::Cpu, DType::F32, 1, KernelChoice::Own).unwrap();
    let wide = Layout::Int8Vectorwise(Int8Vectorwise {
        rows: 1,
        cols: 200_000,
    });
    let reason = execution(&wide, DType::F32, context.means).to_string();
    assert!(reason.contains("200000 columns"), "{reason}");
    let bytes_only = Layout::Dense(Dense {
        rows: 2,
        cols: 2,
        dtype: DType::U8,
    });
    let stored = MemoryTensor::new(bytes_only, vec![AlignedBuffer::zeroed(4)]);
    let error = Linear::load(&context, stored.boxed(), None).err().unwrap();
    assert!(matches!(error, Error::Unsupported(_)), "{error}");
    let short = MemoryTensor::new(
        MemoryTensor::dense(2, 2, DType::F32, &[0.0; 4]).layout,
        vec![AlignedBuffer::zeroed(8)],
    );
    let error = Linear::load(&context, short.boxed(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("expected 16 bytes, found 8"), "{error}");
}

/// The example of the sdk's `cuda_kernel`.
const BYTES: &str = r#"
extern "C" __global__ void bytes_f32(
    float *out, unsigned long long first_row, unsigned long long rows, unsigned long long cols,
    const signed char *codes, const float *scales)
{
    unsigned long long row = blockIdx.x;
    for (unsigned long long col = threadIdx.x; col < cols; col += blockDim.x)
        out[row * cols + col] = codes[(first_row + row) * cols + col] * scales[first_row + row];
}
"#;

#[test]
fn a_scheme_brings_its_own_kernel_for_a_gpu() {
    for context in contexts() {
        let mut random = Random(9);
        let (rows, cols) = (30, 50);
        let layout = Layout::Custom(Custom {
            kind: "org.example.bytes/1".to_owned(),
            rows,
            cols,
            buffers: vec![
                BufferSpec::new("codes", rows * cols, DType::I8),
                BufferSpec::new("scales", rows, DType::F32),
            ],
            ..Custom::default()
        });
        let mut stored = MemoryTensor::random(layout, &mut random);
        let scales: &[f32] = bytemuck::cast_slice(&stored.buffers[1]);
        stored.floats = stored.buffers[0]
            .iter()
            .enumerate()
            .map(|(index, code)| f32::from(*code as i8) * scales[index / cols])
            .collect();
        stored.kernel = Some(CudaKernel {
            name: "bytes".to_owned(),
            source: KernelSource::CudaC(BYTES.to_owned()),
            entries: BTreeMap::from([(DType::F32, "bytes_f32".to_owned())]),
            geometry: LaunchGeometry {
                threads: 256,
                tile_rows: 1,
                tile_cols: u32::MAX,
                shared_bytes: 0,
            },
            constants: Vec::new(),
        });
        let loaded = Linear::load(&context, stored.boxed(), None).unwrap();
        let compiled = context.gpu.is_some() && context.precision == DType::F32;
        let (expected, bytes_held) = if compiled {
            let kernel = "bytes".to_owned();
            let execution = Execution::SchemeKernel {
                kernel,
                to: DType::F32,
            };
            (execution, rows * cols + rows * 4)
        } else {
            let execution = Execution::Dequantize {
                to: context.precision,
                when: DequantizeWhen::Load,
            };
            (execution, rows * cols * context.precision.size())
        };
        assert_eq!(
            (loaded.execution, loaded.bytes),
            (expected, bytes_held as u64),
            "{}",
            context.name()
        );
        assert_eq!(
            bytes(&loaded.value.dense(&context).unwrap()),
            stored.decoded(context.precision)
        );
        let x = random.values(7 * cols, context.precision);
        let input = context.activations(&x, cols);
        let out = loaded.value.forward(&context, &input, context.kind()).unwrap();
        let truth = product(&x, &stored.values(context.precision), cols, None);
        assert_close(
            &read(&out),
            &truth,
            3.0 * rounding(context.precision) + 4e-6,
            &context.name(),
        );
    }
}
