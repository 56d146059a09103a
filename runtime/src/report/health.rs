//! Is the run healthy? Judged by the figures that show a collapse.

use super::RunRecord;
use super::chart::number;

/// How a figure looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Good,
    /// Worth a look.
    Watch,
    /// The run learns nothing.
    Bad,
}

/// A judgement with its reason.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) text: String,
}

/// Steps before a loss at ln K means anything: all runs start there.
const EARLY: usize = 100;

/// Judges the last twentieth of a run.
pub(super) fn findings(run: &RunRecord) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |verdict, text: String| findings.push(Finding { verdict, text });
    let early = run.metrics.len() < EARLY;

    if let Some(ratio) = run.recent(|metrics| Some(f64::from(metrics.loss_over_ln_k))) {
        let value = format!("loss/ln K {}", number(ratio));
        match ratio {
            _ if early => add(Verdict::Watch, format!("{value}: {} steps say little yet", run.metrics.len())),
            0.99.. => add(
                Verdict::Bad,
                format!("{value}: predictions are uniform, the run has collapsed. Try a lower loss.epsilon (0.03), weaker augmentation, or fewer prototypes"),
            ),
            0.95.. => add(Verdict::Watch, format!("{value}: hardly below uniform predictions; it should go on falling")),
            _ => add(Verdict::Good, format!("{value}: well below 1, the loss of uniform predictions")),
        }
    }
    let dimensions = run.preset.model.feat_dim as f64;
    if let Some(spread) = run.recent(|metrics| metrics.feature_std.map(f64::from)) {
        let share = spread * dimensions.sqrt();
        let value = format!("feature spread {:.0} % of an even one", 100.0 * share);
        match share {
            ..0.1 => add(Verdict::Bad, format!("{value}: all embeddings are nearly the same")),
            ..0.3 => add(Verdict::Watch, format!("{value}: embeddings crowd together")),
            _ => add(Verdict::Good, value),
        }
    }
    let prototypes = run.preset.model.nmb_prototypes.counts().iter().sum::<usize>() as f64 / run.preset.model.nmb_prototypes.counts().len() as f64;
    let samples = (run.preset.train.batch_size * run.preset.crops.crops_for_assign.len()) as f64;
    if let Some(live) = run.recent(|metrics| metrics.live_prototypes.map(f64::from)) {
        // A batch cannot use more prototypes than it has samples.
        let share = live / prototypes.min(samples);
        let value = format!("{live:.0} of {prototypes:.0} prototypes live in a batch of {samples:.0} codes");
        match share {
            ..0.05 => add(Verdict::Bad, format!("{value}: nearly all images get the same code")),
            ..0.2 => add(Verdict::Watch, format!("{value}: few are used")),
            _ => add(Verdict::Good, value),
        }
    }
    let batch = run.preset.train.batch_size as f64;
    let wait = run.recent(|metrics| Some(metrics.data_wait_secs * metrics.images_per_sec / batch));
    if let Some(share) = wait {
        let value = format!("{:.0} % of the time waits for images", 100.0 * share);
        match share {
            0.2.. => add(Verdict::Watch, format!("{value}: more train.workers, or shards of smaller images (swav-rt data pack --max-side)")),
            _ => add(Verdict::Good, value),
        }
    }
    findings
}
