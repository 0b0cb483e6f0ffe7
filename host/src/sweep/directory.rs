//! The directory of a sweep: what is to be done, what was submitted, and what came of it.
//!
//! ```text
//! sweep.json                 what all tasks share; written last, so that a directory without it is no sweep yet
//! plan.toml                  the plan as it was given
//! configurations/000000.json command line and resolved plan of each run that the sweep is made of
//! tasks/000/tasks.jsonl      the cells of a thousand tasks, one task a line
//! tasks/000/000012-1/        the first attempt at task 12: a results directory
//! rounds/0001/               a submission: lists of tasks, scripts, logs
//! results/                   everything merged
//! ```
//!
//! Nothing is written by two processes: an attempt has a directory of its own, made exclusively.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use qbench_core::{
    bounded,
    results::{Cell, JOURNAL_FILE, ResultsError},
    sweep::{GroupOptions, SlurmOptions, TaskFiles},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::ExecutorKind;
use crate::{failure::usage, printer, run::write_json};

const SWEEP_FILE: &str = "sweep.json";
const TASKS_FILE: &str = "tasks.jsonl";
/// Id of the format of the directory.
pub(super) const SCHEMA: &str = "qbench.sweep/1";
/// Tasks in a folder.
const FOLDER: usize = 1000;

/// What all tasks of a sweep share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sweep {
    pub schema: String,
    /// Random, part of the names of jobs.
    pub id: String,
    pub name: String,
    pub created: String,
    /// The program, which nodes start by this path.
    pub program: PathBuf,
    pub program_sha256: String,
    /// Where relative paths of the plan start.
    pub working_directory: PathBuf,
    pub executor: ExecutorKind,
    pub slurm: SlurmOptions,
    /// Options of `sbatch` for groups of cells; `group` of a task counts into it.
    pub groups: Vec<GroupOptions>,
    pub configurations: usize,
    pub tasks: usize,
    pub cells: usize,
    pub threads: usize,
}

/// One of the runs that a sweep is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigurationFile {
    /// The command line of `qbench run`.
    pub arguments: Vec<String>,
    /// See [`crate::run::Plan`].
    pub variant: String,
    /// The plan as it was resolved when the sweep was made.
    pub plan: Value,
}

/// A task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskLine {
    pub task: usize,
    pub configuration: usize,
    pub group: usize,
    pub cells: Vec<Cell>,
}

/// The directory of a sweep.
#[derive(Clone, Debug)]
pub struct SweepDirectory {
    path: PathBuf,
}

impl SweepDirectory {
    /// The directory of a sweep that was made.
    ///
    /// # Errors
    /// There is no sweep in `path`.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.join(SWEEP_FILE).is_file() {
            return Err(usage(anyhow!(
                "{} holds no sweep (it has no {SWEEP_FILE}); expected the directory that `qbench sweep PLAN` made",
                path.display()
            )));
        }
        Ok(Self {
            path: path.canonicalize()?,
        })
    }

    /// Where a new sweep would be, for showing what would be written.
    pub fn planned(path: &Path) -> Result<Self> {
        Ok(Self {
            path: std::path::absolute(path)?,
        })
    }

    /// Makes the directory of a new sweep; what an earlier one that was interrupted left is removed.
    ///
    /// # Errors
    /// There is a sweep in `path`, or something else; it cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        if path.join(SWEEP_FILE).exists() {
            return Err(usage(anyhow!(
                "{} holds a sweep already: `qbench sweep resume {0}` goes on with it, --outdir names another place",
                path.display()
            )));
        }
        let unwritable = || format!("cannot write a sweep into {}", path.display());
        fs::create_dir_all(path).with_context(unwritable).map_err(usage)?;
        for part in ["configurations", "tasks"] {
            match fs::remove_dir_all(path.join(part)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(usage(error).context(unwritable()));
                }
                _ => {}
            }
        }
        Ok(Self {
            path: path.canonicalize()?,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where merged results go.
    pub fn results(&self) -> PathBuf {
        self.path.join("results")
    }

    /// What all tasks share.
    pub fn sweep(&self) -> Result<Sweep> {
        let path = self.path.join(SWEEP_FILE);
        let sweep: Sweep = read_json(&path)?;
        if sweep.schema != SCHEMA {
            return Err(usage(anyhow!(
                "{}: format `{}`, expected `{SCHEMA}`: it is of another version of qbench",
                path.display(),
                sweep.schema
            )));
        }
        if sweep.tasks == 0 {
            return Err(usage(anyhow!("{}: a sweep without tasks", path.display())));
        }
        Ok(sweep)
    }

    /// Writes a new sweep, what tells that it is there last.
    pub fn write(
        &self,
        sweep: &Sweep,
        plan: &str,
        configurations: &[ConfigurationFile],
        tasks: &[TaskLine],
    ) -> Result<()> {
        fs::write(self.path.join("plan.toml"), plan)?;
        fs::create_dir(self.path.join("configurations"))?;
        for (number, configuration) in configurations.iter().enumerate() {
            write_json(&self.configuration_path(number), configuration)?;
        }
        for folder in tasks.chunks(FOLDER) {
            let path = self.folder(folder[0].task);
            fs::create_dir_all(&path)?;
            let mut file = BufWriter::new(File::create(path.join(TASKS_FILE))?);
            for task in folder {
                serde_json::to_writer(&mut file, task)?;
                file.write_all(b"\n")?;
            }
            file.into_inner()
                .map_err(std::io::IntoInnerError::into_error)?
                .sync_all()?;
        }
        write_json(&self.path.join(SWEEP_FILE), sweep)
    }

    fn configuration_path(&self, number: usize) -> PathBuf {
        self.path.join(format!("configurations/{number:06}.json"))
    }

    /// A run that the sweep is made of.
    pub fn configuration(&self, number: usize) -> Result<ConfigurationFile> {
        read_json(&self.configuration_path(number))
    }

    fn folder(&self, task: usize) -> PathBuf {
        self.path.join(format!("tasks/{:03}", task / FOLDER))
    }

    /// Every task, read as they are needed.
    pub fn tasks(&self) -> Result<impl Iterator<Item = Result<TaskLine>>> {
        let sweep = self.sweep()?;
        let groups = sweep.groups.len();
        let folders = (0..sweep.tasks).step_by(FOLDER);
        Ok(
            folders.flat_map(move |first| match self.tasks_of_folder(first, groups) {
                Ok(tasks) => Box::new(tasks) as Box<dyn Iterator<Item = Result<TaskLine>>>,
                Err(error) => Box::new(std::iter::once(Err(error))),
            }),
        )
    }

    /// A task.
    pub fn task(&self, number: usize) -> Result<TaskLine> {
        let missing = || usage(anyhow!("{} has no task {number}", self.path.display()));
        let sweep = self.sweep()?;
        if number >= sweep.tasks {
            return Err(missing());
        }
        let first = number - number % FOLDER;
        let mut tasks = self.tasks_of_folder(first, sweep.groups.len())?;
        tasks.nth(number - first).ok_or_else(missing)?
    }

    /// The tasks of the folder that begins with `first`, of a sweep with so many groups of options.
    fn tasks_of_folder(
        &self,
        first: usize,
        groups: usize,
    ) -> Result<impl Iterator<Item = Result<TaskLine>> + use<>> {
        let path = self.folder(first).join(TASKS_FILE);
        let file = bounded::open(&path).with_context(|| format!("read {}", path.display()))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        let mut place = first..;
        Ok(std::iter::from_fn(move || {
            let number = place.next()?;
            let mut read = || {
                bounded::read_line(&mut reader, &mut line, bounded::DESCRIPTION)?;
                if line.is_empty() {
                    return Ok(None);
                }
                let task: TaskLine = serde_json::from_slice(&line)?;
                ensure!(
                    task.task == number && task.group < groups && !task.cells.is_empty(),
                    "expected task {number}, in one of {groups} groups, with cells"
                );
                Ok(Some(task))
            };
            read()
                .with_context(|| format!("{}: a line is no task of this sweep", path.display()))
                .transpose()
        }))
    }

    /// Every task with the journals of the attempts at it.
    pub fn task_files(&self) -> Result<impl Iterator<Item = Result<TaskFiles, ResultsError>>> {
        let mut folder = (PathBuf::new(), BTreeMap::new());
        Ok(self.tasks()?.map(move |task| {
            let unreadable = |error: anyhow::Error| ResultsError::Io {
                action: "read the tasks in",
                path: self.path.clone(),
                source: std::io::Error::other(format!("{error:#}")),
            };
            let task = task.map_err(unreadable)?;
            let path = self.folder(task.task);
            if folder.0 != path {
                folder = (path.clone(), attempts_in(&path).map_err(unreadable)?);
            }
            let attempts = folder.1.remove(&task.task).unwrap_or_default();
            Ok(TaskFiles {
                journals: journals(&path, task.task, &attempts),
                task: task.task,
                cells: task.cells,
            })
        }))
    }

    /// The journals of the attempts at a task, the first attempt first.
    pub fn journals(&self, task: usize) -> Result<Vec<PathBuf>> {
        let folder = self.folder(task);
        let attempts = attempts_in(&folder)?.remove(&task).unwrap_or_default();
        Ok(journals(&folder, task, &attempts))
    }

    /// A new empty directory for an attempt at a task, made exclusively.
    pub fn new_attempt(&self, task: usize) -> Result<PathBuf> {
        let folder = self.folder(task);
        let attempts = attempts_in(&folder)?.remove(&task).unwrap_or_default();
        let first = attempts.last().map_or(1, |last| last + 1);
        make_first_free(first, |attempt| attempt_path(&folder, task, attempt))
    }

    /// Takes a lock that lives as long as the file that is returned; `None` when another process holds it.
    pub fn lock(&self, name: &str) -> Result<Option<File>> {
        let file = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => self.without_lock(name, error).map(|()| Some(file)),
        }
    }

    /// Takes a lock as soon as no other process holds it.
    pub fn wait_for_lock(&self, name: &str) -> Result<File> {
        let file = self.lock_file(name)?;
        match file.lock() {
            Ok(()) => Ok(file),
            Err(error) => self.without_lock(name, error).map(|()| file),
        }
    }

    /// Some file systems of clusters are mounted without locks. Results are safe there as well, since nothing is written
    /// by two processes, and merged files are renamed when they are whole.
    fn without_lock(&self, name: &str, error: std::io::Error) -> Result<()> {
        if error.kind() != std::io::ErrorKind::Unsupported {
            return Err(usage(error).context(format!("lock {}", self.path.join(name).display())));
        }
        printer::note(&format!(
            "warning: the file system of {} has no locks: start one `qbench sweep` on it at a time",
            self.path.display()
        ));
        Ok(())
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.path.join(name);
        // A network file system locks only what is open for writing.
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))
            .map_err(usage)
    }
}

fn attempt_path(folder: &Path, task: usize, attempt: usize) -> PathBuf {
    folder.join(format!("{task:06}-{attempt}"))
}

fn journals(folder: &Path, task: usize, attempts: &[usize]) -> Vec<PathBuf> {
    let path = |&attempt| attempt_path(folder, task, attempt).join(JOURNAL_FILE);
    attempts.iter().map(path).collect()
}

/// The attempts at each task of a folder, sorted.
fn attempts_in(folder: &Path) -> Result<BTreeMap<usize, Vec<usize>>> {
    let mut attempts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for path in entries(folder)? {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let numbers = name
            .split_once('-')
            .and_then(|(task, attempt)| Some((task.parse::<usize>().ok()?, attempt.parse::<usize>().ok()?)));
        if let Some((task, attempt)) = numbers {
            attempts.entry(task).or_default().push(attempt);
        }
    }
    for attempts in attempts.values_mut() {
        attempts.sort_unstable();
    }
    Ok(attempts)
}

/// Makes the first directory from `first` on that is not there; of several processes at once, each gets its own.
pub(super) fn make_first_free(first: usize, path: impl Fn(usize) -> PathBuf) -> Result<PathBuf> {
    for number in first.. {
        let path = path(number);
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(usage(
                    anyhow!(error).context(format!("create {}", path.display())),
                ));
            }
        }
    }
    unreachable!("there are more numbers than directories")
}

/// The paths in a directory; none of one that is not there.
pub(super) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .map(|entry| Ok(entry.with_context(|| format!("list {}", path.display()))?.path()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(anyhow!(error).context(format!("list {}", path.display()))),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let read = || {
        Ok::<T, anyhow::Error>(serde_json::from_slice(&bounded::read(
            path,
            bounded::DESCRIPTION,
        )?)?)
    };
    read().with_context(|| format!("read {}", path.display()))
}
