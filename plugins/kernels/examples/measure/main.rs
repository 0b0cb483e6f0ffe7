//! Checks every kernel on the GPU at hand, then times it beside cuBLAS.
//!
//! `cargo run --release -p qbench-kernels --example measure -- [check] [codebook] [int8] [fp8] [quantize]` from
//! the repository's root; all by default, and `check` checks the parts that are named. Exit code 1 when a kernel is wrong. Times are medians of CUDA-graph replays,
//! weights taken in turn so that none is found in the cache.
#![expect(clippy::print_stdout, reason = "its output is the product")]

mod codebook;
mod device;
mod fp8;
mod int8;
mod quantize;
mod random;

use std::{path::Path, process::ExitCode};

use device::{Device, Result};

fn main() -> Result<ExitCode> {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
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
            ("codebook", &|| codebook::check(&device, &codebooks)),
            ("int8", &|| int8::check(&device, &int8s)),
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
    }
    if on("codebook") {
        for shape in [(4096, 4096), (14336, 4096), (4096, 14336)] {
            codebook::time(
                &device,
                &codebooks,
                shape,
                &[1, 2, 4, 8, 16, 32, 64, 128, 256, 2048, 8192],
            )?;
        }
    }
    if on("int8") {
        for shape in [(14336, 4096), (3072, 16384), (16384, 3072)] {
            int8::time(&device, &int8s, shape, &[1, 16, 128, 512, 4096, 16384])?;
        }
    }
    if let Some(kernels) = fp8s.as_ref().filter(|_| on("fp8")) {
        for shape in [(3072, 3072), (1024, 3072), (16384, 3072), (3072, 16384)] {
            fp8::time(&device, kernels, shape, &[1, 4, 16, 128, 1024, 16384])?;
        }
    }
    if on("quantize") {
        quantize::time(&device, (4096, 4096))?;
    }
    Ok(ExitCode::from(u8::from(failures > 0)))
}
