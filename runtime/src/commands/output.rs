//! What a command says, and how: results on stdout, progress on stderr.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between lines of progress where there is no terminal; shorter work has none.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How the user wants to be told.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Output {
    /// Print the result as one JSON object
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no log but warnings
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl Output {
    /// Whether the result is for programs.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the result of a command: `text` for people or `value` for programs. Who reads it may have seen enough and gone,
    /// as `head` does: that is no error.
    ///
    /// # Errors
    /// Standard output that cannot be written otherwise.
    pub fn result(&self, value: &serde_json::Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let text = if self.json { value.to_string() } else { text() };
        match writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n')) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("printing the result"),
            _ => Ok(()),
        }
    }

    /// Follows work on `len` things, `what` in the plural: a bar on a terminal, lines elsewhere, nothing when quiet.
    pub fn progress(&self, what: &str, len: usize) -> WorkProgress {
        let bar = (!self.quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(&format!("{{bar:20}} {{pos}}/{{len}} {what} · {{per_sec}} · {{eta}} left"));
            let target = ProgressDrawTarget::stderr_with_hz(4);
            ProgressBar::with_draw_target(Some(len as u64), target).with_style(style.expect("the template is valid"))
        });
        WorkProgress { bar, lines: !self.quiet, what: what.into(), len, began: Instant::now(), last: Instant::now() }
    }
}

/// Progress of one piece of work.
#[derive(Debug)]
pub struct WorkProgress {
    bar: Option<ProgressBar>,
    lines: bool,
    what: String,
    len: usize,
    began: Instant,
    last: Instant,
}

impl WorkProgress {
    /// So many things are done.
    pub fn set(&mut self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        } else if self.lines && self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            let left = self.began.elapsed().as_secs_f64() / done.max(1) as f64 * self.len.saturating_sub(done) as f64;
            tracing::info!("{done} of {} {}, {left:.0} s left", self.len, self.what);
        }
    }
}

impl Drop for WorkProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
