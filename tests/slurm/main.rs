//! Sweeps on a real Slurm: munge, a controller and two nodes, brought up on loopback for each test.
//!
//! Where Slurm is not installed these tests say so on standard error and are skipped, unless `QBENCH_TEST_SLURM=required`.
//! `tests/slurm/slurm-up` installs it on Debian.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod cluster;

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command as Process,
    thread,
};

use assert_cmd::Command;
use cluster::{Cluster, cells, count, succeeds};
use qbench_tests::{SMALL, fails, installed, quality_by_cell, small_plan, small_run, stderr, stdout};

/// The ids of cells in a merged journal, each once.
fn merged_cells(directory: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(directory.join("results/cells.jsonl")).unwrap();
    let all: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["cell"].to_string())
        .collect();
    let once: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(once.len(), all.len(), "no cell twice");
    once
}

fn collected(directory: &Path, round: &str) -> String {
    fs::read_to_string(directory.join("rounds").join(round).join("collect.log")).unwrap_or_default()
}

/// All modes of the default model; a node dies with everything on it, the rest goes on, `resume` does what is missing,
/// and the result is that of a run on one machine.
#[test]
fn a_sweep_that_loses_a_node_ends_as_a_run_does() {
    let Some(cluster) = Cluster::up(&[("SLURMD_TIMEOUT", "5")]) else {
        return;
    };
    let plan = small_plan(cluster.place.path(), "", "[slurm]\nrequeue = false");
    let directory = cluster.submit(&plan, &["--cells-per-task", "1", "--throttle", "2"]);
    // In mid-sweep: something is done, and something runs on the node.
    cluster.wait(&directory, |status| {
        let unfinished = status["unfinished"].as_array().unwrap();
        let on_node =
            |task: &serde_json::Value| task["job"]["node"] == "n2" && task["job"]["state"] == "RUNNING";
        cells(status, "done") >= 1 && unfinished.iter().any(on_node)
    });
    cluster.node("n2", "crash");
    let status = cluster.settle(&directory);
    assert!(cells(&status, "missing") > 0, "{status:#}");
    assert!(
        collected(&directory, "0001").contains("missing"),
        "{}",
        collected(&directory, "0001")
    );
    let ended = status["unfinished"][0]["ended"]["state"].as_str().unwrap();
    assert_eq!(ended, "NODE_FAIL", "{status:#}");
    succeeds(&mut cluster.of(&directory, "resume"));
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 12, "{status:#}");
    let reference = tempfile::tempdir().unwrap();
    assert!(small_run(reference.path()).output().unwrap().status.success());
    assert_eq!(
        quality_by_cell(&directory.join("results")),
        quality_by_cell(reference.path())
    );
    assert_eq!(merged_cells(&directory).len(), 12);
    assert!(directory.join("results/analysis/performance_report.txt").exists());
}

/// The main job, submitted as it stands with an installed program, measures what a run measures.
#[test]
fn the_script_of_the_main_job_runs_as_it_stands() {
    let Some(cluster) = Cluster::up(&[]) else {
        return;
    };
    let place = cluster.place.path();
    let program = installed(&place.join("prefix"));
    let mut sbatch = Command::new("sbatch");
    cluster.environment(&mut sbatch);
    let path = env::var("PATH").unwrap();
    sbatch
        .env("PATH", format!("{}:{path}", program.parent().unwrap().display()))
        .env("XDG_DATA_HOME", "/nonexistent")
        .env_remove("QBENCH")
        .env_remove("QBENCH_PLUGIN_PATH")
        .env_remove("QBENCH_SHARE")
        .current_dir(place)
        .args([
            "--wait",
            "prefix/share/qbench/slurm/run_quantization_benchmark.sh",
        ])
        .args(SMALL)
        .args(["--time-budget", "0", "--evaluate", "tokens"]);
    let output = sbatch.output().unwrap();
    let log = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .map_or_else(String::new, |path| fs::read_to_string(path).unwrap());
    assert!(output.status.success(), "{}{log}", stderr(&output));
    let reference = tempfile::tempdir().unwrap();
    assert!(small_run(reference.path()).output().unwrap().status.success());
    let results = place.join("results");
    assert_eq!(quality_by_cell(&results), quality_by_cell(reference.path()));
    assert!(results.join("analysis/performance_report.txt").exists());
}

/// A node that is thought dead goes on: its task is requeued, and both write.
#[test]
fn a_task_that_runs_twice_counts_once() {
    let Some(cluster) = Cluster::up(&[("SLURMD_TIMEOUT", "5")]) else {
        return;
    };
    // The one on the node that is lost waits for the one that replaces it, and that one until both are at work.
    let place = cluster.place.path().display();
    let preamble = format!(
        "if [ \"${{SLURM_RESTART_COUNT:-0}}\" != 0 ]; then\n  touch {place}/again\n  until [ -n \"$(find {place}/sweep/tasks \
         -name \"*$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {place}/sweep/rounds/0001/000.tasks)-1\")\" ]; do sleep 0.1; \
         done\nelif [ \"$SLURMD_NODENAME\" = n2 ]; then\n  until [ -e {place}/again ]; do sleep 0.1; done\nfi"
    );
    let plan = cluster.sleeping_plan(1.0, 2, &preamble, "");
    let directory = cluster.submit(&plan, &["--cells-per-task", "1"]);
    let running = |status: &serde_json::Value| count(status, "running") == 2;
    cluster.wait(&directory, running);
    cluster.node("n2", "kill");
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 2, "{status:#}");
    let attempts = fs::read_dir(directory.join("tasks/000"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .count();
    assert_eq!(attempts, 3, "the requeued task has a directory of its own");
    let output = succeeds(&mut cluster.of(&directory, "collect"));
    assert!(
        stderr(&output).contains("measured by more than one attempt"),
        "{}",
        stderr(&output)
    );
    assert_eq!(merged_cells(&directory).len(), 2);
}

/// Arrays larger than Slurm takes are cut; what scancel ends is submitted again, and nothing else.
#[test]
fn cancelled_tasks_are_submitted_again() {
    let Some(cluster) = Cluster::up(&[("MAX_ARRAY_SIZE", "4")]) else {
        return;
    };
    let plan = cluster.sleeping_plan(0.3, 7, "", "");
    let directory = cluster.submit(&plan, &["--cells-per-task", "1", "--throttle", "2"]);
    assert!(directory.join("rounds/0001/001.sh").exists(), "two arrays");
    let status = cluster.wait(&directory, |status| count(status, "running") > 0);
    let jobs: Vec<String> = status["unfinished"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["job"]["job"].as_str().unwrap().to_owned())
        .collect();
    // One that runs, as a rule, and one that has not begun, which leaves no record at all.
    for job in [&jobs[0], jobs.last().unwrap()] {
        assert!(cluster.slurm("scancel", &[job]).status.success());
    }
    let status = cluster.settle(&directory);
    assert!((1..=2).contains(&cells(&status, "missing")), "{status:#}");
    let missing = count(&status, "stopped");
    let message = fails(&mut cluster.of(&directory, "collect"), 1, &["missing", "task "]);
    assert_eq!(
        message.matches("sleeping").count() + message.matches(": missing").count(),
        missing as usize,
        "{message}"
    );
    succeeds(&mut cluster.of(&directory, "resume"));
    let list = fs::read_to_string(directory.join("rounds/0002/000.tasks")).unwrap();
    assert_eq!(list.lines().count() as u64, missing, "{list}");
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 7, "{status:#}");
    assert_eq!(merged_cells(&directory).len(), 7);
    // And all of it can be stopped by ourselves.
    fs::remove_dir_all(directory.join("tasks/000/000003-1")).unwrap();
    succeeds(
        cluster
            .of(&directory, "resume")
            .args(["--sbatch=--begin=now+1hour"]),
    );
    let said = stdout(&succeeds(&mut cluster.of(&directory, "cancel")));
    assert!(said.starts_with("cancelled 1 task(s)"), "{said}");
    let status = cluster.settle(&directory);
    assert_eq!(count(&status, "stopped"), 1, "{status:#}");
}

/// The host that submits dies after sbatch has taken the array, before anything was noted; then the controller is gone.
#[test]
fn a_submitting_host_that_disappears_and_a_controller_that_does_not_answer() {
    let Some(cluster) = Cluster::up(&[]) else {
        return;
    };
    let bin = cluster.place.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let sbatch = bin.join("sbatch");
    fs::write(&sbatch, "#!/bin/sh\n/usr/bin/sbatch \"$@\"\nkill -KILL $PPID\n").unwrap();
    fs::set_permissions(&sbatch, fs::Permissions::from_mode(0o755)).unwrap();
    let plan = cluster.sleeping_plan(0.01, 3, "", "sbatch = ['--hold']");
    let directory = cluster.place.path().join("sweep");
    let mut command = cluster.sweep(&["--executor", "slurm", "--cells-per-task", "1", "--outdir"]);
    command.env("PATH", format!("{}:{}", bin.display(), env::var("PATH").unwrap()));
    let output = command.arg(&directory).arg(&plan).output().unwrap();
    assert_eq!(output.status.code(), None, "it was killed");
    assert!(!directory.join("rounds/0001/000.job").exists());
    let status = cluster.status(&directory);
    assert_eq!(
        count(&status, "stopped"),
        0,
        "the jobs are found by their names: {status:#}"
    );
    let message = fails(
        &mut cluster.of(&directory, "resume"),
        0,
        &["under way", "collects and analyses"],
    );
    assert!(!message.contains("submitted 3"), "{message}");
    let again = fails(
        &mut cluster.of(&directory, "resume"),
        0,
        &["under way: nothing was submitted"],
    );
    assert!(!again.contains("collects and analyses"), "one is enough: {again}");

    let controller = fs::read_to_string(cluster.directory().join("run/slurmctld.pid")).unwrap();
    let signal = |name: &str| {
        assert!(
            Process::new("kill")
                .args([name, controller.trim()])
                .status()
                .unwrap()
                .success()
        );
    };
    signal("-STOP");
    thread::scope(|scope| {
        scope.spawn(|| {
            fails(
                &mut cluster.of(&directory, "resume"),
                2,
                &["unknown, nothing was submitted"],
            )
        });
        let status = cluster.status(&directory);
        assert!(status["unknown"].is_string(), "{status:#}");
    });
    signal("-CONT");
    for list in ["0001/000", "0002/collect"] {
        let job = cluster.job_named(&directory, list);
        assert!(cluster.slurm("scontrol", &["release", &job]).status.success());
    }
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 3, "{status:#}");
    assert_eq!(merged_cells(&directory).len(), 3);
}

/// A damaged result is missing until it was measured again, and jobs on two nodes that collect at once agree on that.
#[test]
fn a_corrupt_result_is_measured_again_and_collects_at_once_agree() {
    let Some(cluster) = Cluster::up(&[]) else {
        return;
    };
    let plan = cluster.sleeping_plan(0.01, 4, "", "");
    let directory = cluster.submit(&plan, &["--cells-per-task", "2"]);
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 4, "{status:#}");
    let journal = directory.join("tasks/000/000001-1/cells.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(
        &journal,
        format!("{}\u{0}garbage\n{rest}", &first[..first.len() / 2]),
    )
    .unwrap();
    let collect = |round: &str| -> Vec<(Option<i32>, String)> {
        let script = directory.join("rounds").join(round).join("collect.sh");
        let at_once = |name: &str| {
            let log = cluster.place.path().join(name);
            let output = format!("--output={}", log.display());
            let ended = cluster.slurm("sbatch", &["--wait", &output, script.to_str().unwrap()]);
            (ended.status.code(), fs::read_to_string(log).unwrap())
        };
        thread::scope(|scope| {
            let started: Vec<_> = ["one.log", "other.log"]
                .map(|name| scope.spawn(move || at_once(name)))
                .into_iter()
                .collect();
            started.into_iter().map(|job| job.join().unwrap()).collect()
        })
    };
    for (code, log) in collect("0001") {
        assert_eq!(code, Some(1), "{log}");
        for words in ["000001-1/cells.jsonl, line 1", "1 missing", "task 1: "] {
            assert!(log.contains(words), "{words}: {log}");
        }
    }
    assert_eq!(merged_cells(&directory).len(), 3);
    succeeds(&mut cluster.of(&directory, "resume"));
    let list = fs::read_to_string(directory.join("rounds/0002/000.tasks")).unwrap();
    assert_eq!(list, "1\n");
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 4, "{status:#}");
    for (code, log) in collect("0002") {
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("4 of 4 cells have numbers"), "{log}");
    }
    assert_eq!(merged_cells(&directory).len(), 4);
    assert!(!directory.join("results/unfinished.csv").exists());
}

/// A file system of little space, that goes with the test.
struct Full(PathBuf);

impl Drop for Full {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The disk is full while tasks write.
#[test]
fn a_full_disk_costs_no_finished_cell() {
    let Some(cluster) = Cluster::up(&[]) else {
        return;
    };
    let disk = cluster.place.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Process::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&disk)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED: no test of a full disk: mounting one takes root\n"
        );
        return;
    }
    let disk = Full(disk);
    let directory = disk.0.join("sweep");
    let plan = cluster.sleeping_plan(0.2, 6, "", "");
    let mut command = cluster.sweep(&["--executor", "slurm", "--cells-per-task", "2", "--outdir"]);
    succeeds(command.arg(&directory).arg(&plan).args(["--throttle", "1"]));
    cluster.wait(&directory, |status| cells(status, "done") >= 1);
    let filler = disk.0.join("filler");
    // Ends when nothing is left.
    let _ = fs::write(&filler, vec![0; 4 << 20]);
    let status = cluster.settle(&directory);
    assert!(cells(&status, "missing") > 0, "{status:#}");
    let kept = cells(&status, "done");
    assert!(kept >= 1, "{status:#}");
    fails(
        &mut cluster.of(&directory, "resume"),
        2,
        &["No space left on device"],
    );
    fs::remove_file(&filler).unwrap();
    fails(
        cluster.of(&directory, "collect").arg("--no-analysis"),
        1,
        &["missing", "task "],
    );
    assert_eq!(merged_cells(&directory).len() as u64, kept);
    succeeds(&mut cluster.of(&directory, "resume"));
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 6, "{status:#}");
    succeeds(cluster.of(&directory, "collect").arg("--no-analysis"));
    assert_eq!(merged_cells(&directory).len(), 6);
}

/// Slurm's shortest limit is a minute, and it looks twice a minute.
#[test]
#[ignore = "takes one and a half minutes"]
fn a_task_that_reaches_its_time_limit_goes_on_where_it_stopped() {
    let Some(cluster) = Cluster::up(&[]) else {
        return;
    };
    let plan = cluster.sleeping_plan(1.6, 7, "", "sbatch = ['--time=1']");
    let directory = cluster.submit(&plan, &["--cells-per-task", "7"]);
    let status = cluster.settle(&directory);
    let done = cells(&status, "done");
    assert!((1..7).contains(&done), "{status:#}");
    assert_eq!(status["unfinished"][0]["ended"]["state"], "TIMEOUT", "{status:#}");
    let message = fails(&mut cluster.of(&directory, "collect"), 1, &["missing"]);
    assert!(message.contains("task 0"), "{message}");
    succeeds(cluster.of(&directory, "resume").args(["--sbatch=--time=10"]));
    let status = cluster.settle(&directory);
    assert_eq!(cells(&status, "done"), 7, "{status:#}");
    let output = succeeds(&mut cluster.of(&directory, "collect"));
    let message = stderr(&output);
    assert!(
        !message.contains("more than one attempt"),
        "only what was left: {message}"
    );
    assert_eq!(merged_cells(&directory).len(), 7);
}
