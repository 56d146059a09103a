//! Batch normalisation over the batch's own statistics, and its gradient.

use ndarray::{ArrayD, Axis};

use super::body_inputs;
use crate::ir::{Graph, GraphError, TensorType, ValueId};
use crate::ops::normalization::{BatchNormalization, BatchNormalizationTraining, batch_statistics, normalize, over_channels};
use crate::ops::{Attribute, Domain, FusedMatMul, Operator, Slice, Vjp};
use crate::preset::Target;

/// `y = scale · (x − mean) / √(var + epsilon) + bias`; inputs x [N,C] or [N,C,H,W], scale [C], bias [C]; outputs y and
/// the batch's mean and biased variance [C], which are statistics: no gradient flows through them.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormTrain {
    /// Added to the variance.
    pub epsilon: f64,
}

/// Gradients of [`BatchNormTrain`]; inputs dy, x, scale, mean, var; outputs dx, dscale [C], dbias [C].
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormTrainGrad {
    /// Added to the variance.
    pub epsilon: f64,
}

/// Axes that the statistics run over.
fn batch_axes(x: &TensorType) -> Vec<usize> {
    (0..x.rank()).filter(|&axis| axis != 1).collect()
}

/// Elements behind one statistic.
pub(crate) fn elements_per_channel(x: &TensorType) -> usize {
    x.elements() / x.shape[1]
}

/// `[1, C, 1, …]`
fn channel_shape(x: &TensorType) -> Vec<usize> {
    (0..x.rank()).map(|axis| if axis == 1 { x.shape[1] } else { 1 }).collect()
}

impl Operator for BatchNormTrain {
    const NAME: &'static str = "BatchNormTrain";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, scale, bias] = crate::ops::arity(inputs)?;
        if ![2, 4].contains(&x.rank()) || scale.shape != [x.shape[1]] || bias.shape != [x.shape[1]] {
            return Err(format!("expected x [N, C] or [N, C, H, W] and vectors of C elements, got {x}, {scale} and {bias}"));
        }
        if elements_per_channel(x) < 2 {
            return Err(format!("expected more than one value per channel, got {x}"));
        }
        Ok(vec![x.clone(), scale.clone(), scale.clone()])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let inputs = [cx.gradient()?, cx.input(0), cx.input(1), cx.output(1), cx.output(2)];
        let gradients = cx.graph.apply_all(BatchNormTrainGrad { epsilon: self.epsilon }, &inputs)?;
        Ok(gradients.into_iter().map(Some).collect())
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [x, scale, bias] = inputs else { unreachable!("the arity was checked") };
        let (mean, variance) = batch_statistics(x);
        vec![normalize(x, scale, bias, &mean, &variance, self.epsilon), mean, variance]
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [x, scale, bias]) = body_inputs(["x", "scale", "bias"], inputs);
        let (y, mean, variance) = match target {
            Target::Portable => {
                let (axes, over_channels) = (batch_axes(inputs[0]), channel_shape(inputs[0]));
                let mean = g.reduce_mean(x, &axes, true)?;
                let centred = g.sub(x, mean)?;
                let square = g.mul(centred, centred)?;
                let variance = g.reduce_mean(square, &axes, true)?;
                let inverse = inverse_std(&mut g, variance, self.epsilon)?;
                let scale = g.reshape(scale, &over_channels)?;
                let factor = g.mul(inverse, scale)?;
                let scaled = g.mul(centred, factor)?;
                let bias = g.reshape(bias, &over_channels)?;
                let y = g.add(scaled, bias)?;
                let channels = [inputs[0].shape[1]];
                (y, g.reshape(mean, &channels)?, g.reshape(variance, &channels)?)
            }
            Target::Cpu => {
                let (scratch_mean, scratch_variance) = scratch(&mut g, x)?;
                let outputs = g.apply_all(BatchNormalizationTraining { epsilon: self.epsilon }, &[x, scale, bias, scratch_mean, scratch_variance])?;
                (outputs[0], outputs[1], outputs[2])
            }
        };
        for (name, value) in [("y", y), ("mean", mean), ("var", variance)] {
            g.output(name, value);
        }
        Ok(Some(g))
    }
}

/// Two vectors of zeros [C] that ONNX Runtime's kernel may overwrite with the statistics.
///
/// They are computed from x, in two ways, since equal computations are merged into one value: a BatchNorm that is applied
/// to several groups of crops would find the statistics of its other group in its own.
fn scratch(g: &mut Graph, x: ValueId) -> Result<(ValueId, ValueId), GraphError> {
    let ty = g.ty(x).clone();
    let axes = batch_axes(&ty);
    let (starts, ends) = (vec![0; axes.len()], vec![1; axes.len()]);
    let steps = ends.clone();
    let first = g.apply(Slice { axes, starts, ends, steps }, &[x])?;
    let first = g.reshape(first, &[ty.shape[1]])?;
    Ok((g.scale(first, 0.0)?, g.sub(first, first)?))
}

/// `1 / √(variance + epsilon)`
fn inverse_std(g: &mut Graph, variance: ValueId, epsilon: f64) -> Result<ValueId, GraphError> {
    let shifted = g.offset(variance, epsilon)?;
    let deviation = g.sqrt(shifted)?;
    g.reciprocal(deviation)
}

impl Operator for BatchNormTrainGrad {
    const NAME: &'static str = "BatchNormTrainGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy, x, scale, ..] = crate::ops::arity::<5>(inputs)?;
        if dy != x {
            return Err(format!("expected gradient and input of one shape, got {dy} and {x}"));
        }
        Ok(vec![x.clone(), scale.clone(), scale.clone()])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [dy, x, scale, mean, variance] = inputs else { unreachable!("the arity was checked") };
        let over = |vector: &ArrayD<f64>| over_channels(vector, x.ndim());
        let sum = |values: &ArrayD<f64>| (0..values.ndim()).rev().filter(|&axis| axis != 1).fold(values.clone(), |sum, axis| sum.sum_axis(Axis(axis)));
        let count = (x.len() / x.shape()[1]) as f64;
        let inverse = variance.mapv(|variance| 1.0 / (variance + self.epsilon).sqrt());
        let normalized = (*x - &over(mean)) * over(&inverse);
        let dbias = sum(dy);
        let dscale = sum(&(*dy * &normalized));
        let dx = (*dy - &over(&(&dbias / count)) - normalized * over(&(&dscale / count))) * over(&(&inverse * *scale));
        vec![dx, dscale, dbias]
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [dy, x, scale, mean, variance]) = body_inputs(["dy", "x", "scale", "mean", "var"], inputs);
        let outputs = match target {
            Target::Cpu if inputs[1].rank() == 4 => self.cpu_body(&mut g, inputs[1], [dy, x, scale, mean, variance])?,
            _ => self.portable_body(&mut g, inputs[1], [dy, x, scale, mean, variance])?,
        };
        for (name, value) in ["dx", "dscale", "dbias"].into_iter().zip(outputs) {
            g.output(name, value);
        }
        Ok(Some(g))
    }
}

impl BatchNormTrainGrad {
    /// With x̂ the normalised input and M elements a channel: `dbias = Σ dy`, `dscale = Σ dy·x̂`,
    /// `dx = scale·inverse·(dy − dbias/M − x̂·dscale/M)`.
    fn portable_body(&self, g: &mut Graph, ty: &TensorType, [dy, x, scale, mean, variance]: [ValueId; 5]) -> Result<[ValueId; 3], GraphError> {
        let (axes, over_channels, count) = (batch_axes(ty), channel_shape(ty), elements_per_channel(ty) as f64);
        let mean = g.reshape(mean, &over_channels)?;
        let variance = g.reshape(variance, &over_channels)?;
        let scale = g.reshape(scale, &over_channels)?;
        let inverse = inverse_std(g, variance, self.epsilon)?;
        let centred = g.sub(x, mean)?;
        let normalized = g.mul(centred, inverse)?;
        let dbias = g.reduce_sum(dy, &axes, true)?;
        let product = g.mul(dy, normalized)?;
        let dscale = g.reduce_sum(product, &axes, true)?;
        let mean_dy = g.scale(dbias, 1.0 / count)?;
        let slope = g.scale(dscale, 1.0 / count)?;
        let along = g.mul(normalized, slope)?;
        let offset = g.sub(dy, mean_dy)?;
        let projected = g.sub(offset, along)?;
        let factor = g.mul(scale, inverse)?;
        let dx = g.mul(projected, factor)?;
        let channels = [ty.shape[1]];
        Ok([dx, g.reshape(dscale, &channels)?, g.reshape(dbias, &channels)?])
    }

    /// The same as two affine maps `a·dy + (b·x + c)` per channel, each one pass of inference-mode BatchNormalization,
    /// and `Σ dy·x` as a product of rows where maps are large.
    fn cpu_body(&self, g: &mut Graph, ty: &TensorType, [dy, x, scale, mean, variance]: [ValueId; 5]) -> Result<[ValueId; 3], GraphError> {
        let [batch, channels, height, width] = ty.shape[..] else { unreachable!("rank 4") };
        let (pixels, count) = (height * width, elements_per_channel(ty) as f64);
        let dbias = g.reduce_sum(dy, &[0, 2, 3], false)?;
        let sum_dy_x = if pixels >= 100 {
            let rows = [batch * channels, 1, pixels];
            let (dy, x) = (g.reshape(dy, &rows)?, g.reshape(x, &rows)?);
            let products = g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[dy, x])?;
            let products = g.reshape(products, &[batch, channels])?;
            g.reduce_sum(products, &[0], false)?
        } else {
            let product = g.mul(dy, x)?;
            g.reduce_sum(product, &[0, 2, 3], false)?
        };
        let inverse = inverse_std(g, variance, self.epsilon)?;
        let mean_part = g.mul(mean, dbias)?;
        let centred = g.sub(sum_dy_x, mean_part)?;
        let dscale = g.mul(inverse, centred)?;
        let a = g.mul(scale, inverse)?;
        let a_inverse = g.mul(a, inverse)?;
        let dscale_mean = g.scale(dscale, -1.0 / count)?;
        let b = g.mul(a_inverse, dscale_mean)?;
        let a_dbias = g.mul(a, dbias)?;
        let a_dbias = g.scale(a_dbias, -1.0 / count)?;
        let b_mean = g.mul(b, mean)?;
        let c = g.sub(a_dbias, b_mean)?;
        let vector = |g: &mut Graph, value: f32| g.constant(vec![channels], crate::ir::TensorData::F32(vec![value; channels]));
        let (zeros, ones) = (vector(g, 0.0), vector(g, 1.0));
        let affine = BatchNormalization { epsilon: 0.0 };
        let from_dy = g.apply(affine.clone(), &[dy, a, zeros, zeros, ones])?;
        let from_x = g.apply(affine, &[x, b, c, zeros, ones])?;
        Ok([g.add(from_dy, from_x)?, dscale, dbias])
    }
}
