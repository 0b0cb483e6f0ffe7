use serde_json::json;

use super::*;
use crate::results::test_records::{performance_record, quality_record};

/// Relative difference allowed to hand-worked values: a few roundings of f64.
const ROUNDING: f64 = 1e-14;

fn assert_close(value: Option<f64>, expected: f64) {
    let value = value.unwrap();
    assert!(
        (value - expected).abs() <= ROUNDING * expected.abs(),
        "{value} instead of {expected}"
    );
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn columns_are_the_originals_in_order_then_ours() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_benchmark(directory.path(), "20260102_030405", &[], &json!({})).unwrap();
    let header = fs::read_to_string(path).unwrap();
    assert_eq!(
        header,
        "model,commit,gpu_name,driver,cuda,torch,precision,quantization,condition,mean_bp,mean_tokens,batch_size,\
         runs,warmup,E2EL_ms,seqs_per_s,tokens_per_s,peak_vram_GB,energy_kWh,avg_power_W,flops_per_seq,\
         TFLOPs_per_s,eff_seq_per_TFLOP,eff_tokens_per_TFLOP,tokens_per_watt,repeat,status,reason,backend,device,\
         device_name,bases_per_s,static_vram_GB,duration_s,total_seqs,total_tokens,total_bases,load_s,quantize_s,\
         quantize_GB_per_s,tokenize_s,flops_per_seq_exact,J_per_token,J_per_Mbp,memory_measured_by,energy_reason,\
         execution,truncated_seqs,threads,passes,batch_ms_median,batch_ms_ci_low,batch_ms_ci_high,batch_ms_std,\
         batch_ms_min,batch_ms_max,batch_ms_p90,batch_ms_p99,batch_outliers,device_ms_median,tokens_per_s_median,\
         bases_per_s_median,timing,warmup_s,warmup_settled,declared_GB,workspace_GB,bits_per_weight,\
         system_static_GB,process_peak_GB,energy_source,energy_counter_J,energy_integrated_J,energy_net_J,\
         idle_before_W,idle_after_W,J_per_token_net,J_per_Mbp_net,sm_clock_MHz,temperature_C,throttle,\
         workload,ttft_ms_median,tpot_ms_median,generated_tokens\n"
    );
}

#[test]
fn derived_columns_follow_their_definitions() {
    // By hand: 5 s in 2 batches; 20 J in 5 s = 4 W; 200 tokens/s / 4 W = 50 tokens/J; 2 seqs/s · 2e12 = 4 TFLOP/s.
    let row = BenchmarkRow::from_record(&performance_record("standard", 0)).unwrap();
    assert_close(row.E2EL_ms, 2500.0);
    assert_close(row.seqs_per_s, 2.0);
    assert_close(row.tokens_per_s, 200.0);
    assert_close(row.bases_per_s, 1000.0);
    assert_close(row.energy_kWh, 20.0 / 3_600_000.0);
    assert_close(row.avg_power_W, 4.0);
    assert_close(row.tokens_per_watt, 50.0);
    assert_close(row.J_per_token, 0.02);
    assert_close(row.J_per_Mbp, 4000.0);
    assert_close(row.TFLOPs_per_s, 4.0);
    assert_close(row.eff_seq_per_TFLOP, 0.5);
    assert_close(row.eff_tokens_per_TFLOP, 50.0);
    assert_close(row.static_vram_GB, 3.0);
    assert_close(row.peak_vram_GB, 4.0);
    assert_close(row.quantize_GB_per_s, 4.0);
    // Two shapes, once each: the typical time is the mean of 2 s and 3 s.
    assert_close(row.batch_ms_median, 2500.0);
    assert_close(row.tokens_per_s_median, 200.0);
    assert_close(row.bases_per_s_median, 1000.0);
    assert_close(row.warmup_s, 2.5);
    assert_eq!(
        (row.timing.as_str(), row.warmup_settled.as_str()),
        ("not_converged", "no")
    );
    assert_eq!((row.passes, row.device_ms_median), (Some(1), None));
    assert_eq!((row.runs, row.warmup, row.repeat), (Some(2), Some(1), Some(0)));
    assert_eq!(
        (row.gpu_name.as_str(), row.device_name.as_str()),
        ("NVIDIA H200", "NVIDIA H200")
    );
    assert_eq!(row.execution, "84 × qbench.block-codebook/1: native: gemm");
}

#[test]
fn unmeasured_values_are_empty_and_a_cpu_is_no_gpu() {
    let mut record = performance_record("standard", 0);
    record.cell.device = "cpu".to_owned();
    let performance = record.performance.as_mut().unwrap();
    performance.energy_joules = None;
    performance.peak_bytes = None;
    performance.flops_per_sequence = None;
    let row = BenchmarkRow::from_record(&record).unwrap();
    assert_eq!(
        (row.gpu_name.as_str(), row.device_name.as_str()),
        ("", "NVIDIA H200")
    );
    for empty in [
        row.energy_kWh,
        row.avg_power_W,
        row.tokens_per_watt,
        row.J_per_token,
        row.J_per_Mbp,
    ] {
        assert_eq!(empty, None);
    }
    for empty in [
        row.peak_vram_GB,
        row.flops_per_seq,
        row.TFLOPs_per_s,
        row.eff_seq_per_TFLOP,
    ] {
        assert_eq!(empty, None);
    }
}

#[test]
fn rows_survive_writing_and_reading_failed_ones_without_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let mut failed = performance_record("none", 1);
    failed.status = Status::Crashed;
    failed.reason = "signal 11, \"segmentation fault\"".to_owned();
    let records = [performance_record("standard", 0), quality_record("8bit"), failed];
    let path = write_benchmark(directory.path(), "t", &records, &json!({"seed": 42})).unwrap();
    let table = read_benchmark(&path).unwrap();
    let expected: Vec<_> = records.iter().filter_map(BenchmarkRow::from_record).collect();
    assert_eq!(table.rows, expected);
    assert_eq!(table.rows[1].quantization, "none");
    assert!(!table.rows[1].is_ok() && table.rows[1].tokens_per_s.is_none());
    let meta = fs::read_to_string(directory.path().join("benchmark_t.meta.json")).unwrap();
    assert_eq!(meta, "{\n  \"seed\": 42\n}\n");
}

#[test]
fn an_invalid_row_keeps_its_numbers_and_is_not_ok() {
    let mut record = performance_record("8bit", 0);
    record.status = Status::Invalid;
    record.reason = "non_finite_outputs: 1 of 2".to_owned();
    let row = BenchmarkRow::from_record(&record).unwrap();
    assert_eq!((row.tokens_per_s, row.status.as_str()), (Some(200.0), "invalid"));
    assert!(!row.is_ok());
}

#[test]
fn an_older_table_of_ours_goes_and_one_of_the_original_stays() {
    let directory = tempfile::tempdir().unwrap();
    let original = "model,quantization,batch_size,tokens_per_s\nm,8bit,1,2.0\n";
    fs::write(directory.path().join("benchmark_0.csv"), original).unwrap();
    let records = [performance_record("standard", 0)];
    write_benchmark(directory.path(), "1", &records, &json!({})).unwrap();
    write_benchmark(directory.path(), "2", &records, &json!({})).unwrap();
    assert_eq!(
        names(directory.path()),
        ["benchmark_0.csv", "benchmark_2.csv", "benchmark_2.meta.json"]
    );
}

#[test]
fn time_stamp_cannot_lead_out_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let error = write_benchmark(directory.path(), "../x", &[], &json!({})).unwrap_err();
    assert!(matches!(error, ResultsError::Timestamp { .. }));
    assert!(names(directory.path()).is_empty());
}

fn read_text(text: &str) -> Result<BenchmarkTable, ResultsError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("benchmark_x.csv");
    fs::write(&path, text).unwrap();
    read_benchmark(&path)
}

#[test]
fn original_spellings_of_no_value_and_of_counts_are_read() {
    let text = "quantization,batch_size,tokens_per_s,avg_power_W,peak_vram_GB\n8bit, 4.0 ,1e3,NaN,None\n\
                4bit_nf4,8,2,0.0,1.5\n";
    let table = read_text(text).unwrap();
    let row = &table.rows[0];
    assert_eq!((row.batch_size, row.tokens_per_s), (Some(4), Some(1000.0)));
    assert_eq!((row.avg_power_W, row.peak_vram_GB), (None, None));
    assert_eq!(
        (table.rows[1].avg_power_W, table.rows[1].peak_vram_GB),
        (None, Some(1.5))
    );
    assert!(table.warnings[0].contains("1 value(s)"), "{:?}", table.warnings);
}

#[test]
fn malformed_tables_are_errors_with_their_place() {
    let cases = [
        ("", "column `quantization` is missing; columns found: none"),
        (
            "a,b\n1,2\n",
            "column `quantization` is missing; columns found: a, b",
        ),
        (
            "quantization,batch_size\n8bit,4\n",
            "column `tokens_per_s` is missing",
        ),
        (
            "quantization,batch_size,tokens_per_s\n8bit,1,2\n8bit,1,fast\n",
            "line 3: column `tokens_per_s` holds `fast`",
        ),
        (
            "quantization,batch_size,tokens_per_s\n8bit,1.5,2\n",
            "line 2: column `batch_size` holds `1.5`",
        ),
        (
            "quantization,batch_size,tokens_per_s\n8bit,1\n",
            "not a well-formed CSV table",
        ),
        (
            "quantization,batch_size,tokens_per_s\n,1,2\n",
            "line 2: column `quantization` is empty",
        ),
    ];
    for (text, expected) in cases {
        let error = read_text(text).unwrap_err().to_string();
        assert!(
            error.contains("benchmark_x.csv") && error.contains(expected),
            "{error}"
        );
    }
}
