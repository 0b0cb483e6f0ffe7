//! Tells the tests whether CUDA sources can be compiled here: `cfg(nvcc)`, and the compiler in `NVCC_FOUND`.

#[path = "../plugins/kernels/find_nvcc.rs"]
mod find_nvcc;

fn main() {
    println!("cargo:rerun-if-changed=../plugins/kernels/find_nvcc.rs");
    println!("cargo:rustc-check-cfg=cfg(nvcc)");
    for variable in find_nvcc::VARIABLES {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Some(nvcc) = find_nvcc::nvcc() {
        println!("cargo:rustc-cfg=nvcc");
        println!("cargo:rustc-env=NVCC_FOUND={}", nvcc.display());
    }
}
