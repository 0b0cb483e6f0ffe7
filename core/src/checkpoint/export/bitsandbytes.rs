//! The storage format of bitsandbytes 0.50, as transformers 5 reads and writes it.
//!
//! | weight | tensors beside `NAME.weight` |
//! |---|---|
//! | 4-bit | `weight.absmax`, `weight.quant_map`, `weight.quant_state.bitsandbytes__nf4` (or `fp4`) |
//! | 4-bit, double quantisation | these, `weight.nested_absmax`, `weight.nested_quant_map` |
//! | int8 | `SCB`, `weight_format` |
//!
//! `quant_state` is JSON as bytes. Sources: `bitsandbytes.functional.QuantState.as_dict`,
//! `bitsandbytes.nn.Linear8bitLt._save_to_state_dict`, `transformers.BitsAndBytesConfig.to_dict`.

use std::sync::Arc;

use qbench_sdk::layout::four_bit::{FP4, NF4, Table};
use qbench_sdk::layout::{BlockCodebook, Blocks, Int8Vectorwise, NibbleOrder, Scale};
use qbench_sdk::{DType, Layout, StoredTensor};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::shards::Output;

/// Blocks that the library's kernels know.
const BLOCKS: std::ops::RangeInclusive<usize> = 32..=4096;
/// Code of the row-major order in `weight_format`.
const ROW_MAJOR: u8 = 0;

/// What all weights of a model have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    FourBit { quant_type: &'static str, nested: bool },
    Int8 { threshold: f32 },
}

/// What a model's `quantization_config` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) format: Format,
    /// Type that 4-bit weights are turned into for a product: the checkpoint's.
    pub(super) compute: DType,
}

/// Whether the layout is one of the library's, whatever its tables hold.
pub(super) fn check(layout: &Layout) -> Result<(), String> {
    match layout {
        Layout::Int8Vectorwise(_) => Ok(()),
        Layout::BlockCodebook(layout) => {
            let allowed = |block: usize| block.is_power_of_two() && BLOCKS.contains(&block);
            if layout.bits != 4 {
                Err(format!("codes have {} bits", layout.bits))
            } else if layout.blocks != Blocks::Flat {
                Err("each row starts a new block".to_owned())
            } else if layout.order != NibbleOrder::HighFirst {
                Err("the lower nibble comes first".to_owned())
            } else if !allowed(layout.block)
                || matches!(layout.scale, Scale::Coded { block } if !allowed(block))
            {
                Err("the block is no power of two between 32 and 4096".to_owned())
            } else {
                Ok(())
            }
        }
        Layout::Dense(dense) => Err(format!("the storage is dense {}", dense.dtype)),
        other => Err(format!("the layout is {}", other.kind())),
    }
}

/// The tensors that hold a weight of type `source`.
pub(super) fn outputs(
    name: &str,
    source: DType,
    stored: &Arc<dyn StoredTensor>,
) -> Result<(Format, Vec<Output>), String> {
    check(stored.layout())?;
    match stored.layout() {
        Layout::BlockCodebook(layout) => four_bit(name, source, layout, stored),
        Layout::Int8Vectorwise(layout) => int8(name, layout, stored),
        _ => unreachable!("refused by `check`"),
    }
}

fn four_bit(
    name: &str,
    source: DType,
    layout: &BlockCodebook,
    stored: &Arc<dyn StoredTensor>,
) -> Result<(Format, Vec<Output>), String> {
    let table: Vec<u32> = floats(stored.buffer(1)).map(f32::to_bits).collect();
    // Bit by bit: a negative zero is another table.
    let is = |known: &Table| known.values.map(f32::to_bits) == table[..];
    let quant_type = if is(&NF4) {
        "nf4"
    } else if is(&FP4) {
        "fp4"
    } else {
        return Err("the table of values is neither NF4 nor FP4".to_owned());
    };
    let buffer = |suffix: &str, dtype, shape, index| {
        Output::buffer(&format!("{name}{suffix}"), dtype, shape, stored, index)
    };
    let blocks = layout.block_count();
    let mut outputs = vec![
        buffer("", Dtype::U8, vec![layout.code_bytes(), 1], 0),
        buffer(".quant_map", Dtype::F32, vec![table.len()], 1),
    ];
    let common = format!(
        r#""quant_type": "{quant_type}", "blocksize": {}, "dtype": "{}", "shape": [{}, {}]"#,
        layout.block,
        torch_name(source),
        layout.rows,
        layout.cols
    );
    let nesting = match layout.scale {
        Scale::F32 => {
            outputs.push(buffer(".absmax", Dtype::F32, vec![blocks], 2));
            String::new()
        }
        Scale::Coded { block } => {
            outputs.extend([
                buffer(".absmax", Dtype::U8, vec![blocks], 2),
                buffer(".nested_absmax", Dtype::F32, vec![blocks.div_ceil(block)], 3),
                buffer(".nested_quant_map", Dtype::F32, vec![256], 4),
            ]);
            let offset = floats(stored.buffer(5)).next().unwrap_or(f32::NAN);
            // As JSON: Python's `float` of the f32. Infinities and NaN, which a weight with such values has, are no
            // JSON, and transformers could not use the weight either.
            let offset = serde_json::Number::from_f64(f64::from(offset))
                .ok_or_else(|| format!("the mean of the scales is {offset}"))?;
            format!(r#", "nested_blocksize": {block}, "nested_dtype": "float32", "nested_offset": {offset}"#)
        }
    };
    let state = format!("{{{common}{nesting}}}");
    let state_name = format!("{name}.quant_state.bitsandbytes__{quant_type}");
    outputs.push(Output::bytes(&state_name, vec![state.len()], state.as_bytes()));
    let nested = matches!(layout.scale, Scale::Coded { .. });
    Ok((Format::FourBit { quant_type, nested }, outputs))
}

fn int8(
    name: &str,
    layout: &Int8Vectorwise,
    stored: &Arc<dyn StoredTensor>,
) -> Result<(Format, Vec<Output>), String> {
    let module = name
        .strip_suffix("weight")
        .ok_or_else(|| "the name does not end in `weight`".to_owned())?;
    let threshold = floats(stored.buffer(2)).next().unwrap_or(f32::NAN);
    let outputs = vec![
        Output::buffer(name, Dtype::I8, vec![layout.rows, layout.cols], stored, 0),
        Output::buffer(&format!("{module}SCB"), Dtype::F32, vec![layout.rows], stored, 1),
        Output::bytes(&format!("{module}weight_format"), Vec::new(), &[ROW_MAJOR]),
    ];
    Ok((Format::Int8 { threshold }, outputs))
}

/// The `quantization_config` of config.json. `skipped` are modules that stay as they are; without a list transformers
/// skips the output head.
pub(super) fn config(settings: Settings, skipped: Option<&[String]>) -> Value {
    // What does not apply has the library's default.
    let (bits, threshold, compute, quant_type, nested) = match settings.format {
        Format::FourBit { quant_type, nested } => (4, 6.0, settings.compute, quant_type, nested),
        Format::Int8 { threshold } => (8, threshold, DType::F32, "fp4", false),
    };
    json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": bits == 4,
        "load_in_8bit": bits == 8,
        "bnb_4bit_compute_dtype": torch_name(compute),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": nested,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": threshold,
    })
}

/// The type as torch calls it.
pub(super) fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::I8 => "int8",
        DType::U8 => "uint8",
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|value| f32::from_le_bytes(*value))
}

#[cfg(test)]
mod tests {
    use qbench_sdk::{CallContext, Error, Matrix, MatrixMut, Result};

    use super::*;

    const LAYOUT: BlockCodebook = BlockCodebook {
        rows: 2,
        cols: 32,
        bits: 4,
        order: NibbleOrder::HighFirst,
        blocks: Blocks::Flat,
        block: 64,
        scale: Scale::F32,
    };

    struct Fixed {
        layout: Layout,
        buffers: Vec<Vec<u8>>,
    }

    impl StoredTensor for Fixed {
        fn layout(&self) -> &Layout {
            &self.layout
        }

        fn buffer(&self, index: usize) -> &[u8] {
            &self.buffers[index]
        }

        fn dequantize(&self, _: usize, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
            Err(Error::Unsupported("an export needs no values".to_owned()))
        }

        fn matmul(&self, _: Matrix<'_>, _: &mut MatrixMut<'_>, _: CallContext) -> Result<()> {
            Err(Error::Unsupported("an export needs no product".to_owned()))
        }
    }

    fn stored(layout: BlockCodebook, table: [f32; 16], offset: f32) -> Arc<dyn StoredTensor> {
        let table = table.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut buffers = vec![vec![0; 32], table, vec![0; 4]];
        if matches!(layout.scale, Scale::Coded { .. }) {
            buffers.extend([vec![0; 4], vec![0; 1024], offset.to_le_bytes().to_vec()]);
        }
        Arc::new(Fixed {
            layout: Layout::BlockCodebook(layout),
            buffers,
        })
    }

    #[test]
    fn layouts_that_the_library_has_not_are_refused() {
        assert_eq!(check(&Layout::BlockCodebook(LAYOUT)), Ok(()));
        for (layout, reason) in [
            (BlockCodebook { bits: 8, ..LAYOUT }, "8 bits"),
            (BlockCodebook { block: 48, ..LAYOUT }, "power of two"),
            (
                BlockCodebook {
                    block: 8192,
                    ..LAYOUT
                },
                "power of two",
            ),
            (
                BlockCodebook {
                    scale: Scale::Coded { block: 7 },
                    ..LAYOUT
                },
                "power of two",
            ),
            (
                BlockCodebook {
                    blocks: Blocks::PerRow,
                    ..LAYOUT
                },
                "each row",
            ),
            (
                BlockCodebook {
                    order: NibbleOrder::LowFirst,
                    ..LAYOUT
                },
                "lower nibble",
            ),
        ] {
            let error = check(&Layout::BlockCodebook(layout)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_table_decides_the_format() {
        let format =
            |table| outputs("a.weight", DType::F16, &stored(LAYOUT, table, 0.0)).map(|(format, _)| format);
        let four_bit = |quant_type| {
            Ok(Format::FourBit {
                quant_type,
                nested: false,
            })
        };
        assert_eq!(format(NF4.values), four_bit("nf4"));
        assert_eq!(format(FP4.values), four_bit("fp4"));
        let mut other = NF4.values;
        other[8] = other[8].next_up();
        assert!(format(other).unwrap_err().contains("neither NF4 nor FP4"));
    }

    #[test]
    fn an_offset_that_is_no_number_is_refused() {
        let nested = BlockCodebook {
            scale: Scale::Coded { block: 256 },
            ..LAYOUT
        };
        assert!(outputs("a.weight", DType::F16, &stored(nested.clone(), NF4.values, 0.5)).is_ok());
        let error = outputs("a.weight", DType::F16, &stored(nested, NF4.values, f32::NAN))
            .err()
            .unwrap();
        assert!(error.contains("NaN"), "{error}");
    }
}
