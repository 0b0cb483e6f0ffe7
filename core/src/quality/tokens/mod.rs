//! The next-token distributions of a mode against the reference's.

mod pair;
mod position;
mod quantiles;
mod report;
mod sequence;
mod sums;
#[cfg(test)]
mod tests;
mod windows;

use std::io;
use std::path::Path;

pub use pair::{Compared, Prediction, SequencePair, TokenComparison, window_nll};
pub use report::TokenReport;
pub use sequence::{SequenceInfo, SlidingNll, gc_share};
pub use windows::{Window, windows};

use crate::statistics::StreamedValues;
use sequence::{SequenceSums, Totals, confidence_group};
use sums::Of;

/// Adds up the comparisons of all positions of all sequences; what it holds in memory grows with the number of sequences,
/// not of positions.
///
/// Divergences are taken at every position, the last included. nll, accuracy and with them perplexity are taken at every
/// position after the first: the logits at `t` predict token `t + 1`, special tokens included (the loss of transformers
/// with `labels = input_ids`). A position where either side has a logit that is not finite takes part in nothing.
#[derive(Debug)]
pub struct TokenAccumulator {
    genomes: Vec<String>,
    sequences: Vec<SequenceSums>,
    totals: Totals,
    kl: StreamedValues,
    kl_reverse: StreamedValues,
    js: StreamedValues,
    delta_p: StreamedValues,
}

impl TokenAccumulator {
    /// Nothing compared yet. `directory` is where values go that are too many for memory.
    pub fn new(directory: &Path) -> Self {
        let values = || StreamedValues::new(directory);
        Self {
            genomes: Vec::new(),
            sequences: Vec::new(),
            totals: Totals::default(),
            kl: values(),
            kl_reverse: values(),
            js: values(),
            delta_p: values(),
        }
    }

    /// Takes the positions of one sequence, in order, and its nll over sliding windows where that was asked for.
    ///
    /// # Errors
    /// The disk's.
    pub fn add(
        &mut self,
        info: SequenceInfo<'_>,
        positions: &[TokenComparison],
        sliding: Option<SlidingNll>,
    ) -> io::Result<()> {
        let genome = self.genome(info.genome);
        let mut sequence = SequenceSums::new(info, genome, sliding);
        for position in positions {
            self.totals.excluded.add(position);
            let Some(compared) = &position.compared else {
                continue;
            };
            sequence.total.add_position(compared);
            let group = confidence_group(compared.confidence);
            sequence.confidence[group][0] += 1.0;
            sequence.confidence[group][1] += compared.kl;
            self.totals.confidence[group].add_position(compared);
            self.kl.push(compared.kl)?;
            self.kl_reverse.push(compared.kl_reverse)?;
            self.js.push(compared.js)?;
            if let Some(prediction) = &compared.prediction {
                self.totals.predictions.add(prediction);
                self.delta_p.push(prediction.delta_p())?;
            }
        }
        self.sequences.push(sequence);
        Ok(())
    }

    /// The genome's index; sequences of a genome mostly follow each other.
    fn genome(&mut self, id: &str) -> usize {
        let known = self.genomes.iter().rposition(|known| known == id);
        known.unwrap_or_else(|| {
            self.genomes.push(id.to_owned());
            self.genomes.len() - 1
        })
    }

    /// The numbers over everything taken so far. Without any position, prediction or base the numbers that need one are
    /// NaN. `seed` draws the intervals' resamples.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(self, seed: u64) -> io::Result<TokenReport> {
        let Self {
            genomes,
            sequences,
            totals,
            mut kl,
            mut kl_reverse,
            mut js,
            mut delta_p,
        } = self;
        // What the intervals draw, as in the report.
        let one_genome = genomes.len() == 1;
        let clusters = if one_genome {
            sequences.len()
        } else {
            genomes.len()
        };
        let quantiles = |values: &mut StreamedValues, counted: Of| {
            let runs = sequences.iter().enumerate().map(|(index, sequence)| {
                let cluster = if one_genome { index } else { sequence.genome };
                (cluster, sequence.total.count(counted))
            });
            quantiles::quantiles(values, runs, clusters, seed)
        };
        let quantiles = [
            quantiles(&mut kl, Of::Positions)?,
            quantiles(&mut kl_reverse, Of::Positions)?,
            quantiles(&mut js, Of::Positions)?,
            quantiles(&mut delta_p, Of::Predicted)?,
        ];
        Ok(report::Parts {
            genomes,
            sequences,
            totals,
            quantiles,
            seed,
        }
        .report())
    }
}
