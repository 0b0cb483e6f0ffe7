//! A comparison as text for the terminal and as markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::comparison::{ComparedCell, Comparison, Missing, Speed, Statistic};
use super::measured::CellKey;
use super::quality::{ComparedQuality, QualityVerdict};
use crate::analysis::significant;
use crate::report::text_table::TextTable;
use crate::statistics::Effect;

/// Digits of times and rates.
const DIGITS: usize = 4;

/// The comparison for the terminal: what was asked, a table, what is ambiguous and why, what has no partner.
pub fn text(comparison: &Comparison) -> String {
    let layout = Layout::of(comparison);
    let mut text = layout.heading(comparison);
    if !comparison.cells.is_empty() {
        let mut table = TextTable::new(layout.header());
        for cell in &comparison.cells {
            table.push(layout.row(cell));
        }
        let _ = write!(text, "\n{}", table.render());
    }
    if !comparison.quality.is_empty() {
        let mut table = TextTable::new(QUALITY_HEADER);
        for metric in &comparison.quality {
            table.push(layout.quality_row(metric));
        }
        let _ = write!(text, "\n{}", table.render());
    }
    for (title, lines) in layout.sections(comparison) {
        let _ = write!(text, "\n{title}:\n");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    let _ = write!(text, "\n{}\n", tally(comparison));
    text
}

/// The comparison as markdown, for a pull request or a notebook.
pub fn markdown(comparison: &Comparison) -> String {
    let layout = Layout::of(comparison);
    let line = |fields: &[String]| {
        let fields: Vec<String> = fields.iter().map(|field| field.replace('|', "\\|")).collect();
        format!("| {} |\n", fields.join(" | "))
    };
    let mut text = format!("**{}**\n\n", tally(comparison));
    for paragraph in layout.heading(comparison).lines() {
        let _ = writeln!(text, "- {paragraph}");
    }
    if !comparison.cells.is_empty() {
        text.push('\n');
        text.push_str(&head(&layout.header(), line));
        for cell in &comparison.cells {
            text.push_str(&line(&layout.row(cell)));
        }
    }
    if !comparison.quality.is_empty() {
        text.push('\n');
        text.push_str(&head(&QUALITY_HEADER, line));
        for metric in &comparison.quality {
            text.push_str(&line(&layout.quality_row(metric)));
        }
    }
    for (title, lines) in layout.sections(comparison) {
        let _ = write!(text, "\n{title}:\n\n");
        for line in lines {
            let _ = writeln!(text, "- {line}");
        }
    }
    text
}

/// The header of a markdown table and the rule below it: the first column to the left, the others to the right.
fn head(header: &[&str], line: impl Fn(&[String]) -> String) -> String {
    let names: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let rules: Vec<String> = (0..header.len())
        .map(|column| if column == 0 { ":--" } else { "--:" }.to_owned())
        .collect();
    line(&names) + &line(&rules)
}

/// `1 SLOWER, 4 SAME`, the worst first.
fn tally(comparison: &Comparison) -> String {
    let counts = [Effect::Slower, Effect::Ambiguous, Effect::Faster, Effect::Same]
        .map(|verdict| (comparison.count(verdict), word(verdict)));
    let quality = [
        QualityVerdict::Worse,
        QualityVerdict::Ambiguous,
        QualityVerdict::Better,
        QualityVerdict::Equivalent,
    ]
    .map(|verdict| (comparison.count_quality(verdict), quality_word(verdict)));
    let failed = (comparison.failed_in_b(), "FAILED in B");
    let parts: Vec<String> = std::iter::once(failed)
        .chain(counts)
        .chain(quality)
        .filter(|&(count, _)| count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    parts.join(", ")
}

/// A share in per cent, without the rounding of the multiplication.
pub(super) fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

fn word(verdict: Effect) -> &'static str {
    match verdict {
        Effect::Same => "SAME",
        Effect::Faster => "FASTER",
        Effect::Slower => "SLOWER",
        Effect::Ambiguous => "AMBIGUOUS",
    }
}

/// In a tally beside verdicts of speed.
fn quality_word(verdict: QualityVerdict) -> &'static str {
    match verdict {
        QualityVerdict::Ambiguous => "AMBIGUOUS in quality",
        other => other.as_str(),
    }
}

const QUALITY_HEADER: [&str; 8] = ["cell", "metric", "verdict", "B / A", "95 %", "pairs", "A", "B"];

/// Which parts of a cell's key are the same everywhere and stand above the table.
struct Layout {
    common: Vec<(&'static str, String)>,
    bases: bool,
}

impl Layout {
    fn of(comparison: &Comparison) -> Self {
        let missing = [
            &comparison.only_in_a,
            &comparison.only_in_b,
            &comparison.quality_only_in_a,
            &comparison.quality_only_in_b,
        ]
        .into_iter()
        .flatten();
        let keys: Vec<&CellKey> = comparison
            .cells
            .iter()
            .map(|cell| &cell.cell)
            .chain(comparison.quality.iter().map(|metric| &metric.cell))
            .chain(missing.map(|missing| &missing.cell))
            .collect();
        let first = keys.first().map(|key| key.fields()).unwrap_or_default();
        let common = first
            .into_iter()
            .filter(|field| field.0 != "mode" && keys.iter().all(|key| key.fields().contains(field)))
            .collect();
        Self {
            common,
            bases: comparison
                .cells
                .iter()
                .any(|cell| cell.a.bases_per_s.is_some() && cell.b.bases_per_s.is_some()),
        }
    }

    /// A cell's name: what is not common to all.
    fn name(&self, key: &CellKey) -> String {
        let own: Vec<String> = key
            .fields()
            .into_iter()
            .filter(|field| !self.common.contains(field))
            .map(|(name, value)| {
                if name == "batch size" {
                    format!("batch {value}")
                } else {
                    value
                }
            })
            .collect();
        own.join(" ")
    }

    fn heading(&self, comparison: &Comparison) -> String {
        let statistics: BTreeSet<&str> = comparison
            .cells
            .iter()
            .map(|cell| match cell.statistic {
                Statistic::Median => "the median of each block",
                Statistic::Mean => "the mean of each block (one side kept no samples)",
            })
            .collect();
        let statistic = statistics.into_iter().collect::<Vec<_>>().join(" or ");
        let common: Vec<String> = self
            .common
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let mut text = format!("A: {}\nB: {}\n", comparison.a.display(), comparison.b.display());
        if !common.is_empty() {
            let _ = writeln!(text, "{}", common.join(", "));
        }
        if !comparison.quality.is_empty() {
            let _ = writeln!(
                text,
                "quality: B / A paired by sequence, above 1 is worse; margins {} % of the KL, {} % of the perplexity",
                percent(comparison.quality_margins.kl),
                percent(comparison.quality_margins.perplexity)
            );
        }
        if !comparison.cells.is_empty() {
            let _ = writeln!(
                text,
                "time per batch: {statistic}; B / A over paired blocks with its 95 % interval, above 1 is slower; memory: B / A"
            );
        }
        let _ = writeln!(
            text,
            "verdicts: paired t of log ratios, margin {} % of the time, alpha {}, Holm-corrected over {} ratios",
            percent(comparison.margin),
            comparison.alpha,
            comparison.tested
        );
        text
    }

    fn header(&self) -> Vec<&'static str> {
        let mut header = vec![
            "cell",
            "verdict",
            "B / A",
            "95 %",
            "blocks",
            "A ms",
            "B ms",
            "A tokens/s",
            "B tokens/s",
        ];
        if self.bases {
            header.extend(["A bases/s", "B bases/s"]);
        }
        header.extend(["static", "peak"]);
        header
    }

    fn row(&self, cell: &ComparedCell) -> Vec<String> {
        let ratio =
            |value: Option<f64>| value.map_or_else(|| "n/a".to_owned(), |value| format!("{value:.3}"));
        let interval = cell.time.map(|time| time.interval);
        let both = |value: fn(&Speed) -> Option<f64>| {
            [&cell.a, &cell.b].map(|speed| significant(value(speed), DIGITS))
        };
        let mut row = vec![
            self.name(&cell.cell),
            word(cell.verdict).to_owned(),
            ratio(cell.time.map(|time| time.ratio)),
            interval.map_or_else(
                || "n/a".to_owned(),
                |interval| format!("{:.3}–{:.3}", interval.low, interval.high),
            ),
            cell.blocks.to_string(),
        ];
        row.extend(both(|speed| speed.batch_ms));
        row.extend(both(|speed| speed.tokens_per_s));
        if self.bases {
            row.extend(both(|speed| speed.bases_per_s));
        }
        row.extend([ratio(cell.memory.static_ratio), ratio(cell.memory.peak_ratio)]);
        row
    }

    fn quality_row(&self, metric: &ComparedQuality) -> Vec<String> {
        let ratio = metric.ratio.as_ref();
        vec![
            self.name(&metric.cell),
            metric.metric.as_str().to_owned(),
            metric.verdict.as_str().to_owned(),
            ratio.map_or_else(|| "n/a".to_owned(), |ratio| format!("{:.4}", ratio.ratio)),
            ratio.map_or_else(
                || "n/a".to_owned(),
                |ratio| format!("{:.4}–{:.4}", ratio.interval.low, ratio.interval.high),
            ),
            metric.pairs.to_string(),
            significant(metric.a, DIGITS),
            significant(metric.b, DIGITS),
        ]
    }

    /// Titles and lines of what does not go into the table; those without lines are left out.
    fn sections(&self, comparison: &Comparison) -> Vec<(&'static str, Vec<String>)> {
        let ambiguous = comparison.cells.iter().filter_map(|cell| {
            let reason = cell.reason.as_ref()?;
            Some(format!("{}: {reason}", self.name(&cell.cell)))
        });
        let ambiguous = ambiguous.chain(comparison.quality.iter().filter_map(|metric| {
            let reason = metric.reason.as_ref()?;
            Some(format!(
                "{}, {}: {reason}",
                self.name(&metric.cell),
                metric.metric.as_str()
            ))
        }));
        let unpaired = comparison
            .cells
            .iter()
            .filter(|cell| cell.unpaired_a + cell.unpaired_b > 0)
            .map(|cell| {
                format!(
                    "{}: {} of A, {} of B",
                    self.name(&cell.cell),
                    cell.unpaired_a,
                    cell.unpaired_b
                )
            });
        let missing = |missing: &[Missing]| {
            missing
                .iter()
                .map(|missing| {
                    let why = missing.failure.as_ref();
                    let why = why.map_or_else(
                        || "not measured in the other".to_owned(),
                        |failure| format!("failed in the other: {failure}"),
                    );
                    format!("{}: {why}", self.name(&missing.cell))
                })
                .collect()
        };
        let sections = [
            ("ambiguous", ambiguous.collect()),
            ("blocks without a partner, left out", unpaired.collect()),
            ("only in A", missing(&comparison.only_in_a)),
            ("only in B", missing(&comparison.only_in_b)),
            ("quality only in A", missing(&comparison.quality_only_in_a)),
            ("quality only in B", missing(&comparison.quality_only_in_b)),
        ];
        sections
            .into_iter()
            .filter(|(_, lines): &(_, Vec<String>)| !lines.is_empty())
            .collect()
    }
}
