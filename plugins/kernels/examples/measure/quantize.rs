//! On-GPU quantisation against bitsandbytes' golden data and the CPU's schemes.

use std::path::Path;

use half::{bf16, f16};
use qbench_kernels::{
    Element,
    codebook_quantize::{Buckets, Quantize},
};
use qbench_modes::FourBit;
use qbench_sdk::{
    AlignedBuffer, CallContext, DType, Matrix, Options, QuantScheme,
    layout::four_bit::{FP4, NF4, Table},
};
use safetensors::SafeTensors;

use crate::{
    device::{Buffer, Device, Result},
    random::Random,
};

/// Every 4-bit case of the golden data, in every type and table; returns the number of failures.
pub(crate) fn check(device: &Device, fixtures: &Path) -> Result<usize> {
    let kernel = Quantize::load()?;
    let options = Options::default();
    let mut failures = 0;
    let mut cases = 0;
    let mut inputs = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(fixtures)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    for file in files {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.starts_with("q4_")
            || file
                .extension()
                .is_none_or(|extension| extension != "safetensors")
        {
            continue;
        }
        let bytes = std::fs::read(&file)?;
        let tensors = SafeTensors::deserialize(&bytes)?;
        let x = tensors.tensor("x")?;
        let dtype = match x.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            other => return Err(format!("{}: x has type {other:?}", file.display()).into()),
        };
        let mut values = vec![0.0; x.data().len() / dtype.size()];
        qbench_sdk::widen(x.data(), dtype, &mut values)?;
        inputs.push((name, x.shape()[0], x.shape()[1], values));
    }
    let mut random = Random(5);
    for (rows, cols) in [(1, 1), (1, 65), (300, 1111), (4096, 256)] {
        let values = (0..rows * cols).map(|_| random.normal() * 0.05).collect();
        inputs.push((format!("random {rows} x {cols}"), rows, cols, values));
    }
    for (name, rows, cols, values) in inputs {
        for element in [Element::F32, Element::F16, Element::BF16] {
            for (scheme, buckets) in [
                (FourBit::open_nf4(&options)?, buckets(&NF4)),
                (FourBit::open_fp4(&options)?, buckets(&FP4)),
                (FourBit::open_nf4_double(&options)?, buckets(&NF4)),
            ] {
                cases += 1;
                if !equal(device, &kernel, &values, (rows, cols), element, &scheme, &buckets)? {
                    failures += 1;
                    println!("WRONG quantise {name} {element:?} {}", scheme.info().id);
                }
            }
        }
    }
    println!("quantise: {cases} cases");
    Ok(failures)
}

/// The buckets as the kernel takes them.
fn buckets(table: &Table) -> Buckets {
    Buckets {
        bounds: table.bounds,
        codes: table.codes.map(u32::from),
    }
}

fn equal(
    device: &Device,
    kernel: &Quantize,
    values: &[f32],
    (rows, cols): (usize, usize),
    element: Element,
    scheme: &FourBit,
    buckets: &Buckets,
) -> Result<bool> {
    let (bytes, dtype): (Vec<u8>, _) = match element {
        Element::F32 => (values.iter().flat_map(|v| v.to_le_bytes()).collect(), DType::F32),
        Element::F16 => (
            values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
            DType::F16,
        ),
        Element::BF16 => (
            values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            DType::BF16,
        ),
    };
    let layout = scheme.layout(rows, cols, dtype)?;
    let mut stored: Vec<AlignedBuffer> = layout
        .buffers()
        .iter()
        .map(|spec| AlignedBuffer::zeroed(spec.bytes))
        .collect();
    let mut buffers: Vec<&mut [u8]> = stored.iter_mut().map(|buffer| &mut buffer[..]).collect();
    scheme.quantize(
        Matrix::new(&bytes, rows, cols, dtype)?,
        &layout,
        &mut buffers,
        CallContext::single_threaded(),
    )?;

    let x = Buffer::of(&bytes)?;
    let codes = Buffer::<u8>::poisoned((rows * cols).div_ceil(2))?;
    let blocks = (rows * cols).div_ceil(64);
    let scales = Buffer::<u32>::poisoned(blocks)?;
    // SAFETY: the buffers are as long as the shape says.
    unsafe {
        kernel.run(
            x.at,
            element,
            rows * cols,
            64,
            buckets,
            codes.at,
            scales.at,
            device.stream,
        )?;
    };
    device.wait()?;
    if codes.read()? != stored[0][..] {
        return Ok(false);
    }
    let words = |values: Vec<u32>| {
        values
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    if stored.len() == 3 {
        return Ok(same_floats(&words(scales.read()?), &stored[2]));
    }
    let table = Buffer::of(&stored[4][..])?;
    let coded = Buffer::<u8>::poisoned(blocks)?;
    let second = Buffer::<u32>::poisoned(blocks.div_ceil(256))?;
    let offset = Buffer::<u32>::poisoned(1)?;
    // SAFETY: as above.
    unsafe {
        kernel.run_scales(
            scales.at,
            blocks,
            256,
            table.at,
            coded.at,
            second.at,
            offset.at,
            device.stream,
        )?;
    }
    device.wait()?;
    Ok(coded.read()? == stored[2][..]
        && same_floats(&words(second.read()?), &stored[3])
        && same_floats(&words(offset.read()?), &stored[5]))
}

/// The same bits, or both NaN: which NaN an operation gives is the machine's choice.
fn same_floats(ours: &[u8], theirs: &[u8]) -> bool {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect()
    };
    floats(ours)
        .iter()
        .zip(floats(theirs))
        .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

/// Microseconds to quantise a matrix of bf16.
pub(crate) fn time(device: &Device, (rows, cols): (usize, usize)) -> Result<()> {
    let kernel = Quantize::load()?;
    let x = Buffer::of(&Random(6).normals(rows * cols))?;
    let codes = Buffer::<u8>::poisoned(rows * cols / 2)?;
    let blocks = rows * cols / 64;
    let scales = Buffer::<f32>::poisoned(blocks)?;
    let first = device.time(8, 9, |_| {
        // SAFETY: the buffers are as long as the shape says.
        unsafe {
            kernel.run(
                x.at,
                Element::BF16,
                rows * cols,
                64,
                &buckets(&NF4),
                codes.at,
                scales.at,
                device.stream,
            )
        }
    })?;
    let table = Buffer::of(&[0.5_f32; 256])?;
    let (coded, second, offset) = (
        Buffer::<u8>::poisoned(blocks)?,
        Buffer::<f32>::poisoned(blocks)?,
        Buffer::<f32>::poisoned(1)?,
    );
    let nested = device.time(4, 5, |_| {
        // SAFETY: as above.
        unsafe {
            kernel.run_scales(
                scales.at,
                blocks,
                256,
                table.at,
                coded.at,
                second.at,
                offset.at,
                device.stream,
            )
        }
    })?;
    println!("quantise {rows} x {cols}: {first:.1} us; its scales {nested:.1} us more");
    Ok(())
}
