//! The header is compiled: its structs are those of `types.rs`, and its number formats those of the sdk. Tables that
//! break the interface are refused.

use std::{
    ffi::{CStr, c_void},
    fmt::Write as _,
    fs,
    io::Write as _,
    mem::{align_of, offset_of, size_of},
    path::Path,
    process::{Command, Stdio},
    ptr,
};

use super::types::{self, Host, PluginTable, Text};
use crate::{DType, Error, Options, bridge::root::Plugin, narrow, widen};

/// Compiles and runs a C program that includes the header; returns what it writes when it is fed `input`.
fn run_c(standard: &str, body: &str, input: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (file, program) = (
        directory.path().join("program.c"),
        directory.path().join("program"),
    );
    fs::write(
        &file,
        format!("#include <stdio.h>\n#include \"qbench_plugin.h\"\n{body}"),
    )
    .unwrap();
    let compiled = Command::new("cc")
        .args([standard, "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg("-o")
        .args([&program, &file])
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn the_header_says_what_the_mirror_says() {
    let mut checks = String::new();
    macro_rules! check {
        ($rust:ty, $c:literal, [$($field:ident),*]) => {
            writeln!(checks, "SAME(sizeof({}), {});", $c, size_of::<$rust>()).unwrap();
            writeln!(checks, "SAME(_Alignof({}), {});", $c, align_of::<$rust>()).unwrap();
            $(
                let field = stringify!($field);
                writeln!(checks, "SAME(offsetof({}, {field}), {});", $c, offset_of!($rust, $field)).unwrap();
            )*
            // No field of the header is left out: the last one ends where the struct does.
            let last = [$(stringify!($field)),*].last().copied().unwrap();
            writeln!(
                checks,
                "SAME((offsetof({0}, {last}) + sizeof((({0} *)0)->{last}) + _Alignof({0}) - 1) \
                 / _Alignof({0}) * _Alignof({0}), sizeof({0}));",
                $c
            )
            .unwrap();
        };
    }
    check!(types::Text, "qbench_text", [context, write]);
    check!(types::UserOption, "qbench_option", [key, value]);
    check!(
        types::Matrix,
        "qbench_matrix",
        [data, bytes, rows, cols, row_stride, dtype]
    );
    check!(
        types::MatrixMut,
        "qbench_matrix_mut",
        [data, bytes, rows, cols, row_stride, dtype]
    );
    check!(types::Buffer, "qbench_buffer", [data, bytes]);
    check!(types::ConstBuffer, "qbench_const_buffer", [data, bytes]);
    check!(
        types::Storage,
        "qbench_storage",
        [struct_size, rows, cols, layout_json, buffer_count]
    );
    check!(types::Call, "qbench_call", [struct_size, threads]);
    check!(
        types::Scheme,
        "qbench_scheme",
        [
            struct_size,
            info_json,
            open,
            close,
            layout,
            quantize,
            dequantize,
            matmul,
            cuda_kernel
        ]
    );
    check!(
        types::PluginTable,
        "qbench_plugin",
        [struct_size, abi, name, version, license, scheme_count, schemes]
    );
    check!(types::Host, "qbench_host", [struct_size, log]);
    for (name, dtype) in [
        ("QBENCH_F32", DType::F32),
        ("QBENCH_F16", DType::F16),
        ("QBENCH_BF16", DType::BF16),
        ("QBENCH_I8", DType::I8),
        ("QBENCH_U8", DType::U8),
    ] {
        writeln!(checks, "SAME({name}, {});", dtype.to_code().0).unwrap();
    }
    writeln!(checks, "SAME(QBENCH_PLUGIN_ABI, {});", types::ABI).unwrap();
    let text = run_c(
        "-std=c11",
        &format!(
            "#define SAME(c, rust) _Static_assert((c) == (rust), #c \" is not \" #rust)\n{checks}\n\
             static const qbench_call call = {{sizeof(size_t), 7}};\n\
             static void put(void *out, const char *text, size_t bytes) {{ fwrite(text, 1, bytes, (FILE *)out); }}\n\
             int main(void) {{\n\
             qbench_text out = {{stdout, put}};\n\
             if (QBENCH_HAS(&call, threads) || !QBENCH_HAS(&call, struct_size)) return 1;\n\
             qbench_write_number(&out, 0); qbench_write_number(&out, 18446744073709551615u);\n\
             qbench_write_json_string(&out, \"a\\\"\\\\\\n\\x01z\");\n\
             return qbench_fail(&out, QBENCH_OK, \"!\");\n}}\n"
        ),
        &[],
    );
    assert_eq!(
        String::from_utf8(text).unwrap(),
        r#"018446744073709551615"a\u0022\u005c\u000a\u0001z"!"#
    );
}

/// cbindgen writes what the mirror's functions are in C, with the header's names for structs.
#[test]
fn the_header_has_the_functions_of_the_mirror() {
    let structs = [
        ("Text", "qbench_text"),
        ("UserOption", "qbench_option"),
        ("Matrix", "qbench_matrix"),
        ("MatrixMut", "qbench_matrix_mut"),
        ("Buffer", "qbench_buffer"),
        ("ConstBuffer", "qbench_const_buffer"),
        ("Storage", "qbench_storage"),
        ("Call", "qbench_call"),
        ("Scheme", "qbench_scheme"),
        ("PluginTable", "qbench_plugin"),
        ("Host", "qbench_host"),
    ];
    // Where the header has a function, and the mirror's type of it.
    let functions = [
        ("((qbench_text *)0)->write", "WriteText"),
        ("((qbench_scheme *)0)->open", "Open"),
        ("((qbench_scheme *)0)->close", "Close"),
        ("((qbench_scheme *)0)->layout", "Layout"),
        ("((qbench_scheme *)0)->quantize", "Quantize"),
        ("((qbench_scheme *)0)->dequantize", "Dequantize"),
        ("((qbench_scheme *)0)->matmul", "Matmul"),
        ("((qbench_scheme *)0)->cuda_kernel", "CudaKernel"),
        ("((qbench_host *)0)->log", "Log"),
        ("&qbench_plugin_v1", "Entry"),
    ];
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        style: cbindgen::Style::Type,
        usize_is_size_t: true,
        no_includes: true,
        ..cbindgen::Config::default()
    };
    config.export.exclude = structs.iter().map(|(rust, _)| (*rust).to_owned()).collect();
    config
        .export
        .exclude
        .extend(["MatrixAt", "BufferAt", "ABI"].map(str::to_owned));
    config.export.rename = structs
        .iter()
        .map(|(rust, c)| ((*rust).to_owned(), (*c).to_owned()))
        .collect();
    config.export.include = functions.iter().map(|(_, rust)| (*rust).to_owned()).collect();
    let mut generated = Vec::new();
    cbindgen::Builder::new()
        .with_src(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bridge/c/types.rs"))
        .with_config(config)
        .generate()
        .unwrap()
        .write(&mut generated);
    let mut program = String::from_utf8(generated).unwrap();
    for (c, rust) in functions {
        writeln!(
            program,
            "_Static_assert(__builtin_types_compatible_p(__typeof__({c}), {rust}), \"{c} is not {rust}\");"
        )
        .unwrap();
    }
    // Declared for whoever defines it; here nobody does, and its type is all that is asked for.
    run_c(
        "-std=gnu11",
        &format!("{program}int main(void) {{ return 0; }}\n"),
        &[],
    );
}

#[test]
fn the_header_is_c99() {
    run_c("-std=c99", "int main(void) { return 0; }", &[]);
}

#[test]
fn the_header_widens_every_half_as_the_sdk_does() {
    let program = "int main(void) { for (unsigned i = 0; i < 65536; i++) {\
        float values[2] = {qbench_float_of_f16((uint16_t)i), qbench_float_of_bf16((uint16_t)i)};\
        fwrite(values, 4, 2, stdout); } return 0; }";
    let found = run_c("-std=c99", program, &[]);
    let (found, _) = found.as_chunks::<8>();
    assert_eq!(found.len(), 65536);
    for (half, found) in (0..=u16::MAX).zip(found) {
        for (dtype, found) in [(DType::F16, &found[..4]), (DType::BF16, &found[4..])] {
            let mut expected = [0.0];
            widen(&half.to_le_bytes(), dtype, &mut expected).unwrap();
            assert_eq!(expected[0].to_le_bytes(), found, "{half:04x} as {dtype}");
        }
    }
}

#[test]
fn the_header_rounds_as_the_sdk_does() {
    // Every half, the middles between neighbours, and the floats on both sides of each, of either sign.
    let mut values = Vec::new();
    for dtype in [DType::F16, DType::BF16] {
        for half in 0..0x7fff_u16 {
            let mut pair = [0.0; 2];
            widen(&half.to_le_bytes(), dtype, &mut pair[..1]).unwrap();
            widen(&(half + 1).to_le_bytes(), dtype, &mut pair[1..]).unwrap();
            let middle = f32::from_bits(u32::midpoint(pair[0].to_bits(), pair[1].to_bits()));
            for value in [pair[0], middle.next_down(), middle, middle.next_up()] {
                values.extend([value, -value]);
            }
        }
    }
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let program = "int main(void) { float value; while (fread(&value, 4, 1, stdin) == 1) {\
        uint16_t halves[2] = {qbench_f16_of_float(value), qbench_bf16_of_float(value)};\
        fwrite(halves, 2, 2, stdout); } return 0; }";
    let found = run_c("-std=c99", program, &bytes);
    let (found, _) = found.as_chunks::<4>();
    assert_eq!(found.len(), values.len());
    for (value, found) in values.iter().zip(found) {
        for (dtype, found) in [(DType::F16, &found[..2]), (DType::BF16, &found[2..])] {
            let mut expected = [0; 2];
            narrow(&[*value], dtype, &mut expected).unwrap();
            assert_eq!(expected, found, "{value:e} ({:08x}) as {dtype}", value.to_bits());
        }
    }
}

/// What becomes of a plugin whose entry returns a table of this content.
macro_rules! open {
    ($table:expr) => {{
        unsafe extern "C" fn entry(_: *const Host, _: *const Text) -> *const PluginTable {
            (&raw const *Box::leak(Box::new($table))).cast()
        }
        // SAFETY: it returns a table that is never freed.
        unsafe { Plugin::open_c(entry) }.map_err(|error| error.to_string())
    }};
}

const EMPTY: PluginTable = PluginTable {
    struct_size: size_of::<PluginTable>(),
    abi: types::ABI,
    name: c"empty".as_ptr(),
    version: c"1.0.0".as_ptr(),
    license: c"MIT".as_ptr(),
    scheme_count: 0,
    schemes: ptr::null(),
};

const SCHEME: types::Scheme = types::Scheme {
    struct_size: size_of::<types::Scheme>(),
    info_json: c"{\"id\":\"bare\",\"summary\":\"no functions\"}".as_ptr(),
    open: None,
    close: None,
    layout: None,
    quantize: None,
    dequantize: None,
    matmul: None,
    cuda_kernel: None,
};

fn with_schemes(schemes: &[types::Scheme]) -> PluginTable {
    let pointers: Vec<*const types::Scheme> = schemes
        .iter()
        .map(|scheme| &raw const *Box::leak(Box::new(*scheme)))
        .collect();
    PluginTable {
        scheme_count: pointers.len(),
        schemes: pointers.leak().as_ptr(),
        ..EMPTY
    }
}

fn refused(result: Result<Plugin, String>, expected: &str) {
    let message = result.err().expect("it must be refused");
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_table_of_a_later_release_is_longer() {
    #[repr(C)]
    struct Later {
        known: PluginTable,
        added: u64,
    }
    let plugin = open!(Later {
        known: PluginTable {
            struct_size: size_of::<Later>(),
            ..EMPTY
        },
        added: u64::MAX,
    })
    .unwrap();
    assert_eq!(plugin.abi(), "c 1");
    assert_eq!(plugin.manifest().unwrap().license, "MIT");
    assert!(plugin.schemes().unwrap().is_empty());
    assert!(plugin.backends().unwrap().is_empty());
}

#[test]
fn tables_that_break_the_interface_are_refused() {
    refused(
        open!(PluginTable {
            struct_size: 48,
            ..EMPTY
        }),
        "qbench_plugin.struct_size is 48; expected sizeof(qbench_plugin), at least 56",
    );
    refused(
        open!(PluginTable { abi: 2, ..EMPTY }),
        "plugin ABI C 2, this qbench loads C 1",
    );
    refused(
        open!(PluginTable {
            name: ptr::null(),
            ..EMPTY
        }),
        "qbench_plugin.name is a null pointer",
    );
    refused(
        open!(PluginTable {
            license: c"\xff".as_ptr(),
            ..EMPTY
        }),
        "qbench_plugin.license is not UTF-8",
    );
    refused(
        open!(PluginTable {
            scheme_count: 1,
            ..EMPTY
        }),
        "qbench_plugin.schemes is a null pointer",
    );
    refused(
        open!(with_schemes(&[types::Scheme {
            info_json: c"{".as_ptr(),
            ..SCHEME
        }])),
        "qbench_scheme.info_json `{`",
    );
    refused(open!(with_schemes(&[SCHEME, SCHEME])), "share the id `bare`");
}

#[test]
fn an_entry_that_returns_nothing_says_why() {
    unsafe extern "C" fn entry(_: *const Host, error: *const Text) -> *const PluginTable {
        let reason: &CStr = c"no licence key";
        // SAFETY: the host passes an error text.
        let error = unsafe { &*error };
        // SAFETY: so many bytes are there.
        unsafe { error.write.unwrap()(error.context, reason.as_ptr(), reason.count_bytes()) };
        ptr::null()
    }
    // SAFETY: it returns no table at all.
    let result = unsafe { Plugin::open_c(entry) }.map_err(|error| error.to_string());
    refused(result, "no licence key");
}

#[test]
fn functions_that_are_missing_are_errors() {
    let plugin = open!(with_schemes(&[SCHEME])).unwrap();
    let options = Options::parse("group=3").unwrap();
    assert!(matches!(
        plugin.open_scheme("bare", &options),
        Err(Error::InvalidArgument(text)) if text.contains("group")
    ));
    let scheme = plugin.open_scheme("bare", &Options::none()).unwrap();
    let error = scheme.layout(1, 1, DType::F32).unwrap_err();
    assert!(
        error.to_string().contains("function `layout` is a null pointer"),
        "{error}"
    );
    assert!(plugin.open_backend("bare", &Options::none()).is_err());
}

#[test]
fn a_status_without_a_message_still_says_something() {
    unsafe extern "C" fn layout(
        _: *const c_void,
        _: u64,
        _: u64,
        source: u32,
        json: *const Text,
        _: *mut u64,
        _: *const Text,
    ) -> i32 {
        // SAFETY: the host passes a text.
        let json = unsafe { &*json };
        let text = c"{\"kind\":\"qbench.dense/1\"}";
        // SAFETY: so many bytes are there.
        unsafe { json.write.unwrap()(json.context, text.as_ptr(), text.count_bytes()) };
        if source == 1 { 0 } else { 77 }
    }
    let plugin = open!(with_schemes(&[types::Scheme {
        layout: Some(layout),
        ..SCHEME
    }]))
    .unwrap();
    let scheme = plugin.open_scheme("bare", &Options::none()).unwrap();
    let error = scheme.layout(1, 1, DType::F16).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`layout` returned status 77 without saying why"
    );
    let error = scheme.layout(1, 1, DType::F32).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the plugin's layout `{\"kind\":\"qbench.dense/1\"}`"),
        "{error}"
    );
}
