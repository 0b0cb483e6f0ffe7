//! `card.md`: what quantising costs, in markdown that can be pasted into a model's page.

use super::Speed;
use super::evaluations::worst_parts;
use super::format::number;
use crate::analysis::{Inputs, TimedCell, group_by_mode, ordered_modes};
use crate::results::{BenchmarkRow, Cell, CellKind, Estimate, Evaluation, Record, Status};
use crate::statistics::Summary;

/// The card; empty without good quality cells.
pub fn card(inputs: &Inputs) -> String {
    let good: Vec<&Record> = inputs
        .quality_records
        .iter()
        .filter(|record| record.status == Status::Ok && tokens(record).is_some())
        .collect();
    let conditions = settings(&good);
    let mut card = String::new();
    for setting in &conditions {
        if card.is_empty() {
            card.push_str("## What quantising costs\n\nMeasured with qbench.\n");
        }
        let records: Vec<&Record> = good
            .iter()
            .copied()
            .filter(|record| same(&record.cell, setting))
            .collect();
        card.push_str(&section(inputs, setting, &records));
    }
    if card.is_empty() {
        return card;
    }
    for line in worst_parts(&inputs.evaluation_records) {
        card.extend(["- ", &line, "\n"]);
    }
    card.push_str(
        "\nKL: mean over all tokens of KL(reference ‖ mode) of the next-token distribution, full vocabulary, in nats, with its \
         95 % interval by bootstrap over genomes; the reference is the unquantised model in f32. Variants: Spearman's \
         correlation with the reference of the log-likelihood ratios of single-nucleotide substitutions. Strands: change of \
         the difference between both strands, in bits per base (root mean square). Binning: adjusted Rand index of the clusters \
         with those of the reference. `standard~aa`: the reference computed again; `standard~bf16noise`: the weights moved within \
         the rounding of bf16; a mode that is no worse cannot be told from either. GB = 1e9 bytes. -: not measured.\n",
    );
    card
}

fn tokens(record: &Record) -> Option<&crate::results::TokenQuality> {
    record.quality.as_ref()?.tokens_level.as_ref()
}

/// Whether two cells were measured in the same setting.
fn same(one: &Cell, other: &Cell) -> bool {
    let setting = |cell: &Cell| {
        [
            &cell.model,
            &cell.backend,
            &cell.device,
            &cell.precision,
            &cell.condition,
        ]
        .map(Clone::clone)
    };
    setting(one) == setting(other)
}

/// The timed cells of a setting, whatever their batch size and workload.
fn timed_in(inputs: &Inputs, setting: &Cell) -> Vec<TimedCell> {
    let wanted = [
        ("model", &setting.model),
        ("backend", &setting.backend),
        ("device", &setting.device),
        ("precision", &setting.precision),
        ("condition", &setting.condition),
    ];
    let fits = |cell: &&TimedCell| {
        wanted.iter().all(|(column, value)| {
            let own = cell.setting.iter().find(|(name, _)| name == column);
            own.is_none_or(|(_, own)| own == *value)
        })
    };
    inputs.timed.iter().filter(fits).cloned().collect()
}

/// One cell of each setting.
fn settings(records: &[&Record]) -> Vec<Cell> {
    let mut settings: Vec<Cell> = Vec::new();
    for record in records {
        if !settings.iter().any(|setting| same(setting, &record.cell)) {
            settings.push(record.cell.clone());
        }
    }
    settings
}

fn section(inputs: &Inputs, setting: &Cell, records: &[&Record]) -> String {
    let Some((first, tokens_of_first)) = records
        .first()
        .and_then(|record| Some((record.quality.as_ref()?, tokens(record)?)))
    else {
        return String::new();
    };
    let mut text = format!(
        "\n**{}**, {} on {} ({}), condition {}: {} sequences of {} genomes, {} tokens.\n\n",
        setting.model,
        setting.precision,
        setting.device,
        setting.backend,
        setting.condition,
        first.sequences,
        tokens_of_first.by_genome.len(),
        first.tokens
    );
    let rows: Vec<BenchmarkRow> = inputs
        .rows
        .iter()
        .filter(|row| {
            row.model == setting.model
                && row.backend == setting.backend
                && row.device == setting.device
                && row.precision == setting.precision
                && row.condition == setting.condition
        })
        .cloned()
        .collect();
    let groups = group_by_mode(&rows);
    let mean = |mode: &str, column: fn(&BenchmarkRow) -> Option<f64>| {
        let group = groups.iter().find(|group| group.mode == mode)?;
        Some(Summary::of(&group.values(column))?.mean)
    };
    let cells = timed_in(inputs, setting);
    let heading = [
        "mode",
        "KL a token (nats)",
        "perplexity",
        "same top token",
        "variants",
        "strands",
        "binning",
        "tokens/s",
        "GB loaded",
    ];
    text.extend(["| ", &heading.join(" | "), " |\n"]);
    text.extend(["|---|", &"---:|".repeat(heading.len() - 1), "\n"]);
    for mode in ordered_modes(records.iter().map(|record| record.cell.mode.as_str())) {
        let Some(tokens) = records
            .iter()
            .find(|record| record.cell.mode == mode)
            .and_then(|record| tokens(record))
        else {
            continue;
        };
        let evaluation = |kind: CellKind| {
            let mut all = inputs.evaluation_records.iter();
            all.find(|record| {
                record.cell.kind == kind
                    && record.cell.mode == mode
                    && same(&record.cell, setting)
                    && record.status == Status::Ok
            })
            .and_then(|record| record.evaluation.as_ref())
        };
        let variants = evaluation(CellKind::Variants).and_then(|found| match found {
            Evaluation::Variants(variants) => variants.spearman,
            _ => None,
        });
        let strands = evaluation(CellKind::ReverseComplement).and_then(|found| match found {
            Evaluation::ReverseComplement(strands) => strands.difference_rmse,
            _ => None,
        });
        let binning = evaluation(CellKind::Binning).and_then(|found| match found {
            Evaluation::Binning(binning) => binning.ari_with_reference,
            _ => None,
        });
        let speed = Speed::of(mode, &cells, &groups);
        let rate = number(speed.tokens_per_second);
        let cells = [
            format!("`{mode}`"),
            with_interval(&tokens.kl.mean),
            number(Some(tokens.perplexity.value)),
            percent(tokens.same_top1.value),
            number(variants),
            number(strands),
            number(binning),
            match speed.against_standard {
                Some(ratio) => format!("{rate} ({ratio:.2}×)"),
                None => rate,
            },
            number(mean(mode, |row| row.static_vram_GB)),
        ];
        text.extend(["| ", &cells.join(" | "), " |\n"]);
    }
    text.push('\n');
    text
}

fn with_interval(estimate: &Estimate) -> String {
    match estimate.interval {
        Some(interval) if interval.low < interval.high => format!(
            "{} [{}, {}]",
            number(Some(estimate.value)),
            number(Some(interval.low)),
            number(Some(interval.high))
        ),
        _ => number(Some(estimate.value)),
    }
}

fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.2} %", share * 100.0)
    } else {
        "-".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_records::quality_record;

    #[test]
    fn a_card_has_a_row_a_mode_and_says_what_is_missing() {
        assert_eq!(card(&Inputs::default()), "");
        let inputs = Inputs {
            quality_records: vec![quality_record("8bit"), quality_record("4bit_nf4")],
            ..Inputs::default()
        };
        let card = card(&inputs);
        assert!(card.contains("**tiny**, float32 on cuda:0 (candle), condition full: 4 sequences"));
        let rows: Vec<&str> = card.lines().filter(|line| line.starts_with("| `")).collect();
        assert!(rows[0].starts_with("| `4bit_nf4` | 0.03") && rows[1].starts_with("| `8bit` |"));
        assert!(rows[0].ends_with("| - | - | - | - | - |"), "{}", rows[0]);
    }
}
