use std::fs;

use super::*;
use crate::results::test_records::{performance_record, quality_record};
use crate::results::{Journal, read_journal};

#[test]
fn columns_are_the_originals_then_ours() {
    let directory = tempfile::tempdir().unwrap();
    write_quality_tables(directory.path(), &[quality_record("8bit")]).unwrap();
    let header = |name| {
        let text = fs::read_to_string(directory.path().join(name)).unwrap();
        text.lines().next().unwrap().to_owned()
    };
    let metrics = header(QUALITY_FILE);
    let first = "quantization_mode,layer,kl_divergence,js_divergence,cosine_similarity,mse,mae,snr_db,\
                 pearson_correlation,token_kl_mean,token_kl_median,token_kl_p99,token_kl_max,same_top1,perplexity,\
                 next_token_accuracy,bits_per_base,non_finite,model,backend,device,precision,condition,batch_size,\
                 status,reason,reference_perplexity,sequences,tokens,snr_infinite,reference,interval_unit,\
                 token_kl_mean_low,token_kl_mean_high,token_kl_min,token_kl_p0_1,token_kl_p0_1_low,token_kl_p0_1_high,\
                 token_kl_p1,token_kl_p1_low,token_kl_p1_high,token_kl_p5,token_kl_p5_low,token_kl_p5_high,token_kl_p10,\
                 token_kl_p10_low,token_kl_p10_high,token_kl_p25,token_kl_p25_low,token_kl_p25_high,\
                 token_kl_median_low,token_kl_median_high,token_kl_p75,token_kl_p75_low,token_kl_p75_high,token_kl_p90,\
                 token_kl_p90_low,token_kl_p90_high,token_kl_p95,token_kl_p95_low,token_kl_p95_high,token_kl_p99_low,\
                 token_kl_p99_high,token_kl_p99_9,token_kl_p99_9_low,token_kl_p99_9_high,token_kl_reverse_mean,";
    assert!(metrics.starts_with(first), "{metrics}");
    assert!(
        metrics.ends_with("perplexity_sliding_high,reference_perplexity_sliding,context_len,stride"),
        "{metrics}"
    );
    let mut names: Vec<&str> = metrics.split(',').collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    assert_eq!(
        header(DISTRIBUTION_FILE),
        "quantization_mode,layer,type,mean,std,min,max,median,q25,q75,skewness,kurtosis,model,backend,device,\
         precision,condition,batch_size"
    );
}

#[test]
fn rows_survive_the_journal_and_the_table() {
    let directory = tempfile::tempdir().unwrap();
    Journal::open(directory.path())
        .unwrap()
        .append(&quality_record("8bit"))
        .unwrap();
    let records = read_journal(directory.path()).unwrap().records;
    write_quality_tables(directory.path(), &records).unwrap();
    let rows = read_quality(&directory.path().join(QUALITY_FILE)).unwrap();
    assert_eq!(rows, quality_rows(&records));
    let layers: Vec<_> = rows.iter().map(|row| row.layer.as_str()).collect();
    assert_eq!(layers, ["last", "second_last", "logits"]);
    // One of four vectors equal: the mean of the others; all equal: infinite.
    assert_eq!(rows[0].snr_db, Some(21.5));
    assert_eq!(rows[1].snr_db, Some(f64::INFINITY));
    assert_eq!(
        (rows[0].kl_divergence, rows[0].token_kl_mean, rows[0].mse),
        (Some(0.125), None, None)
    );
    assert_eq!((rows[2].kl_divergence, rows[2].token_kl_mean), (None, Some(0.03)));
    // "Not a number" is an empty field, infinity is written.
    assert_eq!(
        (rows[2].perplexity, rows[2].token_kl_max),
        (None, Some(f64::INFINITY))
    );
    let text = fs::read_to_string(directory.path().join(QUALITY_FILE)).unwrap();
    assert!(text.contains(",inf,") && !text.contains("NaN"), "{text}");
    let statistics = read_distributions(&directory.path().join(DISTRIBUTION_FILE)).unwrap();
    assert_eq!(statistics, distribution_rows(&records));
    assert_eq!((statistics[0].mean, statistics[0].skewness), (Some(0.5), None));
}

#[test]
fn failed_and_synthetic_cells_have_rows_with_a_reason_and_no_numbers() {
    let mut failed = quality_record("8bit");
    failed.status = Status::OutOfMemory;
    failed.reason = "killed".to_owned();
    let mut synthetic = quality_record("4bit_nf4");
    synthetic.quality = Some(Quality {
        reason: "synthetic".to_owned(),
        ..Quality::default()
    });
    let rows = quality_rows(&[failed, synthetic, performance_record("standard", 0)]);
    assert_eq!(rows.len(), 6);
    for row in &rows {
        let expected = if row.quantization_mode == "8bit" {
            ("out_of_memory", "killed")
        } else {
            ("ok", "synthetic")
        };
        assert_eq!((row.status.as_str(), row.reason.as_str()), expected);
        assert_eq!(
            (row.kl_divergence, row.token_kl_mean, row.non_finite),
            (None, None, None)
        );
    }
}

#[test]
fn without_quality_records_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    assert!(
        write_quality_tables(directory.path(), &[performance_record("standard", 0)])
            .unwrap()
            .is_empty()
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
