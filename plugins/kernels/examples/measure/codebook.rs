//! Block codebooks: checks against f64 sums over the reference decoder's rule, and times beside cuBLAS.

use half::{bf16, f16};
use qbench_kernels::{
    Codebook, Element, Scales, codebook_dense, codebook_dequantize::Dequantize, codebook_few::Few,
    codebook_many::Many, read::Read,
};

use crate::{
    device::{Buffer, Device, Result},
    random::Random,
};

/// ‖y - reference‖ / ‖reference‖ that rounding codes, or weights, and the output to 8 bits of mantissa explains: each is
/// off by 2^-9 = 2.0e-3 at most, and all 16 codes of a small matrix may be off the same way.
const TOLERANCE: f64 = 4.0e-3;

/// Elements of a product that are computed in f64.
const SAMPLES: usize = 600;

/// Scales in 8 bits, on the device.
struct Coded {
    codes: Buffer<u8>,
    second: Buffer<f32>,
    map: Buffer<f32>,
    offset: Buffer<f32>,
}

/// A matrix on the device and what it was made of.
struct Stored {
    rows: usize,
    cols: usize,
    block: usize,
    per_row: bool,
    low_first: bool,
    host_codes: Vec<u8>,
    host_table: Vec<f32>,
    host_scales: Vec<f32>,
    codes: Buffer<u8>,
    table: Buffer<f32>,
    scales: Buffer<f32>,
    coded: Option<Coded>,
}

impl Stored {
    fn random(
        random: &mut Random,
        (rows, cols, block): (usize, usize, usize),
        (per_row, low_first, coded): (bool, bool, bool),
    ) -> Result<Self> {
        let (row_bytes, blocks) = if per_row {
            (rows * cols.div_ceil(2), rows * cols.div_ceil(block))
        } else {
            ((rows * cols).div_ceil(2), (rows * cols).div_ceil(block))
        };
        let host_codes = random.bytes(row_bytes);
        let host_table: Vec<f32> = (0..16).map(|_| random.normal()).collect();
        let mut host_scales: Vec<f32> = (0..blocks).map(|_| 0.01 + random.uniform() * 0.03).collect();
        let mut device_coded = None;
        if coded {
            let codes = random.bytes(blocks);
            let second: Vec<f32> = (0..blocks.div_ceil(256))
                .map(|_| 0.005 + random.uniform() * 0.01)
                .collect();
            let map: Vec<f32> = (0..256).map(|_| random.normal()).collect();
            let offset = 0.03_f32;
            for (index, scale) in host_scales.iter_mut().enumerate() {
                *scale = map[usize::from(codes[index])] * second[index / 256] + offset;
            }
            device_coded = Some(Coded {
                codes: Buffer::of(&codes)?,
                second: Buffer::of(&second)?,
                map: Buffer::of(&map)?,
                offset: Buffer::of(&[offset])?,
            });
        }
        Ok(Self {
            rows,
            cols,
            block,
            per_row,
            low_first,
            codes: Buffer::of(&host_codes)?,
            table: Buffer::of(&host_table)?,
            scales: Buffer::of(&host_scales)?,
            host_codes,
            host_table,
            host_scales,
            coded: device_coded,
        })
    }

    fn weight(&self) -> Codebook {
        Codebook {
            rows: self.rows,
            cols: self.cols,
            block: self.block,
            per_row: self.per_row,
            low_first: self.low_first,
            codes: self.codes.at,
            table: self.table.at,
            scales: match &self.coded {
                None => Scales::Plain(self.scales.at),
                Some(coded) => Scales::Coded {
                    codes: coded.codes.at,
                    scales: coded.second.at,
                    table: coded.map.at,
                    offset: coded.offset.at,
                    block: 256,
                },
            },
        }
    }

    /// One element, as one f32 product.
    fn element(&self, row: usize, col: usize) -> f32 {
        let flat = row * self.cols + col;
        let (position, scale) = if self.per_row {
            (
                row * self.cols.next_multiple_of(2) + col,
                row * self.cols.div_ceil(self.block) + col / self.block,
            )
        } else {
            (flat, flat / self.block)
        };
        let byte = self.host_codes[position / 2];
        let high = position.is_multiple_of(2) != self.low_first;
        let code = if high { byte >> 4 } else { byte & 15 };
        self.host_table[usize::from(code)] * self.host_scales[scale]
    }
}

/// Relative error of up to [`SAMPLES`] elements of `y`; infinite when one is no number.
fn error(random: &mut Random, stored: &Stored, x: &[f32], tokens: usize, y: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    if y.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let all = tokens * stored.rows;
    for sample in 0..all.min(SAMPLES) {
        let at = if all <= SAMPLES { sample } else { random.below(all) };
        let (token, row) = (at / stored.rows, at % stored.rows);
        let exact: f64 = (0..stored.cols)
            .map(|col| f64::from(stored.element(row, col)) * f64::from(x[token * stored.cols + col]))
            .sum();
        difference += (f64::from(y[at]) - exact).powi(2);
        norm += exact * exact;
    }
    (difference / norm).sqrt()
}

pub(crate) struct Kernels {
    dequantize: Dequantize,
    few: Few,
    many: Option<Many>,
    read: Read,
}

impl Kernels {
    pub(crate) fn load() -> Result<Self> {
        Ok(Self {
            dequantize: Dequantize::load()?,
            few: Few::load()?,
            many: Many::load()?,
            read: Read::load()?,
        })
    }
}

/// Every kernel at shapes even and odd; returns the number of failures.
pub(crate) fn check(device: &Device, kernels: &Kernels) -> Result<usize> {
    let mut random = Random(1);
    let mut failures = 0;
    for (shape, kind) in [
        ((5, 7, 64), (false, false, false)),
        ((37, 100, 64), (false, false, true)),
        ((3, 129, 48), (true, true, true)),
        ((96, 1000, 128), (false, true, false)),
        ((64, 4096, 64), (true, true, false)),
    ] {
        failures += dequantize(device, kernels, &mut random, shape, kind)?;
    }
    for (shape, kind) in [
        ((8, 64, 64), (false, false, false)),
        ((13, 192, 64), (false, false, true)),
        ((131, 320, 64), (false, true, false)),
        ((130, 96, 32), (false, false, true)),
        ((257, 3072, 4096), (false, false, false)),
        ((1000, 1216, 128), (true, false, true)),
        ((50, 512, 64), (true, true, false)),
        ((2100, 768, 64), (false, true, true)),
        ((24, 16384, 64), (false, false, false)),
        ((47, 12288, 64), (false, false, true)),
        ((3072, 768, 64), (false, false, false)),
        ((4096, 4096, 64), (false, false, true)),
    ] {
        for tokens in [1, 2, 5, 8, 9, 16, 17, 33, 64, 100, 129, 256, 300] {
            if shape.0 < 2000 || [1, 8, 16, 33, 100, 300].contains(&tokens) {
                failures += products(device, kernels, &mut random, shape, kind, tokens)?;
            }
        }
    }
    Ok(failures)
}

fn dequantize(
    device: &Device,
    kernels: &Kernels,
    random: &mut Random,
    shape: (usize, usize, usize),
    kind: (bool, bool, bool),
) -> Result<usize> {
    let stored = Stored::random(random, shape, kind)?;
    let (rows, cols, _) = shape;
    let expected: Vec<f32> = (0..rows * cols)
        .map(|at| stored.element(at / cols, at % cols))
        .collect();
    let (f32s, f16s, bf16s) = (
        Buffer::<f32>::poisoned(rows * cols)?,
        Buffer::<f16>::poisoned(rows * cols)?,
        Buffer::<bf16>::poisoned(rows * cols)?,
    );
    // In two parts, so that a start within the matrix is seen too.
    let cut = rows / 2;
    for range in [0..cut, cut..rows] {
        let skip = (range.start * cols) as u64;
        for (to, element) in [
            (f32s.at, Element::F32),
            (f16s.at, Element::F16),
            (bf16s.at, Element::BF16),
        ] {
            let to = to + skip * element.size() as u64;
            if !to.is_multiple_of(16) {
                continue;
            }
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                kernels
                    .dequantize
                    .run(&stored.weight(), range.clone(), to, element, device.stream)?;
            };
        }
    }
    device.wait()?;
    let whole = |element: usize| (cut * cols * element).is_multiple_of(16);
    let equal = (!whole(4)
        || f32s
            .read()?
            .iter()
            .zip(&expected)
            .all(|(a, b)| a.to_bits() == b.to_bits()))
        && (!whole(2)
            || f16s
                .read()?
                .iter()
                .zip(&expected)
                .all(|(a, b)| a.to_bits() == f16::from_f32(*b).to_bits())
                && bf16s
                    .read()?
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| a.to_bits() == bf16::from_f32(*b).to_bits()));
    if !equal {
        println!("WRONG dequantise {shape:?} {kind:?}");
    }
    Ok(usize::from(!equal))
}

fn products(
    device: &Device,
    kernels: &Kernels,
    random: &mut Random,
    shape: (usize, usize, usize),
    kind: (bool, bool, bool),
    tokens: usize,
) -> Result<usize> {
    let stored = Stored::random(random, shape, kind)?;
    let weight = stored.weight();
    let (rows, cols, _) = shape;
    let values: Vec<f32> = (0..tokens * cols)
        .map(|_| bf16::from_f32(random.normal()).to_f32())
        .collect();
    let mut failures = 0;
    let mut judge = |kernel: &str, element: Element, y: Vec<f32>| {
        let error = error(random, &stored, &values, tokens, &y);
        // A product that is not finite compares false.
        if error.is_nan() || error >= TOLERANCE {
            failures += 1;
            println!("WRONG {kernel} {element:?} {tokens} tokens, {shape:?} {kind:?}: error {error:.2e}");
        }
    };
    for element in [Element::BF16, Element::F16] {
        let x = match element {
            Element::BF16 => Buffer::of(
                &values
                    .iter()
                    .map(|v| bf16::from_f32(*v).to_bits())
                    .collect::<Vec<u16>>(),
            )?,
            _ => Buffer::of(
                &values
                    .iter()
                    .map(|v| f16::from_f32(*v).to_bits())
                    .collect::<Vec<u16>>(),
            )?,
        };
        let read = |y: &Buffer<u16>| -> Result<Vec<f32>> {
            let widen = |bits: &u16| match element {
                Element::BF16 => bf16::from_bits(*bits).to_f32(),
                _ => f16::from_bits(*bits).to_f32(),
            };
            Ok(y.read()?.iter().map(widen).collect())
        };
        if kernels.few.fits(&weight, tokens, element) {
            let y = Buffer::<u16>::poisoned(tokens * rows)?;
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                kernels
                    .few
                    .run(&weight, x.at, tokens, y.at, element, device.stream)?;
            };
            device.wait()?;
            judge("few", element, read(&y)?);
        }
        if let Some(many) = &kernels.many
            && Many::fits(&weight, element)
        {
            let y = Buffer::<u16>::poisoned(tokens * rows)?;
            let workspace = Buffer::<u8>::poisoned(many.workspace(&weight, tokens))?;
            // SAFETY: as above.
            unsafe { many.run(&weight, x.at, tokens, y.at, element, workspace.at, device.stream)? };
            device.wait()?;
            judge("many", element, read(&y)?);
        }
    }
    Ok(failures)
}

/// Copies of one matrix, far more than the second-level cache holds, so that every product reads its own from memory.
struct Copies {
    plain: Stored,
    coded: Stored,
    codes: Vec<(Buffer<u8>, Buffer<f32>)>,
    /// The same elements in bf16.
    dense: Vec<Buffer<u16>>,
}

impl Copies {
    fn new(device: &Device, kernels: &Kernels, rows: usize, cols: usize) -> Result<Self> {
        let mut random = Random(2);
        let plain = Stored::random(&mut random, (rows, cols, 64), (false, false, false))?;
        let coded = Stored::random(&mut random, (rows, cols, 64), (false, false, true))?;
        let codes: Vec<_> = (0..(800_000_000 / (rows * cols)).clamp(4, 48))
            .map(|_| Ok((plain.codes.copy()?, plain.scales.copy()?)))
            .collect::<Result<_>>()?;
        let dense: Vec<_> = (0..(200_000_000 / (rows * cols)).clamp(3, 12))
            .map(|_| Buffer::poisoned(rows * cols))
            .collect::<Result<_>>()?;
        for dense in &dense {
            // SAFETY: as long as the shape says.
            unsafe {
                kernels
                    .dequantize
                    .run(&plain.weight(), 0..rows, dense.at, Element::BF16, device.stream)?;
            }
        }
        device.wait()?;
        Ok(Self {
            plain,
            coded,
            codes,
            dense,
        })
    }

    /// Bytes of codes and f32 scales.
    fn bytes(&self) -> usize {
        self.plain.host_codes.len() + self.plain.host_scales.len() * 4
    }

    fn plain(&self, turn: usize) -> Codebook {
        let (codes, scales) = &self.codes[turn % self.codes.len()];
        Codebook {
            codes: codes.at,
            scales: Scales::Plain(scales.at),
            ..self.plain.weight()
        }
    }

    fn coded(&self, turn: usize) -> Codebook {
        Codebook {
            codes: self.codes[turn % self.codes.len()].0.at,
            ..self.coded.weight()
        }
    }
}

/// One product to be timed.
struct Timed<'a> {
    device: &'a Device,
    kernels: &'a Kernels,
    copies: &'a Copies,
    x: Buffer<bf16>,
    y: Buffer<u16>,
    tokens: usize,
    count: usize,
    replays: usize,
}

impl Timed<'_> {
    fn blas(&self) -> Result<f64> {
        let (copies, shape) = (self.copies, (self.copies.plain.rows, self.copies.plain.cols));
        self.device.time(self.count, self.replays, |turn| {
            let dense = &copies.dense[turn % copies.dense.len()];
            self.device
                .dense(dense.at, shape, self.x.at, self.tokens, self.y.at)
        })
    }

    fn few(&self, weight: impl Fn(usize) -> Codebook) -> Result<Option<f64>> {
        let few = &self.kernels.few;
        if !few.fits(&weight(0), self.tokens, Element::BF16) {
            return Ok(None);
        }
        let time = self.device.time(self.count, self.replays, |turn| {
            let stream = self.device.stream;
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                few.run(
                    &weight(turn),
                    self.x.at,
                    self.tokens,
                    self.y.at,
                    Element::BF16,
                    stream,
                )
            }
        })?;
        Ok(Some(time))
    }

    fn many(&self, weight: impl Fn(usize) -> Codebook) -> Result<Option<f64>> {
        let Some(many) = &self.kernels.many else {
            return Ok(None);
        };
        let memory = Buffer::<u8>::poisoned(many.workspace(&weight(0), self.tokens))?;
        let time = self.device.time(self.count, self.replays, |turn| {
            let (weight, stream) = (weight(turn), self.device.stream);
            // SAFETY: the buffers are as long as the shape says.
            unsafe {
                many.run(
                    &weight,
                    self.x.at,
                    self.tokens,
                    self.y.at,
                    Element::BF16,
                    memory.at,
                    stream,
                )
            }
        })?;
        Ok(Some(time))
    }

    fn dequantized(&self, weight: impl Fn(usize) -> Codebook) -> Result<f64> {
        let rows = self.copies.plain.rows;
        let memory = Buffer::<u8>::poisoned(codebook_dense::workspace(&weight(0), rows, Element::BF16))?;
        self.device.time(self.count, self.replays, |turn| {
            // SAFETY: the buffers are as long as the shape says, and cuBLAS works on the device's stream.
            unsafe {
                codebook_dense::run(
                    &self.kernels.dequantize,
                    self.device.blas,
                    &weight(turn),
                    rows,
                    self.x.at,
                    self.tokens,
                    self.y.at,
                    Element::BF16,
                    memory.at,
                    self.device.stream,
                )
            }
        })
    }
}

/// Times one shape of weight: a line a number of tokens, in microseconds.
pub(crate) fn time(
    device: &Device,
    kernels: &Kernels,
    (rows, cols): (usize, usize),
    tokens: &[usize],
) -> Result<()> {
    let copies = Copies::new(device, kernels, rows, cols)?;
    let whole = Buffer::<u8>::poisoned(1 << 30)?;
    let read = device.time(4, 9, |_| {
        // SAFETY: as long as said.
        unsafe { kernels.read.run(whole.at, 1 << 30, device.stream) }
    })?;
    let read = f64::from(1 << 30) / read / 1e3;
    println!(
        "{rows} x {cols}: {:.1} MB with f32 scales; reading is possible at {read:.0} GB/s",
        copies.bytes() as f64 / 1e6
    );
    println!(
        "  tokens   cuBLAS      few  read rate    coded     many    coded  dequant.+cuBLAS  best / cuBLAS"
    );
    let mut random = Random(7);
    for tokens in tokens.iter().copied() {
        let (count, replays) = if tokens >= 2048 {
            (4, 7)
        } else {
            (copies.codes.len().max(16), 15)
        };
        let timed = Timed {
            device,
            kernels,
            copies: &copies,
            x: Buffer::of(&random.normals(tokens * cols))?,
            y: Buffer::poisoned(tokens * rows)?,
            tokens,
            count,
            replays,
        };
        let blas = timed.blas()?;
        let few = [
            timed.few(|turn| copies.plain(turn))?,
            timed.few(|turn| copies.coded(turn))?,
        ];
        let many = [
            timed.many(|turn| copies.plain(turn))?,
            timed.many(|turn| copies.coded(turn))?,
        ];
        let dequantized = timed.dequantized(|turn| copies.plain(turn))?;
        let best = [few[0], many[0]]
            .into_iter()
            .flatten()
            .fold(dequantized, f64::min);
        let show = |time: Option<f64>| time.map_or_else(|| " ".repeat(8), |time| format!("{time:8.2}"));
        let share = few[0].map_or_else(String::new, |few| {
            format!("{:.1} %", copies.bytes() as f64 / few / 10.0 / read)
        });
        println!(
            "  {tokens:6} {blas:8.2} {}  {share:>9} {} {} {}         {dequantized:8.2}          {:5.2} x",
            show(few[0]),
            show(few[1]),
            show(many[0]),
            show(many[1]),
            blas / best
        );
    }
    Ok(())
}
