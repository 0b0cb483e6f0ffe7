//! A run under way: one cell after the other, each kept as it ends.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use qbench_core::{
    invariants,
    results::{
        Cell, CellKind, Evaluation, GenerationTimes, PluginUse, Quality, RECORD_SCHEMA, Record, Status,
        is_noise_floor,
    },
};

use super::{OutDir, Plan, PlannedCell, Progress, QualityGroup, Schedule};
use crate::{
    child::{self, ChildFailure, Limits, Verb},
    cli::precision_name,
    interrupt, printer,
    worker::{CellJob, CellOutcome},
};

/// A run under way.
pub struct Session<'a> {
    plan: &'a Plan,
    pub outdir: OutDir,
    schedule: Schedule,
    progress: Progress,
    force: bool,
    /// Cells that have no numbers, or none to be believed.
    pub failed: usize,
    /// The cells of this run so far, those of an earlier run that were kept among them.
    pub records: Vec<Record>,
}

impl<'a> Session<'a> {
    /// A run of the cells of `schedule` into `outdir`; with `force`, finished cells of an earlier run are run again.
    pub fn new(plan: &'a Plan, schedule: Schedule, outdir: OutDir, force: bool, quiet: bool) -> Self {
        let progress = Progress::new(schedule.len(), quiet, "cells");
        Self {
            plan,
            outdir,
            schedule,
            progress,
            force,
            failed: 0,
            records: Vec::new(),
        }
    }

    /// Runs every cell that is not finished yet, until a signal comes.
    ///
    /// # Errors
    /// Results cannot be written.
    pub fn run(&mut self) -> Result<()> {
        let schedule = std::mem::take(&mut self.schedule);
        for planned in &schedule.performance {
            self.cell(planned)?;
        }
        for group in &schedule.quality {
            self.quality(group)?;
        }
        for planned in &schedule.layers {
            self.cell(planned)?;
        }
        for cell in schedule.synthetic {
            self.note_synthetic(cell)?;
        }
        self.progress.end();
        self.outdir.finish()
    }

    fn cell(&mut self, planned: &PlannedCell) -> Result<()> {
        if interrupt::pending().is_some() {
            return Ok(());
        }
        if self.keep_earlier(planned) {
            return Ok(());
        }
        self.progress.start(&describe(&planned.cell));
        let outcome = child::run(Verb::Cell, &planned.job, self.limits(), &|line| {
            self.progress.line(line);
        });
        self.keep(&planned.cell, &planned.job, outcome)
    }

    /// Takes over what an earlier run has of the cell, if it finished it.
    fn keep_earlier(&mut self, planned: &PlannedCell) -> bool {
        let Some(record) = self.finished(planned).cloned() else {
            return false;
        };
        self.progress
            .finish(&format!("{}: kept from an earlier run", describe(&planned.cell)));
        self.records.push(record);
        true
    }

    /// The record of a cell that an earlier run finished with plugins of the same content.
    fn finished(&self, planned: &PlannedCell) -> Option<&Record> {
        let plugins = plugins_of(&planned.job);
        let same = |record: &Record| {
            let content = |plugin: &PluginUse| (plugin.id.clone(), plugin.sha256.clone());
            record.plugins.iter().map(content).eq(plugins.iter().map(content))
        };
        self.outdir
            .records()
            .iter()
            .filter(|_| !self.force)
            .find(|record| record.cell == planned.cell && record.status == Status::Ok && same(record))
    }

    fn limits(&self) -> Limits {
        Limits {
            time: Some(Duration::from_secs_f64(self.plan.cell_timeout_seconds)),
            memory: self.plan.memory_limit_bytes,
        }
    }

    /// The reference of a condition, then every mode; without a reference, the modes fail with its reason.
    fn quality(&mut self, group: &QualityGroup) -> Result<()> {
        if interrupt::pending().is_some() {
            return Ok(());
        }
        let made = if group.made {
            Ok(())
        } else if group.modes.iter().all(|planned| self.finished(planned).is_some()) {
            self.progress
                .finish(&format!("reference, {}: not needed again", group.name));
            Ok(())
        } else {
            self.make_reference(group)?
        };
        for planned in &group.modes {
            match &made {
                Ok(()) => self.cell(planned)?,
                // A reference that fails now takes nothing away from what was finished with an earlier one.
                Err(_) if self.keep_earlier(planned) => {}
                Err(failure) => {
                    let reason = format!("the reference failed: {}", failure.reason);
                    let failure = ChildFailure {
                        reason,
                        ..failure.clone()
                    };
                    self.keep(&planned.cell, &planned.job, Err(failure))?;
                }
            }
        }
        let directory = self.outdir.reference();
        if directory.exists() && !self.plan.keep_reference {
            fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        Ok(())
    }

    fn make_reference(&mut self, group: &QualityGroup) -> Result<Result<(), ChildFailure>> {
        let precision = precision_name(group.reference.compute);
        let what = format!("reference ({precision} standard), {}", group.name);
        fs::create_dir_all(&group.directory)
            .with_context(|| format!("create {}", group.directory.display()))?;
        self.progress.start(&what);
        let made = child::run::<_, CellOutcome>(Verb::Cell, &group.reference, self.limits(), &|line| {
            self.progress.line(line);
        });
        if interrupt::pending().is_none() {
            self.progress.finish(&match &made {
                Ok(_) => format!("{what}: ok"),
                Err(failure) => format!("{what}: {}", failure.reason),
            });
        }
        Ok(made.map(|_| ()))
    }

    /// Records a cell that has nothing to measure: its row is there and empty.
    fn note_synthetic(&mut self, cell: Cell) -> Result<()> {
        if interrupt::pending().is_some() {
            return Ok(());
        }
        if let Some(earlier) = self.outdir.records().iter().find(|record| record.cell == cell) {
            self.records.push(earlier.clone());
            return Ok(());
        }
        let mut record = record(cell, Vec::new());
        record.quality = Some(Quality {
            reason: "synthetic".to_owned(),
            ..Quality::default()
        });
        self.outdir.keep(&record)?;
        self.records.push(record);
        Ok(())
    }

    fn keep(&mut self, cell: &Cell, job: &CellJob, outcome: Result<CellOutcome, ChildFailure>) -> Result<()> {
        if outcome.is_err() && interrupt::pending().is_some() {
            // It was stopped, it did not fail: it runs again when the run goes on.
            return Ok(());
        }
        let mut record = record(cell.clone(), plugins_of(job));
        match outcome {
            Ok(outcome) => {
                record.execution = outcome.execution;
                record.warnings = outcome.warnings;
                if tells_of_weights(cell) {
                    record.weights = outcome.weights;
                }
                record.performance = outcome.performance;
                record.quality = outcome.quality;
                if !outcome.violations.is_empty() {
                    record.status = Status::Invalid;
                    record.reason = invariants::describe(&outcome.violations);
                    record.violations = outcome.violations;
                    self.failed += 1;
                }
                record.evaluation = outcome.evaluation;
            }
            Err(failure) => {
                record.status = failure.status;
                record.reason = match failure.status {
                    Status::TimedOut => format!("{}; --cell-timeout sets the limit", failure.reason),
                    _ => failure.reason,
                };
                self.failed += 1;
            }
        }
        self.outdir.keep(&record)?;
        let line = format!("{}: {}", describe(cell), outcome_text(&record));
        self.progress.finish(&match record.status {
            Status::Ok => line,
            _ => printer::red(&line, &std::io::stderr()),
        });
        self.say_how_many_were_cut(&record);
        self.records.push(record);
        Ok(())
    }

    /// Says once a condition how many sequences lost tokens to the limit.
    fn say_how_many_were_cut(&self, record: &Record) {
        let condition = &record.cell.condition;
        let known = |earlier: &Record| earlier.cell.condition == *condition && earlier.performance.is_some();
        if let Some(performance) = &record.performance
            && performance.truncated_sequences > 0
            && !self.records.iter().any(known)
        {
            self.progress.line(&format!(
                "{condition}: {} sequences were longer than the limit of tokens and were cut",
                performance.truncated_sequences
            ));
        }
    }
}

/// Whether the weights of a cell are those of its mode as a user runs it: neither a part of them nor the noise floor.
fn tells_of_weights(cell: &Cell) -> bool {
    cell.kind != CellKind::Sensitivity && !is_noise_floor(&cell.mode)
}

fn record(cell: Cell, plugins: Vec<PluginUse>) -> Record {
    Record {
        schema: RECORD_SCHEMA.to_owned(),
        cell,
        status: Status::Ok,
        reason: String::new(),
        plugins,
        execution: Vec::new(),
        warnings: Vec::new(),
        violations: Vec::new(),
        weights: Vec::new(),
        performance: None,
        quality: None,
        evaluation: None,
    }
}

fn plugins_of(job: &CellJob) -> Vec<PluginUse> {
    let (scheme, backend) = (&job.scheme, &job.backend);
    vec![
        PluginUse {
            id: scheme.id.clone(),
            path: scheme.path.clone(),
            sha256: scheme.sha256.clone(),
        },
        PluginUse {
            id: backend.info.id.clone(),
            path: backend.path.clone(),
            sha256: backend.sha256.clone(),
        },
    ]
}

/// A cell in words.
pub fn describe(cell: &Cell) -> String {
    match cell.kind {
        CellKind::Performance => format!(
            "{}, {}, batch size {}, repeat {}",
            cell.mode,
            cell.condition,
            cell.batch_size,
            cell.repeat + 1
        ),
        CellKind::Sensitivity => format!("{} in {} only, {}", cell.mode, cell.part, cell.condition),
        kind => format!("{}, {}, {}", cell.mode, cell.condition, kind.as_str()),
    }
}

/// How a cell ended, in words.
pub fn outcome_text(record: &Record) -> String {
    if record.status != Status::Ok {
        return format!("{}: {}", record.status.as_str(), record.reason);
    }
    if let Some(performance) = &record.performance {
        let seconds: f64 = performance.batch_seconds.iter().sum();
        let rate = format!("{:.0} tokens/s", performance.tokens as f64 / seconds);
        return match performance.generation_times() {
            Some(GenerationTimes {
                first_token,
                each_further_token: Some(further),
            }) => {
                format!(
                    "{rate}, {:.1} ms to the first, {:.2} ms a further one",
                    first_token * 1e3,
                    further * 1e3
                )
            }
            Some(GenerationTimes {
                first_token,
                each_further_token: None,
            }) => {
                format!("{rate}, {:.1} ms to the first", first_token * 1e3)
            }
            None => rate,
        };
    }
    if let Some(evaluation) = &record.evaluation {
        return evaluation_text(evaluation);
    }
    let tokens = record
        .quality
        .as_ref()
        .and_then(|quality| quality.tokens_level.as_ref());
    tokens.map_or_else(
        || "ok".to_owned(),
        |tokens| {
            format!(
                "KL {:.3e} nats, perplexity {:.2}",
                tokens.kl.mean.value, tokens.perplexity.value
            )
        },
    )
}

fn evaluation_text(evaluation: &Evaluation) -> String {
    let number =
        |value: Option<f64>| value.map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"));
    match evaluation {
        Evaluation::Layers(layers) => match layers.hidden_states.last() {
            Some(last) => format!(
                "SNR of the last of {} {:.1} dB",
                layers.hidden_states.len(),
                last.snr_db
            ),
            None => "no hidden states".to_owned(),
        },
        Evaluation::ReverseComplement(strands) => format!(
            "strands differ by {} bits per base (reference {})",
            number(strands.strand_difference),
            number(strands.reference_strand_difference)
        ),
        Evaluation::Variants(variants) => {
            format!(
                "Spearman's correlation with the reference {}",
                number(variants.spearman)
            )
        }
        Evaluation::Binning(binning) => format!(
            "adjusted Rand index {} (reference {})",
            number(binning.agreement.ari),
            number(binning.reference_agreement.ari)
        ),
    }
}
