//! Progress: a bar with the time left on a terminal, plain lines elsewhere. Always on standard error.

use std::{
    io::{IsTerminal, Write, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows which cell runs.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    total: usize,
    done: usize,
}

impl Progress {
    /// Progress over `total` things called `unit`; with `quiet`, nothing is shown.
    pub fn new(total: usize, quiet: bool, unit: &str) -> Self {
        let terminal = stderr().is_terminal();
        let target = if quiet || !terminal {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target).with_style(style(unit));
        // Between updates of ours the elapsed time should move on; this is no timed process, workers are.
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            bar,
            plain: !quiet && !terminal,
            total,
            done: 0,
        }
    }

    /// Shows what starts now.
    pub fn start(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// Shows how the step ended.
    pub fn finish(&mut self, what: &str) {
        self.done += 1;
        self.bar.inc(1);
        self.line(&format!("[{}/{}] {what}", self.done, self.total));
    }

    /// Shows that `done` things are done and which comes next; a bar only, too quick for lines.
    pub fn advance_to(&mut self, done: usize, next: &str) {
        self.bar.set_position(done as u64);
        self.bar.set_message(next.to_owned());
    }

    /// Shows a line beside the bar.
    pub fn line(&self, text: &str) {
        if self.plain {
            // A closed pipe is no reason to stop measuring.
            let _ = writeln!(stderr(), "{text}");
        } else {
            self.bar.println(text);
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(unit: &str) -> ProgressStyle {
    ProgressStyle::with_template(&format!(
        "{{bar:24}} {{pos}}/{{len}} {unit}, {{elapsed}} elapsed, {{eta}} left  {{wide_msg}}"
    ))
    .unwrap_or_else(|_| ProgressStyle::default_bar())
}
