//! A plugin in plain C: compiled as its README says, loaded, and compared with what it is documented to do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use qbench_sdk::{
    CallContext, CudaKernel, DType, Error, Layout, Matrix, MatrixMut, Options, QuantScheme,
    cuda_kernel::KernelSource, host::Plugin,
};
use qbench_tests::{fails, repository, rows, small_run, stdout};

/// The example, built once with the command of its README in a copy of its directory.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = repository().join("examples/plugin-c");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-c");
        fs::create_dir_all(&directory).unwrap();
        for name in ["plugin.c", "int4.c", "ternary.c", "schemes.h"] {
            fs::copy(source.join(name), directory.join(name)).unwrap();
        }
        let readme = fs::read_to_string(source.join("README.md")).unwrap();
        let command = readme.lines().find(|line| line.starts_with("cc ")).unwrap();
        let include = repository().join("sdk/include");
        let command = command.replace("../../sdk/include", include.to_str().unwrap());
        let output = Command::new("sh")
            .args(["-c", &format!("{command} -Wall -Wextra -Werror")])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        directory.join("libqbench_c_example.so")
    })
}

fn plugin() -> Plugin {
    qbench::plugins::load(library()).unwrap()
}

fn scheme(id: &str, options: &str) -> Box<dyn QuantScheme> {
    plugin()
        .open_scheme(id, &Options::parse(options).unwrap())
        .unwrap()
}

const ONE_THREAD: CallContext = CallContext { threads: 1 };

/// A weight as a scheme stores it.
struct Stored {
    layout: Layout,
    buffers: Vec<Vec<u8>>,
}

impl Stored {
    fn new(scheme: &dyn QuantScheme, values: &[f32], rows: usize) -> Result<Self, Error> {
        let cols = values.len() / rows;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let layout = scheme.layout(rows, cols, DType::F32)?;
        let mut buffers: Vec<Vec<u8>> = layout
            .buffers()
            .iter()
            .map(|buffer| vec![0; buffer.bytes])
            .collect();
        let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        let source = Matrix::new(&bytes, rows, cols, DType::F32)?;
        scheme.quantize(source, &layout, &mut slices, ONE_THREAD)?;
        Ok(Self { layout, buffers })
    }

    fn slices(&self) -> Vec<&[u8]> {
        self.buffers.iter().map(Vec::as_slice).collect()
    }

    /// Rows from `first_row` on as bytes of `dtype`.
    fn dequantize(&self, scheme: &dyn QuantScheme, first_row: usize, rows: usize, dtype: DType) -> Vec<u8> {
        let cols = self.layout.cols();
        let mut bytes = vec![0; rows * cols * dtype.size()];
        let mut out = MatrixMut::new(&mut bytes, rows, cols, dtype).unwrap();
        scheme
            .dequantize(&self.layout, &self.slices(), first_row, &mut out, ONE_THREAD)
            .unwrap();
        bytes
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect()
}

/// Numbers between -1 and 1 that look random, from a linear congruence.
fn values(count: usize) -> Vec<f32> {
    let mut state = 42_u64;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

#[test]
fn it_says_what_it_offers() {
    let plugin = plugin();
    assert_eq!(plugin.abi(), "c 1");
    let manifest = plugin.manifest().unwrap();
    assert_eq!(
        (manifest.name.as_str(), manifest.version.as_str()),
        ("qbench-example-c", "0.1.0")
    );
    let ids: Vec<String> = plugin
        .schemes()
        .unwrap()
        .into_iter()
        .map(|info| info.id)
        .collect();
    assert_eq!(ids, ["c_int4", "c_ternary"]);
}

#[test]
fn integers_of_4_bits_are_as_worked_by_hand() {
    let scheme = scheme("c_int4", "group=16");
    // The largest is 7, so the scale is 1: 7, -3.4 to -3, 0.5 up to 1, -0.5 up to 0.
    let stored = Stored::new(&*scheme, &[7.0, -3.4, 0.5, -0.5], 1).unwrap();
    assert_eq!(stored.buffers[0], [0x5f, 0x89]);
    assert_eq!(floats(&stored.buffers[2]), [1.0]);
    assert_eq!(
        floats(&stored.dequantize(&*scheme, 0, 1, DType::F32)),
        [7.0, -3.0, 1.0, 0.0]
    );
    // Groups of 16 in rows of 20, and a row of zeros.
    let mut values = values(60);
    values[20..40].fill(0.0);
    let stored = Stored::new(&*scheme, &values, 3).unwrap();
    let decoded = floats(&stored.dequantize(&*scheme, 0, 3, DType::F32));
    let scales = floats(&stored.buffers[2]);
    assert_eq!(scales.len(), 6);
    for (index, (value, decoded)) in values.iter().zip(&decoded).enumerate() {
        let scale = scales[index / 20 * 2 + index % 20 / 16];
        // Half a step, and the rounding of the scale.
        assert!(
            (value - decoded).abs() <= scale * 0.500_001,
            "{index}: {value} {decoded}"
        );
    }
    assert_eq!(decoded[20..40], [0.0; 20]);
}

#[test]
fn ternary_weights_are_as_worked_by_hand() {
    let scheme = scheme("c_ternary", "");
    // The mean magnitude is 0.9; what is above half of it is 1 or -1.
    let stored = Stored::new(&*scheme, &[2.0, -1.0, 0.5, 0.1, -0.9], 1).unwrap();
    // Codes 2, 0, 2, 1 from the low bits on, then 0.
    assert_eq!(stored.buffers[0], [0b01_10_00_10, 0]);
    let decoded = floats(&stored.dequantize(&*scheme, 0, 1, DType::F32));
    assert_eq!(decoded, [0.9, -0.9, 0.9, 0.0, -0.9]);
    // 0.9 as bf16 is 0x3f66.
    assert_eq!(
        stored.dequantize(&*scheme, 0, 1, DType::BF16)[..4],
        [0x66, 0x3f, 0x66, 0xbf]
    );
}

#[test]
fn its_product_is_that_of_the_dequantised_weight() {
    let scheme = scheme("c_ternary", "");
    let (tokens, rows, cols) = (3, 5, 77);
    let stored = Stored::new(&*scheme, &values(rows * cols), rows).unwrap();
    let weight = floats(&stored.dequantize(&*scheme, 0, rows, DType::F32));
    let input = values(tokens * cols);
    let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut output = vec![0; tokens * rows * 4];
    scheme
        .matmul(
            &stored.layout,
            &stored.slices(),
            Matrix::new(&bytes, tokens, cols, DType::F32).unwrap(),
            &mut MatrixMut::new(&mut output, tokens, rows, DType::F32).unwrap(),
            ONE_THREAD,
        )
        .unwrap();
    for (index, found) in floats(&output).into_iter().enumerate() {
        let (token, row) = (index / rows, index % rows);
        let expected: f64 = (0..cols)
            .map(|col| f64::from(input[token * cols + col]) * f64::from(weight[row * cols + col]))
            .sum();
        // Additions of `cols` terms below 1 in f32.
        assert!(
            (f64::from(found) - expected).abs() < cols as f64 * f64::from(f32::EPSILON),
            "{index}"
        );
    }
}

/// Runs the kernel's text on the CPU, block after block and thread after thread, exactly as the contract says.
fn emulate(kernel: &CudaKernel, stored: &Stored, first_row: usize, rows: usize, dtype: DType) -> Vec<u8> {
    let KernelSource::CudaC(text) = &kernel.source else {
        panic!("{:?}", kernel.source)
    };
    let cols = stored.layout.cols();
    let [grid_x, grid_y] = kernel.geometry.grid(rows, cols).unwrap();
    let out_bytes = rows * cols * dtype.size();
    let (mut reads, mut arguments) = (String::new(), String::new());
    for (index, bytes) in stored.buffers.iter().map(Vec::len).enumerate() {
        writeln!(
            reads,
            "void *b{index} = malloc({bytes}); if (fread(b{index}, 1, {bytes}, stdin) != {bytes}) return 1;"
        )
        .unwrap();
        write!(arguments, ", b{index}").unwrap();
    }
    for constant in &kernel.constants {
        write!(arguments, ", {constant}LL").unwrap();
    }
    let program = format!(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\
         #define __device__\n#define __global__\n\
         static struct {{ unsigned x, y, z; }} blockIdx, threadIdx, blockDim;\n\
         {text}\n\
         int main(void) {{\n{reads}\
         unsigned char *out = malloc({out_bytes} + 64); memset(out, 0xaa, {out_bytes} + 64);\n\
         blockDim.x = {threads};\n\
         for (blockIdx.y = 0; blockIdx.y < {grid_y}; blockIdx.y++)\n\
         for (blockIdx.x = 0; blockIdx.x < {grid_x}; blockIdx.x++)\n\
         for (threadIdx.x = 0; threadIdx.x < {threads}; threadIdx.x++)\n\
         {entry}((void *)out, {first_row}, {rows}, {cols}{arguments});\n\
         for (int i = 0; i < 64; i++) if (out[{out_bytes} + i] != 0xaa) return 2;\n\
         fwrite(out, 1, {out_bytes}, stdout); return 0; }}\n",
        text = text.replace("extern \"C\" ", ""),
        threads = kernel.geometry.threads,
        entry = kernel.entry(dtype).unwrap(),
    );
    let directory = tempfile::tempdir().unwrap();
    let (source, executable) = (directory.path().join("kernel.c"), directory.path().join("kernel"));
    fs::write(&source, program).unwrap();
    let compiled = Command::new("cc")
        .args([
            "-O1",
            "-ffp-contract=off",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-o",
        ])
        .args([&executable, &source])
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let mut child = Command::new(executable)
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for buffer in &stored.buffers {
        stdin.write_all(buffer).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    output.stdout
}

#[test]
fn its_cuda_kernel_writes_what_the_scheme_dequantises() {
    let scheme = scheme("c_ternary", "");
    for (rows, cols, first_row) in [(1, 1, 0), (3, 5, 0), (4, 2500, 1)] {
        let stored = Stored::new(&*scheme, &values(rows * cols), rows).unwrap();
        let kernel = scheme.cuda_kernel(&stored.layout).unwrap().unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let expected = stored.dequantize(&*scheme, first_row, rows - first_row, dtype);
            let found = emulate(&kernel, &stored, first_row, rows - first_row, dtype);
            assert!(found == expected, "{rows} x {cols} from {first_row} as {dtype}");
        }
    }
    assert!(
        self::scheme("c_int4", "")
            .cuda_kernel(&scheme.layout(1, 1, DType::F32).unwrap())
            .unwrap()
            .is_none()
    );
}

/// With the options that NVRTC gets, down to machine code: what the emulation cannot see is whether CUDA takes it.
#[test]
#[cfg_attr(
    not(nvcc),
    ignore = "no nvcc was found: `sh plugins/kernels/setup-cuda && . target/cuda/env` fetches one"
)]
fn its_cuda_kernel_compiles() {
    let directory = tempfile::tempdir().unwrap();
    let layout = scheme("c_ternary", "").layout(3, 5, DType::F32).unwrap();
    let kernel = scheme("c_ternary", "").cuda_kernel(&layout).unwrap().unwrap();
    let KernelSource::CudaC(text) = &kernel.source else {
        panic!("{kernel:?}")
    };
    let (source, cubin) = (
        directory.path().join("kernel.cu"),
        directory.path().join("kernel.cubin"),
    );
    fs::write(&source, text).unwrap();
    let mut nvcc = Command::new(option_env!("NVCC_FOUND").unwrap_or("nvcc"));
    nvcc.args([
        "--std=c++17",
        "--fmad=false",
        "--Werror=all-warnings",
        "-arch=sm_80",
        "-cubin",
        "-o",
    ])
    .args([&cubin, &source]);
    let output = nvcc.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let cubin = fs::read(cubin).unwrap();
    for entry in kernel.entries.values() {
        let symbol = format!("\0{entry}\0");
        assert!(
            cubin
                .windows(symbol.len())
                .any(|bytes| bytes == symbol.as_bytes()),
            "{entry}"
        );
    }
}

#[test]
fn it_conforms() {
    let output = qbench_tests::qbench()
        .args(["plugin", "check"])
        .arg(library())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(
        stdout(&output).contains("the plugin conforms: 37 passed"),
        "{}",
        stdout(&output)
    );
}

#[test]
fn what_it_cannot_do_is_an_error_with_its_words() {
    let plugin = plugin();
    let error = |options: &str| {
        plugin
            .open_scheme("c_int4", &Options::parse(options).unwrap())
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        error("groups=3"),
        "invalid argument: option `groups` is unknown; known options: group"
    );
    assert_eq!(
        error("group=1"),
        "invalid argument: option `group=1`: expected a number from 16 to 4096"
    );
    for id in ["c_int4", "c_ternary"] {
        let scheme = scheme(id, "");
        let infinite = Stored::new(&*scheme, &[1.0, f32::INFINITY], 1).err().unwrap();
        assert!(
            matches!(&infinite, Error::Unsupported(text) if text.contains("not finite")),
            "{infinite}"
        );
        assert!(Stored::new(&*scheme, &[f32::NAN, 1.0], 1).is_err());
        assert!(matches!(
            scheme.layout(1, 1, DType::I8),
            Err(Error::Unsupported(_))
        ));
    }
}

#[test]
fn its_modes_are_measured_like_any_other() {
    let outdir = tempfile::tempdir().unwrap();
    let mut command = small_run(outdir.path());
    command.arg("--plugin").arg(library());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let cells = rows(&qbench_tests::benchmark_table(outdir.path()));
    let modes: Vec<&str> = cells.iter().map(|row| row["quantization"].as_str()).collect();
    assert_eq!(modes.len(), 3, "{modes:?}");
    for mode in ["standard", "c_int4", "c_ternary"] {
        assert!(modes.contains(&mode), "{modes:?}");
    }
    let records = fs::read_to_string(outdir.path().join("cells.jsonl")).unwrap();
    // The one is run by the backend's own kernel, the other by the scheme's product or decoder.
    assert!(records.contains("native"), "{records}");
    assert!(records.contains("org.example.ternary/1"), "{records}");
    let wrong = format!("{}:group=3", "c_int4");
    fails(
        qbench_tests::qbench()
            .args(["run", "--modes", &wrong, "--plugin-dir"])
            .arg(library().parent().unwrap()),
        2,
        &["c_int4:group=3", "expected a number from 16 to 4096"],
    );
    assert!(stdout(&output).contains("c_ternary"));
}
