//! One parameter's update in as few passes over memory as it takes: `swav::LarsStep`, `swav::SgdStep` and `swav::AdamStep`.
//!
//! `graphgen::functions::optimizer` has the formulas. Tensors have any shape; they are worked on as flat arrays, a block a task.

#[cfg(test)]
mod tests;

use pulp::{Simd, WithSimd};

use super::Resources;
use super::operator::{Attributes, Dense, Input, Output, exactly};
use super::parallel::{KernelError, for_each};
use super::simd::{Columns, for_columns, load_columns, store_columns};

/// Elements of a task, and of the sums in f32.
const BLOCK: usize = 16 * 1024;

/// The first `states` inputs have one shape, the rest are scalars \[1\]; the outputs are all states but the gradient.
fn infer_step(inputs: &[Vec<usize>], states: usize) -> Result<Vec<Vec<usize>>, String> {
    if let Some(other) = inputs[1..states].iter().find(|shape| **shape != inputs[0]) {
        return Err(format!("expected gradient and optimizer state of the parameter's shape {:?}, got {other:?}", inputs[0]));
    }
    if let Some(scalar) = inputs[states..].iter().find(|shape| shape.as_slice() != [1]) {
        return Err(format!("expected scalars [1], got {scalar:?}"));
    }
    Ok(vec![inputs[0].clone(); states - 1])
}

/// The elements of an input that is a scalar \[1\].
fn scalar(input: &Input) -> Result<f32, KernelError> {
    input.f32()?.first().copied().ok_or_else(|| KernelError::Shape("expected a scalar [1], got an empty tensor".into()))
}

/// `swav::SgdStep`: parameter, gradient, momentum and learning rate \[1\] → parameter, momentum.
pub(super) struct SgdStep {
    momentum: f32,
    weight_decay: f32,
}

impl Dense for SgdStep {
    const NAME: &'static str = "SgdStep";
    const INPUTS: (usize, usize) = (4, 0);
    const OUTPUTS: (usize, usize) = (2, 0);
    const IN_PLACE: &'static [(u32, u32)] = &[(0, 0), (2, 1)];

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Ok(SgdStep { momentum: attributes.float("momentum")?, weight_decay: attributes.float("weight_decay")? })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        infer_step(inputs, 3)
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let [p, m] = exactly(outputs)?;
        update(with, Scaling { decay: self.weight_decay, rate: 1.0 }, self.momentum, inputs, p.f32()?, m.f32()?)
    }
}

/// `swav::LarsStep`: inputs and outputs as those of [`SgdStep`].
pub(super) struct LarsStep {
    momentum: f32,
    weight_decay: f32,
    trust_coefficient: f32,
    epsilon: f32,
}

impl Dense for LarsStep {
    const NAME: &'static str = "LarsStep";
    const INPUTS: (usize, usize) = (4, 0);
    const OUTPUTS: (usize, usize) = (2, 0);
    const IN_PLACE: &'static [(u32, u32)] = &[(0, 0), (2, 1)];

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Ok(LarsStep {
            momentum: attributes.float("momentum")?,
            weight_decay: attributes.float("weight_decay")?,
            trust_coefficient: attributes.float("trust_coefficient")?,
            epsilon: attributes.float("epsilon")?,
        })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        infer_step(inputs, 3)
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let [p, m] = exactly(outputs)?;
        let (p, m) = (p.f32()?, m.f32()?);
        let [parameter_norm, gradient_norm] = norms(with, inputs[0].apart()?.unwrap_or(p), inputs[1].f32()?)?;
        let scaling = if parameter_norm > 0.0 && gradient_norm > 0.0 {
            let denominator = gradient_norm + f64::from(self.weight_decay) * parameter_norm + f64::from(self.epsilon);
            Scaling { decay: self.weight_decay, rate: (f64::from(self.trust_coefficient) * parameter_norm / denominator) as f32 }
        } else {
            Scaling { decay: 0.0, rate: 1.0 }
        };
        update(with, scaling, self.momentum, inputs, p, m)
    }
}

/// L2 norms of two arrays of one length, added up in f32 within blocks and in f64 over these, always in the same order.
fn norms(&Resources { parallel, arch, .. }: &Resources, first: &[f32], second: &[f32]) -> Result<[f64; 2], KernelError> {
    let mut sums = vec![[0.0; 2]; first.len().div_ceil(BLOCK)];
    for_each(parallel, sums.iter_mut(), |block, sums| {
        let own = block * BLOCK..first.len().min((block + 1) * BLOCK);
        *sums = [arch.dispatch(SumOfSquares(&first[own.clone()])), arch.dispatch(SumOfSquares(&second[own]))];
    })?;
    let mut totals = [0.0; 2];
    for sums in sums {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total += f64::from(sum);
        }
    }
    Ok(totals.map(f64::sqrt))
}

struct SumOfSquares<'a>(&'a [f32]);

impl WithSimd for SumOfSquares<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        // As many as hide the latency of an addition.
        let mut sums = [simd.splat_f32s(0.0); 8];
        let (vectors, rest) = S::as_simd_f32s(self.0);
        for chunk in vectors.chunks(sums.len()) {
            for (sum, &value) in sums.iter_mut().zip(chunk) {
                *sum = simd.mul_add_f32s(value, value, *sum);
            }
        }
        let rest = simd.partial_load_f32s(rest);
        let mut total = simd.mul_f32s(rest, rest);
        for sum in sums {
            total = simd.add_f32s(total, sum);
        }
        simd.reduce_sum_f32s(total)
    }
}

/// What becomes of a gradient: `(g + decay · p) · rate`.
#[derive(Clone, Copy)]
struct Scaling {
    decay: f32,
    rate: f32,
}

/// A block of a state, to be updated where it is: that of the output, with the elements of the input.
fn block_of<'a>(block: usize, state: Option<&[f32]>, output: &'a mut [f32]) -> &'a mut [f32] {
    if let Some(state) = state {
        output.copy_from_slice(&state[block * BLOCK..][..output.len()]);
    }
    output
}

/// `m ← momentum · m + (g + decay · p) · rate`, `p ← p − lr · m`
fn update(
    &Resources { parallel, arch, .. }: &Resources,
    scaling: Scaling,
    momentum: f32,
    inputs: &[Input],
    p: &mut [f32],
    m: &mut [f32],
) -> Result<(), KernelError> {
    let (old_p, g, old_m, learning_rate) = (inputs[0].apart()?, inputs[1].f32()?, inputs[2].apart()?, scalar(&inputs[3])?);
    for_each(parallel, p.chunks_mut(BLOCK).zip(m.chunks_mut(BLOCK)).zip(g.chunks(BLOCK)), |block, ((p, m), g)| {
        let (p, m) = (block_of(block, old_p, p), block_of(block, old_m, m));
        arch.dispatch(MomentumBlock { scaling, momentum, learning_rate, p, g, m });
    })
}

struct MomentumBlock<'a> {
    scaling: Scaling,
    momentum: f32,
    learning_rate: f32,
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
}

impl WithSimd for MomentumBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_columns(simd, 0..self.p.len(), &mut self);
    }
}

impl Columns for MomentumBlock<'_> {
    #[inline(always)]
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, first: usize, len: usize) {
        let (decay, rate) = (simd.splat_f32s(self.scaling.decay), simd.splat_f32s(self.scaling.rate));
        let (momentum, learning_rate) = (simd.splat_f32s(self.momentum), simd.splat_f32s(-self.learning_rate));
        let mut p = load_columns::<S, COUNT>(simd, self.p, first, len);
        let mut m = load_columns::<S, COUNT>(simd, self.m, first, len);
        let g = load_columns::<S, COUNT>(simd, self.g, first, len);
        for index in 0..COUNT {
            let scaled = simd.mul_f32s(simd.mul_add_f32s(decay, p[index], g[index]), rate);
            m[index] = simd.mul_add_f32s(momentum, m[index], scaled);
            p[index] = simd.mul_add_f32s(learning_rate, m[index], p[index]);
        }
        store_columns(simd, p, self.p, first, len);
        store_columns(simd, m, self.m, first, len);
    }
}

/// `swav::AdamStep`: parameter, gradient, momentum, variance, and \[1\] learning rate, c₁ and c₂ → parameter, momentum, variance.
pub(super) struct AdamStep {
    beta1: f64,
    beta2: f64,
    epsilon: f32,
    weight_decay: f32,
    decoupled: bool,
}

/// The decimal number that an attribute was written as: 1 − β₂ of 0.999 in f32 would be off by 1e-5 of itself.
fn decimal(value: f32) -> Result<f64, String> {
    value.to_string().parse().map_err(|_| format!("expected a number, got {value}"))
}

impl Dense for AdamStep {
    const NAME: &'static str = "AdamStep";
    const INPUTS: (usize, usize) = (7, 0);
    const OUTPUTS: (usize, usize) = (3, 0);
    const IN_PLACE: &'static [(u32, u32)] = &[(0, 0), (2, 1), (3, 2)];

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Ok(AdamStep {
            beta1: decimal(attributes.float("beta1")?)?,
            beta2: decimal(attributes.float("beta2")?)?,
            epsilon: attributes.float("epsilon")?,
            weight_decay: attributes.float("weight_decay")?,
            decoupled: attributes.flag("decoupled")?,
        })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        infer_step(inputs, 4)
    }

    fn compute(&self, &Resources { parallel, arch, .. }: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let (old_p, g, old_m, old_v) = (inputs[0].apart()?, inputs[1].f32()?, inputs[2].apart()?, inputs[3].apart()?);
        let (learning_rate, correction1, correction2) = (scalar(&inputs[4])?, scalar(&inputs[5])?, scalar(&inputs[6])?);
        let constants = AdamConstants {
            shrink: if self.decoupled { learning_rate * self.weight_decay } else { 0.0 },
            decay: if self.decoupled { 0.0 } else { self.weight_decay },
            of_momentum: [self.beta1 as f32, (1.0 - self.beta1) as f32],
            of_variance: [self.beta2 as f32, (1.0 - self.beta2) as f32],
            root: correction2.sqrt(),
            epsilon: self.epsilon,
            step: learning_rate / correction1,
        };
        let [p, m, v] = exactly(outputs)?;
        let parts = p.f32()?.chunks_mut(BLOCK).zip(m.f32()?.chunks_mut(BLOCK)).zip(v.f32()?.chunks_mut(BLOCK)).zip(g.chunks(BLOCK));
        for_each(parallel, parts, |block, (((p, m), v), g)| {
            let (p, m, v) = (block_of(block, old_p, p), block_of(block, old_m, m), block_of(block, old_v, v));
            arch.dispatch(AdamBlock { constants, p, g, m, v });
        })
    }
}

#[derive(Clone, Copy)]
struct AdamConstants {
    /// AdamW's decay: p loses this share.
    shrink: f32,
    /// Adam's decay: the gradient gains this times p.
    decay: f32,
    /// β₁ and 1 − β₁
    of_momentum: [f32; 2],
    /// β₂ and 1 − β₂
    of_variance: [f32; 2],
    /// √c₂
    root: f32,
    epsilon: f32,
    /// lr / c₁
    step: f32,
}

struct AdamBlock<'a> {
    constants: AdamConstants,
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl WithSimd for AdamBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_columns(simd, 0..self.p.len(), &mut self);
    }
}

impl Columns for AdamBlock<'_> {
    #[inline(always)]
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, first: usize, len: usize) {
        let AdamConstants { shrink, decay, of_momentum: [old_m, new_m], of_variance: [old_v, new_v], root, epsilon, step } = self.constants;
        let (shrink, decay, step) = (simd.splat_f32s(-shrink), simd.splat_f32s(decay), simd.splat_f32s(-step));
        let (old_m, new_m, old_v, new_v) = (simd.splat_f32s(old_m), simd.splat_f32s(new_m), simd.splat_f32s(old_v), simd.splat_f32s(new_v));
        let (root, epsilon) = (simd.splat_f32s(root), simd.splat_f32s(epsilon));
        let mut p = load_columns::<S, COUNT>(simd, self.p, first, len);
        let mut m = load_columns::<S, COUNT>(simd, self.m, first, len);
        let mut v = load_columns::<S, COUNT>(simd, self.v, first, len);
        let g = load_columns::<S, COUNT>(simd, self.g, first, len);
        for index in 0..COUNT {
            let g = simd.mul_add_f32s(decay, p[index], g[index]);
            m[index] = simd.mul_add_f32s(old_m, m[index], simd.mul_f32s(new_m, g));
            v[index] = simd.mul_add_f32s(old_v, v[index], simd.mul_f32s(new_v, simd.mul_f32s(g, g)));
            let denominator = simd.add_f32s(simd.div_f32s(simd.sqrt_f32s(v[index]), root), epsilon);
            let shrunk = simd.mul_add_f32s(shrink, p[index], p[index]);
            p[index] = simd.mul_add_f32s(simd.div_f32s(m[index], denominator), step, shrunk);
        }
        store_columns(simd, p, self.p, first, len);
        store_columns(simd, m, self.m, first, len);
        store_columns(simd, v, self.v, first, len);
    }
}
