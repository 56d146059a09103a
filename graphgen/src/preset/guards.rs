//! `[guards]`: what a run watches itself for, and what it does then.

use serde::{Deserialize, Serialize};

/// What a run does when a guard strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardAction {
    /// Say so and go on.
    Warn,
    /// Leave the step's update out and go on with the next batch.
    Skip,
    /// Go back to the last checkpoint from before the trouble, with a lower learning rate.
    Rollback,
    /// End the run; its checkpoints stay.
    Stop,
}

/// `[guards]`
///
/// By default nothing but a loss or gradient that is not finite changes what a run computes: that ends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guards {
    /// The loss or the norm of the gradients is NaN or infinite: skip, rollback or stop.
    pub not_finite: GuardAction,
    /// Codes, embeddings or the loss say nothing about the images any more: warn, rollback or stop.
    pub collapse: GuardAction,
    /// Few prototypes are any image's first choice: warn, rollback or stop.
    pub dead_prototypes: GuardAction,
    /// The queue should fill and does not: warn or stop.
    pub dead_queue: GuardAction,
    /// No batch comes: warn or stop.
    pub stalled_data: GuardAction,
    /// Steps in a row that a collapse or dead prototypes must be seen before the guard strikes.
    pub patience_steps: u64,
    /// Codes count as uniform above this share of ln K, 0 to 1.
    pub max_code_entropy: f64,
    /// Embeddings count as collapsed below this share of 1/√D, the standard deviation of points all over the sphere.
    pub min_feature_std: f64,
    /// The loss counts as that of guessing from this share of ln K on.
    pub max_loss: f64,
    /// Prototypes count as dead when fewer than this share of those that a batch could choose is chosen, 0 to 1.
    pub min_live_prototypes: f64,
    /// Seconds without a batch after which data counts as stalled.
    pub stall_secs: f64,
    /// What every rollback multiplies the learning rate by, above 0 and below 1.
    pub rollback_learning_rate: f64,
    /// Rollbacks after which the run stops instead.
    pub max_rollbacks: u32,
    /// Steps skipped in a row after which the run stops instead.
    pub max_skips: u64,
}

impl Default for Guards {
    fn default() -> Self {
        Guards {
            not_finite: GuardAction::Stop,
            collapse: GuardAction::Warn,
            dead_prototypes: GuardAction::Warn,
            dead_queue: GuardAction::Warn,
            stalled_data: GuardAction::Warn,
            patience_steps: 1000,
            max_code_entropy: 0.99,
            min_feature_std: 0.05,
            max_loss: 0.99,
            min_live_prototypes: 0.05,
            stall_secs: 120.0,
            rollback_learning_rate: 0.5,
            max_rollbacks: 3,
            max_skips: 10,
        }
    }
}

impl Guards {
    /// The first setting that cannot work, with what is wrong.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        use GuardAction::{Rollback, Skip, Stop, Warn};
        for (setting, action, possible, why) in [
            ("guards.not_finite", self.not_finite, &[Skip, Rollback, Stop][..], "an update that is not finite would spoil every parameter"),
            ("guards.collapse", self.collapse, &[Warn, Rollback, Stop], "leaving updates out does not undo a collapse"),
            ("guards.dead_prototypes", self.dead_prototypes, &[Warn, Rollback, Stop], "leaving updates out does not revive prototypes"),
            ("guards.dead_queue", self.dead_queue, &[Warn, Stop], "the learning rate has nothing to do with it"),
            ("guards.stalled_data", self.stalled_data, &[Warn, Stop], "there is no step to leave out or undo"),
        ] {
            if !possible.contains(&action) {
                let names: Vec<String> = possible.iter().map(|action| format!("{action:?}").to_lowercase()).collect();
                let got = format!("{action:?}").to_lowercase();
                return Some((setting, format!("expected {}, got {got}: {why}", names.join(" or "))));
            }
        }
        if self.patience_steps == 0 {
            return Some(("guards.patience_steps", "expected at least 1 step, got 0".into()));
        }
        for (setting, share) in [
            ("guards.max_code_entropy", self.max_code_entropy),
            ("guards.min_feature_std", self.min_feature_std),
            ("guards.min_live_prototypes", self.min_live_prototypes),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Some((setting, format!("expected a share from 0 to 1, got {share}")));
            }
        }
        if self.max_loss.is_nan() || self.max_loss <= 0.0 {
            return Some(("guards.max_loss", format!("expected a positive share of ln K, got {}", self.max_loss)));
        }
        if !(self.stall_secs > 0.0 && self.stall_secs <= 1e9) {
            return Some(("guards.stall_secs", format!("expected a positive number of seconds up to 1e9, got {}", self.stall_secs)));
        }
        if !(self.rollback_learning_rate > 0.0 && self.rollback_learning_rate < 1.0) {
            return Some(("guards.rollback_learning_rate", format!("expected a factor above 0 and below 1, got {}", self.rollback_learning_rate)));
        }
        None
    }
}
