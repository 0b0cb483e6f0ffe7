//! Cells about biology: what a model says of some windows, compared with what the reference said.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use qbench_core::{
    biology::{
        Fragment, binning, log_likelihood,
        strands::{self, StrandScores, bits_per_base, reverse_complement},
        variants::{self, Site, VariantScores, sample_sites},
    },
    data::Dataset,
    invariants,
    results::{Evaluation, StrandPair, VariantScore},
    workload::{TokenisedSequence, WindowTokenizer},
};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    CellJob, CellOutcome, Question,
    forward::{embedding, logits_and_embedding},
    load::{Loaded, load, open_checkpoint},
    workload::{prepare_with_data, window_tokenizer},
};

/// What the reference said, in its directory.
const REFERENCE_FILE: &str = "reference.json";

/// Asks the reference and writes what it says into `directory`.
pub(super) fn make_reference(job: &CellJob, question: Question, directory: &Path) -> Result<CellOutcome> {
    let mut examination = Examination::new(job)?;
    match question {
        Question::ReverseComplement { window_bases } => {
            write(directory, &examination.strands(window_bases)?)?;
        }
        Question::Variants {
            window_bases,
            positions,
        } => write(directory, &examination.variants(window_bases, positions)?)?,
        Question::Binning => {
            let embeddings = examination.embeddings()?;
            write(
                directory,
                &binning::reference(&examination.fragments(), &embeddings),
            )?;
        }
    }
    Ok(CellOutcome {
        execution: examination.loaded.execution,
        ..CellOutcome::default()
    })
}

/// Asks a mode and compares what it says with what the reference said.
pub(super) fn compare(job: &CellJob, question: Question, directory: &Path) -> Result<CellOutcome> {
    let mut examination = Examination::new(job)?;
    let evaluation = match question {
        Question::ReverseComplement { window_bases } => {
            let found = examination.strands(window_bases)?;
            Evaluation::ReverseComplement(strands::compare(&read(directory)?, found, &mut generator(job))?)
        }
        Question::Variants {
            window_bases,
            positions,
        } => {
            let found = examination.variants(window_bases, positions)?;
            Evaluation::Variants(variants::compare(&read(directory)?, found, &mut generator(job))?)
        }
        Question::Binning => {
            let embeddings = examination.embeddings()?;
            Evaluation::Binning(binning::compare(
                &read(directory)?,
                &examination.fragments(),
                &embeddings,
            )?)
        }
    };
    Ok(CellOutcome {
        execution: examination.loaded.execution,
        violations: invariants::evaluation(&evaluation),
        evaluation: Some(evaluation),
        ..CellOutcome::default()
    })
}

/// Seeded alike for every mode, so that all get the same positions.
fn generator(job: &CellJob) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(job.seed)
}

/// A loaded model and the fragments of its condition.
struct Examination {
    dataset: Dataset,
    sequences: Vec<TokenisedSequence>,
    tokenizer: WindowTokenizer,
    loaded: Loaded,
    generator: Xoshiro256PlusPlus,
}

impl Examination {
    fn new(job: &CellJob) -> Result<Self> {
        let checkpoint = open_checkpoint(job)?;
        let (prepared, dataset) = prepare_with_data(job, &checkpoint)?;
        Ok(Self {
            dataset: dataset.context("random tokens have no bases")?,
            sequences: prepared.workload.sequences,
            tokenizer: window_tokenizer(job, &checkpoint)?,
            loaded: load(job, &checkpoint)?,
            generator: generator(job),
        })
    }

    /// The fragments, cut to the bases that the condition keeps.
    fn fragments(&self) -> Vec<Fragment<'_>> {
        let fragment = |sequence: &TokenisedSequence| {
            let whole = &self.dataset.sequences[sequence.index];
            Fragment {
                genome_id: &whole.genome_id,
                fragment_id: &whole.fragment_id,
                // One byte a base: a data set holds A C G T N only.
                bases: &whole.bases[..sequence.bases.min(whole.bases.len())],
            }
        };
        self.sequences.iter().map(fragment).collect()
    }

    /// The first bases of every fragment, read in both directions.
    fn strands(&mut self, window_bases: usize) -> Result<StrandScores> {
        let windows: Vec<(String, String, String)> = self
            .fragments()
            .into_iter()
            .map(|fragment| {
                let end = window_bases.min(fragment.bases.len());
                let window = fragment.bases[..end].to_owned();
                (
                    fragment.genome_id.to_owned(),
                    fragment.fragment_id.to_owned(),
                    window,
                )
            })
            .collect();
        let mut scores = StrandScores::default();
        for (genome_id, fragment_id, window) in windows {
            let (forward, one) = self.likelihood(&window)?;
            let (reverse, other) = self.likelihood(&reverse_complement(&window))?;
            scores.windows.push(StrandPair {
                genome_id,
                fragment_id,
                bases: window.len() as u64,
                bits_per_base: [forward, reverse].map(|nats| bits_per_base(nats, window.len())),
                cosine: strands::cosine(&one, &other),
                ..StrandPair::default()
            });
        }
        Ok(scores)
    }

    /// All substitutions at positions drawn with the run's seed.
    fn variants(&mut self, window_bases: usize, positions: usize) -> Result<VariantScores> {
        let mut scores = VariantScores {
            window: window_bases,
            scores: Vec::new(),
        };
        let mut generator = self.generator.clone();
        let fragments = self.fragments();
        let sites = sample_sites(&fragments, positions, window_bases, &mut generator);
        let mut windows = Vec::new();
        for site in &sites {
            let alternatives = site
                .alternatives()
                .map(|(base, window)| (variant(site, base), window));
            windows.push((site.window().to_owned(), alternatives.collect::<Vec<_>>()));
        }
        for (window, alternatives) in windows {
            let (unchanged, _) = self.likelihood(&window)?;
            for (variant, window) in alternatives {
                let (changed, _) = self.likelihood(&window)?;
                scores.scores.push(VariantScore {
                    score: changed - unchanged,
                    ..variant
                });
            }
        }
        Ok(scores)
    }

    /// ln p of a window's bases, and its embedding.
    fn likelihood(&mut self, window: &str) -> Result<(f64, Vec<f32>)> {
        let tokens = self.tokenizer.tokenise(window)?;
        let (logits, embedding) = logits_and_embedding(&mut self.loaded, &tokens.ids)?;
        let vocabulary = self.loaded.info.vocab_size;
        let nats = log_likelihood(&logits, vocabulary, &tokens.ids, &tokens.bases)?;
        Ok((nats, embedding))
    }

    /// The embedding of every fragment, special tokens included.
    fn embeddings(&mut self) -> Result<Vec<Vec<f32>>> {
        let loaded = &mut self.loaded;
        self.sequences
            .iter()
            .map(|sequence| embedding(loaded, &sequence.ids))
            .collect()
    }
}

fn variant(site: &Site<'_>, alternative_base: char) -> VariantScore {
    VariantScore {
        genome_id: site.fragment.genome_id.to_owned(),
        fragment_id: site.fragment.fragment_id.to_owned(),
        position: site.position as u64 + 1,
        reference_base: site.reference_base(),
        alternative_base,
        ..VariantScore::default()
    }
}

fn write(directory: &Path, value: &impl Serialize) -> Result<()> {
    let path = directory.join(REFERENCE_FILE);
    let write = || fs::write(&path, serde_json::to_vec(value)?).map_err(anyhow::Error::from);
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn read<T: DeserializeOwned>(directory: &Path) -> Result<T> {
    let path = directory.join(REFERENCE_FILE);
    let read = || Ok::<T, anyhow::Error>(serde_json::from_slice(&fs::read(&path)?)?);
    read().with_context(|| format!("cannot read the reference {}", path.display()))
}
