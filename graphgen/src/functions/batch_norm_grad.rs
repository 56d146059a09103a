//! The gradient of batch normalisation over the batch's own statistics.

use ndarray::{ArrayD, Zip};

use super::batch_norm::{batch_axes, channel_shape, elements_per_channel, in_f32, inverse_std};
use super::body_inputs;
use super::formulations::BatchNormGradForm;
use super::relu_grad::masked;
use crate::ir::{Graph, GraphError, TensorData, TensorType, ValueId};
use crate::ops::layout::{Layout, Maps};
use crate::ops::normalization::{BatchNormalization, eval_batch_norm_gradient};
use crate::ops::{Attribute, BatchNormalizationGrad, ChannelAffine, Domain, FusedMatMul, Operator, Vjp};
use crate::preset::Target;

/// Gradients of [`BatchNormTrain`](super::batch_norm::BatchNormTrain); inputs dy, x, scale, mean, var and, with `relu`,
/// its output y; outputs dx, dscale [C], dbias [C] and, with `residual`, the residual's gradient. Channels-last: dy, x, y, dx and
/// the residual's gradient [N,H,W,C].
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormTrainGrad {
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether a ReLU stands behind: dy counts where y > 0.
    pub relu: bool,
    /// Whether a residual was added before the ReLU.
    pub residual: bool,
    /// Layout of dy, x, y, dx and the residual's gradient.
    pub layout: Layout,
}

const MAPS: Maps = Maps { inputs: &[0, 1, 5], outputs: &[0, 3] };

impl Operator for BatchNormTrainGrad {
    const NAME: &'static str = "BatchNormTrainGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        MAPS.infer(self.layout, inputs, |inputs| {
            let (dy, x, scale) = match *inputs {
                [dy, x, scale, _, _] if !self.relu && !self.residual => (dy, x, scale),
                [dy, x, scale, _, _, y] if self.relu && y == x => (dy, x, scale),
                _ => return Err(format!("expected dy, x, scale, mean, var and, with a ReLU, y of x's shape, got {inputs:?}")),
            };
            if dy != x {
                return Err(format!("expected gradient and input of one shape, got {dy} and {x}"));
            }
            let mut outputs = vec![x.clone(), scale.clone(), scale.clone()];
            if self.residual {
                outputs.push(x.clone());
            }
            Ok(outputs)
        })
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let flag = |name, value: bool| (name, Attribute::Int(value.into()));
        vec![("epsilon", Attribute::Float(self.epsilon as f32)), flag("relu", self.relu), flag("residual", self.residual), self.layout.attribute()]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        MAPS.eval(self.layout, inputs, |inputs| {
            let (x, scale, mean, variance) = (inputs[1], inputs[2], inputs[3], inputs[4]);
            let dy = &match inputs.get(5) {
                Some(&y) => Zip::from(inputs[0]).and(y).map_collect(|&dy, &y| if y > 0.0 { dy } else { 0.0 }),
                None => inputs[0].clone(),
            };
            let inverse = variance.mapv(|variance| 1.0 / (variance + self.epsilon).sqrt());
            let mut gradients = eval_batch_norm_gradient(dy, x, scale, mean, &inverse).to_vec();
            if self.residual {
                gradients.push(dy.clone());
            }
            gradients
        })
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        MAPS.body(self.layout, inputs, |inputs| self.channels_first_body(inputs, target))
    }
}

impl BatchNormTrainGrad {
    fn channels_first_body(&self, inputs: &[&TensorType], target: Target) -> Result<Graph, GraphError> {
        let (mut g, [dy, x, scale, mean, variance]) = body_inputs(["dy", "x", "scale", "mean", "var"], inputs);
        let dy = if self.relu {
            let y = g.input("y", inputs[5].clone());
            masked(&mut g, target, dy, y)?
        } else {
            dy
        };
        let outputs = match target.formulations().batch_norm_grad {
            BatchNormGradForm::Kernel if inputs[1].rank() == 4 => self.kernel(&mut g, [dy, x, scale, mean, variance])?,
            BatchNormGradForm::AffineMaps if inputs[1].rank() == 4 => self.affine_maps(&mut g, inputs[1], [dy, x, scale, mean, variance])?,
            _ => self.reductions(&mut g, inputs[1], [dy, x, scale, mean, variance])?,
        };
        for (name, value) in ["dx", "dscale", "dbias"].into_iter().zip(outputs) {
            g.output(name, value);
        }
        if self.residual {
            g.output("dresidual", dy);
        }
        Ok(g)
    }

    fn kernel(&self, g: &mut Graph, [dy, x, scale, mean, variance]: [ValueId; 5]) -> Result<[ValueId; 3], GraphError> {
        let inverse = inverse_std(g, variance, self.epsilon)?;
        let gradients = g.apply_all(BatchNormalizationGrad { epsilon: self.epsilon }, &[dy, x, scale, mean, inverse])?;
        Ok([gradients[0], gradients[1], gradients[2]])
    }

    /// With x̂ the normalised input and M elements a channel: `dbias = Σ dy`, `dscale = Σ dy·x̂`,
    /// `dx = scale·inverse·(dy − dbias/M − x̂·dscale/M)`.
    fn reductions(&self, g: &mut Graph, ty: &TensorType, [dy, x, scale, mean, variance]: [ValueId; 5]) -> Result<[ValueId; 3], GraphError> {
        let (axes, over_channels, count) = (batch_axes(ty), channel_shape(ty), elements_per_channel(ty) as f64);
        let (dy, x) = (in_f32(g, dy)?, in_f32(g, x)?);
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
        let dx = g.cast(dx, ty.dtype)?;
        let channels = [ty.shape[1]];
        Ok([dx, g.reshape(dscale, &channels)?, g.reshape(dbias, &channels)?])
    }

    /// The same as two affine maps per channel, each one pass over memory, `b·x` by inference-mode BatchNormalization and
    /// `a·dy + c + b·x` by a convolution that adds to it; and `Σ dy·x` as a product of rows where maps are large. Two
    /// BatchNormalizations and a sum take 1.3 to 1.5 times as long on large maps, two convolutions 1.2 to 1.8 times.
    fn affine_maps(&self, g: &mut Graph, ty: &TensorType, [dy, x, scale, mean, variance]: [ValueId; 5]) -> Result<[ValueId; 3], GraphError> {
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
        let vector = |g: &mut Graph, value: f32| g.constant(vec![channels], TensorData::Filled(value, channels));
        let (zeros, ones) = (vector(g, 0.0), vector(g, 1.0));
        let from_x = g.apply(BatchNormalization { epsilon: 0.0 }, &[x, b, zeros, zeros, ones])?;
        let a = g.reshape(a, &[channels, 1, 1, 1])?;
        let dx = g.apply(ChannelAffine { channels }, &[dy, a, c, from_x])?;
        Ok([dx, dscale, dbias])
    }
}
