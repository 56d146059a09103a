//! Dynamic loss scaling: gradients in 16 bits neither vanish nor stay infinite.
//!
//! The loss is multiplied by a scale before the backward pass and the gradients are divided by it behind; where a gradient
//! is not finite the optimizer leaves everything as it is and halves the scale, and after many good steps it doubles it.
//! The constants are those of PyTorch's `GradScaler`, with bounds.

use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::nn::RunningStatistic;
use crate::ops::{Greater, Where};

/// The scale that a run starts with.
pub const INITIAL_SCALE: f64 = 65_536.0;
/// Steps without a skipped one after which the scale doubles.
pub const GROWTH_INTERVAL: f64 = 2_000.0;
/// Smallest scale: a run that overflows without any scaling has another problem.
pub const SMALLEST_SCALE: f64 = 1.0;
/// Largest scale.
const LARGEST_SCALE: f64 = 16_777_216.0;
/// Norms above this, infinite ones and those that are no numbers are not finite.
const LARGEST_NORM: f64 = 3.0e38;

/// The input of the training step.
const SCALE_INPUT: &str = "loss_scale";
/// The output of the training step and the input of the optimizer that says whether it may step.
const FINITE: &str = "gradients_finite";

/// The scale of a training step, f32 [1].
#[derive(Debug, Clone, Copy)]
pub(super) struct LossScale(ValueId);

impl LossScale {
    pub(super) fn input(g: &mut Graph) -> LossScale {
        LossScale(g.input(SCALE_INPUT, TensorType::f32(vec![1])))
    }

    /// What is differentiated instead of the loss.
    pub(super) fn scale(self, g: &mut Graph, loss: ValueId) -> Result<ValueId, GraphError> {
        g.scoped("loss", |g| g.mul(loss, self.0))
    }

    /// The loss's own gradients.
    pub(super) fn unscale(self, g: &mut Graph, gradients: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        g.scoped("loss", |g| {
            let inverse = g.reciprocal(self.0)?;
            gradients.iter().map(|&gradient| g.mul(gradient, inverse)).collect()
        })
    }
}

/// Adds the output `gradients_finite` and keeps running statistics as they were where it is not so: an overflow in the
/// forward pass is in them for good otherwise.
pub(super) fn guard(g: &mut Graph, grad_norm: ValueId, statistics: &mut [RunningStatistic]) -> Result<(), GraphError> {
    let largest = g.scalar(LARGEST_NORM, 1);
    let finite = g.apply(Greater, &[largest, grad_norm])?;
    g.output(FINITE, finite);
    for statistic in statistics {
        let before = g.find_input(&statistic.name).expect("a running statistic is an input");
        statistic.current = g.apply(Where, &[finite, statistic.current, before])?;
    }
    Ok(())
}

/// Whether an optimizer step counts, and the scale's next value.
///
/// Inputs `gradients_finite` bool [1] and, f32 [1] each, `loss_scaling/scale`, `loss_scaling/good_steps` since the scale
/// changed and `loss_scaling/skipped_steps` of the run; outputs `next/…` of these three.
///
/// # Errors
/// None: all shapes are fixed.
pub fn optimizer_guard(g: &mut Graph) -> Result<ValueId, GraphError> {
    let finite = g.input(FINITE, TensorType::new(DType::Bool, vec![1]));
    g.scoped("loss_scaling", |g| {
        let mut state = |name: &str| g.input(&format!("loss_scaling/{name}"), TensorType::f32(vec![1]));
        let (scale, good, skipped) = (state("scale"), state("good_steps"), state("skipped_steps"));
        let (zero, largest) = (g.scalar(0.0, 1), g.scalar(LARGEST_SCALE, 1));
        let one_more = g.offset(good, 1.0)?;
        let last_before_growth = g.scalar(GROWTH_INTERVAL - 0.5, 1);
        let grows = g.apply(Greater, &[one_more, last_before_growth])?;

        let doubled = g.scale(scale, 2.0)?;
        let too_large = g.apply(Greater, &[doubled, largest])?;
        let doubled = g.apply(Where, &[too_large, largest, doubled])?;
        let halved = g.scale(scale, 0.5)?;
        let halved = g.at_least(halved, SMALLEST_SCALE)?;
        let after_good = g.apply(Where, &[grows, doubled, scale])?;
        let next_scale = g.apply(Where, &[finite, after_good, halved])?;

        let counted = g.apply(Where, &[grows, zero, one_more])?;
        let next_good = g.apply(Where, &[finite, counted, zero])?;
        let one_skipped = g.offset(skipped, 1.0)?;
        let next_skipped = g.apply(Where, &[finite, skipped, one_skipped])?;
        for (name, next) in [("scale", next_scale), ("good_steps", next_good), ("skipped_steps", next_skipped)] {
            g.output(&format!("next/loss_scaling/{name}"), next);
        }
        Ok(finite)
    })
}
