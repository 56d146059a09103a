//! Layers of the training API's evaluation graph: weights are inputs, BatchNorm uses the running statistics.

use std::collections::BTreeMap;

use super::train::path;
use super::{BATCH_NORM_EPSILON, ConvSpec, Layers, NORM_EPSILON, Then};
use crate::ir::{Graph, GraphError, ValueId};
use crate::ops::conv::Window;
use crate::ops::{BatchNormalization, Conv, Flatten, Gemm, GlobalAveragePool, L2Normalize, MaxPool, Relu};

/// Builds a network from weights that are graph inputs. No shape constants come in: batch, height and width stay free.
pub struct EvalLayers {
    weights: BTreeMap<String, ValueId>,
}

impl EvalLayers {
    /// Layers that take their weights, parameters and running statistics, by name.
    pub fn new(weights: BTreeMap<String, ValueId>) -> Self {
        EvalLayers { weights }
    }

    fn weight(&self, name: &str) -> Result<ValueId, GraphError> {
        self.weights.get(name).copied().ok_or_else(|| GraphError::Weights(format!("weight {name} is missing")))
    }

    fn batch_norm(&self, g: &mut Graph, norm: &str, x: ValueId) -> Result<ValueId, GraphError> {
        let name = path(g, norm);
        let part = |part: &str| self.weight(&format!("{name}.{part}"));
        let inputs = [x, part("weight")?, part("bias")?, part("running_mean")?, part("running_var")?];
        g.scoped(norm, |g| g.apply(BatchNormalization { epsilon: BATCH_NORM_EPSILON }, &inputs))
    }
}

impl Layers for EvalLayers {
    fn conv_batch_norm(&mut self, g: &mut Graph, conv: &str, norm: &str, x: ValueId, spec: ConvSpec, then: Then) -> Result<ValueId, GraphError> {
        let w = self.weight(&format!("{}.weight", path(g, conv)))?;
        let y = g.scoped(conv, |g| g.apply(Conv { window: spec.window }, &[x, w]))?;
        let y = self.batch_norm(g, norm, y)?;
        then.apply(g, y)
    }

    fn linear(&mut self, g: &mut Graph, name: &str, x: ValueId, _channels: usize, _out: usize) -> Result<ValueId, GraphError> {
        let full = path(g, name);
        let (w, bias) = (self.weight(&format!("{full}.weight"))?, self.weight(&format!("{full}.bias"))?);
        g.scoped(name, |g| g.apply(Gemm { trans_a: false, trans_b: true }, &[x, w, bias]))
    }

    fn linear_batch_norm_relu(&mut self, g: &mut Graph, linear: &str, norm: &str, x: ValueId, channels: usize, out: usize) -> Result<ValueId, GraphError> {
        let y = self.linear(g, linear, x, channels, out)?;
        let y = self.batch_norm(g, norm, y)?;
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
