//! Products in e4m3: checks against the sdk's reference, and times beside cuBLAS in bf16.

use half::bf16;
use qbench_kernels::{
    CUdeviceptr, Element, Fp8, Fp8Activations,
    fp8_product::{Choice, Product, WORKSPACE},
    fp8_quantize::Quantize,
};
use qbench_sdk::layout::fp8::{product, quantize_row};

use crate::{
    device::{Buffer, Device, Result},
    random::Random,
};

/// ‖y - reference‖ / ‖reference‖ of f32 results: what the tensor cores' sums lack.
const TOLERANCE: f64 = 1e-3;

/// Proposals of the library that are timed.
const PROPOSALS: usize = 4;

pub(crate) struct Kernels {
    quantize: Quantize,
    /// Sums in f32, and sums in the tensor cores.
    products: [Product; 2],
}

impl Kernels {
    /// `None` where the GPU does not multiply e4m3 numbers.
    pub(crate) fn load() -> Result<Option<Self>> {
        let load = |fast| Product::load(Choice { fast, proposal: 0 });
        let (Some(exact), Some(fast)) = (load(false)?, load(true)?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            quantize: Quantize::load()?,
            products: [exact, fast],
        }))
    }
}

struct Stored {
    rows: usize,
    cols: usize,
    host_codes: Vec<u8>,
    host_scales: Vec<f32>,
    codes: Buffer<u8>,
    scales: Buffer<f32>,
}

impl Stored {
    /// Sizes are multiples of 16.
    fn random(random: &mut Random, rows: usize, cols: usize) -> Result<Self> {
        let values = random.normals(cols);
        let mut row = vec![0; cols];
        quantize_row(
            &values.iter().map(|value| value.to_f32()).collect::<Vec<_>>(),
            &mut row,
        );
        // Codes of a normal distribution, turned around for each row.
        let host_codes: Vec<u8> = (0..rows)
            .flat_map(|_| {
                row.rotate_left(random.below(cols));
                row.clone()
            })
            .collect();
        let host_scales: Vec<f32> = (0..rows).map(|_| 0.001 + random.uniform() * 0.01).collect();
        Ok(Self {
            rows,
            cols,
            codes: Buffer::of(&host_codes)?,
            scales: Buffer::of(&host_scales)?,
            host_codes,
            host_scales,
        })
    }

    fn weight(&self, codes: CUdeviceptr) -> Fp8 {
        Fp8 {
            rows: self.rows,
            cols: self.cols,
            codes,
            scales: self.scales.at,
        }
    }
}

pub(crate) fn check(device: &Device, kernels: &Kernels) -> Result<usize> {
    let mut random = Random(5);
    let mut failures = 0;
    let workspace = Buffer::<u8>::poisoned(WORKSPACE)?;
    for (rows, cols) in [(16, 16), (48, 80), (1008, 3072), (768, 16_384), (64, 20_000)] {
        let stored = Stored::random(&mut random, rows, cols)?;
        let weight = stored.weight(stored.codes.at);
        for tokens in [1, 2, 7, 16, 100, 300] {
            let values: Vec<f32> = random.normals(tokens * cols).iter().map(|v| v.to_f32()).collect();
            let x = Buffer::of(&values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>())?;
            let memory = Buffer::<u8>::poisoned(Fp8Activations::new(0, tokens, cols).bytes)?;
            let quantized = Fp8Activations::new(memory.at, tokens, cols);
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                kernels
                    .quantize
                    .run(x.at, (tokens, cols), Element::BF16, &quantized, device.stream)?;
            }
            device.wait()?;
            let found = memory.read()?;
            let scales = &found[(quantized.scales - memory.at) as usize..];
            for (token, values) in values.chunks_exact(cols).enumerate() {
                let mut codes = vec![0; cols];
                let scale = quantize_row(values, &mut codes);
                if scales[4 * token..][..4] != scale.to_le_bytes()
                    || found[token * quantized.pitch..][..cols] != codes
                {
                    failures += 1;
                    println!("WRONG fp8 codes: {cols} columns, token {token} of {tokens}");
                }
            }
            let reference = product(&values, cols, &stored.host_codes, &stored.host_scales);
            let bias = Buffer::of(&vec![0.0_f32; rows])?;
            for (name, library) in ["f32 sums", "fast sums"].iter().zip(&kernels.products) {
                for (how, bias) in [("scaled by cuBLASLt", None), ("scaled by us", Some(bias.at))] {
                    let y = Buffer::<f32>::poisoned(tokens * rows)?;
                    let bytes = library.sums(&weight, tokens, Element::F32, bias.is_some())?;
                    let sums = Buffer::<u8>::poisoned(bytes)?;
                    // SAFETY: as above.
                    unsafe {
                        library.run(
                            &weight,
                            &quantized,
                            tokens,
                            bias,
                            (y.at, Element::F32),
                            workspace.at,
                            sums.at,
                            device.stream,
                        )?;
                    }
                    device.wait()?;
                    let (mut difference, mut norm) = (0.0, 0.0);
                    for (found, expected) in y.read()?.into_iter().zip(&reference) {
                        difference += (f64::from(found) - f64::from(*expected)).powi(2);
                        norm += f64::from(*expected).powi(2);
                    }
                    let error = (difference / norm).sqrt();
                    if tokens == 100 {
                        let who = if bytes == 0 { how } else { "scaled by us" };
                        println!("  {rows} x {cols}, {tokens} tokens, {name}, {who}: {error:.1e}");
                    }
                    // Fast sums are shown, not promised.
                    if *name == "f32 sums" && (error.is_nan() || error > TOLERANCE) {
                        failures += 1;
                        println!("WRONG fp8 product: {rows} x {cols}, {tokens} tokens, {how}: {error:.1e}");
                    }
                }
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
    let mut random = Random(6);
    let stored = Stored::random(&mut random, rows, cols)?;
    let copies = (300_000_000 / (rows * cols)).clamp(3, 16);
    let codes: Vec<Buffer<u8>> = (0..copies).map(|_| stored.codes.copy()).collect::<Result<_>>()?;
    let first = Buffer::of(&random.normals(rows * cols))?;
    let dense: Vec<Buffer<bf16>> = (0..copies.min(8)).map(|_| first.copy()).collect::<Result<_>>()?;
    let workspace = Buffer::<u8>::poisoned(WORKSPACE)?;
    let bias = Buffer::of(&vec![0.0_f32; rows])?;
    let mut others = Vec::new();
    for fast in [false, true] {
        for proposal in 1..PROPOSALS {
            others.extend(Product::load(Choice { fast, proposal })?);
        }
    }
    println!("fp8 {rows} x {cols}");
    println!(
        "  tokens   cuBLAS  quantise   gated  product  scaled by us   fast   x cuBLAS (fast)  other proposals"
    );
    for tokens in tokens.iter().copied() {
        let y = Buffer::<u16>::poisoned(tokens * rows)?;
        let x = Buffer::of(&random.normals(tokens * cols))?;
        let memory = Buffer::<u8>::poisoned(Fp8Activations::new(0, tokens, cols).bytes)?;
        let quantized = Fp8Activations::new(memory.at, tokens, cols);
        let sums = Buffer::<f32>::poisoned(tokens * rows)?;
        let (count, replays) = if tokens >= 2048 { (4, 7) } else { (16, 15) };
        let product = |library: &Product, bias: Option<CUdeviceptr>| {
            let run = |turn: usize| {
                let weight = stored.weight(codes[turn % copies].at);
                // SAFETY: the buffers are as long as the shape says.
                unsafe {
                    library.run(
                        &weight,
                        &quantized,
                        tokens,
                        bias,
                        (y.at, Element::BF16),
                        workspace.at,
                        sums.at,
                        device.stream,
                    )
                }
            };
            device.time(count, replays, run)
        };
        let dense_time = device.time(count, replays, |turn| {
            device.dense(dense[turn % dense.len()].at, (rows, cols), x.at, tokens, y.at)
        })?;
        let size = (tokens, cols);
        let quantize_time = device.time(count, replays, |_| {
            // SAFETY: as above.
            unsafe {
                kernels
                    .quantize
                    .run(x.at, size, Element::BF16, &quantized, device.stream)
            }
        })?;
        let gated_time = device.time(count, replays, |_| {
            // SAFETY: as above.
            unsafe {
                kernels
                    .quantize
                    .run_gated((x.at, x.at), size, Element::BF16, &quantized, device.stream)
            }
        })?;
        let [exact, fast] = &kernels.products;
        let (exact_time, ours, fast_time) = (
            product(exact, None)?,
            product(exact, Some(bias.at))?,
            product(fast, None)?,
        );
        // The library may have fewer.
        let rest: Vec<String> = others
            .iter()
            .map(|library| product(library, None).map_or("-".to_owned(), |time| format!("{time:.2}")))
            .collect();
        println!(
            "  {tokens:6} {dense_time:8.2} {quantize_time:9.2} {gated_time:7.2} {exact_time:8.2} {ours:8.2} {fast_time:11.2}   \
             {:6.3} ({:.3})   f32 {}; fast {}",
            dense_time / (quantize_time + exact_time),
            dense_time / (quantize_time + fast_time),
            rest[..PROPOSALS - 1].join(" "),
            rest[PROPOSALS - 1..].join(" "),
        );
    }
    Ok(())
}
