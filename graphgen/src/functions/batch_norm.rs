//! Batch normalisation over the batch's own statistics, with what follows it in a residual network.

use ndarray::ArrayD;

use super::body_inputs;
use super::formulations::BatchNormForm;
use crate::functions::batch_norm_grad::BatchNormTrainGrad;
use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::ops::layout::{Layout, Maps};
use crate::ops::normalization::{BatchNormalizationTraining, batch_statistics, normalize};
use crate::ops::{Attribute, Domain, Operator, Relu, Slice, Vjp};
use crate::preset::Target;

/// `y = scale · (x − mean) / √(var + epsilon) + bias`; inputs x [N,C] or [N,C,H,W], scale [C], bias [C]; outputs y and
/// the batch's mean and biased variance [C], which are statistics: no gradient flows through them. With `relu`,
/// `y = max(· + residual, 0)`, the residual being a fourth input of x's shape that may be absent. Channels-last: x, y and the
/// residual [N,H,W,C]; rows [N,C] are channels-first always.
///
/// One function for the three, as a native kernel needs one pass over memory for them.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormTrain {
    /// Added to the variance.
    pub epsilon: f64,
    /// ReLU behind the normalisation and the residual.
    pub relu: bool,
    /// Layout of x, y and the residual.
    pub layout: Layout,
}

const MAPS: Maps = Maps { inputs: &[0, 3], outputs: &[0] };

/// Axes that the statistics run over.
pub(super) fn batch_axes(x: &TensorType) -> Vec<usize> {
    (0..x.rank()).filter(|&axis| axis != 1).collect()
}

/// Elements behind one statistic.
pub(super) fn elements_per_channel(x: &TensorType) -> usize {
    x.elements() / x.shape[1]
}

/// `[1, C, 1, …]`
pub(super) fn channel_shape(x: &TensorType) -> Vec<usize> {
    (0..x.rank()).map(|axis| if axis == 1 { x.shape[1] } else { 1 }).collect()
}

impl Operator for BatchNormTrain {
    const NAME: &'static str = "BatchNormTrain";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        MAPS.infer(self.layout, inputs, |inputs| self.channels_first_infer(inputs))
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32)), ("relu", Attribute::Int(self.relu.into())), self.layout.attribute()]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let mut inputs = vec![cx.gradient()?, cx.input(0), cx.input(1), cx.output(1), cx.output(2)];
        if self.relu {
            inputs.push(cx.output(0));
        }
        let residual = cx.inputs.len() == 4;
        let BatchNormTrain { epsilon, relu, layout } = *self;
        let gradients = cx.graph.apply_all(BatchNormTrainGrad { epsilon, relu, residual, layout }, &inputs)?;
        Ok(gradients.into_iter().map(Some).collect())
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        MAPS.eval(self.layout, inputs, |inputs| self.channels_first_eval(inputs))
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        MAPS.body(self.layout, inputs, |inputs| self.channels_first_body(inputs, target))
    }
}

impl BatchNormTrain {
    fn channels_first_infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let (x, scale, bias) = match *inputs {
            [x, scale, bias] => (x, scale, bias),
            [x, scale, bias, residual] if self.relu && residual == x => (x, scale, bias),
            _ => return Err(format!("expected x, scale, bias and, with a ReLU, a residual of x's shape, got {inputs:?}")),
        };
        if ![2, 4].contains(&x.rank()) || scale.shape != [x.shape[1]] || bias.shape != [x.shape[1]] {
            return Err(format!("expected x [N, C] or [N, C, H, W] and vectors of C elements, got {x}, {scale} and {bias}"));
        }
        if !x.dtype.is_float() || scale.dtype != DType::F32 || bias.dtype != DType::F32 {
            return Err(format!("expected floats, with scale and bias in f32, got {x}, {scale} and {bias}"));
        }
        if elements_per_channel(x) < 2 {
            return Err(format!("expected more than one value per channel, got {x}"));
        }
        Ok(vec![x.clone(), scale.clone(), scale.clone()])
    }

    fn channels_first_eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let (x, scale, bias) = (inputs[0], inputs[1], inputs[2]);
        let (mean, variance) = batch_statistics(x);
        let mut y = normalize(x, scale, bias, &mean, &variance, self.epsilon);
        if let Some(&residual) = inputs.get(3) {
            y += residual;
        }
        if self.relu {
            y.mapv_inplace(|y| y.max(0.0));
        }
        vec![y, mean, variance]
    }

    fn channels_first_body(&self, inputs: &[&TensorType], target: Target) -> Result<Graph, GraphError> {
        let (mut g, [x, scale, bias]) = body_inputs(["x", "scale", "bias"], inputs);
        let residual = inputs.get(3).map(|&ty| g.input("residual", ty.clone()));
        let (y, mean, variance) = match target.formulations().batch_norm {
            BatchNormForm::Reductions => {
                let (axes, over_channels) = (batch_axes(inputs[0]), channel_shape(inputs[0]));
                let x = in_f32(&mut g, x)?;
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
                let y = g.cast(y, inputs[0].dtype)?;
                let channels = [inputs[0].shape[1]];
                (y, g.reshape(mean, &channels)?, g.reshape(variance, &channels)?)
            }
            BatchNormForm::TrainingMode => {
                let (scratch_mean, scratch_variance) = scratch(&mut g, x)?;
                let outputs = g.apply_all(BatchNormalizationTraining { epsilon: self.epsilon }, &[x, scale, bias, scratch_mean, scratch_variance])?;
                (outputs[0], outputs[1], outputs[2])
            }
        };
        let y = match residual {
            Some(residual) => g.add(y, residual)?,
            None => y,
        };
        let y = if self.relu { g.apply(Relu, &[y])? } else { y };
        for (name, value) in [("y", y), ("mean", mean), ("var", variance)] {
            g.output(name, value);
        }
        Ok(g)
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

/// The value in f32: sums of many 16-bit floats lose their digits, or overflow.
pub(super) fn in_f32(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    g.cast(x, DType::F32)
}

/// `1 / √(variance + epsilon)`
pub(super) fn inverse_std(g: &mut Graph, variance: ValueId, epsilon: f64) -> Result<ValueId, GraphError> {
    let shifted = g.offset(variance, epsilon)?;
    let deviation = g.sqrt(shifted)?;
    g.reciprocal(deviation)
}
