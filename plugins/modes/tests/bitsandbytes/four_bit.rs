//! `4bit_nf4`, `4bit_fp4` and `4bit_nf4_double`: every case, type and table of the golden data.

use qbench_modes::FourBit;
use qbench_sdk::{DType, Options};
use serde_json::Value;

use crate::golden::{FLOATS, Golden, Stored, cast, f32_bytes, json, sha256};

/// A case in one source type.
struct Case<'a> {
    name: String,
    golden: &'a Golden,
    manifest: &'a Value,
    /// Name of the type in the golden data.
    float: &'a str,
    dtype: DType,
    rows: usize,
    cols: usize,
    source: Vec<u8>,
}

/// Calls `check` for every case and type, and returns how often it did.
fn each_case(check: impl Fn(&Case<'_>)) -> usize {
    let manifest = json("manifest.json");
    let mut count = 0;
    for (name, case) in manifest["cases"].as_object().unwrap() {
        if !name.starts_with("q4_") {
            continue;
        }
        let golden = Golden::open(&format!("{name}.safetensors"));
        let (rows, cols) = golden.shape("x");
        let values = golden.floats("x");
        for (float, dtype) in FLOATS {
            let manifest = &case["per_dtype"][float];
            if manifest.is_null() {
                continue;
            }
            let source = torch_cast(&values, dtype);
            assert_eq!(
                sha256(&source),
                manifest["x_sha256"],
                "{name} {float}: the cast of x"
            );
            check(&Case {
                name: format!("{name} {float}"),
                golden: &golden,
                manifest,
                float,
                dtype,
                rows,
                cols,
                source,
            });
            count += 1;
        }
    }
    count
}

/// Torch's cast, whose vector code makes every NaN of bf16 the same.
fn torch_cast(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes = cast(values, dtype);
    if dtype == DType::BF16 {
        for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
            if value.is_nan() {
                *bytes = [0xff; 2];
            }
        }
    }
    bytes
}

impl Case<'_> {
    fn quantize(&self, scheme: FourBit) -> Stored {
        Stored::quantize(&scheme, &self.source, self.rows, self.cols, self.dtype, 1)
    }

    fn check_packed(&self, table: &str, stored: &Stored) {
        let (name, float) = (&self.name, self.float);
        let codes = stored.buffer("codes");
        assert_eq!(
            sha256(codes),
            self.manifest[table]["packed_sha256"],
            "{name} {table}"
        );
        let full = format!("{float}.{table}.packed");
        if self.golden.has(&full) {
            assert_eq!(codes, self.golden.bytes(&full), "{name} {table}");
        }
    }

    /// `prefix` is the tensors' name before `.deq`, `entry` the table's in the manifest.
    fn check_decoded(&self, scheme: FourBit, stored: &Stored, prefix: &str, entry: &str) {
        let name = &self.name;
        let entry = &self.manifest[entry];
        let mut decoded = stored.dequantize(&scheme, self.dtype);
        if entry["deq_equals_flat_formula"] == false {
            assert_eq!(sha256(&decoded), entry["deq_flat_sha256"], "{name} {prefix}");
        }
        self.as_bitsandbytes_does(prefix, stored.buffer("codes"), &mut decoded);
        let (full, part) = (
            format!("{}.{prefix}.deq", self.float),
            format!("{}.{prefix}.deq_rows0_and_last", self.float),
        );
        if self.golden.has(&full) {
            self.same_values(&decoded, &self.golden.bytes(&full), prefix);
        } else {
            let row = self.cols * self.dtype.size();
            let ends = [&decoded[..row], &decoded[decoded.len() - row..]].concat();
            self.same_values(&ends, &self.golden.bytes(&part), prefix);
        }
        assert_eq!(sha256(&decoded), entry["deq_sha256"], "{name} {prefix}");
    }

    /// Changes decoded values in the two ways in which bitsandbytes leaves its own formula.
    fn as_bitsandbytes_does(&self, prefix: &str, codes: &[u8], decoded: &mut [u8]) {
        // Its AVX512-BF16 instruction flushes subnormal results, keeping the sign.
        if self.name == "q4_denormal bf16" {
            for value in decoded.as_chunks_mut::<2>().0 {
                let bits = u16::from_le_bytes(*value);
                if bits & 0x7fff < 0x80 {
                    *value = (bits & 0x8000).to_le_bytes();
                }
            }
        }
        // Of its three ways to decode FP4's code 8, that for an even number of columns that is no multiple of 16 gives
        // -0, the others +0.
        let scalar_code = self.cols.is_multiple_of(2) && !self.cols.is_multiple_of(16);
        if prefix == "fp4" && scalar_code {
            for (index, value) in decoded.chunks_exact_mut(self.dtype.size()).enumerate() {
                let code = codes[index / 2] >> (4 * (1 - index % 2)) & 15;
                if code == 8 {
                    value[self.dtype.size() - 1] |= 0x80;
                }
            }
        }
    }

    fn same_values(&self, ours: &[u8], theirs: &[u8], prefix: &str) {
        let size = self.dtype.size();
        assert_eq!(ours.len(), theirs.len(), "{} {prefix}", self.name);
        for (index, (ours, theirs)) in ours.chunks(size).zip(theirs.chunks(size)).enumerate() {
            assert_eq!(
                ours, theirs,
                "{} {prefix}: element {index}, little-endian bytes",
                self.name
            );
        }
    }
}

fn check_plain(table: &str, scheme: FourBit) {
    let golden = Golden::open("tables.safetensors");
    let values = golden.bytes(if table == "nf4" {
        "nf4_code"
    } else {
        "fp4_code_by_nibble"
    });
    let count = each_case(|case| {
        let stored = case.quantize(scheme);
        case.check_packed(table, &stored);
        assert_eq!(stored.buffer("codebook"), values);
        let absmax = stored.buffer("absmax");
        assert_eq!(
            absmax,
            case.golden.bytes(&format!("{}.absmax", case.float)),
            "{}",
            case.name
        );
        assert_eq!(sha256(absmax), case.manifest["absmax_sha256"], "{}", case.name);
        case.check_decoded(scheme, &stored, table, table);
    });
    assert_eq!(count, 43);
}

#[test]
fn nf4_is_that_of_bitsandbytes() {
    check_plain("nf4", FourBit::open_nf4(&Options::none()).unwrap());
}

#[test]
fn fp4_is_that_of_bitsandbytes() {
    check_plain("fp4", FourBit::open_fp4(&Options::none()).unwrap());
}

#[test]
fn nf4_double_is_that_of_bitsandbytes() {
    let scheme = FourBit::open_nf4_double(&Options::none()).unwrap();
    let map = Golden::open("tables.safetensors").bytes("dynamic_map");
    each_case(|case| {
        let stored = case.quantize(scheme);
        case.check_packed("nf4", &stored);
        assert_eq!(stored.buffer("absmax_codebook"), map);
        let (name, prefix) = (&case.name, format!("{}.dq", case.float));
        if !case.golden.has(&format!("{prefix}.offset")) {
            assert!(name.starts_with("q4_nonfinite"), "{name}");
            return;
        }
        for (buffer, tensor) in [
            ("absmax_offset", "offset"),
            ("absmax_scales", "state2_absmax"),
            ("absmax_codes", "qabsmax"),
        ] {
            let expected = case.golden.bytes(&format!("{prefix}.{tensor}"));
            assert_eq!(stored.buffer(buffer), expected, "{name} {tensor}");
        }
        case.check_decoded(scheme, &stored, "dq", "nf4_double");
    });
}

/// Scales in f32 and the same scales decoded from 8 bits: a matrix whose blocks hold nothing but their scale decodes to
/// the scale, since 1 is a value of the table.
#[test]
fn scales_decode_as_in_bitsandbytes() {
    let scheme = FourBit::open_nf4_double(&Options::none()).unwrap();
    let golden = Golden::open("nested.safetensors");
    for count in [1, 2, 7, 8, 255, 256, 257, 1000, 2560, 33000] {
        let absmax = golden.floats(&format!("n{count}.absmax"));
        let weights: Vec<f32> = absmax.iter().flat_map(|scale| [*scale; 64]).collect();
        let stored = Stored::quantize(&scheme, &f32_bytes(&weights), count, 64, DType::F32, 1);
        let decoded = stored.dequantize(&scheme, DType::F32);
        let scales: Vec<u8> = decoded.chunks(64 * 4).flat_map(|row| row[..4].to_vec()).collect();
        let items = &json("manifest.json")["cases"]["nested"]["items"];
        assert_eq!(
            sha256(&scales),
            items[format!("n{count}")]["absmax_deq_sha256"],
            "{count}"
        );
    }
}
