//! Compiles what tch does not offer of libtorch: see `cpp/torch_parts.cpp`.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=cpp/torch_parts.cpp");
    // torch-sys says where it found the libraries (its `links` key makes this variable).
    let libraries =
        PathBuf::from(env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys tells where libtorch is"));
    let root = libraries.parent().expect("libraries lie in torch/lib");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(root.join("include"))
        .file("cpp/torch_parts.cpp")
        .compile("torch_parts");
    // After our own object on the command line.
    println!("cargo:rustc-link-lib=c10");
}
