//! What a person sees of a run: a bar on a terminal, log lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::StepMetrics;

/// Time between log lines where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(15);

/// Reports steps on stderr.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    logged: Option<Instant>,
    epochs: usize,
    last_step: u64,
}

impl Progress {
    pub(super) fn new(first_step: u64, last_step: u64, epochs: usize) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(last_step), ProgressDrawTarget::stderr_with_hz(4));
            let style = "{bar:20} step {pos}/{len} · {msg} · {eta} left";
            bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
            bar.with_position(first_step)
        });
        Progress { bar, logged: None, epochs, last_step }
    }

    pub(super) fn step(&mut self, metrics: &StepMetrics) {
        let StepMetrics { step, epoch, loss, loss_over_ln_k, lr, images_per_sec, .. } = metrics;
        match &self.bar {
            Some(bar) => {
                bar.set_position(*step);
                bar.set_message(format!(
                    "epoch {}/{} · loss {loss:.4} · {loss_over_ln_k:.3} ln K · {images_per_sec:.0} images/s{}",
                    epoch + 1,
                    self.epochs,
                    health(metrics)
                ));
            }
            None if *step == self.last_step || self.logged.is_none_or(|logged| logged.elapsed() >= LOG_EVERY) => {
                self.logged = Some(Instant::now());
                tracing::info!(
                    "epoch {}/{} step {step}/{} loss {loss:.4} ({loss_over_ln_k:.3} ln K) lr {lr:.6} {images_per_sec:.0} images/s{}",
                    epoch + 1,
                    self.epochs,
                    self.last_step,
                    health(metrics)
                );
            }
            None => {}
        }
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.abandon();
        }
    }
}

/// The figures that show a collapse, and the queue.
fn health(metrics: &StepMetrics) -> String {
    let mut text = String::new();
    for (name, value) in [("live prototypes", metrics.live_prototypes), ("code entropy", metrics.code_entropy), ("feature std", metrics.feature_std)] {
        if let Some(value) = value {
            text += &if name == "live prototypes" { format!(" · {name} {value:.0}") } else { format!(" · {name} {value:.3}") };
        }
    }
    match (metrics.queue_active, metrics.queue_filled) {
        (Some(true), _) => text += " · queue full",
        (_, Some(filled)) => text += &format!(" · queue {filled} rows"),
        _ => {}
    }
    text
}
