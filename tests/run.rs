//! The main job, end to end, over little data.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::BTreeSet, fs, path::Path};

use qbench_tests::{
    benchmark_table, fails, qbench, repository, rows, small_measurement, small_run, stderr, stdout,
};

const MODES: [&str; 5] = ["4bit_fp4", "4bit_nf4", "4bit_nf4_double", "8bit", "standard"];

/// The columns of the original Python system, in its order.
const ORIGINAL_COLUMNS: &str = "model,commit,gpu_name,driver,cuda,torch,precision,quantization,condition,mean_bp,\
    mean_tokens,batch_size,runs,warmup,E2EL_ms,seqs_per_s,tokens_per_s,peak_vram_GB,energy_kWh,avg_power_W,\
    flops_per_seq,TFLOPs_per_s,eff_seq_per_TFLOP,eff_tokens_per_TFLOP,tokens_per_watt,";

/// Files of the analysis on a machine without power readings.
const FILES: [&str; 18] = [
    "quant_summary.csv",
    "timing_analysis.csv",
    "memory_analysis.csv",
    "throughput_comparison.csv",
    "best_performers.csv",
    "performance_report.txt",
    "quality_metrics.csv",
    "distribution_statistics.csv",
    "throughput_comparison.png",
    "memory_comparison.png",
    "latency_comparison.png",
    "performance_memory_tradeoff.png",
    "divergence_comparison.png",
    "cosine_similarity.png",
    "snr_comparison.png",
    "quality_metrics_last.png",
    "quality_metrics_second_last.png",
    "pareto.png",
];

fn number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no number"))
}

#[test]
fn all_five_modes_are_measured_evaluated_analysed_and_drawn() {
    let outdir = tempfile::tempdir().unwrap();
    let output = small_run(outdir.path()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("the first 2 fragments of each genome"));
    assert!(stderr(&output).contains("tok=48: 4 sequences were longer than the limit"));
    assert!(!stderr(&output).contains('\u{1b}'), "no terminal codes in a pipe");

    let table = benchmark_table(outdir.path());
    assert!(
        fs::read_to_string(&table)
            .unwrap()
            .starts_with(&format!("{ORIGINAL_COLUMNS}repeat,status,reason,"))
    );
    let rows_of_table = rows(&table);
    let modes: BTreeSet<&str> = rows_of_table
        .iter()
        .map(|row| row["quantization"].as_str())
        .collect();
    assert_eq!(modes, BTreeSet::from(MODES));
    for row in &rows_of_table {
        assert_eq!(
            (row["status"].as_str(), row["condition"].as_str()),
            ("ok", "tok=48")
        );
        // 2 batches of 2 sequences of 48 tokens.
        assert_eq!((row["runs"].as_str(), row["total_tokens"].as_str()), ("2", "192"));
        assert!(number(&row["tokens_per_s"]) > 0.0);
        assert_eq!(row["energy_kWh"].is_empty(), !row["energy_reason"].is_empty());
        assert!(row["execution"].contains("native"));
    }
    // 12,584,832 parameters in f32; 4-bit codes and scales take less than a fifth of the quantised part.
    let static_bytes = |mode: &str| {
        let row = rows_of_table
            .iter()
            .find(|row| row["quantization"] == mode)
            .unwrap();
        number(&row["static_vram_GB"]) * 1e9
    };
    assert!(
        (static_bytes("standard") / 50_339_328.0 - 1.0).abs() < 0.02,
        "{}",
        static_bytes("standard")
    );
    assert!(static_bytes("4bit_nf4_double") < static_bytes("4bit_nf4"));
    assert!(static_bytes("4bit_nf4") < 0.4 * static_bytes("standard"));

    let analysis = outdir.path().join("analysis");
    for file in FILES {
        assert!(analysis.join(file).metadata().unwrap().len() > 0, "{file}");
    }
    check_quality(&analysis);
    assert!(
        !outdir.path().join("reference").exists(),
        "the reference's logits are not kept"
    );
}

fn check_quality(analysis: &Path) {
    let rows = rows(&analysis.join("quality_metrics.csv"));
    assert_eq!(rows.len(), (MODES.len() + 2) * 3);
    let row = |mode: &str, layer: &str| {
        rows.iter()
            .find(|row| row["quantization_mode"] == mode && row["layer"] == layer)
            .unwrap()
    };
    let kl = |mode: &str| number(&row(mode, "logits")["token_kl_mean"]);
    // The backend is deterministic: the mode `standard` in f32 is the reference.
    assert_eq!(kl("standard"), 0.0);
    assert_eq!(kl("standard~aa"), 0.0);
    assert!(0.0 < kl("standard~bf16noise") && kl("standard~bf16noise") < kl("4bit_nf4"));
    assert!(0.0 < kl("8bit") && kl("8bit") < kl("4bit_nf4") && kl("4bit_nf4") < kl("4bit_fp4"));
    for mode in MODES {
        assert!(number(&row(mode, "last")["cosine_similarity"]) > 0.98, "{mode}");
        assert!(row(mode, "last")["token_kl_mean"].is_empty());
        assert!(row(mode, "logits")["cosine_similarity"].is_empty());
        let perplexity = number(&row(mode, "logits")["perplexity"]);
        assert!((10.0..6144.0).contains(&perplexity), "{mode}: {perplexity}");
    }
}

#[test]
fn a_plugin_by_its_alias_runs_beside_standard() {
    let outdir = tempfile::tempdir().unwrap();
    let mut command = qbench();
    command.args([
        "--plugin",
        "nf4_double",
        "--truncate-tokens",
        "32",
        "--samples-per-cond",
        "2",
        "--num-repeats",
        "2",
        "--time-budget",
        "0",
    ]);
    command.args(["--json", "--quiet", "--outdir"]).arg(outdir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "", "quiet");
    let result: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["schema"], "qbench.run/1");
    assert_eq!(result["failed"], 0);
    // Two modes, two repeats; for each mode a cell of its predictions and one of its layers; two of the noise floor.
    assert_eq!(result["cells"].as_array().unwrap().len(), 10);
    let table = rows(&benchmark_table(outdir.path()));
    let modes: BTreeSet<&str> = table.iter().map(|row| row["quantization"].as_str()).collect();
    assert_eq!(modes, BTreeSet::from(["4bit_nf4_double", "standard"]));

    // The same configuration adds to the results; another one starts anew and moves them away.
    let mut again = small_measurement(outdir.path());
    again.args(["--modes", "standard"]);
    assert!(again.output().unwrap().status.success());
    assert_eq!(rows(&benchmark_table(outdir.path())).len(), 1);
    let moved = fs::read_dir(outdir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("previous-")
        })
        .unwrap();
    assert_eq!(rows(&benchmark_table(&moved)).len(), 4);
}

#[test]
fn precisions_conditions_and_batch_sizes_make_cells_of_their_own() {
    let outdir = tempfile::tempdir().unwrap();
    let mut command = qbench();
    command.args([
        "run",
        "--modes",
        "standard",
        "nf4",
        "--precision",
        "bf16",
        "--truncate-bp",
        "100,200",
    ]);
    command.args([
        "--batch-sizes",
        "1",
        "3",
        "1",
        "--samples-per-cond",
        "3",
        "--num-repeats",
        "1",
        "--warmup",
        "0",
        "--outdir",
    ]);
    command.arg(outdir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let table = rows(&benchmark_table(outdir.path()));
    assert_eq!(table.len(), 8);
    assert!(table.iter().all(|row| row["precision"] == "bfloat16"));
    let means: BTreeSet<&str> = table.iter().map(|row| row["mean_bp"].as_str()).collect();
    assert_eq!(means, BTreeSet::from(["100.0", "200.0"]));
    // `standard` in bf16 is a neighbour of the f32 reference, not the reference.
    let quality = rows(&outdir.path().join("analysis/quality_metrics.csv"));
    let standard = quality
        .iter()
        .find(|row| row["quantization_mode"] == "standard" && row["layer"] == "logits")
        .unwrap();
    let kl = number(&standard["token_kl_mean"]);
    assert!(0.0 < kl && kl < 1e-2, "{kl}");
}

#[test]
fn a_synthetic_model_is_timed_and_has_no_quality() {
    let outdir = tempfile::tempdir().unwrap();
    let config = outdir.path().join("tiny.json");
    fs::write(
        &config,
        r#"{"model_type":"mistral","hidden_size":64,"num_hidden_layers":2,"num_attention_heads":4,"intermediate_size":128,
        "num_key_value_heads":2,"vocab_size":512,"max_position_embeddings":256,"rms_norm_eps":1e-5,"torch_dtype":"bfloat16"}"#,
    )
    .unwrap();
    let mut command = small_run(&outdir.path().join("results"));
    command
        .arg("--model")
        .arg(format!("synthetic:{}", config.display()))
        .args(["--modes", "nf4"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let results = outdir.path().join("results");
    let table = rows(&benchmark_table(&results));
    assert!(
        table
            .iter()
            .all(|row| row["model"] == "synthetic:tiny" && number(&row["tokens_per_s"]) > 0.0)
    );
    assert!(
        table
            .iter()
            .all(|row| row["mean_bp"].is_empty() && row["bases_per_s"].is_empty())
    );
    let quality = rows(&results.join("analysis/quality_metrics.csv"));
    assert!(
        quality
            .iter()
            .all(|row| row["reason"] == "synthetic" && row["token_kl_mean"].is_empty()),
        "{quality:?}"
    );
    // It reads no sequences, and says so to who gives some.
    let mut command = small_run(&outdir.path().join("refused"));
    command
        .arg("--model")
        .arg(format!("synthetic:{}", config.display()))
        .args(["--data", "sequences.fa"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(
        said.contains("--data sequences.fa") && said.contains("leave --data out"),
        "{said}"
    );
    assert!(!outdir.path().join("refused/cells.jsonl").exists());
}

#[test]
fn an_analysis_needs_no_plugin_and_reads_the_original_systems_files() {
    let outdir = tempfile::tempdir().unwrap();
    let results = outdir.path().join("results");
    fs::create_dir(&results).unwrap();
    // As the original wrote it, with two modes.
    let values = |mode: &str, tokens: f64, memory: f64| {
        format!(
            "100M,,A100,550,12.4,2.3,float16,{mode},bp=10000,10000,2046,4,10,3,1000,4,{tokens},{memory},0.001,100,1e12,4,1,500,20\n"
        )
    };
    let columns = ORIGINAL_COLUMNS.trim_end_matches(',');
    let table = format!(
        "{columns}\n{}{}",
        values("standard", 2000.0, 2.0),
        values("8bit", 1500.0, 1.5)
    );
    fs::write(results.join("benchmark_20250101_000000.csv"), table).unwrap();
    let mut command = qbench();
    command
        .args(["analyze", "--skip-quality", "--results-dir"])
        .arg(&results)
        .arg("--output-dir")
        .arg(outdir.path().join("out"));
    command.env("PATH", "");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let throughput = rows(&outdir.path().join("out/throughput_comparison.csv"));
    let eight = throughput
        .iter()
        .find(|row| row["quantization"] == "8bit")
        .unwrap();
    // 1500 / 2000, and (1 - 0.75) * 100.
    assert_eq!(
        (
            number(&eight["ratio_vs_standard"]),
            number(&eight["slowdown_pct"])
        ),
        (0.75, 25.0)
    );
    assert!(outdir.path().join("out/energy_efficiency.png").exists());
}

#[test]
fn a_run_keeps_others_out_of_its_directory() {
    let outdir = tempfile::tempdir().unwrap();
    let lock = fs::File::create(outdir.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    fails(&mut small_run(outdir.path()), 2, &["another run is writing"]);
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(qbench().get_program());
    let output = command.args(["doctor", "--json"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("standard output could not be written"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_doctor_says_what_there_is() {
    let output = qbench().arg("doctor").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    for word in [
        "cores",
        "memory",
        "default model",
        "energy",
        "NVIDIA driver",
        "libqbench_cpu.so",
    ] {
        assert!(
            stdout(&output).contains(word),
            "`{word}` is not in: {}",
            stdout(&output)
        );
    }
    assert!(repository().join("examples/go-mini-12m").exists());
}
