//! Sweeps on this machine: the same cells as a run, and nothing lost whatever happens in between.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command as Process, Output, Stdio},
    thread,
    time::Duration,
};

use assert_cmd::Command;
use qbench_tests::{
    SMALL, benchmark_table, built, fails, installed, program, qbench, quality_by_cell, rows, sleeping_plan,
    small_plan, small_run, stderr, stdout,
};

fn sweep(arguments: &[&str]) -> Command {
    let mut command = qbench();
    command.arg("sweep").args(arguments);
    command
}

/// `qbench sweep WHAT DIR`.
fn of(directory: &Path, what: &str) -> Command {
    let mut command = sweep(&[what]);
    command.arg(directory);
    command
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    output
}

/// Runs a plan here into `directory/sweep`.
fn run(plan: &Path, more: &[&str]) -> (PathBuf, Output) {
    let directory = plan.with_file_name("sweep");
    let mut command = sweep(&[]);
    command.arg(plan).arg("--outdir").arg(&directory).args(more);
    let output = command.output().unwrap();
    (directory, output)
}

/// Every attempt's journal.
fn journals(directory: &Path) -> Vec<PathBuf> {
    let folder = directory.join("tasks/000");
    let mut journals: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("cells.jsonl"))
        .filter(|path| path.exists())
        .collect();
    journals.sort();
    journals
}

#[test]
fn a_sweep_measures_what_a_run_measures() {
    let place = tempfile::tempdir().unwrap();
    let plan = small_plan(place.path(), "", "");
    let (directory, output) = run(&plan, &["--jobs", "2", "--cells-per-task", "3"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let results = directory.join("results");
    let reference = tempfile::tempdir().unwrap();
    assert!(small_run(reference.path()).output().unwrap().status.success());
    assert_eq!(quality_by_cell(&results), quality_by_cell(reference.path()));
    assert_eq!(rows(&benchmark_table(&results)).len(), 5);
    assert!(results.join("analysis/performance_report.txt").exists());
    assert!(!results.join("unfinished.csv").exists());
    let status = stdout(&succeeds(&mut of(&directory, "status")));
    assert!(status.contains("12 done, 0 failed, 0 missing"), "{status}");
    // What is complete is not run again.
    let attempts = journals(&directory).len();
    succeeds(&mut of(&directory, "resume"));
    assert_eq!(journals(&directory).len(), attempts);
    fails(
        sweep(&[]).arg(&plan).arg("--outdir").arg(&directory),
        2,
        &["holds a sweep already", "resume"],
    );
}

#[test]
fn seeds_and_data_are_told_apart_and_exclusions_hold() {
    let place = tempfile::tempdir().unwrap();
    let plan = small_plan(
        place.path(),
        "modes = ['8bit', 'nf4']\nseeds = [1, 2]",
        "skip-performance = false\n[[exclude]]\nmodes = ['nf4']\nseeds = [2]\n[[exclude]]\nmodes = ['fp4']",
    );
    let output = succeeds(sweep(&["--dry-run", "--json"]).arg(&plan));
    assert!(
        stderr(&output).contains("exclude 2 is about no cell"),
        "{}",
        stderr(&output)
    );
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let cells = shown["cells"].as_array().unwrap();
    let count = |mode: &str, condition: &str| {
        let hit = |cell: &&serde_json::Value| cell["mode"] == mode && cell["condition"] == condition;
        cells.iter().filter(hit).count()
    };
    assert_eq!(count("4bit_nf4", "tok=48, seed=1"), 2);
    assert_eq!(count("4bit_nf4", "tok=48, seed=2"), 0);
    assert_eq!(count("8bit", "tok=48, seed=2"), 2);
    assert!(shown["estimated_seconds"].as_f64().unwrap() > 1.0);
    assert!(!place.path().join("sweep").exists());
}

#[test]
fn a_plan_that_cannot_be_is_refused_before_anything_is_written() {
    let place = tempfile::tempdir().unwrap();
    let refused = |matrix: &str, rest: &str, words: &[&str]| {
        let plan = small_plan(place.path(), matrix, rest);
        let outdir = place.path().join("sweep");
        fails(sweep(&[]).arg(&plan).arg("--outdir").arg(&outdir), 2, words);
        assert!(!outdir.exists());
    };
    refused("mode = ['8bit']", "", &["plan.toml", "did you mean `modes`?"]);
    refused("modes = ['9bit']", "", &["9bit"]);
    refused("", "num_repeat = 2", &["did you mean `num-repeats`?"]);
    refused("devices = ['cuda:7']", "", &["has no device `cuda:7`"]);
    refused("", "[[exclude]]\nmodes = ['*']", &["no cell"]);
    refused("data = ['nowhere.csv']", "", &["nowhere.csv"]);
    let nothing = place.path().join("nothing");
    fails(of(&nothing, "status").arg("-q"), 2, &["holds no sweep"]);
}

#[test]
fn an_interrupted_sweep_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let plan = small_plan(place.path(), "modes = ['8bit', 'nf4', 'fp4']", "");
    let directory = place.path().join("sweep");
    let process = Process::new(built().join("qbench"))
        .args(["sweep", "--cells-per-task", "2", "--outdir"])
        .arg(&directory)
        .arg(&plan)
        .env("XDG_DATA_HOME", "/nonexistent")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !directory.join("tasks/000").exists() || journals(&directory).is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    let watch = thread::spawn({
        let directory = directory.clone();
        move || {
            of(&directory, "watch")
                .args(["--interval", "0.1"])
                .output()
                .unwrap()
        }
    });
    // While it runs, nobody else may.
    fails(
        &mut of(&directory, "resume"),
        0,
        &["under way: nothing was submitted"],
    );
    succeeds(&mut of(&directory, "cancel"));
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 15), "{}", stderr(&output));
    assert!(stderr(&output).contains("sweep resume"), "{}", stderr(&output));
    let watched = watch.join().unwrap();
    assert_eq!(watched.status.code(), Some(1), "{}", stderr(&watched));
    let shown = stdout(&watched);
    assert!(shown.lines().count() > 1 && shown.contains(" missing"), "{shown}");
    let message = fails(
        &mut of(&directory, "collect"),
        1,
        &["have no numbers", "missing", "unfinished.csv"],
    );
    let named = rows(&directory.join("results/unfinished.csv"));
    assert!(
        !named.is_empty() && named.iter().all(|row| row["status"] == "missing"),
        "{message}"
    );
    succeeds(&mut of(&directory, "resume"));
    assert_eq!(quality_by_cell(&directory.join("results")).len(), 10);
    let message = stderr(&succeeds(&mut of(&directory, "collect")));
    assert!(
        !message.contains("more than one attempt"),
        "only what was left: {message}"
    );
}

/// More jobs than GPUs: each GPU has one task at a time, and none is without.
#[test]
fn gpus_are_given_out_one_a_task() {
    let place = tempfile::tempdir().unwrap();
    let plan = sleeping_plan(place.path(), "gpu:0", 5, "");
    let directory = place.path().join("sweep");
    succeeds(
        sweep(&[
            "--jobs",
            "3",
            "--cells-per-task",
            "1",
            "--gpus",
            "5,7",
            "--outdir",
        ])
        .arg(&directory)
        .arg(&plan)
        .env("QBENCH_TEST_SLEEP_US", "20000"),
    );
    let mut times: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for journal in journals(&directory) {
        let text = fs::read_to_string(journal.with_file_name("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let device = &manifest["plan"]["configuration"]["device"]["name"];
        let time = |key: &str| manifest[key].as_str().unwrap().trim_end_matches('Z').to_owned();
        times
            .entry(device.as_str().unwrap().to_owned())
            .or_default()
            .push((time("started"), time("finished")));
    }
    assert_eq!(times.keys().collect::<Vec<_>>(), ["bed 5", "bed 7"]);
    for tasks in times.values_mut() {
        tasks.sort();
        assert!(tasks.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{tasks:?}");
    }
    assert_eq!(times.values().map(Vec::len).sum::<usize>(), 5);
}

#[test]
fn a_corrupt_file_costs_its_cells_only_and_collects_do_not_disturb_each_other() {
    let place = tempfile::tempdir().unwrap();
    let plan = small_plan(place.path(), "modes = ['8bit']", "");
    let (directory, output) = run(&plan, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let whole = quality_by_cell(&directory.join("results"));
    let journal = &journals(&directory)[0];
    let text = fs::read_to_string(journal).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(
        journal,
        format!("{}\u{0}garbage\n{rest}", &first[..first.len() / 2]),
    )
    .unwrap();
    fails(
        &mut of(&directory, "collect"),
        1,
        &[
            "line 1: no record of a cell",
            "1 of 6 cells have no numbers: 1 missing",
            "task 0: go-mini-12m",
        ],
    );
    let status = of(&directory, "status").output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert!(
        stdout(&status).contains("5 done, 0 failed, 1 missing"),
        "{}",
        stdout(&status)
    );
    succeeds(&mut of(&directory, "resume"));
    let collects: Vec<_> = (0..4)
        .map(|_| {
            let directory = directory.clone();
            thread::spawn(move || succeeds(&mut of(&directory, "collect")))
        })
        .collect();
    for collect in collects {
        collect.join().unwrap();
    }
    assert_eq!(quality_by_cell(&directory.join("results")), whole);
    assert_eq!(rows(&benchmark_table(&directory.join("results"))).len(), 2);
}

#[test]
fn a_model_that_changed_is_not_mixed_in() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("config.json");
    let text = |layers: usize| {
        format!(
            r#"{{"model_type": "mistral", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64,
            "num_hidden_layers": {layers}, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
            "torch_dtype": "float32"}}"#
        )
    };
    fs::write(&config, text(1)).unwrap();
    let model = format!(
        "models = ['synthetic:{}']\nmodes = ['8bit', 'nf4']",
        config.display()
    );
    let plan = small_plan(place.path(), &model, "");
    let (directory, output) = run(&plan, &["--cells-per-task", "1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(quality_by_cell(&directory.join("results")).len(), 6);
    fs::remove_dir_all(directory.join("tasks/000/000001-1")).unwrap();
    fs::write(&config, text(2)).unwrap();
    fails(&mut of(&directory, "resume"), 1, &["1 missing"]);
    let logs = stdout(&succeeds(&mut of(&directory, "logs")));
    assert!(
        logs.contains("the model is not what it was when the sweep was made"),
        "{logs}"
    );
    fs::write(&config, text(1)).unwrap();
    succeeds(&mut of(&directory, "resume"));
}

#[test]
fn a_dry_run_shows_the_script_that_would_be_submitted() {
    let place = tempfile::tempdir().unwrap();
    let plan = small_plan(
        place.path(),
        "modes = ['8bit']\ndevices = ['cpu']",
        "[slurm]\nsbatch = ['--account=m342', '#SBATCH --time=10']\npreamble = 'module load cuda'\nlauncher = \
         'apptainer exec image.sif'\nthrottle = 5\nrequeue = false\n[[slurm.group]]\nwhen = { modes = ['8bit'] \
         }\nsbatch = ['--gpus=a100:1', '--constraint=hbm80g']\n[slurm.collect]\nsbatch = ['--mem=1G']",
    );
    let output = succeeds(sweep(&["--dry-run", "--executor", "slurm", "--sbatch=--qos=short"]).arg(&plan));
    let text = stdout(&output);
    for words in [
        "6 cells in 4 tasks",
        "estimated: ",
        "#SBATCH --account=m342\n#SBATCH --time=10\n#SBATCH --gpus=a100:1\n#SBATCH --constraint=hbm80g\n#SBATCH --qos=short\n",
        "#SBATCH --array=0-1%5\n",
        "#SBATCH --no-requeue\n",
        "#SBATCH --cpus-per-task=2\n",
        "set -e\nmodule load cuda\n",
        "exec apptainer exec image.sif /",
        "--dependency=afterany:JOBS",
        "#SBATCH --mem=1G\n",
    ] {
        assert!(text.contains(words), "`{words}` is not in: {text}");
    }
    assert!(!place.path().join("sweep-plan").exists());
}

#[test]
fn the_script_of_the_main_job_is_the_example() {
    let printed = stdout(&succeeds(&mut sweep(&["script"])));
    let example = qbench_tests::repository().join("examples/slurm/run_quantization_benchmark.sh");
    assert_eq!(
        printed.trim_end(),
        fs::read_to_string(&example).unwrap().trim_end()
    );
    let active: Vec<&str> = printed
        .lines()
        .filter(|line| line.starts_with("#SBATCH"))
        .collect();
    assert!(active.iter().all(|line| !line.contains("gpu")), "{active:?}");
    assert!(active.contains(&"#SBATCH --cpus-per-task=2") && active.contains(&"#SBATCH --mem=3G"));
}

/// All that a node needs is in the prefix: nothing of the source tree is used, and the prefix may be moved.
#[test]
fn an_installation_is_whole_and_may_be_moved() {
    let place = tempfile::tempdir().unwrap();
    let (before, prefix) = (place.path().join("before"), place.path().join("after"));
    installed(&before);
    fs::rename(&before, &prefix).unwrap();
    let own = prefix.canonicalize().unwrap();
    let own = own.to_str().unwrap();
    let there = || {
        let mut command = program(&prefix.join("bin/qbench"));
        command.current_dir(place.path());
        command
    };
    let listed = succeeds(there().args(["plugin", "list", "--json"]));
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let files = listed["files"].as_array().unwrap();
    assert!(files.len() >= 2, "{listed}");
    for file in files {
        let path = Path::new(file["path"].as_str().unwrap()).canonicalize().unwrap();
        assert!(path.starts_with(own), "{listed}");
    }
    succeeds(
        there()
            .arg("run")
            .args(SMALL)
            .args(["--time-budget", "0", "--evaluate", "tokens"])
            .args(["--modes", "8bit", "--outdir", "results"]),
    );
    let manifest = fs::read_to_string(place.path().join("results/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let configuration = &manifest["plan"]["configuration"];
    for path in [&configuration["model"], &configuration["data"]["path"]] {
        let path = Path::new(path.as_str().unwrap()).canonicalize().unwrap();
        assert!(path.starts_with(own), "{}", path.display());
    }
    succeeds(there().args(["plugin", "new", "my_scheme"]));
    let manifest = fs::read_to_string(place.path().join("my_scheme/Cargo.toml")).unwrap();
    for name in ["qbench-sdk", "qbench-abi"] {
        assert!(
            manifest.contains(&format!("{own}/share/qbench/{name}\"")),
            "{manifest}"
        );
    }
    for part in [
        "qbench-sdk/include/qbench_plugin.h",
        "plugin-c/README.md",
        "plans/models-on-gpus.toml",
    ] {
        assert!(prefix.join("share/qbench").join(part).is_file(), "{part}");
    }
}
