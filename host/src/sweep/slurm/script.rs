//! Scripts for `sbatch`.

use std::{fmt::Write, path::Path};

use super::super::{SubmitOptions, Sweep, SweepDirectory, round::Round};

/// The beginning of the names of a sweep's jobs.
const NAME: &str = "qbench";

/// The name of the job of a list of tasks, or of the script `collect`.
pub(super) fn job_name(sweep: &Sweep, round: usize, list: &str) -> String {
    format!("{NAME}-{}-{round:04}-{list}", sweep.id)
}

/// The script of an array over the `count` tasks of `list`.
pub(super) fn array(
    directory: &SweepDirectory,
    sweep: &Sweep,
    group: usize,
    list: &Path,
    count: usize,
    options: &SubmitOptions,
) -> String {
    let group = &sweep.groups[group];
    let logs = list.with_extension("");
    let name = file_name(&logs);
    let round = list
        .parent()
        .and_then(|round| round.file_name()?.to_str()?.parse().ok())
        .unwrap_or_default();
    let throttle = options
        .throttle
        .or(sweep.slurm.throttle)
        .map_or_else(String::new, |limit| format!("%{limit}"));
    let requeue = match sweep.slurm.requeue {
        Some(false) => "--no-requeue",
        _ => "--requeue",
    };
    let mut lines = vec![
        format!("--job-name={}", job_name(sweep, round, &name)),
        format!("--array=0-{}{throttle}", count - 1),
        format!("--output={}/%a.log", logs.display()),
        "--open-mode=append".to_owned(),
        requeue.to_owned(),
        format!("--cpus-per-task={}", sweep.threads),
    ];
    lines.extend_from_slice(&sweep.slurm.sbatch);
    lines.extend_from_slice(&group.sbatch);
    lines.extend_from_slice(&options.sbatch);
    let mut text = head(&lines);
    for preamble in [&sweep.slurm.preamble, &group.preamble] {
        push_lines(&mut text, preamble);
    }
    let _ = writeln!(
        text,
        "task=$(sed -n \"$((SLURM_ARRAY_TASK_ID + 1))p\" {})\nexec {} sweep task {} \"$task\"",
        quoted(list),
        program(sweep),
        quoted(directory.path())
    );
    text
}

/// The script of the job that merges and analyses.
pub(super) fn collect(
    directory: &SweepDirectory,
    sweep: &Sweep,
    round: &Round,
    options: &SubmitOptions,
) -> String {
    let mut lines = vec![
        format!("--job-name={}", job_name(sweep, round.number, "collect")),
        format!("--output={}/collect.log", round.path.display()),
        "--cpus-per-task=1".to_owned(),
    ];
    lines.extend_from_slice(&sweep.slurm.sbatch);
    lines.extend_from_slice(&options.sbatch);
    lines.extend_from_slice(&sweep.slurm.collect.sbatch);
    let mut text = head(&lines);
    push_lines(&mut text, &sweep.slurm.preamble);
    let _ = writeln!(
        text,
        "exec {} sweep collect {}",
        program(sweep),
        quoted(directory.path())
    );
    text
}

fn head(options: &[String]) -> String {
    let mut text = "#!/bin/bash\n".to_owned();
    for option in options {
        let option = option.trim().trim_start_matches("#SBATCH").trim();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "#SBATCH {option}");
    }
    text.push_str("set -e\n");
    text
}

fn push_lines(text: &mut String, lines: &str) {
    if !lines.trim().is_empty() {
        text.push_str(lines.trim_end());
        text.push('\n');
    }
}

/// The launcher's words and the program.
fn program(sweep: &Sweep) -> String {
    let program = quoted(&sweep.program);
    match sweep.slurm.launcher.trim() {
        "" => program,
        launcher => format!("{launcher} {program}"),
    }
}

/// A path as a word of the shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+=:,@".contains(character);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_single_words() {
        assert_eq!(quoted(Path::new("/a/b-1.sh")), "/a/b-1.sh");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn lines_of_sbatch_may_be_written_with_their_comment() {
        assert_eq!(
            head(&["#SBATCH --time=1".to_owned(), " -p gpu ".to_owned()]),
            "#!/bin/bash\n#SBATCH --time=1\n#SBATCH -p gpu\nset -e\n"
        );
    }
}
