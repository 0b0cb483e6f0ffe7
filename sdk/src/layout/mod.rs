//! Described storage: what the buffers of a quantised weight mean.
//!
//! A layout is data, not code. It crosses the plugin boundary as JSON and is versioned by its kind id
//! (`qbench.<name>/<revision>`), so new kinds need no change of the ABI. JSON carries shapes and choices only; every
//! float that a decoder needs is a buffer, and stays bit-exact.
//!
//! [`decode`] is the reference that every kernel must agree with.

mod decode;
pub mod four_bit;
pub mod fp8;
pub mod int8;

pub(crate) use decode::check_rows;
pub use decode::decode;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{DType, Error, Result};

/// One buffer of a layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BufferSpec {
    /// What it holds: `codes`, `absmax`, …
    pub name: String,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its element type; packed codes are [`DType::U8`].
    pub dtype: DType,
}

impl BufferSpec {
    /// A buffer of `count` elements.
    pub fn new(name: &str, count: usize, dtype: DType) -> Self {
        Self {
            name: name.to_owned(),
            bytes: count * dtype.size(),
            dtype,
        }
    }
}

/// How a matrix is stored. Kinds are added over time: a backend answers those that it does not know with
/// [`Execution::Dequantize`](crate::backend::Execution::Dequantize), through the scheme that stored the weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
#[non_exhaustive]
pub enum Layout {
    /// Plain elements.
    #[serde(rename = "qbench.dense/1")]
    Dense(Dense),
    /// Codes into a table of values, scaled a block at a time.
    #[serde(rename = "qbench.block-codebook/1")]
    BlockCodebook(BlockCodebook),
    /// Signed bytes with a scale a row, multiplied with activations that are quantised on the fly.
    #[serde(rename = "qbench.int8-vectorwise/1")]
    Int8Vectorwise(Int8Vectorwise),
    /// e4m3 numbers with a scale a row, multiplied with activations that become e4m3 on the fly.
    #[serde(rename = "qbench.scaled-fp8/1")]
    ScaledFp8(ScaledFp8),
    /// Storage that no described kind fits; only its scheme understands it.
    #[serde(untagged)]
    Custom(Custom),
}

/// `qbench.dense/1`. Buffers: `weight` (`rows · cols` elements of `dtype`, row-major).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dense {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Element type.
    pub dtype: DType,
}

/// `qbench.block-codebook/1`: `w[i] = codebook[code(i)] · scale(block of i)`, one f32 product, rounded once to the
/// output's type.
///
/// Buffers, in this order:
///
/// | name | type | elements |
/// |---|---|---|
/// | `codes` | u8 | `⌈rows · cols · bits / 8⌉`; for [`Blocks::PerRow`] `rows · ⌈cols · bits / 8⌉` |
/// | `codebook` | f32 | `2^bits` |
/// | `absmax` | f32 | one a block ([`Scale::F32`]) |
/// | `absmax_codes` | u8 | one a block ([`Scale::Coded`]) |
/// | `absmax_scales` | f32 | one a block of `block` blocks ([`Scale::Coded`]) |
/// | `absmax_codebook` | f32 | 256 ([`Scale::Coded`]) |
/// | `absmax_offset` | f32 | 1 ([`Scale::Coded`]) |
///
/// For [`Scale::Coded`], `scale(b) = absmax_codebook[absmax_codes[b]] · absmax_scales[b / block] + absmax_offset`: a
/// product and a sum, each rounded to f32.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCodebook {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Bits a code: 4 or 8.
    pub bits: u8,
    /// Which nibble of a byte comes first; without meaning for 8 bits.
    pub order: NibbleOrder,
    /// Whether blocks cross rows.
    pub blocks: Blocks,
    /// Elements a block.
    pub block: usize,
    /// How a block's scale is stored.
    pub scale: Scale,
}

/// Which nibble of a byte holds the element of the lower index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NibbleOrder {
    /// The upper one, as in bitsandbytes.
    HighFirst,
    /// The lower one.
    LowFirst,
}

/// How blocks divide a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocks {
    /// Consecutive elements of the flattened matrix, across row ends, as in bitsandbytes.
    Flat,
    /// Each row starts a new block and a new byte.
    PerRow,
}

/// How the scale of a block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Scale {
    /// As it is.
    F32,
    /// Quantised itself (double quantisation).
    Coded {
        /// Scales a block of the second level.
        block: usize,
    },
}

/// `qbench.int8-vectorwise/1`: LLM.int8(). `w[r][c] = f32(codes[r][c] · scales[r]) · f32(1 / 127)`.
///
/// Buffers: `codes` (i8, `rows · cols`), `scales` (f32, `rows`: the largest absolute value of each row), `threshold`
/// (f32, 1).
///
/// The activation side is part of the kind. For one call with input `X` (`tokens × cols`, all sequences together):
/// `X` is rounded to f16; an element with `|x| ≥ threshold` is an outlier (none when the threshold is 0); its column is
/// multiplied in floating point with the dequantised weights; the rest is quantised a token at a time (`s = max |x|`
/// without outliers, `q = round_half_even(x · f32(f32(1 / s) · 127))`), multiplied in integers, and scaled by
/// `f32(s · scales[r]) · f32(1 / 127²)`. [`int8`] is the reference. Source: bitsandbytes 0.50; Dettmers et al. 2022.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Int8Vectorwise {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// `qbench.scaled-fp8/1`: 8-bit floats on both sides (W8A8). `w[r][c] = e4m3(codes[r][c]) · scales[r]`, one f32 product,
/// rounded once to the output's type.
///
/// Buffers: `codes` (u8, `rows · cols`: e4m3 numbers of OCP OFP8 1.0), `scales` (f32, `rows`).
///
/// The activation side is part of the kind. Each token of the input becomes e4m3 with a scale of its own:
/// `s = f32(max |x| / 448)`, `q = e4m3(f32(x / s))`, nearest even. The product is
/// `f32(Σ q · codes[r]) · f32(s · scales[r])`, its sum exact. [`fp8`] is the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaledFp8 {
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// Storage that only its scheme understands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Custom {
    /// Kind id in the author's own name space, such as `org.example.ternary/1`.
    pub kind: String,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The buffers.
    pub buffers: Vec<BufferSpec>,
    /// Whatever else the scheme wants to know again.
    #[serde(default)]
    pub parameters: Value,
}

impl BlockCodebook {
    /// Number of blocks.
    pub fn block_count(&self) -> usize {
        match self.blocks {
            Blocks::Flat => (self.rows * self.cols).div_ceil(self.block),
            Blocks::PerRow => self.rows * self.cols.div_ceil(self.block),
        }
    }

    /// Bytes of the `codes` buffer.
    pub fn code_bytes(&self) -> usize {
        let bytes = |elements: usize| (elements * usize::from(self.bits)).div_ceil(8);
        match self.blocks {
            Blocks::Flat => bytes(self.rows * self.cols),
            Blocks::PerRow => self.rows * bytes(self.cols),
        }
    }
}

impl Layout {
    /// Kind id.
    pub fn kind(&self) -> &str {
        match self {
            Self::Dense(_) => "qbench.dense/1",
            Self::BlockCodebook(_) => "qbench.block-codebook/1",
            Self::Int8Vectorwise(_) => "qbench.int8-vectorwise/1",
            Self::ScaledFp8(_) => "qbench.scaled-fp8/1",
            Self::Custom(custom) => &custom.kind,
        }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        match self {
            Self::Dense(layout) => layout.rows,
            Self::BlockCodebook(layout) => layout.rows,
            Self::Int8Vectorwise(layout) => layout.rows,
            Self::ScaledFp8(layout) => layout.rows,
            Self::Custom(layout) => layout.rows,
        }
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        match self {
            Self::Dense(layout) => layout.cols,
            Self::BlockCodebook(layout) => layout.cols,
            Self::Int8Vectorwise(layout) => layout.cols,
            Self::ScaledFp8(layout) => layout.cols,
            Self::Custom(layout) => layout.cols,
        }
    }

    /// The buffers, in the order in which they are passed.
    pub fn buffers(&self) -> Vec<BufferSpec> {
        match self {
            Self::Dense(layout) => vec![BufferSpec::new("weight", layout.rows * layout.cols, layout.dtype)],
            Self::BlockCodebook(layout) => {
                let blocks = layout.block_count();
                let mut buffers = vec![
                    BufferSpec::new("codes", layout.code_bytes(), DType::U8),
                    BufferSpec::new("codebook", 1 << layout.bits, DType::F32),
                ];
                match layout.scale {
                    Scale::F32 => buffers.push(BufferSpec::new("absmax", blocks, DType::F32)),
                    Scale::Coded { block } => buffers.extend([
                        BufferSpec::new("absmax_codes", blocks, DType::U8),
                        BufferSpec::new("absmax_scales", blocks.div_ceil(block), DType::F32),
                        BufferSpec::new("absmax_codebook", 256, DType::F32),
                        BufferSpec::new("absmax_offset", 1, DType::F32),
                    ]),
                }
                buffers
            }
            Self::Int8Vectorwise(layout) => vec![
                BufferSpec::new("codes", layout.rows * layout.cols, DType::I8),
                BufferSpec::new("scales", layout.rows, DType::F32),
                BufferSpec::new("threshold", 1, DType::F32),
            ],
            Self::ScaledFp8(layout) => vec![
                BufferSpec::new("codes", layout.rows * layout.cols, DType::U8),
                BufferSpec::new("scales", layout.rows, DType::F32),
            ],
            Self::Custom(custom) => custom.buffers.clone(),
        }
    }

    /// Bytes of all buffers together.
    pub fn bytes(&self) -> usize {
        self.buffers().iter().map(|buffer| buffer.bytes).sum()
    }

    /// Checks that buffers of these sizes, in their order, are those of the layout. Whoever indexes buffers by a layout
    /// calls this first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the buffer that is missing, too many, or of another size.
    pub fn check_buffers(&self, sizes: impl IntoIterator<Item = usize>) -> Result<()> {
        let specs = self.buffers();
        let sizes: Vec<usize> = sizes.into_iter().collect();
        if specs.len() != sizes.len() {
            return Err(Error::InvalidArgument(format!(
                "layout {} has {} buffers, {} were given",
                self.kind(),
                specs.len(),
                sizes.len()
            )));
        }
        match specs.iter().zip(&sizes).find(|(spec, size)| spec.bytes != **size) {
            None => Ok(()),
            Some((spec, size)) => Err(Error::InvalidArgument(format!(
                "buffer `{}` of layout {}: expected {} bytes, found {size}",
                spec.name,
                self.kind(),
                spec.bytes
            ))),
        }
    }

    /// Checks what the types cannot: block sizes, bit widths, sizes that overflow.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with what is wrong.
    pub fn validate(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::InvalidArgument(format!("layout {}: {what}", self.kind())));
        // An empty matrix may still have a scale a row.
        let elements = self.rows().max(1).checked_mul(self.cols().max(1));
        if elements.is_none_or(|elements| elements > isize::MAX as usize / 8) {
            return invalid(format!("{} x {} elements are too many", self.rows(), self.cols()));
        }
        match self {
            Self::BlockCodebook(layout) => {
                if !matches!(layout.bits, 4 | 8) {
                    return invalid(format!("{} bits a code; 4 and 8 are known", layout.bits));
                }
                if layout.block == 0 || matches!(layout.scale, Scale::Coded { block: 0 }) {
                    return invalid("a block of 0 elements".to_owned());
                }
                Ok(())
            }
            Self::Custom(custom) if custom.kind.starts_with("qbench.") => {
                invalid("this kind is not known here; kinds of one's own start with another name".to_owned())
            }
            Self::Custom(custom) => {
                let sizes = custom.buffers.iter().map(|buffer| buffer.bytes);
                let total = sizes.fold(0_usize, usize::saturating_add);
                if total > isize::MAX as usize {
                    return invalid("its buffers are larger than memory can be".to_owned());
                }
                Ok(())
            }
            Self::Dense(_) | Self::Int8Vectorwise(_) | Self::ScaledFp8(_) => Ok(()),
        }
    }

    /// The layout as JSON.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it cannot be written, which only a custom layout's parameters could cause.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// The layout that `json` describes, validated.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when it is no layout or an impossible one.
    pub fn from_json(json: &str) -> Result<Self> {
        let layout: Self = serde_json::from_str(json)?;
        layout.validate()?;
        Ok(layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_survive_json() {
        let layouts = [
            Layout::Dense(Dense {
                rows: 3,
                cols: 5,
                dtype: DType::BF16,
            }),
            Layout::BlockCodebook(BlockCodebook {
                rows: 3,
                cols: 5,
                bits: 4,
                order: NibbleOrder::HighFirst,
                blocks: Blocks::Flat,
                block: 64,
                scale: Scale::Coded { block: 256 },
            }),
            Layout::Int8Vectorwise(Int8Vectorwise { rows: 3, cols: 5 }),
            Layout::ScaledFp8(ScaledFp8 { rows: 3, cols: 5 }),
            Layout::Custom(Custom {
                kind: "org.example.ternary/1".to_owned(),
                rows: 3,
                cols: 5,
                buffers: vec![BufferSpec::new("trits", 3, DType::U8)],
                parameters: serde_json::json!({ "base": 3 }),
            }),
        ];
        for layout in layouts {
            let json = layout.to_json().unwrap();
            assert_eq!(Layout::from_json(&json).unwrap(), layout, "{json}");
            assert!(json.contains(layout.kind()));
        }
    }

    #[test]
    fn an_unknown_kind_of_ours_is_refused() {
        let json = r#"{"kind":"qbench.block-float/9","rows":1,"cols":1,"buffers":[]}"#;
        assert!(Layout::from_json(json).is_err());
        let json = r#"{"kind":"qbench.dense/1","rows":1}"#;
        assert!(Layout::from_json(json).is_err());
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let json = r#"{"kind":"qbench.block-codebook/1","rows":1,"cols":1,"bits":3,"order":"high_first",
            "blocks":"flat","block":64,"scale":{"type":"f32"}}"#;
        assert!(
            Layout::from_json(json)
                .unwrap_err()
                .to_string()
                .contains("3 bits")
        );
        let json = format!(
            r#"{{"kind":"qbench.int8-vectorwise/1","rows":{0},"cols":{0}}}"#,
            u32::MAX
        );
        assert!(Layout::from_json(&json).is_err());
        let json = format!(
            r#"{{"kind":"qbench.int8-vectorwise/1","rows":{},"cols":0}}"#,
            usize::MAX
        );
        assert!(Layout::from_json(&json).is_err());
        let half = format!(r#"{{"name":"b","bytes":{},"dtype":"u8"}}"#, isize::MAX);
        let json = format!(r#"{{"kind":"org.example.big/1","rows":1,"cols":1,"buffers":[{half},{half}]}}"#);
        assert!(Layout::from_json(&json).is_err());
    }
}
