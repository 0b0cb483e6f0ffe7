//! Products with weights that no cache holds, beside cuBLAS.

use half::bf16;
use qbench_kernels::{Codebook, Element, Scales, codebook_many::Many};

use super::{Kernels, stored::Stored};
use crate::{
    device::{Buffer, Device, Recorded, Result},
    random::Random,
};

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
    memory: Buffer<u8>,
    tokens: usize,
    count: usize,
}

impl Timed<'_> {
    fn blas(&self) -> Result<Recorded> {
        let (copies, shape) = (self.copies, (self.copies.plain.rows, self.copies.plain.cols));
        self.device.record(self.count, |turn| {
            let dense = &copies.dense[turn % copies.dense.len()];
            self.device
                .dense(dense.at, shape, self.x.at, self.tokens, self.y.at)
        })
    }

    /// `None` where the kernels for few tokens cannot.
    fn few(&self, weight: impl Fn(usize) -> Codebook) -> Result<Option<Recorded>> {
        let (few, stream) = (&self.kernels.few, self.device.stream);
        if !few.fits(&weight(0), self.tokens, Element::BF16) {
            return Ok(None);
        }
        let launch = |turn| {
            let (weight, x, y) = (weight(turn), self.x.at, self.y.at);
            // SAFETY: the buffers are as long as the shape says.
            unsafe { few.run(&weight, x, self.tokens, y, Element::BF16, stream) }
        };
        self.device.record(self.count, launch).map(Some)
    }

    /// `None` where the kernels for many tokens cannot.
    fn many(&self, weight: impl Fn(usize) -> Codebook) -> Result<Option<Recorded>> {
        let (Some(many), stream) = (&self.kernels.many, self.device.stream) else {
            return Ok(None);
        };
        if !Many::fits(&weight(0), Element::BF16) {
            return Ok(None);
        }
        let launch = |turn| {
            let (weight, x, y, memory) = (weight(turn), self.x.at, self.y.at, self.memory.at);
            // SAFETY: the buffers are as long as the shape says.
            unsafe { many.run(&weight, x, self.tokens, y, Element::BF16, memory, stream) }
        };
        self.device.record(self.count, launch).map(Some)
    }

    /// The weight turned into floats, and those multiplied.
    fn dequantized(&self, weight: impl Fn(usize) -> Codebook) -> Result<Recorded> {
        let (dequantize, stream) = (&self.kernels.dequantize, self.device.stream);
        let (rows, cols) = (self.copies.plain.rows, self.copies.plain.cols);
        self.device.record(self.count, |turn| {
            // SAFETY: the buffers are as long as the shape says.
            unsafe { dequantize.run(&weight(turn), 0..rows, self.memory.at, Element::BF16, stream)? };
            self.device
                .dense(self.memory.at, (rows, cols), self.x.at, self.tokens, self.y.at)
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
        "  tokens   cuBLAS      few  read rate    coded     many    coded  dequant.+cuBLAS    coded  best / cuBLAS"
    );
    let mut random = Random(7);
    for tokens in tokens.iter().copied() {
        let (count, replays) = if tokens >= 2048 {
            (4, 7)
        } else {
            (copies.codes.len().max(16), 15)
        };
        let workspace = kernels
            .many
            .as_ref()
            .map_or(0, |many| many.workspace(&copies.plain(0), tokens));
        let timed = Timed {
            device,
            kernels,
            copies: &copies,
            x: Buffer::of(&random.normals(tokens * cols))?,
            y: Buffer::poisoned(tokens * rows)?,
            memory: Buffer::poisoned(workspace.max(rows * cols * Element::BF16.size()))?,
            tokens,
            count,
        };
        let (plain, coded) = (|turn| copies.plain(turn), |turn| copies.coded(turn));
        let all = [
            Some(timed.blas()?),
            timed.few(plain)?,
            timed.few(coded)?,
            timed.many(plain)?,
            timed.many(coded)?,
            Some(timed.dequantized(plain)?),
            Some(timed.dequantized(coded)?),
        ];
        let there: Vec<_> = all.iter().flatten().collect();
        let mut times = device.time_in_turn(&there, replays)?.into_iter();
        let times = all
            .each_ref()
            .map(|recorded| recorded.as_ref().and_then(|_| times.next()));
        let [
            Some(blas),
            few,
            few_coded,
            many,
            many_coded,
            Some(dequantized),
            Some(dequantized_coded),
        ] = times
        else {
            unreachable!("cuBLAS runs everywhere");
        };
        let best = [few, many].into_iter().flatten().fold(dequantized, f64::min);
        let show = |time: Option<f64>| time.map_or_else(|| " ".repeat(8), |time| format!("{time:8.2}"));
        let share = few.map_or_else(String::new, |few| {
            format!("{:.1} %", copies.bytes() as f64 / few / 10.0 / read)
        });
        println!(
            "  {tokens:6} {blas:8.2} {}  {share:>9} {} {} {}         {dequantized:8.2}  {dequantized_coded:8.2}          {:5.2} x",
            show(few),
            show(few_coded),
            show(many),
            show(many_coded),
            blas / best
        );
    }
    Ok(())
}
