//! A Slurm of our own on loopback: munge, a controller and two nodes.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command as Process, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use assert_cmd::Command;
use qbench_tests::{qbench, repository, sleeping_plan, stderr, stdout};
use tempfile::TempDir;

/// Clusters one after the other: several at once would slow each other down beyond Slurm's own time limits.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// After so long something is wrong; nothing is judged by it.
const PATIENCE: Duration = Duration::from_mins(4);

/// A Slurm of our own.
pub(crate) struct Cluster {
    pub(crate) place: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Brings one up; `None` where Slurm is not installed.
    pub(crate) fn up(settings: &[(&str, &str)]) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // Paths of sockets are short.
        let place = tempfile::Builder::new().prefix("qb-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Self { place, _turn: turn };
        let output = cluster
            .script("slurm-up")
            .args(["--nodes", "2", "--cpus", "4", "--no-install"])
            .envs(settings.iter().copied())
            .output()
            .unwrap();
        if output.status.success() {
            return Some(cluster);
        }
        let message = stderr(&output);
        let required = env::var("QBENCH_TEST_SLURM").is_ok_and(|value| value == "required");
        assert!(output.status.code() == Some(3) && !required, "{message}");
        // Not through the macro, whose text the harness would hide.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED: no test on a real Slurm: {}\n",
            message.trim()
        );
        None
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.place.path().join("c")
    }

    fn script(&self, name: &str) -> Process {
        let mut command = Process::new(repository().join("tests/slurm").join(name));
        command.arg(self.directory());
        command
    }

    /// What is done to a node: `crash`, `kill`, `start`.
    pub(crate) fn node(&self, node: &str, what: &str) {
        assert!(
            self.script("slurm-node")
                .args([node, what])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) fn environment(&self, command: &mut Command) {
        for (name, _) in
            env::vars().filter(|(name, _)| name.starts_with("SLURM_") || name.starts_with("SBATCH_"))
        {
            command.env_remove(name);
        }
        command
            .env("SLURM_CONF", self.directory().join("slurm.conf"))
            .env("PATH", format!("{}:/usr/sbin", env::var("PATH").unwrap()));
    }

    pub(crate) fn slurm(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        self.environment(&mut command);
        command.args(arguments).output().unwrap()
    }

    /// `qbench sweep …`.
    pub(crate) fn sweep(&self, arguments: &[&str]) -> Command {
        let mut command = qbench();
        self.environment(&mut command);
        command.arg("sweep").args(arguments);
        command
    }

    pub(crate) fn of(&self, directory: &Path, what: &str) -> Command {
        let mut command = self.sweep(&[what]);
        command.arg(directory);
        command
    }

    /// Submits a plan into `PLACE/sweep`.
    pub(crate) fn submit(&self, plan: &Path, more: &[&str]) -> PathBuf {
        let directory = self.place.path().join("sweep");
        let mut command = self.sweep(&["--executor", "slurm", "--outdir"]);
        succeeds(command.arg(&directory).arg(plan).args(more));
        directory
    }

    pub(crate) fn status(&self, directory: &Path) -> serde_json::Value {
        let output = self.of(directory, "status").arg("--json").output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)))["status"]
            .take()
    }

    /// Waits until the status is as `wanted`.
    pub(crate) fn wait(
        &self,
        directory: &Path,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let started = Instant::now();
        loop {
            let status = self.status(directory);
            if wanted(&status) {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "{status:#}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The id of the job of a list of a round, as Slurm has it.
    pub(crate) fn job_named(&self, directory: &Path, list: &str) -> String {
        let text = fs::read_to_string(directory.join("sweep.json")).unwrap();
        let sweep: serde_json::Value = serde_json::from_str(&text).unwrap();
        let name = format!(
            "--name=qbench-{}-{}",
            sweep["id"].as_str().unwrap(),
            list.replace('/', "-")
        );
        let output = self.slurm("squeue", &["--noheader", "--format=%F", &name]);
        stdout(&output).lines().next().unwrap().trim().to_owned()
    }

    /// Waits until nothing is under way, the job that collects included.
    pub(crate) fn settle(&self, directory: &Path) -> serde_json::Value {
        self.wait(directory, |status| {
            count(status, "running") + count(status, "waiting") == 0
                && status["collecting"].is_null()
                && status["unknown"].is_null()
        })
    }

    /// A plan whose every cell sleeps about ten times, so long each, after `preamble`.
    pub(crate) fn sleeping_plan(&self, seconds: f64, repeats: usize, preamble: &str, rest: &str) -> PathBuf {
        let microseconds = (seconds * 1e6) as u64;
        let slurm =
            format!("preamble = '''\nexport QBENCH_TEST_SLEEP_US={microseconds}\n{preamble}'''\n{rest}");
        sleeping_plan(self.place.path(), "cpu", repeats, &format!("[slurm]\n{slurm}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = self.script("slurm-down").status().unwrap();
        // A second panic would hide the first.
        assert!(ended.success() || thread::panicking(), "slurm-down: {ended}");
    }
}

pub(crate) fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    output
}

pub(crate) fn count(status: &serde_json::Value, tasks: &str) -> u64 {
    status["tasks"][tasks].as_u64().unwrap()
}

pub(crate) fn cells(status: &serde_json::Value, state: &str) -> u64 {
    status["cells"][state].as_u64().unwrap()
}
