//! What holds for any matrix.

use proptest::prelude::*;
use qbench_modes::{FourBit, Int8};
use qbench_sdk::{DType, Options, QuantScheme};

use crate::golden::{Golden, Stored, cast, f32_bytes};

fn schemes(block: usize) -> [Box<dyn QuantScheme>; 4] {
    let options = Options::parse(&format!("block={block}")).unwrap();
    [
        Box::new(Int8::open(&Options::none()).unwrap()),
        Box::new(FourBit::open_nf4(&options).unwrap()),
        Box::new(FourBit::open_fp4(&options).unwrap()),
        Box::new(FourBit::open_nf4_double(&options).unwrap()),
    ]
}

/// A matrix of values over many magnitudes.
fn matrix(rows: usize, cols: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        // xorshift32 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX)
    };
    (0..rows * cols)
        .map(|_| ((next() - 0.5) * 10.0_f64.powf(2.0 - 4.0 * next())) as f32)
        .collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn threads_and_gaps_change_nothing(
        rows in 1_usize..40,
        cols in 1_usize..2000,
        seed: u32,
        block in prop::sample::select(vec![32, 64, 512, 4096]),
        dtype in prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]),
    ) {
        let source = cast(&matrix(rows, cols, seed), dtype);
        for scheme in schemes(block) {
            let one = Stored::quantize(&*scheme, &source, rows, cols, dtype, 1);
            let four = Stored::quantize(&*scheme, &source, rows, cols, dtype, 4);
            prop_assert_eq!(one.buffers(), four.buffers());
        }
    }

    /// Blocks are quantised on their own: a row of whole blocks has the codes that it has alone.
    #[test]
    fn rows_of_whole_blocks_are_independent(rows in 1_usize..6, blocks in 1_usize..4, seed: u32) {
        let cols = blocks * 64;
        let values = matrix(rows, cols, seed);
        let scheme = FourBit::open_nf4(&Options::none()).unwrap();
        let whole = Stored::quantize(&scheme, &f32_bytes(&values), rows, cols, DType::F32, 1);
        for (row, values) in values.chunks(cols).enumerate() {
            let alone = Stored::quantize(&scheme, &f32_bytes(values), 1, cols, DType::F32, 1);
            prop_assert_eq!(alone.buffer("codes"), &whole.buffer("codes")[row * cols / 2..][..cols / 2]);
        }
    }

    #[test]
    fn a_value_comes_back_within_half_a_step(rows in 1_usize..8, cols in 1_usize..300, seed: u32) {
        // Normalising and decoding round three times to f32, each by at most 2^-24 of the scale.
        const ROUNDING: f32 = 4.0 / (1 << 24) as f32;
        let values = matrix(rows, cols, seed);
        let options = Options::none();
        for (scheme, table) in [
            (FourBit::open_nf4(&options).unwrap(), "nf4_code"),
            (FourBit::open_fp4(&options).unwrap(), "fp4_code_by_nibble"),
        ] {
            let mut table = Golden::open("tables.safetensors").floats(table);
            table.sort_by(f32::total_cmp);
            let stored = Stored::quantize(&scheme, &f32_bytes(&values), rows, cols, DType::F32, 1);
            let scales = floats(stored.buffer("absmax"));
            let decoded = floats(&stored.dequantize(&scheme, DType::F32));
            for (index, (value, decoded)) in values.iter().zip(&decoded).enumerate() {
                let scale = scales[index / 64];
                // The table's entries around the value.
                let above = table.partition_point(|entry| entry * scale < *value).clamp(1, 15);
                let half_step = (table[above] - table[above - 1]) / 2.0;
                prop_assert!((value - decoded).abs() <= (half_step + ROUNDING) * scale, "{} {}", value, decoded);
            }
        }
        // A step of 8bit is 1 / 127 of the row's largest magnitude; the weight is rounded to f16 first.
        let scheme = Int8::open(&options).unwrap();
        let stored = Stored::quantize(&scheme, &f32_bytes(&values), rows, cols, DType::F32, 1);
        let scales = floats(stored.buffer("scales"));
        let decoded = floats(&stored.dequantize(&scheme, DType::F32));
        for (index, (value, decoded)) in values.iter().zip(&decoded).enumerate() {
            let scale = scales[index / cols];
            let half = half::f16::from_f32(*value).to_f32();
            prop_assert!((half - decoded).abs() <= (0.5 / 127.0 + ROUNDING) * scale, "{} {}", half, decoded);
        }
    }
}
