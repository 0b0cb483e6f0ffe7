//! What the end-to-end tests share: the program and the plugins as cargo builds them, and ways to start and judge it.
#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command as Process, Output},
    sync::OnceLock,
};

use assert_cmd::Command;

/// The repository: `$QBENCH_TEST_REPOSITORY` on a machine where the tests run but were not built.
pub fn repository() -> PathBuf {
    if let Some(path) = env::var_os("QBENCH_TEST_REPOSITORY") {
        return path.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Builds the program and all plugins once, with the profile of the tests, and returns the directory they lie in.
///
/// Cargo builds a package's binary for that package's own tests only, and these tests have a package of their own. Where
/// `$QBENCH_TEST_BUILT` names the directory, nothing is built: for machines without cargo.
pub fn built() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        if let Some(path) = env::var_os("QBENCH_TEST_BUILT") {
            return path.into();
        }
        let mut cargo = Process::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // With a test among the targets, features are those of `cargo test --workspace`, which has built most of it.
        cargo.current_dir(repository()).args([
            "build",
            "--quiet",
            "--workspace",
            "--lib",
            "--bins",
            "--test",
            "frozen",
        ]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "cargo build");
        // <target>/<profile>/deps/<test>
        let executable = env::current_exe().unwrap();
        executable.parent().unwrap().parent().unwrap().to_path_buf()
    })
}

/// The file of a built plugin, such as `libqbench_cpu.so`.
pub fn plugin(name: &str) -> PathBuf {
    let path = built().join(name);
    assert!(path.exists(), "{}", path.display());
    path
}

/// The folder of the built libtorch plugin, where libtorch is set up (`plugins/libtorch/setup`, or `$LIBTORCH`), else
/// `None`: nothing else of the repository needs it.
pub fn libtorch() -> Option<&'static Path> {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if env::var_os("QBENCH_TEST_BUILT").is_some() {
            let file = built().join("libqbench_libtorch.so");
            return file.exists().then(|| built().to_path_buf());
        }
        let workspace = repository().join("plugins/libtorch");
        let with_libtorch = |program: &str| {
            Process::new(workspace.join("with-libtorch"))
                .arg(program)
                .output()
        };
        if !with_libtorch("true").unwrap().status.success() {
            return None;
        }
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Process::new(workspace.join("with-libtorch"));
        build.arg(cargo).args(["build", "--quiet", "--workspace"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(
            build.status().unwrap().success(),
            "cargo build of plugins/libtorch"
        );
        let profile = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        Some(workspace.join("target").join(profile))
    };
    DIRECTORY.get_or_init(build).as_deref()
}

/// The file of the candle plugin's second opinion (`plugins/candle/tests/second_opinion`), built in a workspace of its own.
pub fn second_opinion() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let workspace = repository().join("plugins/candle");
        let output = Process::new(workspace.join("with-cuda"))
            .args(["sh", "-euc"])
            .arg(
                "\"${CARGO:-cargo}\" build --quiet --example second_opinion
                 echo target/$CARGO_BUILD_TARGET/debug/examples/libsecond_opinion.so",
            )
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        workspace.join(stdout(&output).trim_end())
    })
}

/// The program, in an environment without plugins or models of the user's.
pub fn qbench() -> Command {
    program(&built().join("qbench"))
}

/// The same of another copy of the program.
pub fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env_remove("QBENCH_PLUGIN_PATH")
        .env_remove("QBENCH_SHARE")
        .env_remove("HF_HOME")
        .env_remove("HF_HUB_CACHE")
        .env("XDG_DATA_HOME", "/nonexistent")
        .env("XDG_CACHE_HOME", "/nonexistent");
    command
}

/// Installs what was built into `prefix` by `install.sh`, which finds it as the release that it would build. Returns the
/// installed program.
pub fn installed(prefix: &Path) -> PathBuf {
    let shims = tempfile::tempdir().unwrap();
    let cargo = shims.path().join("cargo");
    fs::write(
        &cargo,
        "#!/bin/sh\n[ \"$*\" = 'build --release' ] || exec \"$CARGO\" \"$@\"\n",
    )
    .unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    symlink(built(), shims.path().join("release")).unwrap();
    let path = env::var("PATH").unwrap();
    let output = Process::new(repository().join("install.sh"))
        .arg(prefix)
        .env("PATH", format!("{}:{path}", shims.path().display()))
        .env("CARGO", env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TARGET_DIR", shims.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    prefix.join("bin/qbench")
}

/// Options of a run over little.
pub const SMALL: [&str; 10] = [
    "--truncate-tokens",
    "48",
    "--samples-per-cond",
    "4",
    "--batch-sizes",
    "2",
    "--warmup",
    "1",
    "--num-repeats",
    "1",
];

/// A run over little: 2 batches of 2 sequences of at most 48 tokens of the default data, once. Of quality it evaluates
/// the token level; `--evaluate` adds to that.
pub fn small_run(outdir: &Path) -> Command {
    let mut command = small(outdir, "0");
    command.args(["--evaluate", "tokens"]);
    command
}

/// The same without quality.
pub fn small_measurement(outdir: &Path) -> Command {
    measurement_for("0", outdir)
}

/// The same, timed for so many seconds a cell.
pub fn measurement_for(time_budget: &str, outdir: &Path) -> Command {
    let mut command = small(outdir, time_budget);
    command.arg("--skip-quality");
    command
}

fn small(outdir: &Path, time_budget: &str) -> Command {
    let mut command = qbench();
    command
        .arg("run")
        .args(SMALL)
        .args(["--time-budget", time_budget, "--threads", "2", "--outdir"])
        .arg(outdir);
    command
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must fail with `code`, and checks that each of `words` stands in its message and that it did not
/// panic. Returns the message.
pub fn fails(command: &mut Command, code: i32, words: &[&str]) -> String {
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(!message.contains("panicked at"), "{message}");
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    message
}

/// The rows of a CSV file as maps from column to value, in order.
pub fn rows(path: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let mut reader =
        csv::Reader::from_path(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    reader.deserialize().collect::<Result<_, _>>().unwrap()
}

/// The one benchmark table of a results directory.
pub fn benchmark_table(outdir: &Path) -> PathBuf {
    let tables: Vec<PathBuf> = fs::read_dir(outdir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("benchmark_") && path.extension().is_some_and(|extension| extension == "csv")
        })
        .collect();
    assert_eq!(tables.len(), 1, "{tables:?}");
    tables[0].clone()
}

/// A plan for a sweep over little, as [`small_run`] is little: `matrix` are lines of its table.
pub fn small_plan(directory: &Path, matrix: &str, rest: &str) -> PathBuf {
    let path = directory.join("plan.toml");
    let text = format!(
        "[matrix]\nconditions = ['tok=48']\nbatch_sizes = [2]\n{matrix}\n[run]\nsamples-per-cond = 4\nwarmup = 1\n\
         num-repeats = 1\ntime-budget = 0\nthreads = 2\nevaluate = ['tokens']\n{rest}\n"
    );
    fs::write(&path, text).unwrap();
    path
}

/// A plan for a sweep that computes nothing: cells of speed on a device of the sleeping backend, one a repeat, each some
/// ten batches of `$QBENCH_TEST_SLEEP_US`.
pub fn sleeping_plan(directory: &Path, device: &str, repeats: usize, rest: &str) -> PathBuf {
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins).unwrap();
    let file = plugin("libtestplugin_sleeping.so");
    fs::copy(file, plugins.join("libqbench_sleeping.so")).unwrap();
    let path = directory.join("plan.toml");
    let text = format!(
        "[matrix]\nmodes = ['standard']\nbackends = ['sleeping']\ndevices = ['{device}']\nprecisions = ['float32']\nconditions = \
         ['tok=48']\nbatch_sizes = [2]\n[run]\nsamples-per-cond = 2\nwarmup = 0\nnum-repeats = {repeats}\n\
         time-budget = 0\nthreads = 1\nskip-quality = true\nplugin-dir = '{}'\n{rest}\n",
        plugins.display()
    );
    fs::write(&path, text).unwrap();
    path
}

/// What a results directory says of quality: everything but what a clock or a counter of memory had to do with, by cell.
pub fn quality_by_cell(results: &Path) -> std::collections::BTreeMap<String, String> {
    let text = fs::read_to_string(results.join("cells.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            let quality = ["quality", "evaluation", "status"].map(|part| record[part].take());
            (record["cell"].to_string(), format!("{quality:?}"))
        })
        .collect()
}
