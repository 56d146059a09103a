//! Layers of a training graph: parameters are inputs, BatchNorm uses the batch's statistics.

use super::{BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, ConvSpec, Init, Layers, NORM_EPSILON, Then};
use crate::functions::formulations::Formulations;
use crate::functions::normalize_pixels::{normalize_crops, normalize_pixels};
use crate::functions::winograd;
use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::ops::conv::Window;
use crate::ops::layout::Layout;
use crate::ops::{BatchNormTrain, Convolution, Gemm, L2Normalize, MaxPool, MaxPoolTrain, WinogradConvolution};
use crate::preset::{Data, Precision, Target};

/// A trainable parameter.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// PyTorch name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Initial distribution.
    pub init: Init,
    /// The graph input.
    pub input: ValueId,
}

/// A running mean or variance of a BatchNorm.
#[derive(Debug, Clone)]
pub struct RunningStatistic {
    /// PyTorch name.
    pub name: String,
    /// Channels.
    pub channels: usize,
    /// Initial value.
    pub init: Init,
    /// The value after the passes built so far.
    pub current: ValueId,
}

/// Collects parameters and running statistics while a network is built. A name that is used again is the same
/// parameter: a network may be applied to several groups of crops.
#[derive(Debug, Default)]
pub struct TrainLayers {
    /// Parameters, in order of first use.
    pub parameters: Vec<Parameter>,
    /// Running statistics, in order of first use.
    pub running_statistics: Vec<RunningStatistic>,
    /// Whether BatchNorms leave the running statistics alone.
    untracked: bool,
    precision: Precision,
    layout: Layout,
    /// Whether the target has Winograd's functions.
    winograd: bool,
}

impl TrainLayers {
    /// Layers that compute in a precision, on maps of a target's layout.
    pub fn new(precision: Precision, target: Target) -> TrainLayers {
        let Formulations { layout, winograd, .. } = target.formulations();
        TrainLayers { precision, layout, winograd, ..TrainLayers::default() }
    }

    /// Layers that normalise by the batch's statistics as ever, and have no running statistics.
    pub fn without_running_statistics(precision: Precision, target: Target) -> TrainLayers {
        TrainLayers { untracked: true, ..TrainLayers::new(precision, target) }
    }

    /// Crops u8 [N,3,H,W] → the encoder's normalised input, in the layout and type of activations.
    ///
    /// # Errors
    /// Crops without three channels.
    pub fn image(&self, g: &mut Graph, crops: ValueId, data: &Data) -> Result<ValueId, GraphError> {
        let x = match self.layout {
            Layout::ChannelsFirst => {
                let pixels = g.cast(crops, DType::F32)?;
                normalize_pixels(g, pixels, data)?
            }
            Layout::ChannelsLast => normalize_crops(g, crops, data)?,
        };
        g.cast(x, self.compute_type())
    }

    /// Element type of activations and of the copies of weights that meet them. Parameters themselves, statistics,
    /// pooled features and everything behind the projection head are f32.
    pub fn compute_type(&self) -> DType {
        match self.precision {
            Precision::F32 => DType::F32,
            Precision::MixedF16 => DType::F16,
        }
    }

    /// The parameter of a name, a new graph input at its first use.
    pub fn parameter(&mut self, g: &mut Graph, name: &str, shape: &[usize], init: Init) -> ValueId {
        if let Some(known) = self.parameters.iter().find(|parameter| parameter.name == name) {
            return known.input;
        }
        let input = g.input(name, TensorType::f32(shape));
        self.parameters.push(Parameter { name: name.to_owned(), shape: shape.to_vec(), init, input });
        input
    }

    /// Moves a running statistic towards the batch's: `(1 − momentum)·old + momentum·correction·batch`.
    fn track(&mut self, g: &mut Graph, name: String, batch: ValueId, correction: f64, init: Init) -> Result<(), GraphError> {
        let channels = g.shape(batch)[0];
        let index = match self.running_statistics.iter().position(|statistic| statistic.name == name) {
            Some(index) => index,
            None => {
                let current = g.input(&name, TensorType::f32(vec![channels]));
                self.running_statistics.push(RunningStatistic { name, channels, init, current });
                self.running_statistics.len() - 1
            }
        };
        let old = g.scale(self.running_statistics[index].current, 1.0 - BATCH_NORM_MOMENTUM)?;
        let new = g.scale(batch, BATCH_NORM_MOMENTUM * correction)?;
        self.running_statistics[index].current = g.add(old, new)?;
        Ok(())
    }

    fn batch_norm(&mut self, g: &mut Graph, name: &str, x: ValueId, then: Then) -> Result<ValueId, GraphError> {
        // Rows have one layout.
        let layout = if g.ty(x).rank() == 4 { self.layout } else { Layout::ChannelsFirst };
        let channels = g.shape(x)[layout.channel_axis()];
        let count = (g.ty(x).elements() / channels) as f64;
        let name = path(g, name);
        let scale = self.parameter(g, &format!("{name}.weight"), &[channels], Init::Ones);
        let bias = self.parameter(g, &format!("{name}.bias"), &[channels], Init::Zeros);
        let mut inputs = vec![x, scale, bias];
        if let Then::AddRelu(residual) = then {
            inputs.push(residual);
        }
        let outputs = g.apply_all(BatchNormTrain { epsilon: BATCH_NORM_EPSILON, relu: then != Then::Nothing, layout }, &inputs)?;
        if self.untracked {
            return Ok(outputs[0]);
        }
        self.track(g, format!("{name}.running_mean"), outputs[1], 1.0, Init::Zeros)?;
        // The running variance is the unbiased one, the normalisation uses the biased one.
        self.track(g, format!("{name}.running_var"), outputs[2], count / (count - 1.0), Init::Ones)?;
        Ok(outputs[0])
    }
}

/// A name inside the graph's scope.
pub(super) fn path(g: &Graph, name: &str) -> String {
    if g.scope().is_empty() { name.to_owned() } else { format!("{}.{name}", g.scope()) }
}

impl Layers for TrainLayers {
    fn conv_batch_norm(&mut self, g: &mut Graph, conv: &str, norm: &str, x: ValueId, spec: ConvSpec, then: Then) -> Result<ValueId, GraphError> {
        let shape = [spec.out, spec.channels, spec.window.kernel, spec.window.kernel];
        let name = path(g, conv);
        let w = self.parameter(g, &format!("{name}.weight"), &shape, Init::KaimingNormalFanOut);
        let (compute, layout) = (self.compute_type(), self.layout);
        let winograd = self.winograd && winograd::pays(spec.window, g.shape(x), spec.out);
        let y = g.scoped(conv, |g| {
            // A copy for every use, so that gradients are summed in f32.
            let w = g.cast(w, compute)?;
            if winograd {
                return g.apply(WinogradConvolution, &[x, w]);
            }
            g.apply(Convolution { window: spec.window, layout }, &[x, w])
        })?;
        self.batch_norm(g, norm, y, then)
    }

    fn linear(&mut self, g: &mut Graph, name: &str, x: ValueId, channels: usize, out: usize) -> Result<ValueId, GraphError> {
        let full = path(g, name);
        let w = self.parameter(g, &format!("{full}.weight"), &[out, channels], Init::UniformFanIn(channels));
        let bias = self.parameter(g, &format!("{full}.bias"), &[out], Init::UniformFanIn(channels));
        let gemm = Gemm { trans_a: false, trans_b: true };
        g.scoped(name, |g| match self.precision {
            Precision::F32 => g.apply(gemm, &[x, w, bias]),
            // The bias is added in f32: its gradient is a sum over the batch.
            Precision::MixedF16 => {
                let (x, w) = (g.cast(x, DType::F16)?, g.cast(w, DType::F16)?);
                let y = g.apply(gemm, &[x, w])?;
                let y = g.cast(y, DType::F32)?;
                g.add(y, bias)
            }
        })
    }

    fn linear_batch_norm_relu(&mut self, g: &mut Graph, linear: &str, norm: &str, x: ValueId, channels: usize, out: usize) -> Result<ValueId, GraphError> {
        let y = self.linear(g, linear, x, channels, out)?;
        self.batch_norm(g, norm, y, Then::Relu)
    }

    fn normalize_rows(&mut self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        Ok(g.apply_all(L2Normalize { epsilon: NORM_EPSILON }, &[x])?[0])
    }

    fn max_pool(&mut self, g: &mut Graph, x: ValueId, window: Window) -> Result<ValueId, GraphError> {
        let outputs = match self.layout {
            Layout::ChannelsFirst => g.apply_all(MaxPool { window }, &[x])?,
            Layout::ChannelsLast => g.apply_all(MaxPoolTrain { window, layout: self.layout }, &[x])?,
        };
        Ok(outputs[0])
    }

    fn average_pool(&mut self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        let x = g.cast(x, DType::F32)?;
        g.reduce_mean(x, &self.layout.spatial_axes(), false)
    }
}
