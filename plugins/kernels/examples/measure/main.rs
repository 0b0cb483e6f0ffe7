//! Checks every kernel on the GPU at hand, then times it beside cuBLAS.
//!
//! `cargo run --release -p qbench-kernels --example measure -- [check] [codebook] [int8] [fp8] [quantize]` from
//! the repository's root; all by default; with `check` the parts that are named are checked and nothing is timed.
//! Exit code 1 when a kernel is wrong. Times are medians of CUDA-graph replays, weights taken in turn so that none is
//! found in the cache. A shape (`14336x4096`) times products with weights of it alone, and a number products of so many
//! tokens alone; of codebooks and int8 they are also all that is checked.
#![expect(clippy::print_stdout, reason = "its output is the product")]

mod codebook;
mod device;
mod fp8;
mod int8;
mod quantize;
mod random;

use std::{path::Path, process::ExitCode};

use device::{Device, Result};

const PARTS: [&str; 5] = ["check", "codebook", "int8", "fp8", "quantize"];

/// Rows and columns of a weight.
type Shape = (usize, usize);

/// What the arguments ask for.
#[derive(Default)]
struct Chosen {
    parts: Vec<String>,
    shapes: Vec<Shape>,
    tokens: Vec<usize>,
}

impl Chosen {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut chosen = Self::default();
        for argument in arguments {
            let shape = argument
                .split_once('x')
                .and_then(|(rows, cols)| Some((rows.parse().ok()?, cols.parse().ok()?)));
            if let Some(shape) = shape {
                chosen.shapes.push(shape);
            } else if let Ok(tokens) = argument.parse() {
                chosen.tokens.push(tokens);
            } else if PARTS.contains(&argument.as_str()) {
                chosen.parts.push(argument);
            } else {
                return Err(format!(
                    "{argument}: no shape, number of tokens or part ({})",
                    PARTS.join(", ")
                )
                .into());
            }
        }
        Ok(chosen)
    }

    fn shapes(&self, all: &[Shape]) -> Vec<Shape> {
        if self.shapes.is_empty() {
            all.to_vec()
        } else {
            self.shapes.clone()
        }
    }

    fn tokens(&self, all: &[usize]) -> Vec<usize> {
        if self.tokens.is_empty() {
            all.to_vec()
        } else {
            self.tokens.clone()
        }
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Chosen::read(std::env::args().skip(1))?;
    let chosen = &arguments.parts;
    let on = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    let device = Device::open()?;
    println!("{}", device.name);
    let codebooks = codebook::Kernels::load()?;
    let int8s = int8::Kernels::load()?;
    let fp8s = fp8::Kernels::load()?;
    let mut failures = 0;
    if on("check") {
        // All of them, or those of the parts that are named beside it.
        let only = chosen.iter().any(|name| name != "check");
        let checks: [(&str, &dyn Fn() -> Result<usize>); 4] = [
            ("quantize", &|| {
                quantize::check(&device, Path::new("tests/fixtures/bitsandbytes"))
            }),
            ("codebook", &|| codebook::check(&device, &codebooks, &arguments)),
            ("int8", &|| int8::check(&device, &int8s, &arguments)),
            ("fp8", &|| {
                fp8s.as_ref()
                    .map_or(Ok(0), |kernels| fp8::check(&device, kernels))
            }),
        ];
        for (name, check) in checks.iter().filter(|(name, _)| !only || on(name)) {
            let found = check()?;
            println!(
                "{name}: {}",
                if found == 0 {
                    "right".to_owned()
                } else {
                    format!("{found} WRONG")
                }
            );
            failures += found;
        }
        if !chosen.is_empty() {
            return Ok(ExitCode::from(u8::from(failures > 0)));
        }
    }
    if on("codebook") {
        for shape in arguments.shapes(&[(4096, 4096), (14336, 4096), (4096, 14336)]) {
            let tokens = arguments.tokens(&[1, 2, 4, 8, 16, 32, 64, 128, 256, 2048, 8192]);
            codebook::time(&device, &codebooks, shape, &tokens)?;
        }
    }
    if on("int8") {
        for shape in arguments.shapes(&[(14336, 4096), (3072, 16384), (16384, 3072)]) {
            let tokens = arguments.tokens(&[1, 16, 128, 512, 4096, 16384]);
            int8::time(&device, &int8s, shape, &tokens)?;
        }
    }
    if let Some(kernels) = fp8s.as_ref().filter(|_| on("fp8")) {
        for shape in arguments.shapes(&[(3072, 3072), (1024, 3072), (16384, 3072), (3072, 16384)]) {
            let tokens = arguments.tokens(&[1, 4, 16, 128, 1024, 16384]);
            fp8::time(&device, kernels, shape, &tokens)?;
        }
    }
    if on("quantize") {
        quantize::time(&device, (4096, 4096))?;
    }
    Ok(ExitCode::from(u8::from(failures > 0)))
}
