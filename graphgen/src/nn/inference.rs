//! Layers of the encoder: weights are constants, BatchNorm is folded into the layer before it.

use super::train::path;
use super::{BATCH_NORM_EPSILON, ConvSpec, Layers, NORM_EPSILON, Then};
use crate::ir::{Graph, GraphError, TensorData, ValueId};
use crate::ops::conv::Window;
use crate::ops::{Conv, Flatten, Gemm, GlobalAveragePool, L2Normalize, MaxPool, Relu};
use crate::weights::Weights;

/// Builds a network from trained weights. No shape constants come in: batch, height and width stay free.
pub struct InferenceLayers<'w> {
    weights: &'w Weights,
}

impl<'w> InferenceLayers<'w> {
    /// Layers that take their weights by name.
    pub fn new(weights: &'w Weights) -> Self {
        InferenceLayers { weights }
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Result<&'w [f32], GraphError> {
        let tensor = self.weights.get(name).ok_or_else(|| GraphError::Weights(format!("weight {name} is missing; expected shape {shape:?}")))?;
        if tensor.shape != shape {
            return Err(GraphError::Weights(format!("weight {name} has shape {:?}, expected {shape:?}", tensor.shape)));
        }
        Ok(&tensor.data)
    }

    /// `scale/√(var + ε)` per output, and the bias that remains of a BatchNorm behind outputs of the given bias.
    fn folded(&self, name: &str, bias: Option<&[f32]>, out: usize) -> Result<(Vec<f64>, Vec<f32>), GraphError> {
        let part = |part: &str| self.weight(&format!("{name}.{part}"), &[out]);
        let (scale, shift, mean, variance) = (part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?);
        let factors: Vec<f64> =
            scale.iter().zip(variance).map(|(&scale, &variance)| f64::from(scale) / (f64::from(variance) + BATCH_NORM_EPSILON).sqrt()).collect();
        let biases = (0..out)
            .map(|index| {
                let before = bias.map_or(0.0, |bias| f64::from(bias[index]));
                (f64::from(shift[index]) + (before - f64::from(mean[index])) * factors[index]) as f32
            })
            .collect();
        Ok((factors, biases))
    }
}

/// Multiplies the rows of a weight by a factor each.
fn scale_rows(weight: &[f32], factors: &[f64]) -> Vec<f32> {
    let row = weight.len() / factors.len();
    weight.chunks(row).zip(factors).flat_map(|(values, &factor)| values.iter().map(move |&value| (f64::from(value) * factor) as f32)).collect()
}

impl Layers for InferenceLayers<'_> {
    fn conv_batch_norm(&mut self, g: &mut Graph, conv: &str, norm: &str, x: ValueId, spec: ConvSpec, then: Then) -> Result<ValueId, GraphError> {
        let shape = [spec.out, spec.channels, spec.window.kernel, spec.window.kernel];
        let weight = self.weight(&format!("{}.weight", path(g, conv)), &shape)?;
        let (factors, biases) = self.folded(&path(g, norm), None, spec.out)?;
        let w = g.constant(shape, TensorData::F32(scale_rows(weight, &factors)));
        let bias = g.constant([spec.out], TensorData::F32(biases));
        let y = g.scoped(conv, |g| g.apply(Conv { window: spec.window }, &[x, w, bias]))?;
        then.apply(g, y)
    }

    fn linear(&mut self, g: &mut Graph, name: &str, x: ValueId, channels: usize, out: usize) -> Result<ValueId, GraphError> {
        let full = path(g, name);
        let w = g.constant([out, channels], TensorData::F32(self.weight(&format!("{full}.weight"), &[out, channels])?.to_vec()));
        let bias = g.constant([out], TensorData::F32(self.weight(&format!("{full}.bias"), &[out])?.to_vec()));
        g.scoped(name, |g| g.apply(Gemm { trans_a: false, trans_b: true }, &[x, w, bias]))
    }

    fn linear_batch_norm_relu(&mut self, g: &mut Graph, linear: &str, norm: &str, x: ValueId, channels: usize, out: usize) -> Result<ValueId, GraphError> {
        let full = path(g, linear);
        let weight = self.weight(&format!("{full}.weight"), &[out, channels])?;
        let bias = self.weight(&format!("{full}.bias"), &[out])?;
        let (factors, biases) = self.folded(&path(g, norm), Some(bias), out)?;
        let w = g.constant([out, channels], TensorData::F32(scale_rows(weight, &factors)));
        let bias = g.constant([out], TensorData::F32(biases));
        let y = g.scoped(linear, |g| g.apply(Gemm { trans_a: false, trans_b: true }, &[x, w, bias]))?;
        g.apply(Relu, &[y])
    }

    fn normalize_rows(&mut self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        Ok(L2Normalize { epsilon: NORM_EPSILON }.inline(g, x)?[0])
    }

    fn max_pool(&mut self, g: &mut Graph, x: ValueId, window: Window) -> Result<ValueId, GraphError> {
        Ok(g.apply_all(MaxPool { window }, &[x])?[0])
    }

    fn average_pool(&mut self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        let pooled = g.apply(GlobalAveragePool, &[x])?;
        g.apply(Flatten, &[pooled])
    }
}
