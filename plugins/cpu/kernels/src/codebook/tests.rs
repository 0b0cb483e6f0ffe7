//! Every set against the definition: table times scale, rounded once.

use super::*;

fn run<'a>(codes: &'a [u8], codebook: &'a [f32; 16], scales: &'a [f32], block: usize) -> Run<'a> {
    Run {
        codes,
        starts_second: false,
        high_first: true,
        codebook,
        block,
        before: 0,
        scales,
        rounding: Rounding::F32,
    }
}

/// Element `index` by the definition.
fn element(run: Run<'_>, index: usize) -> f32 {
    let nibble = usize::from(run.starts_second) + index;
    let byte = run.codes[nibble / 2];
    let upper = nibble.is_multiple_of(2) == run.high_first;
    let code = if upper { byte >> 4 } else { byte & 15 };
    let value = run.codebook[usize::from(code)] * run.scales[(run.before + index) / run.block];
    match run.rounding {
        Rounding::F32 => value,
        Rounding::Bf16 => half::bf16::from_f32(value).to_f32(),
        Rounding::F16 => half::f16::from_f32(value).to_f32(),
    }
}

fn sets() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::ALL.into_iter().filter(|set| set.is_available())
}

fn codes(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 197 + i / 7 * 31) as u8).collect()
}

fn codebook() -> [f32; 16] {
    std::array::from_fn(|i| ((i as f32) * 1.37).sin() * 0.9)
}

#[test]
fn decoded_values_are_the_definitions_bits() {
    let (codes, codebook) = (codes(400), codebook());
    let mut scales: Vec<f32> = (0..200).map(|i| 0.01 + i as f32 * 0.137).collect();
    scales[2] = 0.0;
    scales[3] = f32::NAN;
    scales[4] = f32::INFINITY;
    scales[5] = 1e-40;
    for (block, before, length) in [
        (64, 0, 640),
        (64, 17, 333),
        (3, 1, 50),
        (32, 0, 31),
        (128, 96, 500),
        (1, 0, 9),
    ] {
        for starts_second in [false, true] {
            for high_first in [false, true] {
                for rounding in [Rounding::F32, Rounding::Bf16, Rounding::F16] {
                    let run = Run {
                        starts_second,
                        high_first,
                        before,
                        rounding,
                        ..run(&codes, &codebook, &scales, block)
                    };
                    for set in sets() {
                        let what = format!("{set} {run:?}");
                        let mut out = vec![-1.0; length];
                        decode_f32(set, run, &mut out);
                        for (index, value) in out.iter().enumerate() {
                            let expected = element(run, index);
                            assert!(
                                value.to_bits() == expected.to_bits()
                                    || (value.is_nan() && expected.is_nan()),
                                "{value} for {expected} at {index} of {what}"
                            );
                        }
                        let mut out = vec![0; length];
                        decode_bf16(set, run, &mut out);
                        let run = Run {
                            rounding: Rounding::Bf16,
                            ..run
                        };
                        for (index, bits) in out.iter().enumerate() {
                            let (value, expected) =
                                (f32::from_bits(u32::from(*bits) << 16), element(run, index));
                            assert!(
                                value.to_bits() == expected.to_bits()
                                    || (value.is_nan() && expected.is_nan()),
                                "{value} for {expected} at {index} of {what} as bf16"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Shapes: block, elements of the first block before the run, columns, rows.
const PRODUCTS: [(usize, usize, usize, usize); 9] = [
    (64, 0, 640, 3),
    (64, 32, 160, 2),
    (32, 0, 32, 7),
    (256, 128, 768, 5),
    (64, 0, 64, 9),
    (64, 0, 192, 6),
    (128, 64, 320, 4),
    (192, 0, 384, 2),
    (512, 320, 704, 11),
];

#[test]
fn products_are_sums_of_the_definition() {
    let (codes, codebook) = (codes(8000), codebook());
    let scales: Vec<f32> = (0..300).map(|i| 0.01 + (i * 53 % 29) as f32 * 0.137).collect();
    for set in sets().filter(|set| can_dot(*set, 32, 32)) {
        for (block, before, cols, rows) in PRODUCTS {
            for tokens in 1..=DOT_TOKENS {
                for (high_first, rounding) in [
                    (false, Rounding::Bf16),
                    (true, Rounding::Bf16),
                    (true, Rounding::F16),
                    (false, Rounding::F32),
                ] {
                    let run = Run {
                        high_first,
                        before,
                        rounding,
                        ..run(&codes[..(rows * cols).div_ceil(2)], &codebook, &scales, block)
                    };
                    let x: Vec<f32> = (0..tokens * cols)
                        .map(|i| ((i * 29 % 101) as f32 - 50.0) / 64.0)
                        .collect();
                    let mut sums = vec![f32::NAN; tokens * rows];
                    let laid_out = Tokens::new(set, rounding, block, &x, cols);
                    dots(set, run, &laid_out, &mut Block::new(&mut sums, tokens, rows));
                    for (index, sum) in sums.iter().enumerate() {
                        let (token, row) = (index / rows, index % rows);
                        let terms = || {
                            (0..cols).map(|k| {
                                f64::from(x[token * cols + k]) * f64::from(element(run, row * cols + k))
                            })
                        };
                        let (expected, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        // At least 16 partial sums, each of at most cols / 16 terms, then their sum.
                        let tolerance = size * (cols as f64 / 16.0 + 16.0) * f64::from(f32::EPSILON);
                        assert!(
                            (f64::from(*sum) - expected).abs() <= tolerance,
                            "{set}, {rows} x {cols}, token {token} of {tokens}, row {row}: {sum} for {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_of_which_a_scale_is_broken_spoils_no_other() {
    // Half a step is filled up: what stands for it must not meet the next row's scale.
    let (codes, codebook) = (codes(400), codebook());
    let scales = [1.0, f32::INFINITY, 1.0, f32::NAN, 2.0];
    for set in sets().filter(|set| can_dot(*set, 64, 64)) {
        let run = Run {
            rounding: Rounding::Bf16,
            ..run(&codes, &codebook, &scales, 64)
        };
        let x = vec![1.0; 64];
        let mut sums = [0.0; 5];
        let tokens = Tokens::new(set, Rounding::Bf16, 64, &x, 64);
        dots(set, run, &tokens, &mut Block::new(&mut sums, 1, 5));
        assert_eq!(
            sums.map(f32::is_finite),
            [true, false, true, false, true],
            "{set}: {sums:?}"
        );
    }
}
