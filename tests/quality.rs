//! Backends whose outputs are wrong are caught by an invariant, or shown for what they are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, process::Output, sync::OnceLock};

use qbench_tests::{built, plugin, qbench, repository, rows, small_run, stderr};
use rand::{RngExt, SeedableRng};
use safetensors::SafeTensors;
use tempfile::TempDir;

/// What quantising the scales as well changes in the mean KL of nf4 at the most, as a share.
const DOUBLE_QUANTISATION: f64 = 0.01;

type Row = BTreeMap<String, String>;

/// A run of `standard` and `nf4` on the altering backend.
fn run(alteration: &str, outdir: &Path, arguments: &[&str]) -> Output {
    let plugins = tempfile::tempdir().unwrap();
    fs::copy(
        plugin("libtestplugin_altering.so"),
        plugins.path().join("libqbench_fixture.so"),
    )
    .unwrap();
    let mut command = small_run(outdir);
    command
        .args([
            "--backend",
            "altering",
            "--modes",
            "standard",
            "nf4",
            "--plugin-dir",
        ])
        .arg(plugins.path())
        .args(arguments)
        .env("QBENCH_TEST_BACKEND", plugin("libqbench_cpu.so"))
        .env("QBENCH_TEST_OUTPUT", alteration);
    command.output().unwrap()
}

fn logits_row(outdir: &Path, mode: &str) -> Row {
    let rows = rows(&outdir.join("analysis/quality_metrics.csv"));
    let found = rows
        .into_iter()
        .find(|row| row["quantization_mode"] == mode && row["layer"] == "logits");
    found.unwrap()
}

#[test]
fn an_honest_backend_passes() {
    let outdir = tempfile::tempdir().unwrap();
    let output = run("", outdir.path(), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(logits_row(outdir.path(), "standard~aa")["token_kl_max"], "0.0");
}

#[test]
fn a_nan_makes_every_row_invalid() {
    let outdir = tempfile::tempdir().unwrap();
    let output = run("nan", outdir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("non_finite_outputs"), "{message}");
    let row = logits_row(outdir.path(), "4bit_nf4");
    assert_eq!(row["status"], "invalid", "{row:?}");
}

#[test]
fn a_backend_that_claims_the_same_bits_is_held_to_it() {
    let outdir = tempfile::tempdir().unwrap();
    let output = run("noise", outdir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains("not_repeatable: the reference computed again"),
        "{message}"
    );
}

#[test]
fn outputs_that_do_not_depend_on_the_mode_are_shown() {
    let outdir = tempfile::tempdir().unwrap();
    let output = run("constant", outdir.path(), &[]);
    let journal = fs::read_to_string(outdir.path().join("cells.jsonl")).unwrap();
    assert!(
        journal.contains("equal the reference's bit for bit though weights are quantised"),
        "{}",
        stderr(&output)
    );
}

/// Exchanged logits are consistent with themselves: only another backend's reference shows them.
#[test]
fn exchanged_tokens_are_found_by_another_backends_reference() {
    let honest = tempfile::tempdir().unwrap();
    let mut command = small_run(honest.path());
    command.args(["--modes", "standard", "nf4", "--keep-reference"]);
    assert!(command.output().unwrap().status.success());

    let alone = tempfile::tempdir().unwrap();
    let output = run("swap", alone.path(), &[]);
    assert!(output.status.success(), "{}", stderr(&output));

    let beside = tempfile::tempdir().unwrap();
    let reference = honest.path().join("reference");
    let output = run(
        "swap",
        beside.path(),
        &["--reference", reference.to_str().unwrap()],
    );
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let row = logits_row(beside.path(), "standard");
    assert_eq!(row["status"], "invalid", "{row:?}");
    assert!(row["reason"].starts_with("backends_disagree"), "{row:?}");
    assert!(reference.exists(), "a kept reference stays");

    // The same reference is refused for other sequences.
    let other = tempfile::tempdir().unwrap();
    let output = run(
        "",
        other.path(),
        &["--reference", reference.to_str().unwrap(), "--seed", "7"],
    );
    assert!(
        stderr(&output).contains("seed is `42` there and `7` here"),
        "{}",
        stderr(&output)
    );
}

/// The mean KL of a mode's tokens with the ends of its interval.
fn mean_kl(outdir: &Path, mode: &str) -> [f64; 3] {
    let row = logits_row(outdir, mode);
    assert_eq!(row["interval_unit"], "genome");
    ["_low", "", "_high"].map(|end| row[&format!("token_kl_mean{end}")].parse().unwrap())
}

/// The default model over two fragments of each genome of the default data, 128 tokens of each: enough for the
/// intervals of the modes to lie apart. Returns the results directory.
fn default_model() -> &'static Path {
    static OUTDIR: OnceLock<TempDir> = OnceLock::new();
    let outdir = OUTDIR.get_or_init(|| {
        let outdir = tempfile::tempdir().unwrap();
        let mut command = qbench();
        command.args([
            "run",
            "--skip-performance",
            "--evaluate",
            "tokens",
            "--threads",
            "2",
        ]);
        command.args(["--truncate-tokens", "128"]);
        command.args([
            "--modes",
            "8bit",
            "4bit_nf4",
            "4bit_fp4",
            "4bit_nf4_double",
            "--outdir",
        ]);
        let output = command.arg(outdir.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        outdir
    });
    outdir.path()
}

#[test]
fn modes_of_the_default_model_are_told_apart() {
    let outdir = default_model();
    let ascending = [
        "standard~aa",
        "standard~bf16noise",
        "8bit",
        "4bit_nf4",
        "4bit_fp4",
    ]
    .map(|mode| (mode, mean_kl(outdir, mode)));
    for [(less, [_, mean, high]), (more, [low, ..])] in ascending.array_windows() {
        assert!(mean < low && high < low, "{less} {high}, {more} {low}");
    }
    assert_eq!(
        ascending[0].1, [0.0; 3],
        "the reference once more is the reference"
    );
    let row = logits_row(outdir, "standard~aa");
    assert_eq!(row["token_kl_max"], "0.0");
    let ([_, nf4, _], [_, double, _]) = (mean_kl(outdir, "4bit_nf4"), mean_kl(outdir, "4bit_nf4_double"));
    assert!((double / nf4 - 1.0).abs() < DOUBLE_QUANTISATION, "{double} {nf4}");
}

/// What `qbench compare` says of the token KL when the cell of mode `a` is replaced by that of `b`, and its exit code
/// where a worse quality is a failure.
fn replaced(a: &str, b: &str) -> (String, i32) {
    let directory = tempfile::tempdir().unwrap();
    let journal = fs::read_to_string(default_model().join("cells.jsonl")).unwrap();
    for (name, mode) in [("a.jsonl", a), ("b.jsonl", b)] {
        let lines = journal.lines().filter_map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            (record["cell"]["mode"] == mode).then(|| {
                record["cell"]["mode"] = "candidate".into();
                format!("{record}\n")
            })
        });
        fs::write(directory.path().join(name), lines.collect::<String>()).unwrap();
    }
    let output = qbench()
        .current_dir(directory.path())
        .args(["compare", "a.jsonl", "b.jsonl", "--format", "json"])
        .output()
        .unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let metrics = value["quality"].as_array().unwrap();
    let kl = metrics
        .iter()
        .find(|metric| metric["metric"] == "token_kl")
        .unwrap();
    assert_eq!(
        (kl["sequences"].as_u64(), kl["pairs"].as_u64()),
        (Some(26), Some(13))
    );
    (
        kl["verdict"].as_str().unwrap().to_owned(),
        output.status.code().unwrap(),
    )
}

#[test]
fn a_change_of_mode_is_better_worse_or_equivalent() {
    assert_eq!(replaced("4bit_fp4", "4bit_nf4"), ("BETTER".to_owned(), 0));
    assert_eq!(replaced("4bit_nf4", "4bit_fp4"), ("WORSE".to_owned(), 1));
    assert_eq!(
        replaced("4bit_nf4", "4bit_nf4_double"),
        ("EQUIVALENT".to_owned(), 0)
    );
    assert_eq!(replaced("8bit", "8bit"), ("EQUIVALENT".to_owned(), 0));
}

/// A model of 64 tokens and 32 dimensions whose tokenizer has a token for each base, and data of so many sequences of
/// 100 bases, of 20 genomes.
fn tiny_model(directory: &Path, sequences: usize) {
    let decoder = repository().join("tests/fixtures/transformers/llama");
    fs::copy(decoder.join("config.json"), directory.join("config.json")).unwrap();
    // Random weights guess worse than chance, which is a violation, unless the logits are made small.
    let mut weights = fs::read(decoder.join("model.safetensors")).unwrap();
    let norm = SafeTensors::deserialize(&weights).unwrap();
    let norm = norm.tensor("model.norm.weight").unwrap().data().as_ptr_range();
    let start = norm.start as usize - weights.as_ptr() as usize;
    let values = &mut weights[start..][..norm.end as usize - norm.start as usize];
    for value in values.as_chunks_mut::<2>().0 {
        // 0.125 in bf16.
        *value = 0x3e00_u16.to_le_bytes();
    }
    fs::write(directory.join("model.safetensors"), weights).unwrap();
    let tokenizer = repository().join("examples/go-mini-12m/tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(tokenizer).unwrap()).unwrap();
    tokenizer["model"]["merges"] = serde_json::json!([]);
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.retain(|token, _| token.len() == 1 || token.starts_with('['));
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();

    let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(1);
    let mut data = "genome_id,fragment_id,seq\n".to_owned();
    for sequence in 0..sequences {
        let bases: String = (0..100)
            .map(|_| ['A', 'C', 'G', 'T'][random.random_range(0..4)])
            .collect();
        writeln!(data, "genome{},fragment{sequence},{bases}", sequence % 20).unwrap();
    }
    fs::write(directory.join("data.csv"), data).unwrap();
}

/// The largest resident memory in MB of any process of a run over so many sequences, and the MB of logits.
#[expect(
    clippy::zombie_processes,
    reason = "waited for by wait4, which tells the memory as well"
)]
fn peak_megabytes(sequences: usize) -> (f64, f64) {
    let directory = tempfile::tempdir().unwrap();
    tiny_model(directory.path(), sequences);
    let child = std::process::Command::new(built().join("qbench"))
        .args([
            "run",
            "--skip-performance",
            "--evaluate",
            "tokens",
            "--threads",
            "2",
            "--quiet",
        ])
        .args([
            "--modes",
            "4bit_nf4",
            "--samples-per-cond",
            &sequences.to_string(),
        ])
        .arg("--model")
        .arg(directory.path())
        .arg("--data")
        .arg(directory.path().join("data.csv"))
        .arg("--outdir")
        .arg(directory.path().join("results"))
        .spawn()
        .unwrap();
    let id = i32::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: all bytes 0 is a value of this C structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the process is a child that nobody else waits for; both places are valid for writing.
    let waited = unsafe { libc::wait4(id, &raw mut status, 0, &raw mut usage) };
    assert_eq!((waited, status), (id, 0), "the run failed");
    let row = logits_row(&directory.path().join("results"), "4bit_nf4");
    assert_eq!(row["sequences"], sequences.to_string());
    let tokens: f64 = row["tokens"].parse().unwrap();
    // Linux counts in KiB, descendants that were waited for included.
    (usage.ru_maxrss as f64 * 1024.0 / 1e6, tokens * 64.0 * 4.0 / 1e6)
}

/// Values of four quantities are kept in memory up to 8 MiB each, in buffers that double.
const SPOOLED_MEGABYTES: f64 = 4.0 * 16.8;
/// What is kept of a thousand sequences of 100 bases: bases, token ids, sums, and in the host the records of four cells.
const MEGABYTES_A_THOUSAND: f64 = 5.0;

/// Ten times the sequences take hardly more memory. Some minutes: run by name, with `--ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
#[expect(clippy::print_stdout, reason = "the figures are what a reader asks for")]
fn memory_does_not_grow_with_the_number_of_sequences() {
    let [few, many] = [1_000, 10_000].map(|sequences| {
        let (peak, logits) = peak_megabytes(sequences);
        println!("{sequences} sequences: peak {peak:.0} MB; {logits:.0} MB of logits on either side");
        (peak, logits)
    });
    let (grown, more_logits) = (many.0 - few.0, many.1 - few.1);
    let allowed = SPOOLED_MEGABYTES + 9.0 * MEGABYTES_A_THOUSAND;
    assert!(
        grown < allowed && allowed < more_logits / 2.0,
        "{grown} of {more_logits} MB"
    );
}
