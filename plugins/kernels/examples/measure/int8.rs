//! LLM.int8(): checks against the sdk's reference, and times beside cuBLAS in bf16.

use half::{bf16, f16};
use qbench_kernels::{
    Element, Int8,
    int8_few::Few,
    int8_many::Many,
    int8_quantize::{Activations, Quantize},
};
use qbench_sdk::layout::int8::quantize_activations;

use crate::{
    Chosen,
    device::{Buffer, Device, Recorded, Result},
    random::Random,
};

/// ‖y - reference‖ / ‖reference‖ from rounding the two parts and their sum to 8 bits of mantissa.
const TOLERANCE: f64 = 4.0e-3;

/// Elements of a product that are compared.
const SAMPLES: usize = 600;

pub(crate) struct Kernels {
    quantize: Quantize,
    few: Few,
    many: Option<Many>,
}

impl Kernels {
    pub(crate) fn load() -> Result<Self> {
        Ok(Self {
            quantize: Quantize::load()?,
            few: Few::load()?,
            many: Many::load()?,
        })
    }
}

struct Stored {
    rows: usize,
    cols: usize,
    host_codes: Vec<i8>,
    host_scales: Vec<f32>,
    codes: Buffer<i8>,
    scales: Buffer<f32>,
    threshold: Buffer<f32>,
}

impl Stored {
    fn random(random: &mut Random, rows: usize, cols: usize) -> Result<Self> {
        let host_codes: Vec<i8> = random
            .bytes(rows * cols)
            .iter()
            .map(|byte| byte.cast_signed().max(-127))
            .collect();
        let host_scales: Vec<f32> = (0..rows).map(|_| 0.02 + random.uniform() * 0.1).collect();
        Ok(Self {
            rows,
            cols,
            codes: Buffer::of(&host_codes)?,
            scales: Buffer::of(&host_scales)?,
            threshold: Buffer::of(&[6.0])?,
            host_codes,
            host_scales,
        })
    }

    fn weight(&self) -> Int8 {
        Int8 {
            rows: self.rows,
            cols: self.cols,
            codes: self.codes.at,
            scales: self.scales.at,
            threshold: self.threshold.at,
        }
    }
}

/// Activations with `outliers` columns in which some tokens are large.
fn activations(random: &mut Random, tokens: usize, cols: usize, outliers: usize) -> Vec<f32> {
    let mut values: Vec<f32> = (0..tokens * cols)
        .map(|_| bf16::from_f32(random.normal()).to_f32())
        .collect();
    for outlier in 0..outliers {
        let col = (outlier * 7919 + 3) % cols;
        for token in 0..tokens {
            if token % 3 == outlier % 3 || tokens < 3 {
                values[token * cols + col] = if random.uniform() < 0.5 { 6.0 } else { -40.0 };
            }
        }
    }
    values
}

pub(crate) fn check(device: &Device, kernels: &Kernels, chosen: &Chosen) -> Result<usize> {
    let mut random = Random(3);
    let mut failures = 0;
    // The last is listed by a launch of its own.
    let shapes = [
        (8, 16),
        (131, 80),
        (257, 336),
        (1000, 1632),
        (768, 3072),
        (64, 4624),
        (384, 130),
    ];
    for (rows, cols) in chosen.shapes(&shapes) {
        // What is named is checked, however long it takes.
        let all = [1, 2, 3, 4, 7, 16, 17, 50, 100, 200, 300, 2100];
        let short = all.iter().filter(|tokens| *tokens * cols <= 1_000_000);
        for tokens in chosen.tokens(&short.copied().collect::<Vec<_>>()) {
            // The last two leave out whole steps of integers.
            for outliers in [0, 1, 8, 70, 128, 129, cols - cols / 20, cols] {
                failures += product(
                    device,
                    kernels,
                    &mut random,
                    (rows, cols),
                    tokens,
                    outliers.min(cols),
                )?;
            }
        }
    }
    Ok(failures)
}

#[expect(clippy::too_many_lines, reason = "one comparison after another, of one call")]
fn product(
    device: &Device,
    kernels: &Kernels,
    random: &mut Random,
    (rows, cols): (usize, usize),
    tokens: usize,
    outliers: usize,
) -> Result<usize> {
    let stored = Stored::random(random, rows, cols)?;
    let weight = stored.weight();
    let values = activations(random, tokens, cols, outliers);
    let reference = quantize_activations(&values, tokens, cols, 6.0)?;
    let mut failures = 0;
    let mut wrong = |what: &str| {
        failures += 1;
        println!("WRONG int8 {what}: {rows} x {cols}, {tokens} tokens, {outliers} outlier columns");
    };
    for element in [Element::F32, Element::BF16, Element::F16] {
        let x = match element {
            Element::F32 => Buffer::of(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?,
            Element::BF16 => Buffer::of(
                &values
                    .iter()
                    .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                    .collect::<Vec<u8>>(),
            )?,
            Element::F16 => Buffer::of(
                &values
                    .iter()
                    .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                    .collect::<Vec<u8>>(),
            )?,
        };
        let bytes = Activations::new(0, &weight, tokens, element).bytes;
        let workspace = Buffer::<u8>::poisoned(bytes)?;
        let for_many = kernels.many.is_some() && Many::fits(&weight, element);
        let mut quantized = Activations::new(workspace.at, &weight, tokens, element);
        if for_many {
            quantized = quantized.for_many();
        }
        // SAFETY: the buffers are as long as the shape says.
        unsafe {
            kernels
                .quantize
                .run(&weight, x.at, tokens, element, &quantized, device.stream)?;
        };
        device.wait()?;
        let memory = workspace.read()?;
        let at = |address: u64| (address - workspace.at) as usize;
        let word = |address: u64, index: usize| {
            let at = at(address) + 4 * index;
            u32::from_le_bytes([memory[at], memory[at + 1], memory[at + 2], memory[at + 3]])
        };
        let count = word(quantized.count(), 0) as usize;
        let list: Vec<usize> = (0..count.min(cols))
            .map(|i| word(quantized.list, i) as usize)
            .collect();
        if list != reference.outlier_columns {
            wrong(&format!(
                "{element:?} outlier columns {list:?}, not {:?}",
                reference.outlier_columns
            ));
        }
        let codes = &memory[at(quantized.codes)..][..tokens * cols];
        if !codes
            .iter()
            .zip(&reference.codes)
            .all(|(a, b)| a.cast_signed() == *b)
        {
            wrong(&format!("{element:?} codes"));
        }
        if !(0..tokens).all(|token| word(quantized.scales, token) == reference.scales[token].to_bits()) {
            wrong(&format!("{element:?} scales"));
        }
        let mut products = Vec::new();
        if let Some(many) = kernels.many.as_ref().filter(|_| for_many) {
            let y = Buffer::<u16>::poisoned(tokens * rows)?;
            // SAFETY: as above; filled on the same stream.
            unsafe { many.run(&weight, &quantized, tokens, y.at, element, device.stream)? };
            products.push(("many", y));
        }
        if kernels.few.fits(&weight, tokens, element) {
            let y = Buffer::<u16>::poisoned(tokens * rows)?;
            let weights = [(&weight, y.at)];
            // SAFETY: as above.
            unsafe {
                kernels
                    .few
                    .run(&weights, false, (x.at, tokens), element, device.stream)?;
            };
            products.push(("few", y));
        }
        device.wait()?;
        let narrow = |value: f32| match element {
            Element::BF16 => bf16::from_f32(value).to_bits(),
            _ => f16::from_f32(value).to_bits(),
        };
        let widen = |bits: u16| match element {
            Element::BF16 => bf16::from_bits(bits).to_f32(),
            _ => f16::from_bits(bits).to_f32(),
        };
        for (kernel, y) in &products {
            let found = y.read()?;
            let (mut difference, mut norm, mut unequal) = (0.0, 0.0, 0);
            let samples = (tokens * rows).min(SAMPLES);
            for sample in 0..samples {
                let at = if samples < SAMPLES {
                    sample
                } else {
                    random.below(tokens * rows)
                };
                let (token, row) = (at / rows, at % rows);
                let weights = &stored.host_codes[row * cols..][..cols];
                let codes = &reference.codes[token * cols..][..cols];
                let integer: i32 = weights
                    .iter()
                    .zip(codes)
                    .map(|(w, x)| i32::from(*w) * i32::from(*x))
                    .sum();
                let scale = reference.scales[token] * stored.host_scales[row];
                let first = narrow(integer as f32 * scale * qbench_sdk::layout::int8::PRODUCT_STEP);
                let second: f64 = reference
                    .outlier_columns
                    .iter()
                    .map(|col| {
                        let w = f32::from(weights[*col]) * stored.host_scales[row] * (1.0 / 127.0);
                        f64::from(widen(narrow(w))) * f64::from(values[token * cols + col])
                    })
                    .sum();
                let expected = f64::from(widen(first)) + second;
                let found_value = f64::from(widen(found[at]));
                unequal += usize::from(reference.outlier_columns.is_empty() && found[at] != first);
                difference += (found_value - expected).powi(2);
                norm += expected * expected;
            }
            let error = (difference / norm.max(1e-30)).sqrt();
            // Without outliers the integer part is all there is, and the same bits.
            if unequal > 0 || error.is_nan() || error >= TOLERANCE {
                wrong(&format!(
                    "{element:?} product of {kernel}: error {error:.2e}, {unequal} of {samples} bits"
                ));
            }
        }
    }
    Ok(failures)
}

pub(crate) fn time(
    device: &Device,
    kernels: &Kernels,
    (rows, cols): (usize, usize),
    tokens: &[usize],
) -> Result<()> {
    let Some(many) = &kernels.many else { return Ok(()) };
    let mut random = Random(4);
    let stored = Stored::random(&mut random, rows, cols)?;
    let copies = (300_000_000 / (rows * cols)).clamp(3, 16);
    let codes: Vec<Buffer<i8>> = (0..copies).map(|_| stored.codes.copy()).collect::<Result<_>>()?;
    let weights: Vec<Int8> = codes
        .iter()
        .map(|codes| Int8 {
            codes: codes.at,
            ..stored.weight()
        })
        .collect();
    let dense_values = random.normals(rows * cols);
    let first = Buffer::of(&dense_values)?;
    let dense: Vec<Buffer<bf16>> = (0..copies.min(8)).map(|_| first.copy()).collect::<Result<_>>()?;
    println!("int8 {rows} x {cols}");
    println!(
        "  tokens   cuBLAS  quantise   product      all  x cuBLAS   8 outlier columns  x none       few  8 outl.  x cuBLAS"
    );
    for tokens in tokens.iter().copied() {
        let y = Buffer::<u16>::poisoned(tokens * rows)?;
        let element = Element::BF16;
        let workspace = Buffer::<u8>::poisoned(Activations::new(0, &weights[0], tokens, element).bytes)?;
        let quantized = Activations::new(workspace.at, &weights[0], tokens, element).for_many();
        let (count, replays) = if tokens >= 2048 { (4, 7) } else { (16, 15) };
        let [x, x_outliers] = [0, 8].map(|outliers| {
            let values = activations(&mut random, tokens, cols, outliers);
            Buffer::of(&values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>())
        });
        let (x, x_outliers) = (x?, x_outliers?);
        let quantize = |x: &Buffer<bf16>, turn: usize| {
            let weight = &weights[turn % copies];
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                kernels
                    .quantize
                    .run(weight, x.at, tokens, element, &quantized, device.stream)
            }
        };
        let product = |turn: usize| {
            let weight = &weights[turn % copies];
            // SAFETY: as above; products follow their activations on one stream.
            unsafe { many.run(weight, &quantized, tokens, y.at, element, device.stream) }
        };
        let both = |x: &Buffer<bf16>| {
            device.record(count, |turn| {
                quantize(x, turn)?;
                product(turn)
            })
        };
        let dense = device.record(count, |turn| {
            device.dense(dense[turn % dense.len()].at, (rows, cols), x.at, tokens, y.at)
        })?;
        let quantizing = device.record(count, |turn| quantize(&x, turn))?;
        // Of what the one before has quantised.
        let alone = device.record(count, product)?;
        let (all, all_outliers) = (both(&x)?, both(&x_outliers)?);
        let few = |x: &Buffer<bf16>| -> Result<Option<Recorded>> {
            if !kernels.few.fits(&weights[0], tokens, element) {
                return Ok(None);
            }
            let launch = |turn: usize| {
                let weight = [(&weights[turn % copies], y.at)];
                // SAFETY: the buffers are as long as the shape says.
                unsafe {
                    kernels
                        .few
                        .run(&weight, false, (x.at, tokens), element, device.stream)
                }
            };
            device.record(count, launch).map(Some)
        };
        let fews = [few(&x)?, few(&x_outliers)?];
        let mut timed = vec![&dense, &quantizing, &alone, &all, &all_outliers];
        timed.extend(fews.iter().flatten());
        let line = device.time_in_turn(&timed, replays)?;
        let few = line.get(5).map_or(String::new(), |few| {
            format!("{few:8.2} {:8.2}   {:6.3}", line[6], line[0] / few)
        });
        println!(
            "  {tokens:6} {:8.2} {:9.2} {:9.2} {:8.2}    {:6.3}            {:8.2}   {:6.3}  {few}",
            line[0],
            line[1],
            line[2],
            line[3],
            line[0] / line[3],
            line[4],
            line[4] / line[3],
        );
    }
    Ok(())
}
