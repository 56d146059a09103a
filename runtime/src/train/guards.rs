//! Guards: signs that a run has gone wrong, looked for in every step's scalars before the parameters change.

use std::collections::BTreeMap;

use graphgen::preset::{GuardAction, Preset};
use serde::{Deserialize, Serialize};

use super::{StepReport, TrainError};

/// Steps in a row without growth after which a queue that is not full counts as dead.
const QUEUE_PATIENCE: u64 = 3;

/// What a guard looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// The loss or the norm of the gradients is no finite number.
    NotFinite,
    /// All prototypes fit an image equally well: the codes say nothing.
    UniformCodes,
    /// All embeddings are one point.
    CollapsedFeatures,
    /// The loss is that of guessing.
    LossOfGuessing,
    /// Few prototypes are any image's first choice.
    DeadPrototypes,
    /// The queue does not fill.
    DeadQueue,
    /// No batch comes.
    StalledData,
}

/// What the guards of a run have seen; part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    /// Steps in a row that a sign has been seen, up to the last step.
    pub streaks: BTreeMap<Guard, u64>,
    /// How often a guard has struck.
    pub strikes: BTreeMap<Guard, u64>,
    /// Steps skipped in a row, up to the last step.
    pub skipped_in_a_row: u64,
    /// Rollbacks so far.
    pub rollbacks: u32,
    /// What they multiply the schedule's learning rate by.
    pub learning_rate_factor: f64,
    /// Rows of the queue before the last step that was looked at.
    pub queue_filled: Option<i64>,
}

impl Default for GuardState {
    fn default() -> Self {
        GuardState { streaks: BTreeMap::new(), strikes: BTreeMap::new(), skipped_in_a_row: 0, rollbacks: 0, learning_rate_factor: 1.0, queue_filled: None }
    }
}

/// A guard's demand to do something about a step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Strike {
    pub(super) response: Response,
    /// What was seen, the likely cause and the setting to change.
    pub(super) message: String,
}

/// What a strike demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Response {
    /// To leave the update out.
    Skip,
    /// To go back to the newest checkpoint of at most this many steps.
    RollBack {
        /// Steps that were done when the first sign was seen.
        healthy_step: u64,
    },
    /// To end the run.
    Stop,
}

impl Strike {
    /// Both demands in one.
    fn and(self, other: Strike) -> Strike {
        let message = format!("{}; {}", self.message, other.message);
        match (self.response, other.response) {
            (Response::RollBack { healthy_step: a }, Response::RollBack { healthy_step: b }) => {
                Strike { response: Response::RollBack { healthy_step: a.min(b) }, message }
            }
            (a, b) if a == b => Strike { response: a, message },
            (a, b) if a > b => self,
            _ => other,
        }
    }
}

/// A sign in one step's scalars.
struct Sign {
    guard: Guard,
    seen: bool,
    patience: u64,
    action: GuardAction,
    /// What was seen, without its duration.
    finding: String,
    advice: String,
}

/// Watches a run.
pub(super) struct Guards {
    preset: Preset,
    /// Mean of ln K over the heads.
    ln_k: f64,
    state: GuardState,
    /// Seconds of waiting for a batch at which the guard strikes next.
    next_stall_secs: f64,
}

impl Guards {
    /// The guards of a run that goes on in `state`.
    pub(super) fn new(preset: &Preset, state: GuardState) -> Guards {
        let ln_k = ln_k(preset);
        Guards { preset: preset.clone(), ln_k, state, next_stall_secs: preset.guards.stall_secs }
    }

    /// What has been seen so far.
    pub(super) fn state(&self) -> &GuardState {
        &self.state
    }

    /// Whether some guard may ask for a rollback.
    pub(super) fn may_roll_back(&self) -> bool {
        let guards = &self.preset.guards;
        [guards.not_finite, guards.collapse, guards.dead_prototypes].contains(&GuardAction::Rollback)
    }

    /// The newest step, of the `steps` done, that a rollback could go to if a sign that is being seen leads to one.
    pub(super) fn healthy_step(&self, steps: u64) -> u64 {
        match self.may_roll_back() {
            true => steps - self.state.streaks.values().max().copied().unwrap_or(0).min(steps),
            false => steps,
        }
    }

    /// Looks at a step before its update. Warnings go to the log; of the rest the severest is returned, with the words of
    /// all that are as severe.
    pub(super) fn judge(&mut self, report: &StepReport) -> Option<Strike> {
        let strikes = self.signs(report).into_iter().filter_map(|sign| self.weigh(sign, report.step));
        let strike = strikes.collect::<Vec<_>>().into_iter().reduce(Strike::and);
        self.state.queue_filled = report.queue.map(|(filled, _)| filled);
        match &strike {
            Some(Strike { response: Response::Skip, .. }) => self.state.skipped_in_a_row += 1,
            _ => self.state.skipped_in_a_row = 0,
        }
        strike
    }

    /// Counts a sign and decides whether its guard strikes.
    fn weigh(&mut self, sign: Sign, step: u64) -> Option<Strike> {
        let Sign { guard, seen, patience, action, finding, advice } = sign;
        if !seen {
            self.state.streaks.remove(&guard);
            return None;
        }
        let streak = self.state.streaks.entry(guard).and_modify(|streak| *streak += 1).or_insert(1);
        let streak = *streak;
        let strikes = match action {
            // Again after twice the time, and twice that.
            GuardAction::Warn => streak.is_multiple_of(patience) && (streak / patience).is_power_of_two(),
            _ => streak >= patience,
        };
        if !strikes {
            return None;
        }
        *self.state.strikes.entry(guard).or_insert(0) += 1;
        let duration = if streak > 1 { format!(", for {streak} steps now") } else { String::new() };
        let message = format!("step {step}: {finding}{duration}. {advice}");
        let guards = &self.preset.guards;
        let stop = |limit: &str, count: u64| Strike { response: Response::Stop, message: format!("{message}. This is after {count} of {limit}") };
        match action {
            GuardAction::Warn => {
                tracing::warn!("{message}");
                None
            }
            GuardAction::Skip if self.state.skipped_in_a_row >= guards.max_skips => Some(stop("guards.max_skips skipped steps", guards.max_skips)),
            GuardAction::Skip => Some(Strike { response: Response::Skip, message }),
            GuardAction::Rollback if self.state.rollbacks >= guards.max_rollbacks => {
                Some(stop("guards.max_rollbacks rollbacks", u64::from(guards.max_rollbacks)))
            }
            GuardAction::Rollback => Some(Strike { response: Response::RollBack { healthy_step: (step + 1).saturating_sub(streak) }, message }),
            GuardAction::Stop => Some(Strike { response: Response::Stop, message }),
        }
    }

    fn signs(&self, report: &StepReport) -> Vec<Sign> {
        let Preset { model, crops, loss, train, guards, .. } = &self.preset;
        let mut signs = Vec::new();
        let not_finite = not_finite(report);
        signs.push(Sign {
            guard: Guard::NotFinite,
            seen: not_finite.is_some(),
            patience: 1,
            action: guards.not_finite,
            finding: not_finite.unwrap_or_default(),
            advice: NOT_FINITE_ADVICE.into(),
        });
        let mut patient = |guard, action, seen, finding, advice| {
            signs.push(Sign { guard, seen, patience: guards.patience_steps, action, finding, advice });
        };
        let stat = |name: &str| report.stats.get(name).map(|&value| f64::from(value));
        if let Some(entropy) = stat("code_entropy") {
            let share = entropy / self.ln_k;
            let finding = format!("the codes are uniform (entropy {share:.4} of ln K, guards.max_code_entropy is {})", guards.max_code_entropy);
            let advice = format!(
                "Likely cause: loss.epsilon = {} is too high for these scores; lower it, to half at first. If the embeddings have collapsed as well, lower \
                 optim.base_lr instead",
                loss.epsilon
            );
            patient(Guard::UniformCodes, guards.collapse, share > guards.max_code_entropy, finding, advice);
        }
        if let Some(spread) = stat("feature_std") {
            let share = spread * (model.feat_dim as f64).sqrt();
            let finding = format!("the embeddings have collapsed (spread {share:.4} of 1/√D, guards.min_feature_std is {})", guards.min_feature_std);
            let advice = "Likely cause: a learning rate that is too high; lower optim.base_lr or lengthen optim.warmup_epochs".into();
            patient(Guard::CollapsedFeatures, guards.collapse, share < guards.min_feature_std, finding, advice);
        }
        let share = f64::from(report.loss) / self.ln_k;
        let finding = format!("the loss is that of guessing ({share:.4} of ln K, guards.max_loss is {})", guards.max_loss);
        let advice = "Likely causes: a learning rate that is too high or too low (optim.base_lr, optim.warmup_epochs), or codes that are too uniform (lower \
                      loss.epsilon)"
            .into();
        patient(Guard::LossOfGuessing, guards.collapse, share >= guards.max_loss, finding, advice);
        if let Some(live) = stat("live_prototypes") {
            let choices = crops.crops_for_assign.len() * train.batch_size;
            let possible: usize = model.nmb_prototypes.counts().iter().map(|&count| count.min(choices)).sum();
            let share = live / possible as f64;
            let finding = format!("{live} of {possible} prototypes are chosen (guards.min_live_prototypes is {})", guards.min_live_prototypes);
            let advice = "Likely causes: a learning rate that is too high (optim.base_lr), codes that are too sharp or hardly balanced (raise loss.epsilon or \
                          loss.sinkhorn_iterations), or more prototypes than the images have groups (model.nmb_prototypes)"
                .into();
            patient(Guard::DeadPrototypes, guards.dead_prototypes, share < guards.min_live_prototypes, finding, advice);
        }
        if let Some((filled, length)) = report.queue {
            let fills = report.epoch > loss.epoch_queue_starts as u64 || self.state.queue_filled.is_some_and(|before| before > 0);
            let seen = fills && filled < length as i64 && self.state.queue_filled.is_some_and(|before| filled <= before);
            signs.push(Sign {
                guard: Guard::DeadQueue,
                // The update of a skipped step does not reach the queue.
                seen: seen && self.state.skipped_in_a_row == 0,
                patience: QUEUE_PATIENCE,
                action: guards.dead_queue,
                finding: format!("the queue holds {filled} of {length} embeddings and does not fill"),
                advice: "Likely cause: graphs or a checkpoint with another loss.queue_length; remove graphs/ from the run directory, or start a new run".into(),
            });
        }
        signs
    }

    /// Notes that the run has waited for a batch for so long.
    ///
    /// # Errors
    /// Too long, if that ends the run.
    pub(super) fn waited(&mut self, secs: f64) -> Result<(), TrainError> {
        if secs < self.next_stall_secs {
            return Ok(());
        }
        self.next_stall_secs *= 2.0;
        *self.state.strikes.entry(Guard::StalledData).or_insert(0) += 1;
        let message = format!(
            "no batch for {secs:.0} s (guards.stall_secs is {}). Likely causes: storage that hangs or is too slow for --data, or too few loader threads \
             (train.workers)",
            self.preset.guards.stall_secs
        );
        if self.preset.guards.stalled_data == GuardAction::Stop {
            return Err(TrainError::Unhealthy { message });
        }
        tracing::warn!("{message}");
        Ok(())
    }

    /// Notes that a batch has come.
    pub(super) fn batch_came(&mut self) {
        self.next_stall_secs = self.preset.guards.stall_secs;
    }

    /// Goes back to what the guards of a checkpoint had seen; the learning rate is lowered once more.
    pub(super) fn roll_back_to(&mut self, earlier: &GuardState) {
        self.state = GuardState {
            strikes: std::mem::take(&mut self.state.strikes),
            rollbacks: self.state.rollbacks + 1,
            learning_rate_factor: self.state.learning_rate_factor * self.preset.guards.rollback_learning_rate,
            ..earlier.clone()
        };
    }
}

/// Mean of ln K over the heads of a preset.
pub(super) fn ln_k(preset: &Preset) -> f64 {
    let heads = preset.model.nmb_prototypes.counts();
    heads.iter().map(|&count| (count as f64).ln()).sum::<f64>() / heads.len() as f64
}

/// Why a queue would take no part in a run of `steps` steps, if so.
pub(super) fn unused_queue(preset: &Preset, steps_per_epoch: u64, steps: u64) -> Option<String> {
    let rows = preset.queue_rows();
    if rows == 0 {
        return None;
    }
    let full = (preset.loss.epoch_queue_starts as u64).saturating_mul(steps_per_epoch).saturating_add((rows / preset.train.batch_size) as u64);
    (full >= steps).then(|| {
        format!(
            "the queue is dead: it is full only after step {full}, and the run has {steps} steps. Lower loss.epoch_queue_starts or loss.queue_length, or leave \
             the queue out with loss.queue_length = 0"
        )
    })
}

/// What in a step is not finite, if anything; an overflow that mixed precision deals with does not count.
fn not_finite(report: &StepReport) -> Option<String> {
    if report.overflowed {
        return None;
    }
    let norm = report.stats.get("grad_norm").map(|norm| ("gradient norm", *norm));
    std::iter::once(("loss", report.loss)).chain(norm).find(|(_, value)| !value.is_finite()).map(|(name, value)| format!("the {name} is {value}"))
}

/// What to do about it.
const NOT_FINITE_ADVICE: &str = "Likely causes: a learning rate that is too high (lower optim.base_lr or lengthen optim.warmup_epochs), an epsilon or \
     temperature that is too small (loss.epsilon, loss.temperature), or weights from --init that do not fit";

#[cfg(test)]
mod tests;
