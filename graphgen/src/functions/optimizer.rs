//! One parameter's update: LARS, SGD, Adam and AdamW.
//!
//! Each reads a parameter's old value for the last time where it writes the new one, so that input and output may be
//! one buffer. Scalars are f32 [1].

use ndarray::ArrayD;

use super::formulations::NormForm;
use crate::ir::{Graph, GraphError, TensorType, ValueId};
use crate::ops::{Attribute, Domain, FusedMatMul, Greater, Operator, Vjp, Where};
use crate::preset::Target;

/// SGD with momentum and coupled L2 decay (PyTorch's): `g ← g + wd·p`, `m ← μ·m + g`, `p ← p − lr·m`.
/// Inputs parameter, gradient, momentum, learning rate; outputs parameter, momentum.
#[derive(Debug, Clone, PartialEq)]
pub struct SgdStep {
    /// μ
    pub momentum: f64,
    /// wd
    pub weight_decay: f64,
}

/// LARS around SGD with momentum (apex's LARC with `clip=False`): where neither the parameter's nor the gradient's norm
/// is 0, `g ← (g + wd·p) · trust·‖p‖ / (‖g‖ + wd·‖p‖ + ε)`, elsewhere g stays unscaled and undecayed; then
/// `m ← μ·m + g`, `p ← p − lr·m`. Inputs and outputs as [`SgdStep`].
#[derive(Debug, Clone, PartialEq)]
pub struct LarsStep {
    /// μ
    pub momentum: f64,
    /// wd
    pub weight_decay: f64,
    /// trust
    pub trust_coefficient: f64,
    /// ε
    pub epsilon: f64,
}

/// Adam or AdamW (PyTorch's). With c₁ = 1 − β₁ᵗ and c₂ = 1 − β₂ᵗ: decay couples as `g ← g + wd·p`, or decoupled as
/// `p ← p − lr·wd·p`; `m ← β₁·m + (1−β₁)·g`, `v ← β₂·v + (1−β₂)·g²`, `p ← p − lr/c₁ · m / (√v/√c₂ + ε)`.
/// Inputs parameter, gradient, momentum, variance, learning rate, c₁, c₂; outputs parameter, momentum, variance.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamStep {
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// ε
    pub epsilon: f64,
    /// wd
    pub weight_decay: f64,
    /// AdamW's decay.
    pub decoupled: bool,
}

/// The first `states` inputs share one shape, the rest are scalars [1]; the outputs are all states but the gradient.
fn infer_step(inputs: &[&TensorType], states: usize, scalars: usize) -> Result<Vec<TensorType>, String> {
    if inputs.len() != states + scalars {
        return Err(format!("expected {} inputs, got {}", states + scalars, inputs.len()));
    }
    let parameter = inputs[0];
    if let Some(other) = inputs[1..states].iter().find(|ty| **ty != parameter) {
        return Err(format!("expected gradient and optimizer state like the parameter {parameter}, got {other}"));
    }
    if let Some(scalar) = inputs[states..].iter().find(|ty| ***ty != TensorType::f32(vec![1])) {
        return Err(format!("expected scalars f32 [1], got {scalar}"));
    }
    Ok(vec![parameter.clone(); states - 1])
}

/// Starts a body; the scalars are reshaped to `[1; rank]`, since the CPU provider multiplies slowly by lower ranks.
fn start<const N: usize>(names: [&str; N], states: usize, types: &[&TensorType]) -> Result<(Graph, [ValueId; N]), GraphError> {
    let (mut g, mut inputs) = super::body_inputs(names, types);
    let ones = vec![1; types[0].rank()];
    for scalar in &mut inputs[states..] {
        *scalar = g.reshape(*scalar, &ones)?;
    }
    Ok((g, inputs))
}

/// `g + wd·p`
pub(crate) fn decayed(g: &mut Graph, weight_decay: f64, p: ValueId, gradient: ValueId) -> Result<ValueId, GraphError> {
    let decay = g.scale(p, weight_decay)?;
    g.add(gradient, decay)
}

/// `m ← μ·m + g`, `p ← p − lr·m`
fn momentum_update(g: &mut Graph, momentum: f64, [p, gradient, m, lr]: [ValueId; 4]) -> Result<(), GraphError> {
    let decayed = g.scale(m, momentum)?;
    let m = g.add(decayed, gradient)?;
    let update = g.mul(m, lr)?;
    let p = g.sub(p, update)?;
    g.output("next_parameter", p);
    g.output("next_momentum", m);
    Ok(())
}

fn eval_momentum_update(momentum: f64, p: &ArrayD<f64>, gradient: ArrayD<f64>, m: &ArrayD<f64>, lr: f64) -> Vec<ArrayD<f64>> {
    let m = m * momentum + gradient;
    vec![p - &(&m * lr), m]
}

impl Operator for SgdStep {
    const NAME: &'static str = "SgdStep";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_step(inputs, 3, 1)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("momentum", Attribute::Float(self.momentum as f32)), ("weight_decay", Attribute::Float(self.weight_decay as f32))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [p, gradient, m, lr] = inputs else { unreachable!("the arity was checked") };
        let gradient = *gradient + &(*p * self.weight_decay);
        eval_momentum_update(self.momentum, p, gradient, m, lr[[0]])
    }

    fn body(&self, inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [p, gradient, m, lr]) = start(["parameter", "gradient", "momentum", "learning_rate"], 3, inputs)?;
        let gradient = decayed(&mut g, self.weight_decay, p, gradient)?;
        momentum_update(&mut g, self.momentum, [p, gradient, m, lr])?;
        Ok(Some(g))
    }
}

impl Operator for LarsStep {
    const NAME: &'static str = "LarsStep";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_step(inputs, 3, 1)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("epsilon", Attribute::Float(self.epsilon as f32)),
            ("momentum", Attribute::Float(self.momentum as f32)),
            ("trust_coefficient", Attribute::Float(self.trust_coefficient as f32)),
            ("weight_decay", Attribute::Float(self.weight_decay as f32)),
        ]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [p, gradient, m, lr] = inputs else { unreachable!("the arity was checked") };
        let norm = |x: &ArrayD<f64>| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (parameter_norm, gradient_norm, decay) = (norm(p), norm(gradient), self.weight_decay);
        let gradient = if parameter_norm > 0.0 && gradient_norm > 0.0 {
            let rate = self.trust_coefficient * parameter_norm / (gradient_norm + decay * parameter_norm + self.epsilon);
            (*gradient + &(*p * decay)) * rate
        } else {
            (*gradient).clone()
        };
        eval_momentum_update(self.momentum, p, gradient, m, lr[[0]])
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [p, gradient, m, lr]) = start(["parameter", "gradient", "momentum", "learning_rate"], 3, inputs)?;
        let norm = match target.formulations().norm {
            NormForm::Products if inputs[0].rank() > 1 => norm_by_products,
            _ => norm,
        };
        let norms = [norm(&mut g, p)?, norm(&mut g, gradient)?];
        let gradient = self.scaled(&mut g, [p, gradient], norms)?;
        momentum_update(&mut g, self.momentum, [p, gradient, m, lr])?;
        Ok(Some(g))
    }
}

impl LarsStep {
    /// The decayed gradient times its rate: what goes into the momentum. It holds no shape constants. `norms`: those of the
    /// parameter and the gradient, `[1; rank]`.
    pub(crate) fn scaled(&self, g: &mut Graph, [p, gradient]: [ValueId; 2], norms: [ValueId; 2]) -> Result<ValueId, GraphError> {
        let rank = g.shape(p).len();
        let (zero, one) = (g.scalar(0.0, rank), g.scalar(1.0, rank));
        let [parameter_norm, gradient_norm] = norms;
        let numerator = g.scale(parameter_norm, self.trust_coefficient)?;
        let decayed_norm = g.scale(parameter_norm, self.weight_decay)?;
        let denominator = g.add(gradient_norm, decayed_norm)?;
        let denominator = g.offset(denominator, self.epsilon)?;
        let rate = g.div(numerator, denominator)?;
        let decay = g.scalar(self.weight_decay, rank);
        let (parameter_nonzero, gradient_nonzero) = (g.apply(Greater, &[parameter_norm, zero])?, g.apply(Greater, &[gradient_norm, zero])?);
        let mut where_both = |value, otherwise| {
            let inner = g.apply(Where, &[gradient_nonzero, value, otherwise])?;
            g.apply(Where, &[parameter_nonzero, inner, otherwise])
        };
        let (rate, decay) = (where_both(rate, one)?, where_both(decay, zero)?);
        let decay = g.mul(p, decay)?;
        let gradient = g.add(gradient, decay)?;
        g.mul(gradient, rate)
    }
}

/// L2 norm over all elements, `[1; rank]`. Every row is summed up for itself: ONNX Runtime adds millions of squares one
/// after the other in f32, which loses up to 5e-4 of the norm.
pub(crate) fn norm(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let mut square = g.mul(x, x)?;
    let within_row: Vec<usize> = (1..g.shape(x).len()).collect();
    if !within_row.is_empty() {
        square = g.reduce_sum(square, &within_row, true)?;
    }
    let sum = g.reduce_sum(square, &[0], true)?;
    g.sqrt(sum)
}

/// The same, with every row's sum a product of vectors: on ONNX Runtime's CPU provider it takes a quarter of the time for large
/// rows, since no squares are written, and is at least as accurate.
fn norm_by_products(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let shape = g.shape(x).to_vec();
    let rows = g.reshape(x, &[shape[0], 1, shape[1..].iter().product()])?;
    let squares = g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[rows, rows])?;
    let sum = g.reduce_sum(squares, &[0], true)?;
    let sum = g.reshape(sum, &vec![1; shape.len()])?;
    g.sqrt(sum)
}

impl Operator for AdamStep {
    const NAME: &'static str = "AdamStep";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_step(inputs, 4, 3)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("beta1", Attribute::Float(self.beta1 as f32)),
            ("beta2", Attribute::Float(self.beta2 as f32)),
            ("decoupled", Attribute::Int(self.decoupled.into())),
            ("epsilon", Attribute::Float(self.epsilon as f32)),
            ("weight_decay", Attribute::Float(self.weight_decay as f32)),
        ]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [p, gradient, m, v, lr, correction1, correction2] = inputs else { unreachable!("the arity was checked") };
        let (beta1, beta2, decay) = (self.beta1, self.beta2, self.weight_decay);
        let (lr, correction1, correction2) = (lr[[0]], correction1[[0]], correction2[[0]]);
        let (p, gradient) = if self.decoupled { (*p * (1.0 - lr * decay), (*gradient).clone()) } else { ((*p).clone(), *gradient + &(*p * decay)) };
        let m = *m * beta1 + &gradient * (1.0 - beta1);
        let v = *v * beta2 + &(&gradient * &gradient) * (1.0 - beta2);
        let denominator = v.mapv(|v| v.sqrt() / correction2.sqrt() + self.epsilon);
        vec![p - &m / &denominator * (lr / correction1), m, v]
    }

    fn body(&self, inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        let names = ["parameter", "gradient", "momentum", "variance", "learning_rate", "correction1", "correction2"];
        let (mut g, [p, gradient, m, v, lr, correction1, correction2]) = start(names, 4, inputs)?;
        let (beta1, beta2, decay) = (self.beta1, self.beta2, self.weight_decay);
        let (p, gradient) = if self.decoupled {
            let decay = g.scale(lr, decay)?;
            let shrink = g.mul(p, decay)?;
            (g.sub(p, shrink)?, gradient)
        } else {
            (p, decayed(&mut g, decay, p, gradient)?)
        };
        let (old, new) = (g.scale(m, beta1)?, g.scale(gradient, 1.0 - beta1)?);
        let m = g.add(old, new)?;
        let square = g.mul(gradient, gradient)?;
        let (old, new) = (g.scale(v, beta2)?, g.scale(square, 1.0 - beta2)?);
        let v = g.add(old, new)?;
        let (root, correction2) = (g.sqrt(v)?, g.sqrt(correction2)?);
        let root = g.div(root, correction2)?;
        let denominator = g.offset(root, self.epsilon)?;
        let step = g.div(lr, correction1)?;
        let direction = g.div(m, denominator)?;
        let update = g.mul(direction, step)?;
        let p = g.sub(p, update)?;
        for (name, value) in [("next_parameter", p), ("next_momentum", m), ("next_variance", v)] {
            g.output(name, value);
        }
        Ok(Some(g))
    }
}
