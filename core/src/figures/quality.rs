//! The figures of what a mode does to the model's outputs.

use std::path::{Path, PathBuf};

use super::page::{Modes, Page};
use super::panel::{Mark, Panel};
use super::scale::{ScaleKind, value_label};
use super::{FigureError, describe};
use crate::analysis::{QualityRows, quality_mixture};
use crate::results::{LOGITS_LAYER, QualityRow};
use crate::statistics::Summary;

/// Values further apart than this get a logarithmic axis: on a linear one the smallest bar would be under 3 % of the
/// largest.
const LOGARITHMIC_FROM: f64 = 30.0;

/// Significant digits of perplexities.
const PERPLEXITY_DIGITS: usize = 4;

type Column = fn(&QualityRow) -> Option<f64>;

/// How a metric is shown.
#[derive(Clone, Copy)]
struct Metric {
    title: &'static str,
    axis: &'static str,
    column: Column,
    digits: usize,
    /// Fixed kind of axis; else bars from zero, or logarithmic when values are far apart.
    kind: Option<ScaleKind>,
    /// The largest value, that of a perfect mode, where there is one.
    limit: f64,
}

const KL: Metric = Metric {
    title: "KL divergence (histograms)",
    axis: "KL divergence (nats)",
    column: |row| row.kl_divergence,
    digits: 2,
    kind: None,
    limit: f64::INFINITY,
};
const JS: Metric = Metric {
    title: "Jensen–Shannon divergence (histograms)",
    axis: "JS divergence (nats)",
    column: |row| row.js_divergence,
    digits: 2,
    kind: None,
    limit: f64::INFINITY,
};
const COSINE: Metric = Metric {
    title: "Cosine similarity",
    axis: "Cosine similarity",
    column: |row| row.cosine_similarity,
    digits: 5,
    kind: Some(ScaleKind::Zoomed),
    limit: 1.0,
};
const SNR: Metric = Metric {
    title: "Signal-to-noise ratio",
    axis: "SNR (dB)",
    column: |row| row.snr_db,
    digits: 3,
    kind: Some(ScaleKind::FromZero),
    limit: f64::INFINITY,
};
const MSE: Metric = Metric {
    title: "Mean squared error",
    axis: "MSE",
    column: |row| row.mse,
    digits: 2,
    kind: None,
    limit: f64::INFINITY,
};

/// Draws the figures whose metrics were measured.
pub(super) fn draw(
    rows: &[QualityRow],
    quality: &QualityRows,
    modes: &Modes,
    directory: &Path,
) -> Result<Vec<PathBuf>, FigureError> {
    let layers = quality.pooled_layers();
    let shown = modes.only(|mode| {
        layers.iter().any(|layer| {
            quality
                .summary(mode, layer, |row| row.cosine_similarity.or(row.kl_divergence))
                .is_some()
        })
    });
    let subtitle = describe(rows.iter().filter(|row| row.is_ok()).map(QualityRow::setting)).join(" · ");
    let averaged = averaged_over(rows);
    let mut files = Vec::new();
    let mut save = |name: &str, page: Page| {
        if page.panels.iter().all(|panel| panel.marks.is_empty()) {
            return Ok(());
        }
        let path = directory.join(name);
        page.save(&path)?;
        files.push(path);
        Ok(())
    };
    let page = |title: &str, metrics: &[Metric], layers: &[&str], columns: usize| Page {
        title: title.to_owned(),
        subtitle: subtitle.clone(),
        panels: metrics
            .iter()
            .map(|metric| panel(*metric, quality, &shown, layers, metrics.len() > 1))
            .collect(),
        columns,
        variants: if layers.len() > 1 {
            layers.iter().map(|layer| layer_name(layer)).collect()
        } else {
            Vec::new()
        },
        notes: notes(quality, &shown, layers, &averaged),
        modes: &shown,
    };
    let both: Vec<&str> = layers.iter().copied().take(2).collect();
    save(
        "divergence_comparison.png",
        page(
            "Divergence of pooled embeddings from the reference",
            &[KL, JS],
            &both,
            2,
        ),
    )?;
    save(
        "cosine_similarity.png",
        page(
            "Cosine of pooled embeddings with the reference",
            &[COSINE],
            &both,
            1,
        ),
    )?;
    save(
        "snr_comparison.png",
        page("Signal-to-noise ratio of pooled embeddings", &[SNR], &both, 1),
    )?;
    for layer in &layers {
        let safe = |c: char| {
            if c.is_alphanumeric() || matches!(c, '_' | '-') {
                c
            } else {
                '_'
            }
        };
        let name = format!(
            "quality_metrics_{}.png",
            layer.chars().map(safe).collect::<String>()
        );
        let title = format!("Pooled embeddings against the reference: {}", layer_name(layer));
        save(&name, page(&title, &[KL, COSINE, SNR, MSE], &[layer], 2))?;
    }
    let path = directory.join("token_kl.png");
    if draw_tokens(quality, modes, (&subtitle, &averaged), &path)? {
        files.push(path);
    }
    Ok(files)
}

fn layer_name(layer: &str) -> String {
    match layer {
        "last" => "last hidden state".to_owned(),
        "second_last" => "second-last hidden state".to_owned(),
        other => other.to_owned(),
    }
}

fn panel(metric: Metric, quality: &QualityRows, modes: &Modes, layers: &[&str], titled: bool) -> Panel {
    let marks: Vec<Mark> = modes
        .names
        .iter()
        .enumerate()
        .flat_map(|(mode, name)| {
            layers.iter().enumerate().filter_map(move |(variant, layer)| {
                let Summary { mean, std, .. } = quality.summary(name, layer, metric.column)?;
                Some(Mark {
                    mode,
                    variant,
                    value: mean,
                    range: std.map(|std| (mean - std, mean + std)),
                    extreme: None,
                })
            })
        })
        .collect();
    Panel {
        title: if titled {
            metric.title.to_owned()
        } else {
            String::new()
        },
        axis: metric.axis.to_owned(),
        kind: metric.kind.unwrap_or_else(|| kind_for(&marks)),
        digits: metric.digits,
        variants: layers.len(),
        marks,
        reference: metric.limit.is_finite().then(|| (metric.limit, String::new())),
        limit: metric.limit,
    }
}

fn kind_for(marks: &[Mark]) -> ScaleKind {
    let positive = || {
        marks
            .iter()
            .map(|mark| mark.value)
            .filter(|value| *value > 0.0 && value.is_finite())
    };
    let (low, high) = (
        positive().fold(f64::INFINITY, f64::min),
        positive().fold(0.0, f64::max),
    );
    if high > LOGARITHMIC_FROM * low {
        ScaleKind::Logarithmic
    } else {
        ScaleKind::FromZero
    }
}

/// What means and error bars are over, for rows of several settings; empty when each mode has one row a layer.
fn averaged_over(rows: &[QualityRow]) -> String {
    quality_mixture(rows.iter().filter(|row| row.is_ok()))
        .map_or_else(String::new, |mixture| format!(" Averaged over {mixture}."))
}

/// What the marks of a page are.
fn notes(quality: &QualityRows, modes: &Modes, layers: &[&str], averaged: &str) -> String {
    let counts = modes.names.iter().flat_map(|mode| {
        layers.iter().filter_map(|layer| {
            quality.summary(mode, layer, |row| row.cosine_similarity.or(row.kl_divergence))
        })
    });
    let most = counts.map(|summary| summary.count).max().unwrap_or(0);
    let spread = if most > 1 {
        format!(" Error bars: ± 1 standard deviation of the up to {most} rows of a mode.")
    } else {
        String::new()
    };
    format!("Means over sequences of the metric of each sequence's pooled vector.{averaged}{spread}")
}

/// Draws token-level KL on a logarithmic axis, and perplexity beside it; `false` when there is neither.
fn draw_tokens(
    quality: &QualityRows,
    modes: &Modes,
    (subtitle, averaged): (&str, &str),
    path: &Path,
) -> Result<bool, FigureError> {
    let summary = |mode: &str, column: Column| {
        quality
            .summary(mode, LOGITS_LAYER, column)
            .map(|summary| summary.mean)
    };
    let shown = modes.only(|mode| summary(mode, |row| row.token_kl_mean.or(row.perplexity)).is_some());
    let modes = || shown.names.iter().enumerate();
    let divergence = modes().filter_map(|(mode, name)| {
        let ends = summary(name, |row| row.token_kl_median).zip(summary(name, |row| row.token_kl_p99));
        let extreme = summary(name, |row| row.token_kl_max);
        Some(Mark {
            mode,
            variant: 0,
            value: summary(name, |row| row.token_kl_mean)?,
            range: ends,
            extreme,
        })
    });
    let perplexity = modes().filter_map(|(mode, name)| {
        Some(Mark {
            mode,
            variant: 0,
            value: summary(name, |row| row.perplexity)?,
            range: None,
            extreme: None,
        })
    });
    // The reference is the same for all modes unless the directory mixes models or data; then no line is drawn.
    let references: Vec<Summary> = modes()
        .filter_map(|(_, name)| quality.summary(name, LOGITS_LAYER, |row| row.reference_perplexity))
        .collect();
    let low = references
        .iter()
        .map(|summary| summary.min)
        .fold(f64::INFINITY, f64::min);
    let high = references
        .iter()
        .map(|summary| summary.max)
        .fold(f64::NEG_INFINITY, f64::max);
    let reference = (low == high && low.is_finite())
        .then(|| (low, format!("reference {}", value_label(low, PERPLEXITY_DIGITS))));
    let panel = |title: &str, axis: &str, kind, digits, marks, reference| Panel {
        title: title.to_owned(),
        axis: axis.to_owned(),
        kind,
        digits,
        variants: 1,
        marks,
        reference,
        limit: f64::INFINITY,
    };
    let divergence = panel(
        "Divergence from the reference",
        "KL per token (nats)",
        ScaleKind::Logarithmic,
        2,
        divergence.collect(),
        None,
    );
    let perplexity: Vec<Mark> = perplexity.collect();
    let axis = "Perplexity";
    let perplexity = panel(
        "Perplexity",
        axis,
        zoomed_or_logarithmic(&perplexity),
        PERPLEXITY_DIGITS,
        perplexity,
        reference,
    );
    let panels: Vec<Panel> = [divergence, perplexity]
        .into_iter()
        .filter(|panel| !panel.marks.is_empty())
        .collect();
    if panels.is_empty() {
        return Ok(false);
    }
    let page = Page {
        title: "Next-token distribution".to_owned(),
        subtitle: subtitle.to_owned(),
        columns: panels.len(),
        panels,
        variants: Vec::new(),
        notes: format!(
            "KL(reference ‖ mode) over all tokens of all sequences. Points and labels: mean; bars: median to 99th \
             percentile; short line: largest.{averaged}"
        ),
        modes: &shown,
    };
    page.save(path)?;
    Ok(true)
}

fn zoomed_or_logarithmic(marks: &[Mark]) -> ScaleKind {
    if kind_for(marks) == ScaleKind::Logarithmic {
        ScaleKind::Logarithmic
    } else {
        ScaleKind::Zoomed
    }
}
