//! Layers, parts and biology, end to end, over little data.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::BTreeMap, fs, path::Path};

use qbench_tests::{fails, qbench, rows, small_run, stderr};

type Row = BTreeMap<String, String>;

fn number(row: &Row, column: &str) -> f64 {
    row[column]
        .parse()
        .unwrap_or_else(|_| panic!("{column}: {row:?}"))
}

fn of<'a>(rows: &'a [Row], mode: &str) -> Vec<&'a Row> {
    rows.iter()
        .filter(|row| row["quantization_mode"] == mode)
        .collect()
}

/// Everything about quality, of two modes.
fn evaluate(outdir: &Path) -> String {
    let mut command = small_run(outdir);
    command.args([
        "--skip-performance",
        "--evaluate",
        "all",
        "--sensitivity",
        "layers",
    ]);
    command.args([
        "--modes",
        "4bit_nf4",
        "--window-bp",
        "60",
        "--variant-positions",
        "4",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn layers_parts_and_biology_are_evaluated_tabulated_drawn_and_kept() {
    let outdir = tempfile::tempdir().unwrap();
    evaluate(outdir.path());
    let analysis = outdir.path().join("analysis");
    let table = |name: &str| rows(&analysis.join(name));

    // The model has an embedding and six layers; `standard` in f32 is the reference.
    let layers = table("layer_metrics.csv");
    assert_eq!(layers.len(), 2 * 7);
    assert!(of(&layers, "standard").iter().all(|row| row["snr_db"] == "inf"));
    for row in of(&layers, "4bit_nf4").into_iter().skip(1) {
        let snr = number(row, "snr_db");
        assert!((10.0..60.0).contains(&snr), "{row:?}");
        assert!(number(row, "cosine_similarity") > 0.9);
    }
    let distributions = table("distribution_statistics.csv");
    let hidden = distributions
        .iter()
        .filter(|row| row["layer"].starts_with("hidden_"));
    assert_eq!(hidden.count(), 2 * 7 * 2);

    let parts = table("sensitivity.csv");
    let ranks: Vec<&str> = parts.iter().map(|row| row["rank"].as_str()).collect();
    assert_eq!(ranks, ["1", "2", "3", "4", "5", "6"]);
    // Seven projections a layer; one layer alone does less than all six.
    let whole = table("quality_metrics.csv");
    let whole = of(&whole, "4bit_nf4")
        .into_iter()
        .find(|row| row["layer"] == "logits")
        .unwrap();
    for row in &parts {
        assert_eq!(row["weights"], "7");
        let kl = number(row, "token_kl_mean");
        assert!(0.0 < kl && kl < number(whole, "token_kl_mean"), "{row:?}");
    }

    let strands = table("reverse_complement.csv");
    assert_eq!(number(of(&strands, "standard")[0], "difference_rmse"), 0.0);
    assert!(number(of(&strands, "4bit_nf4")[0], "difference_rmse") > 0.0);
    let variants = table("variant_effects.csv");
    assert_eq!(number(of(&variants, "standard")[0], "spearman"), 1.0);
    assert!(number(of(&variants, "4bit_nf4")[0], "spearman") > 0.5);
    assert_eq!(table("variant_scores.csv").len(), 2 * 4 * 3);
    let binning = table("binning.csv");
    assert_eq!(number(of(&binning, "standard")[0], "ari_with_reference"), 1.0);
    assert_eq!(table("binning_points.csv").len(), 2 * 4);

    for figure in [
        "kl_by_group.png",
        "layer_snr.png",
        "sensitivity.png",
        "binning.png",
        "biology.png",
        "kl_distribution.png",
    ] {
        assert!(analysis.join(figure).metadata().unwrap().len() > 0, "{figure}");
    }
    let card = fs::read_to_string(analysis.join("card.md")).unwrap();
    assert!(
        card.contains("| `4bit_nf4` |") && card.contains("hurts most"),
        "{card}"
    );
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(analysis.join("quality.json")).unwrap()).unwrap();
    assert_eq!(json["schema"], "qbench.quality/1");

    // Nothing runs again, and the references need not be there for that.
    let cells = fs::read(outdir.path().join("cells.jsonl")).unwrap();
    let said = evaluate(outdir.path());
    assert!(!said.contains(": ok"), "{said}");
    assert_eq!(fs::read(outdir.path().join("cells.jsonl")).unwrap(), cells);
    assert!(!outdir.path().join("reference").exists());
}

#[test]
fn what_is_skipped_cannot_be_asked_for() {
    let mut command = qbench();
    command.args(["run", "--skip-quality", "--evaluate", "layers"]);
    fails(&mut command, 2, &["--skip-quality", "--evaluate"]);
}
