//! The results directory of a run.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use qbench_core::{
    bounded,
    results::{Cell, Journal, Record, write_benchmark},
};
use serde::Serialize;
use serde_json::Value;

use super::{MANIFEST_FILE, Manifest, Plan, Schedule};
use crate::failure::usage;

/// Held while a run writes.
const LOCK_FILE: &str = ".lock";
/// The outputs of the reference, while they are needed.
const REFERENCE_DIRECTORY: &str = "reference";
/// What a run writes; moved away together when another configuration follows.
const OURS: [&str; 4] = ["cells.jsonl", MANIFEST_FILE, "analysis", REFERENCE_DIRECTORY];

/// A results directory, locked for this run.
pub struct OutDir {
    path: PathBuf,
    journal: Journal,
    /// In the name of the benchmark table; a task of a sweep writes none.
    timestamp: Option<String>,
    manifest: Manifest,
    /// Held as long as this is.
    _lock: Option<File>,
}

impl OutDir {
    /// Makes `path` ready for `plan`: creates and locks it, and moves results of another configuration into a
    /// subdirectory. Returns where they went.
    ///
    /// # Errors
    /// A directory that cannot be written, or that another run is writing.
    pub fn open(path: &Path, plan: &Plan, timestamp: &str) -> Result<(Self, Option<PathBuf>)> {
        let unwritable = || format!("cannot write results into {}", path.display());
        fs::create_dir_all(path).with_context(unwritable).map_err(usage)?;
        let lock = File::create(path.join(LOCK_FILE))
            .with_context(unwritable)
            .map_err(usage)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(usage(anyhow!(
                    "another run is writing into {}: wait for it, or choose another --outdir",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(usage(error).context(unwritable())),
        }
        let planned = serde_json::to_value(plan)?;
        remove_abandoned_reference(path)
            .with_context(unwritable)
            .map_err(usage)?;
        let moved = move_other_results(path, &planned, timestamp).with_context(unwritable)?;
        let journal = Journal::open(path)?;
        let path = path.canonicalize()?;
        let schedule = Schedule::new(plan, &path.join(REFERENCE_DIRECTORY));
        let manifest = Manifest::start(plan, &schedule, previous_manifest(&path).as_ref())?;
        write_json(&path.join(MANIFEST_FILE), &manifest)
            .with_context(unwritable)
            .map_err(usage)?;
        let this = Self {
            path,
            journal,
            timestamp: Some(timestamp.to_owned()),
            manifest,
            _lock: Some(lock),
        };
        Ok((this, moved))
    }

    /// Makes an empty directory, which nobody else writes, ready for one attempt at a task of a sweep: the cells of `plan`
    /// that `wanted` says. Returns these cells.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn of_attempt(path: &Path, plan: &Plan, wanted: impl Fn(&Cell) -> bool) -> Result<(Self, Schedule)> {
        let mut schedule = Schedule::new(plan, &path.join(REFERENCE_DIRECTORY));
        schedule.retain(wanted);
        let this = Self {
            path: path.to_path_buf(),
            journal: Journal::open(path)?,
            timestamp: None,
            manifest: Manifest::start(plan, &schedule, None)?,
            _lock: None,
        };
        write_json(&path.join(MANIFEST_FILE), &this.manifest)?;
        Ok((this, schedule))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where tables, figures and the report go.
    pub fn analysis(&self) -> PathBuf {
        self.path.join("analysis")
    }

    /// Where references are kept while they are needed.
    pub fn reference(&self) -> PathBuf {
        self.path.join(REFERENCE_DIRECTORY)
    }

    /// The latest record of every cell that this run and earlier ones finished.
    pub fn records(&self) -> &[Record] {
        self.journal.records()
    }

    /// Keeps a finished cell, and brings the benchmark table up to date.
    ///
    /// # Errors
    /// A full or read-only disk.
    pub fn keep(&mut self, record: &Record) -> Result<()> {
        self.journal.append(record)?;
        self.write_table()
    }

    /// Completes the manifest.
    ///
    /// # Errors
    /// A full or read-only disk.
    pub fn finish(&mut self) -> Result<()> {
        self.manifest.finish(self.journal.records());
        write_json(&self.path.join(MANIFEST_FILE), &self.manifest)
    }

    /// Writes the benchmark table, once there is a cell that it has something to say about.
    fn write_table(&self) -> Result<()> {
        let Some(timestamp) = &self.timestamp else {
            return Ok(());
        };
        let records = self.journal.records();
        let tells = |record: &Record| record.performance.is_some() || !record.reason.is_empty();
        if records.iter().any(tells) {
            write_benchmark(&self.path, timestamp, records, self.manifest.plan())?;
        }
        Ok(())
    }
}

/// A run that was killed leaves the reference's outputs behind, which may be many gigabytes.
fn remove_abandoned_reference(path: &Path) -> Result<()> {
    let reference = path.join(REFERENCE_DIRECTORY);
    let wanted = previous_plan(path).is_none_or(|plan| plan["keep_reference"] == true);
    if !wanted && reference.exists() {
        fs::remove_dir_all(reference)?;
    }
    Ok(())
}

fn previous_manifest(path: &Path) -> Option<Value> {
    serde_json::from_slice(&bounded::read(&path.join(MANIFEST_FILE), bounded::DESCRIPTION).ok()?).ok()
}

fn previous_plan(path: &Path) -> Option<Value> {
    Some(previous_manifest(path)?["plan"].take())
}

/// Results that were made with another configuration are moved away: tables must not mix them.
fn move_other_results(path: &Path, plan: &Value, timestamp: &str) -> Result<Option<PathBuf>> {
    if !path.join(MANIFEST_FILE).exists() {
        return Ok(None);
    }
    // A plan that cannot be read is another one.
    let same = previous_plan(path).is_some_and(|previous| previous["configuration"] == plan["configuration"]);
    if same {
        return Ok(None);
    }
    let target = path.join(format!("previous-{timestamp}"));
    fs::create_dir_all(&target)?;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let ours = name
            .to_str()
            .is_some_and(|name| OURS.contains(&name) || name.starts_with("benchmark_"));
        if ours {
            fs::rename(path.join(&name), target.join(&name))?;
        }
    }
    Ok(Some(target))
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let unfinished = path.with_extension("json.part");
    let mut file = File::create(&unfinished)?;
    serde_json::to_writer_pretty(&mut file, value)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(unfinished, path)?;
    Ok(())
}
