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

#[test]
fn products_are_sums_of_the_definition() {
    let (codes, codebook) = (codes(400), codebook());
    let scales: Vec<f32> = (0..30).map(|i| 0.01 + i as f32 * 0.137).collect();
    for set in sets().filter(|set| can_dot(*set, 32, 32)) {
        for (block, before, cols) in [(64, 0, 640), (64, 32, 160), (32, 0, 32), (256, 128, 768)] {
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
                        ..run(&codes, &codebook, &scales, block)
                    };
                    let x: Vec<f32> = (0..tokens * cols)
                        .map(|i| ((i * 29 % 101) as f32 - 50.0) / 64.0)
                        .collect();
                    let mut sums = vec![f32::NAN; tokens];
                    dot(set, run, &Tokens::new(set, rounding, &x), cols, &mut sums);
                    for (token, sum) in sums.iter().enumerate() {
                        let terms =
                            || (0..cols).map(|k| f64::from(x[token * cols + k]) * f64::from(element(run, k)));
                        let (expected, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                        // 32 partial sums, each of at most cols / 32 terms, then their sum.
                        let tolerance = size * (cols as f64 / 32.0 + 32.0) * f64::from(f32::EPSILON);
                        assert!(
                            (f64::from(*sum) - expected).abs() <= tolerance,
                            "{set}, {cols} columns, token {token} of {tokens}: {sum} for {expected}"
                        );
                    }
                }
            }
        }
    }
}
