//! Optimizers: a preset and its parameters → `optimizer.onnx`.

use crate::functions::optimizer::{AdamStep, LarsStep, SgdStep};
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::methods::loss_scaling::optimizer_guard;
use crate::methods::swav::normalize_prototypes;
use crate::nn::Parameter;
use crate::ops::{Greater, Where};
use crate::preset::{OptimizerName, Precision, Preset};

/// LARS's epsilon (apex's LARC).
pub(crate) const LARS_EPSILON: f64 = 1e-8;
/// Adam's decay of the first moment (PyTorch's default).
pub(crate) const ADAM_BETA1: f64 = 0.9;
/// Adam's decay of the second moment (PyTorch's default).
pub(crate) const ADAM_BETA2: f64 = 0.999;
/// Adam's epsilon (PyTorch's default).
pub(crate) const ADAM_EPSILON: f64 = 1e-8;

/// Scalars of the step.
struct Scalars {
    learning_rate: ValueId,
    train_prototypes: ValueId,
    /// `1 − βᵗ` for both of Adam's betas, of the parameters and of the prototypes.
    corrections: Option<[[ValueId; 2]; 2]>,
    /// In mixed precision, whether the gradients are finite: otherwise everything stays.
    finite: Option<ValueId>,
}

/// The graph of one optimizer step. Inputs `learning_rate` f32 [1], `train_prototypes` bool [1], and for each parameter
/// itself, `grad/…`, `momentum/…` and with Adam and AdamW `variance/…`, with these also `step` i64 [1]: steps taken
/// before. Outputs `next/…` for each state. In mixed precision also what [`optimizer_guard`] adds.
///
/// Every state's old value is read for the last time where its new one is written: both may be one buffer.
///
/// # Errors
/// None for parameters of a network that was built.
pub fn optimizer_step(preset: &Preset, parameters: &[Parameter]) -> Result<Graph, GraphError> {
    let mut g = Graph::new();
    let learning_rate = g.input("learning_rate", TensorType::f32(vec![1]));
    let train_prototypes = g.input("train_prototypes", TensorType::new(DType::Bool, vec![1]));
    let finite = (preset.train.precision == Precision::MixedF16).then(|| optimizer_guard(&mut g)).transpose()?;
    let corrections = match preset.optim.name {
        OptimizerName::Adam | OptimizerName::AdamW => Some(bias_corrections(&mut g, preset, finite)?),
        OptimizerName::Lars | OptimizerName::Sgd => None,
    };
    let scalars = Scalars { learning_rate, train_prototypes, corrections, finite };
    let prototypes = preset.model.nmb_prototypes.parameter_names();
    for parameter in parameters {
        let is_prototypes = prototypes.contains(&parameter.name);
        g.scoped(&parameter.name, |g| update(g, preset, &scalars, parameter, is_prototypes))?;
    }
    Ok(g)
}

fn update(g: &mut Graph, preset: &Preset, scalars: &Scalars, parameter: &Parameter, is_prototypes: bool) -> Result<(), GraphError> {
    let ty = TensorType::f32(parameter.shape.clone());
    let mut state = |prefix: &str| g.input(&format!("{prefix}{}", parameter.name), ty.clone());
    let (mut p, gradient, momentum) = (state(""), state("grad/"), state("momentum/"));
    let variance = scalars.corrections.is_some().then(|| state("variance/"));
    if is_prototypes {
        p = normalize_prototypes(g, p)?;
    }

    let optim = &preset.optim;
    let (weight_decay, mu) = (optim.weight_decay, optim.momentum);
    let lr = scalars.learning_rate;
    let next = match (optim.name, variance, scalars.corrections) {
        (OptimizerName::Lars, ..) => {
            let step = LarsStep { momentum: mu, weight_decay, trust_coefficient: optim.trust_coefficient, epsilon: LARS_EPSILON };
            g.apply_all(step, &[p, gradient, momentum, lr])?
        }
        (OptimizerName::Sgd, ..) => g.apply_all(SgdStep { momentum: mu, weight_decay }, &[p, gradient, momentum, lr])?,
        (OptimizerName::Adam | OptimizerName::AdamW, Some(variance), Some(corrections)) => {
            let decoupled = optim.name == OptimizerName::AdamW;
            let step = AdamStep { beta1: ADAM_BETA1, beta2: ADAM_BETA2, epsilon: ADAM_EPSILON, weight_decay, decoupled };
            let [correction1, correction2] = corrections[usize::from(is_prototypes)];
            g.apply_all(step, &[p, gradient, momentum, variance, lr, correction1, correction2])?
        }
        (OptimizerName::Adam | OptimizerName::AdamW, ..) => unreachable!("Adam has variance and corrections"),
    };
    let old = [Some(p), Some(momentum), variance].into_iter().flatten();
    for ((prefix, old), new) in ["next/", "next/momentum/", "next/variance/"].into_iter().zip(old).zip(next) {
        let new = if is_prototypes { g.apply(Where, &[scalars.train_prototypes, new, old])? } else { new };
        let new = scalars.finite.map_or(Ok(new), |finite| g.apply(Where, &[finite, new, old]))?;
        g.output(&format!("{prefix}{}", parameter.name), new);
    }
    Ok(())
}

/// Counts the step and returns `1 − βᵗ` of parameters and prototypes: prototypes that were frozen for the first
/// iterations have taken as many steps fewer, as in PyTorch, where an optimizer counts for each parameter.
fn bias_corrections(g: &mut Graph, preset: &Preset, finite: Option<ValueId>) -> Result<[[ValueId; 2]; 2], GraphError> {
    g.scoped("bias_correction", |g| {
        let step = g.input("step", TensorType::new(DType::I64, vec![1]));
        let integer = |g: &mut Graph, value: i64| g.constant([1], TensorData::I64(vec![value]));
        let one = integer(g, 1);
        let before = step;
        let step = g.add(before, one)?;
        let counted = finite.map_or(Ok(step), |finite| g.apply(Where, &[finite, step, before]))?;
        g.output("next/step", counted);
        let frozen = integer(g, -(i64::try_from(preset.optim.freeze_prototypes_niters).unwrap_or(i64::MAX)));
        let since_frozen = g.add(step, frozen)?;
        let started = g.apply(Greater, &[since_frozen, one])?;
        let since_frozen = g.apply(Where, &[started, since_frozen, one])?;
        let corrections = |g: &mut Graph, steps: ValueId| -> Result<[ValueId; 2], GraphError> {
            let steps = g.cast(steps, DType::F32)?;
            Ok([one_minus_power(g, ADAM_BETA1, steps)?, one_minus_power(g, ADAM_BETA2, steps)?])
        };
        Ok([corrections(g, step)?, corrections(g, since_frozen)?])
    })
}

/// `1 − βᵗ` without cancellation: with `h = tanh(−½·t·ln β)` it is `2h / (1 + h)`.
pub(crate) fn one_minus_power(g: &mut Graph, beta: f64, steps: ValueId) -> Result<ValueId, GraphError> {
    let exponent = g.scale(steps, -0.5 * beta.ln())?;
    let h = g.apply(crate::ops::Tanh, &[exponent])?;
    let numerator = g.scale(h, 2.0)?;
    let denominator = g.offset(h, 1.0)?;
    g.div(numerator, denominator)
}
