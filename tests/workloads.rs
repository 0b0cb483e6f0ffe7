//! What `--workload` times.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::BTreeMap, path::Path};

use qbench_core::results::{Performance, read_journal};
use qbench_tests::{benchmark_table, fails, rows, small_measurement, stderr};

/// Tokens that a pass over the four sequences of 48 tokens has.
const TOKENS: &str = "192";

/// Rows and records of `standard` and `4bit_nf4` under `arguments`.
fn measured(arguments: &[&str], outdir: &Path) -> (Vec<BTreeMap<String, String>>, Vec<Performance>) {
    let mut command = small_measurement(outdir);
    let output = command
        .args(["--modes", "standard", "nf4"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let records = read_journal(outdir).unwrap().records;
    let performances = records
        .into_iter()
        .filter_map(|record| record.performance)
        .collect();
    (
        rows(&benchmark_table(outdir))
            .into_iter()
            .map(|row| row.into_iter().collect())
            .collect(),
        performances,
    )
}

#[test]
fn a_generation_is_timed_from_the_prompt_to_the_last_token() {
    let outdir = tempfile::tempdir().unwrap();
    let arguments = [
        "--workload",
        "decode",
        "--prompt-tokens",
        "40",
        "--generate-tokens",
        "6",
    ];
    let (rows, performances) = measured(&arguments, outdir.path());
    assert_eq!((rows.len(), performances.len()), (2, 2));
    for row in &rows {
        assert_eq!(
            [
                "workload",
                "generated_tokens",
                "total_tokens",
                "total_seqs",
                "mean_tokens"
            ]
            .map(|column| row[column].as_str()),
            ["decode 40+6", "6", "24", "4", "40.0"]
        );
        // A token of this vocabulary is 1 to 12 bases long, but for the special ones.
        let bases: u64 = row["total_bases"].parse().unwrap();
        assert!((1..=24 * 12).contains(&bases), "{bases}");
    }
    for performance in &performances {
        assert_eq!(
            performance.first_token_seconds.len(),
            performance.batch_seconds.len()
        );
        let times = performance.generation_times().unwrap();
        let [first, further] = [times.first_token, times.each_further_token.unwrap()];
        assert!(first > 0.0 && further > 0.0, "{times:?}");
        for (whole, first) in performance
            .batch_seconds
            .iter()
            .zip(&performance.first_token_seconds)
        {
            assert!(first < whole);
        }
    }
}

#[test]
fn scoring_takes_the_same_tokens_as_embedding_and_more_operations() {
    let [embed, score] = ["embed", "score"].map(|workload| {
        let outdir = tempfile::tempdir().unwrap();
        let (rows, _) = measured(&["--workload", workload], outdir.path());
        assert!(
            rows.iter()
                .all(|row| row["workload"] == workload && row["total_tokens"] == TOKENS)
        );
        rows[0]["flops_per_seq_exact"].parse::<f64>().unwrap()
    });
    // The head: 48 positions of 384 × 4096.
    assert_eq!(score - embed, 2.0 * 48.0 * 384.0 * 4096.0);
}

#[test]
fn lengths_that_cannot_be_are_refused() {
    let outdir = tempfile::tempdir().unwrap();
    for (arguments, expected) in [
        (vec!["--prompt-tokens", "8"], "belong to `--workload decode`"),
        (
            vec![
                "--workload",
                "decode",
                "--prompt-tokens",
                "4000",
                "--generate-tokens",
                "5000",
            ],
            "are more than the model's",
        ),
    ] {
        let mut command = small_measurement(outdir.path());
        fails(command.args(&arguments), 2, &[expected]);
    }
    let mut command = small_measurement(outdir.path());
    fails(
        command.args(["--workload", "decode", "--prompt-tokens", "100"]),
        1,
        &["no sequence has the 100 tokens of the prompt: the longest has 48"],
    );
}
