//! Results directories of the original system, analysed to values that pandas gives for the same files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use qbench_core::analysis::{AnalysisError, AnalysisOptions, AnalysisSummary, analyze, read_quant_summary};

/// What rounding to 3 decimals (pandas' side) can differ by from 3 decimals or 4 digits (ours), and a little rounding.
const THREE_DECIMALS: f64 = 0.000_501;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/results")
        .join(name)
}

fn analyze_fixture(name: &str) -> (tempfile::TempDir, AnalysisSummary) {
    let output = tempfile::tempdir().unwrap();
    let summary = analyze(&fixture(name), output.path(), AnalysisOptions::default()).unwrap();
    (output, summary)
}

/// The columns of a table by row and column name.
fn table(path: &Path) -> (Vec<String>, BTreeMap<(String, String), String>) {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header: Vec<String> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    let mut fields = BTreeMap::new();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.unwrap();
        rows.push(record[0].to_owned());
        for (column, field) in header.iter().zip(&record) {
            fields.insert((record[0].to_owned(), column.clone()), field.to_owned());
        }
    }
    (rows, fields)
}

fn assert_values(path: &Path, expected: &[(&str, &str, f64)]) {
    let (_, fields) = table(path);
    for &(row, column, value) in expected {
        let field = &fields[&(row.to_owned(), column.to_owned())];
        let found: f64 = field
            .parse()
            .unwrap_or_else(|_| panic!("{row}, {column}: `{field}`"));
        assert!(
            (found - value).abs() <= THREE_DECIMALS,
            "{row}, {column}: {found} instead of {value}"
        );
    }
}

fn names(files: &[PathBuf]) -> Vec<&str> {
    files
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect()
}

#[test]
fn original_benchmark_gives_the_values_of_pandas() {
    let (output, summary) = analyze_fixture("original_benchmark");
    let at = |name: &str| output.path().join(name);
    // d = pd.read_csv(…); d.groupby('quantization')[…].agg(['mean', 'std', 'min', 'max']).round(3)
    assert_values(
        &at("quant_summary.csv"),
        &[
            ("4bit_fp4", "tokens_per_s_mean", 98834.639),
            ("4bit_fp4", "tokens_per_s_std", 3178.352),
            ("4bit_nf4", "seqs_per_s_std", 0.610),
            ("4bit_nf4_double", "E2EL_ms_min", 86.0),
            ("4bit_nf4_double", "tokens_per_watt_mean", 515.689),
            ("8bit", "E2EL_ms_std", 5.0),
            ("8bit", "avg_power_W_std", 3.606),
            ("standard", "tokens_per_s_max", 160_000.0),
            ("standard", "peak_vram_GB_mean", 0.923),
            ("standard", "peak_vram_GB_std", 0.006),
        ],
    );
    // m = d.groupby('quantization').tokens_per_s.mean(); m / m['standard'], (1 - m / m['standard']) * 100
    assert_values(
        &at("throughput_comparison.csv"),
        &[
            ("4bit_fp4", "ratio_vs_standard", 0.630),
            ("4bit_fp4", "slowdown_pct", 37.009),
            ("4bit_nf4_double", "slowdown_pct", 42.040),
            ("8bit", "ratio_vs_standard", 0.408),
            ("8bit", "slowdown_pct", 59.167),
            ("standard", "slowdown_pct", 0.0),
        ],
    );
    // p = d.groupby('quantization').peak_vram_GB.mean(); -(p - p['standard']) / p['standard'] * 100
    assert_values(
        &at("memory_analysis.csv"),
        &[
            ("4bit_nf4", "peak_reduction_pct", 40.072),
            ("4bit_nf4_double", "peak_reduction_pct", 41.155),
            ("8bit", "peak_reduction_pct", 22.744),
            ("standard", "peak_reduction_pct", 0.0),
        ],
    );
    // Where 3 decimals leave nothing, 4 digits are kept: d.groupby('quantization').energy_kWh.mean() is 0.00102202…
    let (rows, energy) = table(&at("energy_analysis.csv"));
    assert_eq!(
        rows,
        ["4bit_fp4", "4bit_nf4", "4bit_nf4_double", "8bit", "standard"]
    );
    assert_eq!(
        energy[&("4bit_fp4".to_owned(), "energy_kWh_mean".to_owned())],
        "0.001022"
    );
    assert_eq!(
        energy[&("standard".to_owned(), "energy_kWh_mean".to_owned())],
        "0.0007509"
    );
    // d.loc[d.tokens_per_s.idxmax()] and so on
    let best = fs::read_to_string(at("best_performers.csv")).unwrap();
    assert_eq!(
        best,
        "category,quantization,batch_size,value,unit\nhighest_throughput,standard,4,160000,tokens/s\n\
         lowest_peak_memory,4bit_nf4_double,4,0.54,GB\nlowest_latency,standard,4,50,ms\n\
         most_energy_efficient,standard,4,761.905,tokens/J\n"
    );
    assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
    assert_eq!(
        names(&summary.files),
        [
            "quant_summary.csv",
            "memory_analysis.csv",
            "throughput_comparison.csv",
            "energy_analysis.csv",
            "best_performers.csv",
            "throughput_comparison.png",
            "memory_comparison.png",
            "latency_comparison.png",
            "energy_efficiency.png",
            "performance_memory_tradeoff.png",
            "divergence_comparison.png",
            "cosine_similarity.png",
            "snr_comparison.png",
            "quality_metrics_last.png",
            "quality_metrics_second_last.png",
            "performance_report.txt",
        ]
    );
    for file in &summary.files {
        assert!(fs::metadata(file).unwrap().len() > 0);
    }
    let left: Vec<_> = fs::read_dir(output.path()).unwrap().collect();
    assert_eq!(left.len(), summary.files.len(), "a temporary file was left");
}

#[test]
fn original_performance_metrics_give_means_only_and_no_energy() {
    let (output, summary) = analyze_fixture("original_performance");
    // One row a mode, hence means only. By hand: 2,000,000 tokens in 40, 100 and 64 s; (0.25 − 0.16) / 0.25 = 36 %.
    let read = |name: &str| fs::read_to_string(output.path().join(name)).unwrap();
    assert_eq!(
        read("throughput_comparison.csv"),
        "quantization,tokens_per_s_mean,ratio_vs_standard,slowdown_pct\n4bit_nf4,31250,0.625,37.5\n8bit,20000,0.4,60\n\
         standard,50000,1,0\n"
    );
    assert_eq!(
        read("memory_analysis.csv"),
        "quantization,static_vram_GB_mean,peak_vram_GB_mean,static_reduction_pct,peak_reduction_pct\n\
         4bit_nf4,0.1003,0.75,59.88,25\n8bit,0.16,0.85,36,15\nstandard,0.25,1,0,0\n"
    );
    // Its zeros of power and energy are not measurements.
    assert!(!output.path().join("energy_analysis.csv").exists());
    assert!(!output.path().join("energy_efficiency.png").exists());
    assert!(
        summary.warnings[0].contains("9 value(s)"),
        "{:?}",
        summary.warnings
    );
    assert!(read("performance_report.txt").contains("no power reading in 3 rows: the file gives no reason"));
}

#[test]
fn mixture_of_schemas_is_read_together_and_named() {
    let (output, summary) = analyze_fixture("mixed");
    // pd.concat of both files; `8bit` has one row, hence no standard deviation.
    assert_values(
        &output.path().join("throughput_comparison.csv"),
        &[
            ("4bit_nf4", "tokens_per_s_mean", 81_894.102),
            ("4bit_nf4", "tokens_per_s_std", 33_777.415),
            ("standard", "tokens_per_s_mean", 130_177.225),
            ("standard", "tokens_per_s_std", 53_510.499),
            ("8bit", "ratio_vs_standard", 0.154),
        ],
    );
    let (_, fields) = table(&output.path().join("throughput_comparison.csv"));
    assert_eq!(fields[&("8bit".to_owned(), "tokens_per_s_std".to_owned())], "");
    let mixture = "2 models (GenomeOcean-100M, GenomeOcean-500M)";
    assert!(
        summary.warnings.iter().any(|warning| warning.contains(mixture)),
        "{:?}",
        summary.warnings
    );
}

#[test]
fn summaries_of_both_programs_read_alike() {
    let (output, _) = analyze_fixture("original_benchmark");
    let ours = read_quant_summary(&output.path().join("quant_summary.csv")).unwrap();
    let pandas = read_quant_summary(&fixture("quant_summary_of_pandas.csv")).unwrap();
    assert_eq!(ours.len(), pandas.len());
    for (ours, pandas) in ours.iter().zip(&pandas) {
        assert_eq!(ours.quantization, pandas.quantization);
        assert_eq!(
            ours.values.keys().collect::<Vec<_>>(),
            pandas.values.keys().collect::<Vec<_>>()
        );
        for (column, value) in &pandas.values {
            assert!(
                (ours.values[column] - value).abs() <= THREE_DECIMALS,
                "{column:?}"
            );
        }
    }
}

#[test]
fn skipping_quality_leaves_its_tables_and_figures_alone() {
    let output = tempfile::tempdir().unwrap();
    fs::write(output.path().join("quality_metrics.csv"), "not,read\n").unwrap();
    let options = AnalysisOptions { skip_quality: true };
    let summary = analyze(&fixture("original_benchmark"), output.path(), options).unwrap();
    assert!(
        names(&summary.files)
            .iter()
            .all(|name| !name.contains("cosine") && !name.contains("quality"))
    );
    assert_eq!(
        fs::read_to_string(output.path().join("quality_metrics.csv")).unwrap(),
        "not,read\n"
    );
}

#[test]
fn what_an_earlier_analysis_left_does_not_stay() {
    let output = tempfile::tempdir().unwrap();
    analyze(
        &fixture("original_benchmark"),
        output.path(),
        AnalysisOptions::default(),
    )
    .unwrap();
    assert!(output.path().join("energy_efficiency.png").exists());
    assert!(output.path().join("cosine_similarity.png").exists());
    analyze(
        &fixture("original_performance"),
        output.path(),
        AnalysisOptions::default(),
    )
    .unwrap();
    assert!(!output.path().join("energy_efficiency.png").exists());
    assert!(!output.path().join("energy_analysis.csv").exists());
    assert!(!output.path().join("cosine_similarity.png").exists());
}

#[test]
fn directories_without_usable_results_are_errors_and_write_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("analysis");
    let run = |results: &Path| analyze(results, &output, AnalysisOptions::default()).unwrap_err();

    let error = run(&directory.path().join("missing"));
    assert!(matches!(error, AnalysisError::NoDirectory { .. }), "{error}");
    let error = run(directory.path());
    assert!(matches!(error, AnalysisError::NoResults { .. }), "{error}");

    let text = "quantization,batch_size,tokens_per_s,status,reason\n8bit,4,,crashed,signal 11\nnf4,4,,error,no memory\n";
    fs::write(directory.path().join("benchmark_1.csv"), text).unwrap();
    let error = run(directory.path()).to_string();
    assert!(
        error.contains("all 2 cells failed or are invalid; the first: 8bit: crashed: signal 11"),
        "{error}"
    );

    fs::write(directory.path().join("benchmark_1.csv"), "mode,speed\n8bit,1\n").unwrap();
    let error = run(directory.path()).to_string();
    assert!(
        error.contains("column `quantization` is missing; columns found: mode, speed"),
        "{error}"
    );
    assert!(!output.exists());
}

#[test]
fn an_invalid_row_is_in_the_report_and_in_no_mean() {
    let directory = tempfile::tempdir().unwrap();
    let text = "quantization,batch_size,tokens_per_s,status,reason\nstandard,4,10,ok,\n8bit,4,30,ok,\n\
                8bit,4,9000,invalid,non_finite_outputs: 3 of 8\n4bit_nf4,4,9000,invalid,held_bytes: twice\n";
    fs::write(directory.path().join("benchmark_1.csv"), text).unwrap();
    let output = directory.path().join("analysis");
    let summary = analyze(directory.path(), &output, AnalysisOptions::default()).unwrap();
    assert_eq!(summary.faulty_modes, ["4bit_nf4", "8bit"]);
    let line = |mode: &str| {
        let found = summary
            .overview
            .lines()
            .find(|line| line.trim_start().starts_with(mode));
        found.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(
        line("8bit").starts_with("8bit 30.00 - 3.00x "),
        "{}",
        summary.overview
    );
    assert!(line("8bit").ends_with(" 1 invalid"), "{}", summary.overview);
    assert!(line("4bit_nf4").starts_with("4bit_nf4 - - ") && line("4bit_nf4").ends_with(" 1 invalid"));
    assert_values(
        &output.join("quant_summary.csv"),
        &[("8bit", "tokens_per_s_mean", 30.0)],
    );
    let report = fs::read_to_string(output.join("performance_report.txt")).unwrap();
    assert!(report.contains("invalid: held_bytes: twice"), "{report}");
}

#[test]
fn output_directory_that_cannot_be_made_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = analyze(
        &fixture("mixed"),
        &file.join("analysis"),
        AnalysisOptions::default(),
    )
    .unwrap_err();
    assert!(matches!(error, AnalysisError::Output { .. }), "{error}");
}
