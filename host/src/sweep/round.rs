//! The submissions of a sweep, each a folder `rounds/0001/` with lists of tasks, what was done with them, and logs.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use qbench_core::bounded;

use super::{
    SweepDirectory,
    directory::{entries, make_first_free},
};
use crate::failure::usage;

/// A submission.
#[derive(Clone, Debug)]
pub struct Round {
    pub number: usize,
    pub path: PathBuf,
}

impl SweepDirectory {
    /// A new round, made exclusively.
    pub fn new_round(&self) -> Result<Round> {
        let rounds = self.path().join("rounds");
        fs::create_dir_all(&rounds)
            .with_context(|| format!("create {}", rounds.display()))
            .map_err(usage)?;
        let first = self.rounds()?.last().map_or(1, |last| last.number + 1);
        let path = make_first_free(first, |number| rounds.join(format!("{number:04}")))?;
        let number = number_of(&path).unwrap_or(first);
        Ok(Round { number, path })
    }

    /// The rounds so far.
    pub fn rounds(&self) -> Result<Vec<Round>> {
        let mut rounds: Vec<Round> = entries(&self.path().join("rounds"))?
            .into_iter()
            .filter_map(|path| {
                let number = number_of(&path)?;
                Some(Round { number, path })
            })
            .collect();
        rounds.sort_by_key(|round| round.number);
        Ok(rounds)
    }
}

impl Round {
    /// Lists of tasks, one a job array, in the order in which they were submitted.
    pub fn lists(&self) -> Result<Vec<PathBuf>> {
        let mut lists = entries(&self.path)?;
        lists.retain(|path| path.extension().is_some_and(|extension| extension == "tasks"));
        lists.sort();
        Ok(lists)
    }

    /// Whether any of its lists went to Slurm, or was about to.
    pub fn is_of_slurm(&self) -> Result<bool> {
        let scripts = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "sh");
        Ok(entries(&self.path)?.iter().any(scripts))
    }

    /// Writes a list of tasks, and makes the folder of their logs.
    pub fn write_list(&self, number: usize, tasks: &[usize]) -> Result<PathBuf> {
        let path = self.path.join(format!("{number:03}.tasks"));
        let lines: Vec<String> = tasks.iter().map(usize::to_string).collect();
        let text = lines.join("\n") + "\n";
        write_file(&path, &text)?;
        let logs = path.with_extension("");
        fs::create_dir_all(&logs)
            .with_context(|| format!("create {}", logs.display()))
            .map_err(usage)?;
        Ok(path)
    }
}

/// The tasks of a list, in order.
pub fn read_list(path: &Path) -> Result<Vec<usize>> {
    let text =
        bounded::read_text(path, bounded::DESCRIPTION).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .map(|line| {
            line.parse()
                .with_context(|| format!("{}: `{line}`", path.display()))
        })
        .collect()
}

/// The latest log of each of `tasks` that has one.
pub fn last_logs(directory: &SweepDirectory, tasks: &[usize]) -> Result<BTreeMap<usize, PathBuf>> {
    let wanted: HashSet<usize> = tasks.iter().copied().collect();
    let mut logs = BTreeMap::new();
    for round in directory.rounds()? {
        for list in round.lists()? {
            for (index, task) in read_list(&list)?.into_iter().enumerate() {
                let log = log_path(&list, index);
                if wanted.contains(&task) && log.exists() {
                    logs.insert(task, log);
                }
            }
        }
    }
    Ok(logs)
}

/// Writes a small file of a submission.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .with_context(|| format!("write {}", path.display()))
        .map_err(usage)
}

/// Where the output of the task at `index` of a list goes.
pub fn log_path(list: &Path, index: usize) -> PathBuf {
    list.with_extension("").join(format!("{index}.log"))
}

fn number_of(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.parse().ok()
}
