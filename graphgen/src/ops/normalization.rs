//! ONNX's BatchNormalization in its two modes. Training graphs call the function
//! [`BatchNormTrain`](crate::functions::batch_norm::BatchNormTrain); these serve in its bodies and in the encoder.

use ndarray::{ArrayD, Axis};

use super::{Attribute, Domain, Operator, Vjp, arity};
use crate::ir::{GraphError, TensorType, ValueId};

/// Inference mode: `scale · (x − mean) / √(var + epsilon) + bias`; x [N,C,…], the others [C].
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormalization {
    /// Added to the variance.
    pub epsilon: f64,
}

/// Training mode with momentum 0: outputs y, the batch's mean and biased variance [C].
///
/// ONNX Runtime's CPU kernel writes the statistics over inputs 3 and 4, so these must be scratch values of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormalizationTraining {
    /// Added to the variance.
    pub epsilon: f64,
}

/// `x · scale + bias + addend`, channel by channel; x and addend [N,C,H,W], scale [C,1,1,1], bias [C].
///
/// `com.microsoft`'s FusedConv of 1x1 kernels that see a channel each: one pass over memory, by all threads of the CPU provider and in
/// the addend's place if nothing else reads that.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelAffine {
    /// C
    pub channels: usize,
}

impl Operator for ChannelAffine {
    const NAME: &'static str = "FusedConv";
    const DOMAIN: Domain = Domain::Microsoft;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, scale, bias, addend] = arity(inputs)?;
        let fits = matches!(x.shape[..], [_, channels, _, _] if channels == self.channels)
            && addend == x
            && scale.shape == [self.channels, 1, 1, 1]
            && bias.shape == [self.channels];
        if !fits || [scale, bias].iter().any(|ty| ty.dtype != x.dtype) {
            return Err(format!("expected x and addend [N, {0}, H, W], scale [{0}, 1, 1, 1] and bias [{0}] of one type, got {inputs:?}", self.channels));
        }
        Ok(vec![x.clone()])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("group", Attribute::Int(self.channels as i64)), ("kernel_shape", Attribute::Ints(vec![1, 1]))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [x, scale, bias, addend] = inputs else { unreachable!("the arity was checked") };
        let scale = scale.to_shape(self.channels).expect("a factor a channel").into_owned().into_dyn();
        vec![*x * &over_channels(&scale, x.ndim()) + over_channels(bias, x.ndim()) + *addend]
    }
}

fn check(inputs: &[&TensorType]) -> Result<TensorType, String> {
    let [x, per_channel @ ..] = arity::<5>(inputs)?;
    if x.rank() < 2 || per_channel.iter().any(|ty| ty.shape != [x.shape[1]]) {
        return Err(format!("expected x [N, C, …] and four vectors of C elements, got {x} and {:?}", per_channel.map(|ty| &ty.shape)));
    }
    Ok(x.clone())
}

/// A per-channel vector, shaped to broadcast over x.
pub(crate) fn over_channels(vector: &ArrayD<f64>, rank: usize) -> ArrayD<f64> {
    let mut shape = vec![1; rank];
    shape[1] = vector.len();
    vector.to_shape(shape).expect("a vector").into_owned()
}

/// Mean and biased variance over all axes but the channels', each [C].
pub(crate) fn batch_statistics(x: &ArrayD<f64>) -> (ArrayD<f64>, ArrayD<f64>) {
    let over_batch = |values: &ArrayD<f64>| {
        (0..values.ndim()).rev().filter(|&axis| axis != 1).fold(values.clone(), |sum, axis| sum.mean_axis(Axis(axis)).expect("an axis that is not empty"))
    };
    let mean = over_batch(x);
    let centred = x - &over_channels(&mean, x.ndim());
    let variance = over_batch(&(&centred * &centred));
    (mean, variance)
}

/// `scale · (x − mean) / √(var + epsilon) + bias`
pub(crate) fn normalize(x: &ArrayD<f64>, scale: &ArrayD<f64>, bias: &ArrayD<f64>, mean: &ArrayD<f64>, variance: &ArrayD<f64>, epsilon: f64) -> ArrayD<f64> {
    let over = |vector: &ArrayD<f64>| over_channels(vector, x.ndim());
    let inverse = variance.mapv(|variance| 1.0 / (variance + epsilon).sqrt());
    (x - &over(mean)) * over(&(&inverse * scale)) + over(bias)
}

/// Gradients of x, scale and bias of a normalisation with the batch's own mean and `inverse` standard deviation.
pub(crate) fn eval_batch_norm_gradient(dy: &ArrayD<f64>, x: &ArrayD<f64>, scale: &ArrayD<f64>, mean: &ArrayD<f64>, inverse: &ArrayD<f64>) -> [ArrayD<f64>; 3] {
    let over = |vector: &ArrayD<f64>| over_channels(vector, x.ndim());
    let sum = |values: &ArrayD<f64>| (0..values.ndim()).rev().filter(|&axis| axis != 1).fold(values.clone(), |sum, axis| sum.sum_axis(Axis(axis)));
    let count = (x.len() / x.shape()[1]) as f64;
    let normalized = (x - &over(mean)) * over(inverse);
    let dbias = sum(dy);
    let dscale = sum(&(dy * &normalized));
    let dx = (dy - &over(&(&dbias / count)) - normalized * over(&(&dscale / count))) * over(&(inverse * scale));
    [dx, dscale, dbias]
}

impl Operator for BatchNormalization {
    const NAME: &'static str = "BatchNormalization";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        Ok(vec![check(inputs)?])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32)), ("training_mode", Attribute::Int(0))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (training graphs use BatchNormTrain)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [x, scale, bias, mean, variance] = inputs else { unreachable!("the arity was checked") };
        vec![normalize(x, scale, bias, mean, variance, self.epsilon)]
    }
}

impl Operator for BatchNormalizationTraining {
    const NAME: &'static str = "BatchNormalization";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let x = check(inputs)?;
        let channels = TensorType::f32(vec![x.shape[1]]);
        Ok(vec![x, channels.clone(), channels])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32)), ("momentum", Attribute::Float(0.0)), ("training_mode", Attribute::Int(1))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (training graphs use BatchNormTrain)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [x, scale, bias, ..] = inputs else { unreachable!("the arity was checked") };
        let (mean, variance) = batch_statistics(x);
        vec![normalize(x, scale, bias, &mean, &variance, self.epsilon), mean, variance]
    }
}
