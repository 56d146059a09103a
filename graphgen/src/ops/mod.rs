//! Operators: one struct each, which holds all that is known of it.
//!
//! The standard operators stand in this module, one file a family; the functions of the domain `swav` in
//! [`crate::functions`]. [`Op`] is the closed set of both.

pub mod activation;
pub mod assign;
mod build;
pub mod cast;
pub mod compare;
pub mod conv;
pub mod elementwise;
pub mod layout;
pub mod matmul;
pub mod normalization;
pub mod plane_conv;
pub mod pool;
pub mod reduce;
pub mod shape;
pub mod softmax;
pub mod training;

use ndarray::ArrayD;

use crate::functions;
use crate::ir::{Graph, GraphError, TensorData, TensorType, ValueId};
use crate::preset::Target;

/// Where an operator is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    /// `ai.onnx`, opset 17.
    Onnx,
    /// `com.microsoft`, version 1: only in targets whose provider has the operator.
    Microsoft,
    /// `swav`, version 1: functions with a body in standard operators.
    Swav,
}

/// An attribute as it is written to the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// `INT`
    Int(i64),
    /// `INTS`
    Ints(Vec<i64>),
    /// `FLOAT`
    Float(f32),
    /// `STRING`
    String(&'static str),
}

/// All that is known of an operator.
pub trait Operator {
    /// Name in its domain.
    const NAME: &'static str;
    /// Domain.
    const DOMAIN: Domain = Domain::Onnx;

    /// Output types for the given input types.
    ///
    /// # Errors
    /// What was expected and what came.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String>;

    /// Attributes to write; every one is written, also where it equals ONNX's default.
    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        Vec::new()
    }

    /// Constant i64 inputs that ONNX wants behind the data inputs (shapes, axes, pads): [shape of the constant] and data.
    fn constant_inputs(&self) -> Vec<TensorData> {
        Vec::new()
    }

    /// The gradients of the inputs from those of the outputs, as if there were no broadcasting: the walker sums a
    /// gradient down to the shape of its input.
    ///
    /// # Errors
    /// [`Vjp::unknown`] where there is no rule.
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError>;

    /// The outputs in double precision; integers and booleans are whole numbers.
    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>>;

    /// For a function of the domain `swav`: its body in standard operators, for inputs of the given types. Inputs and
    /// outputs of the body stand in the order of the call.
    ///
    /// # Errors
    /// A body that cannot be built is a defect of this crate, reported as any graph error.
    fn body(&self, _inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        Ok(None)
    }
}

/// What a gradient rule works with.
pub struct Vjp<'g> {
    /// The graph the gradient's nodes are added to.
    pub graph: &'g mut Graph,
    pub(crate) operator: &'static str,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    pub(crate) gradients: Vec<Option<ValueId>>,
    pub(crate) needed: Vec<bool>,
    /// What other nodes gave each input as its gradient; `None` once a rule has taken it up.
    pub(crate) sums: Vec<Option<ValueId>>,
}

impl Vjp<'_> {
    /// Input `index` of the node.
    pub fn input(&self, index: usize) -> ValueId {
        self.inputs[index]
    }

    /// Output `index` of the node.
    pub fn output(&self, index: usize) -> ValueId {
        self.outputs[index]
    }

    /// Gradient of the only differentiable output.
    ///
    /// # Errors
    /// If the gradient of another output is asked for.
    pub fn gradient(&self) -> Result<ValueId, GraphError> {
        match self.gradients.as_slice() {
            [Some(gradient), rest @ ..] if rest.iter().all(Option::is_none) => Ok(*gradient),
            _ => Err(self.unknown(" (of an output that is only a statistic)")),
        }
    }

    /// Whether the gradient of input `index` is used: a rule may return `None` instead of computing it.
    pub fn needs(&self, index: usize) -> bool {
        self.needed[index]
    }

    /// The sum of the gradients that input `index` has from other nodes so far, of the input's type. A rule that takes it
    /// returns the sum with its own gradient, which spares the walker an addition.
    pub fn take_sum(&mut self, index: usize) -> Option<ValueId> {
        self.sums[index].take()
    }

    /// The error for a missing rule.
    pub fn unknown(&self, detail: &str) -> GraphError {
        GraphError::UnknownGradient { scope: self.graph.scope_prefix(), operator: self.operator, detail: detail.to_owned() }
    }
}

macro_rules! operators {
    ($($family:path => $($name:ident),+;)+) => {
        /// Every operator.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum Op { $($($name($name),)+)+ }

        $($(impl From<$name> for Op {
            fn from(op: $name) -> Op { Op::$name(op) }
        })+)+

        $(pub use $family::{$($name),+};)+

        impl Op {
            /// Name in its domain.
            pub fn name(&self) -> &'static str {
                match self { $($(Op::$name(_) => <$name as Operator>::NAME,)+)+ }
            }

            /// Domain.
            pub fn domain(&self) -> Domain {
                match self { $($(Op::$name(_) => <$name as Operator>::DOMAIN,)+)+ }
            }

            /// See [`Operator::infer`].
            ///
            /// # Errors
            /// Inputs that the operator refuses.
            pub fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
                match self { $($(Op::$name(op) => op.infer(inputs),)+)+ }
            }

            /// See [`Operator::attributes`].
            pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
                match self { $($(Op::$name(op) => op.attributes(),)+)+ }
            }

            /// See [`Operator::constant_inputs`].
            pub fn constant_inputs(&self) -> Vec<TensorData> {
                match self { $($(Op::$name(op) => op.constant_inputs(),)+)+ }
            }

            /// See [`Operator::vjp`].
            ///
            /// # Errors
            /// A missing gradient rule.
            pub fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
                match self { $($(Op::$name(op) => op.vjp(cx),)+)+ }
            }

            /// See [`Operator::eval`].
            pub fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
                match self { $($(Op::$name(op) => op.eval(inputs),)+)+ }
            }

            /// See [`Operator::body`].
            ///
            /// # Errors
            /// A body that cannot be built.
            pub fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
                match self { $($(Op::$name(op) => op.body(inputs, target),)+)+ }
            }
        }
    };
}

operators! {
    activation => Relu, HardSigmoid;
    assign => InPlaceAccumulator;
    cast => Cast;
    compare => Equal, Greater, Where;
    conv => Conv, ConvTranspose;
    elementwise => Add, Div, Exp, IntegerDiv, Log, Max, Mul, Neg, Reciprocal, Sqrt, Sub, Tanh;
    matmul => FusedMatMul, Gemm, MatMul;
    normalization => BatchNormalization, BatchNormalizationTraining, ChannelAffine;
    plane_conv => PlaneConv;
    pool => GlobalAveragePool, MaxPool, ScatterElements;
    reduce => ReduceMax, ReduceMean, ReduceSum, ReduceSumSquare;
    shape => Concat, Flatten, Gather, Identity, Pad, Reshape, Slice, Transpose;
    softmax => LogSoftmax, Softmax;
    training => BatchNormalizationGrad, ConvGrad, MaxPoolGradKernel;
    functions::batch_norm => BatchNormTrain;
    functions::batch_norm_grad => BatchNormTrainGrad;
    functions::convolution => Convolution;
    functions::conv_grad => ConvInputGrad, ConvWeightGrad;
    functions::l2_normalize => L2Normalize;
    functions::max_pool => MaxPoolTrain, MaxPoolTrainGrad;
    functions::max_pool_grad => MaxPoolGrad;
    functions::normalize_pixels => NormalizePixels;
    functions::optimizer => AdamStep, LarsStep, SgdStep;
    functions::relu_grad => ReluGrad;
    functions::sinkhorn => SinkhornKnopp;
    functions::winograd => WinogradConvolution, WinogradInputGrad, WinogradPoints, WinogradWeightGrad;
}

/// The shape that `a` and `b` broadcast to.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| if axis + shape.len() < rank { 1 } else { shape[axis + shape.len() - rank] };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

/// Checks the number of inputs.
pub(crate) fn arity<'t, const N: usize>(inputs: &[&'t TensorType]) -> Result<[&'t TensorType; N], String> {
    inputs.try_into().map_err(|_| format!("expected {N} inputs, got {}", inputs.len()))
}
