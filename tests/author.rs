//! The path of a plugin's author: the guide's commands as they stand, and the examples, all outside of the repository and
//! against the packaged sdk, so that nothing leans on what a package leaves out.
//!
//! What is compiled for this is kept below `<target>/author`: about a minute of two cores the first time, seconds after.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command as Process, Output},
    sync::{Mutex, OnceLock, PoisonError},
};

use qbench_tests::{benchmark_table, built, qbench, repository, rows, small_run, stderr, stdout};

/// Cargo locks a target directory, and two cores are few: one build at a time.
static BUILDING: Mutex<()> = Mutex::new(());

/// Where the author's crates are compiled.
fn target() -> PathBuf {
    built().parent().unwrap().join("author")
}

fn cargo() -> Process {
    let mut cargo = Process::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    // Whatever the sdk needs was fetched to build this test.
    cargo.env("CARGO_NET_OFFLINE", "true");
    cargo
}

fn succeeds(command: &mut Process) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        stdout(&output),
        stderr(&output)
    );
    output
}

/// The sdk as `cargo package` gives it, unpacked: the folder of `qbench-sdk`, with `qbench-abi` beside it.
fn packaged_sdk() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let packages = target().join("packages");
        let mut package = cargo();
        package
            .current_dir(repository())
            .args(["package", "--quiet", "--no-verify", "--allow-dirty"]);
        package.args([
            "--package",
            "qbench-abi",
            "--package",
            "qbench-sdk",
            "--target-dir",
        ]);
        succeeds(package.arg(&packages));
        let archive = |name: &str| {
            let archives = fs::read_dir(packages.join("package"))
                .unwrap()
                .map(|entry| entry.unwrap().path());
            let mut found: Vec<PathBuf> = archives
                .filter(|path| path.extension().is_some_and(|extension| extension == "crate"))
                .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name))
                .collect();
            assert_eq!(found.len(), 1, "{found:?}: remove the packages of other versions");
            found.remove(0)
        };
        for name in ["qbench-abi-", "qbench-sdk-"] {
            let mut unpack = Process::new("tar");
            succeeds(unpack.arg("xzf").arg(archive(name)).arg("-C").arg(&packages));
        }
        let sdk = archive("qbench-sdk-").with_extension("");
        packages.join(sdk.file_name().unwrap())
    })
}

/// A folder of shims that stand first in `PATH`: `qbench` is the built program, which measures little, so that the
/// guide's commands need not say so.
fn shims(folder: &Path) -> String {
    let shim = folder.join("qbench");
    let program = built().join("qbench");
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in --plugin|run) set -- \"$@\" --truncate-tokens 48 --samples-per-cond 4 --batch-sizes 2 \
         --warmup 1 --num-repeats 1;; esac\n[ \"$1 $2\" != 'plugin new' ] || set -- \"$@\" --sdk '{}'\nexec '{}' \"$@\"\n",
        packaged_sdk().display(),
        program.display()
    );
    fs::write(&shim, script).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let path = env::var("PATH").unwrap_or_default();
    format!("{}:{path}", folder.display())
}

/// The `sh` blocks of a page, in order.
fn commands(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line == "```sh" {
            blocks.push(
                lines
                    .by_ref()
                    .take_while(|line| *line != "```")
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
    }
    blocks
}

#[test]
fn the_commands_of_the_guide_work_as_they_stand() {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let page = fs::read_to_string(repository().join("docs/writing-a-plugin.md")).unwrap();
    let blocks = commands(&page);
    assert!(blocks.len() > 5, "{blocks:?}");
    let (folder, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = shims(bin.path());
    // Compiled where the last run left off; the guide's `target` is a link to it.
    let target = target().join("guide");
    fs::create_dir_all(&target).unwrap();
    let script = blocks.join("\n").replace(
        "cd my_scheme",
        &format!("cd my_scheme\nln -s '{}' target", target.display()),
    );
    let mut shell = Process::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(folder.path())
        .env("PATH", path);
    for (name, value) in [("CARGO_NET_OFFLINE", "true"), ("XDG_DATA_HOME", "/nonexistent")] {
        shell.env(name, value);
    }
    for name in [
        "CARGO_TARGET_DIR",
        "RUSTFLAGS",
        "QBENCH_PLUGIN_PATH",
        "QBENCH_SHARE",
    ] {
        shell.env_remove(name);
    }
    let said = stdout(&succeeds(&mut shell));
    assert!(said.contains("the plugin conforms: "), "{said}");
    // 4 for the code, 32 / 64 for the scale, and the table's share.
    assert!(said.contains("4.505 bits a weight"), "{said}");
    let made = folder.path().join("my_scheme");
    for results in ["results", "results-again", "results-by-name"] {
        let report = made.join(results).join("analysis/performance_report.txt");
        let text =
            fs::read_to_string(&report).unwrap_or_else(|error| panic!("{}: {error}", report.display()));
        assert!(text.contains("my_scheme"), "{results}: {text}");
    }
}

/// Copies an example out of the repository and lets it depend on the packaged sdk.
fn copied(example: &str, folder: &Path) -> PathBuf {
    let (from, to) = (repository().join("examples").join(example), folder.join(example));
    copy(&from, &to);
    let manifest = to.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let sdk = packaged_sdk();
    assert!(text.contains("path = \"../../sdk\""), "{text}");
    let text = text.replace("../../sdk", sdk.to_str().unwrap());
    let abi = fs::read_dir(sdk.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.is_dir()
                && path
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("qbench-abi-")
        })
        .unwrap();
    let patch = format!(
        "\n[patch.crates-io]\nqbench-abi = {{ path = \"{}\" }}\n",
        abi.display()
    );
    fs::write(&manifest, text + &patch).unwrap();
    to
}

/// Copies what an author would have in version control.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_dir() && name != "target" {
            copy(&path, &to.join(name));
        } else if path.is_file() && name != "Cargo.lock" {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn the_examples_build_conform_and_run() {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let target = target().join("examples");
    for (mode, execution) in [
        ("mxfp4", "from codes"),
        ("fp8", "native: exact e4m3 product"),
        ("ternary", "scheme matmul"),
    ] {
        let project = copied(&format!("plugin-{mode}"), folder.path());
        for arguments in [
            ["test", "--quiet", "--release"],
            ["build", "--quiet", "--release"],
        ] {
            succeeds(
                cargo()
                    .current_dir(&project)
                    .args(arguments)
                    .arg("--target-dir")
                    .arg(&target),
            );
        }
        let library = target.join(format!("release/libqbench_{mode}.so"));
        qbench()
            .args(["plugin", "check"])
            .arg(&library)
            .assert()
            .success();
        let outdir = folder.path().join(format!("results-{mode}"));
        small_run(&outdir)
            .arg("--plugin")
            .arg(&library)
            .assert()
            .success();
        let rows = rows(&benchmark_table(&outdir));
        let row = rows.iter().find(|row| row["quantization"] == mode);
        let row = row.unwrap_or_else(|| panic!("no row of {mode} in {rows:?}"));
        assert_eq!(row["status"], "ok", "{row:?}");
        assert!(row["execution"].contains(execution), "{row:?}");
    }
}

/// The commands of the C example's README, with the header of the packaged sdk.
#[test]
fn the_c_example_builds_conforms_and_runs() {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let (folder, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let project = folder.path().join("plugin-c");
    copy(&repository().join("examples/plugin-c"), &project);
    let page = fs::read_to_string(project.join("README.md")).unwrap();
    let script = commands(&page).join("\n");
    assert!(script.contains("-I ../../sdk/include"), "{script}");
    let include = packaged_sdk().join("include");
    let script = script.replace("../../sdk/include", include.to_str().unwrap());
    let mut shell = Process::new("sh");
    shell
        .args(["-euc", &script])
        .current_dir(&project)
        .env("PATH", shims(bin.path()))
        .env("XDG_DATA_HOME", "/nonexistent");
    for name in ["QBENCH_PLUGIN_PATH", "QBENCH_SHARE"] {
        shell.env_remove(name);
    }
    let said = stdout(&succeeds(&mut shell));
    assert!(said.contains("the plugin conforms: "), "{said}");
    let report = fs::read_to_string(project.join("results/analysis/performance_report.txt")).unwrap();
    assert!(
        report.contains("c_int4") && report.contains("c_ternary"),
        "{report}"
    );
}

/// The plugin that `plugin new` wrote is formatted as rustfmt would.
#[test]
fn a_new_plugin_is_formatted() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("q4");
    let mut new = qbench();
    new.args(["plugin", "new", "q4", "--dir"])
        .arg(&project)
        .assert()
        .success();
    succeeds(
        Process::new("rustfmt")
            .args(["--edition", "2024", "--check"])
            .arg(project.join("src/lib.rs")),
    );
    assert!(project.join(".gitignore").exists());
    symlink(&project, folder.path().join("link")).unwrap();
    qbench_tests::fails(
        qbench()
            .args(["plugin", "new", "q4", "--dir"])
            .arg(folder.path().join("link")),
        2,
        &["is there already"],
    );
    qbench_tests::fails(
        qbench().args(["plugin", "new", "4bit"]),
        2,
        &["lower-case letters"],
    );
    qbench_tests::fails(
        qbench()
            .args(["plugin", "new", "q5", "--sdk", "/nonexistent", "--dir"])
            .arg(folder.path().join("q5")),
        2,
        &["--sdk /nonexistent"],
    );
    assert!(!folder.path().join("q5").exists());
}
