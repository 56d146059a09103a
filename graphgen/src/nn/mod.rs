//! Layers: the same network description builds the training graph and the encoder.

mod eval;
mod inference;
mod init;
mod train;

pub use eval::EvalLayers;
pub use inference::InferenceLayers;
pub use init::{Init, initialize};
pub use train::{Parameter, RunningStatistic, TrainLayers};

use crate::ir::{Graph, GraphError, ValueId};
use crate::ops::Relu;
use crate::ops::conv::Window;

/// BatchNorm's epsilon (PyTorch's default).
pub const BATCH_NORM_EPSILON: f64 = 1e-5;
/// BatchNorm's momentum (PyTorch's default).
pub const BATCH_NORM_MOMENTUM: f64 = 0.1;
/// Smallest norm an embedding or prototype is divided by (PyTorch's `normalize`).
pub const NORM_EPSILON: f64 = 1e-12;

/// A convolution without bias, which a BatchNorm follows.
#[derive(Debug, Clone, Copy)]
pub struct ConvSpec {
    /// Input channels.
    pub channels: usize,
    /// Output channels.
    pub out: usize,
    /// Kernel, stride and padding.
    pub window: Window,
}

impl ConvSpec {
    /// A k×k convolution with "same" padding.
    pub fn new(channels: usize, out: usize, kernel: usize, stride: usize) -> Self {
        ConvSpec { channels, out, window: Window { kernel, stride, padding: kernel / 2 } }
    }
}

/// What follows a BatchNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// ReLU.
    Relu,
    /// The sum with a residual of the same shape, then ReLU.
    AddRelu(ValueId),
}

impl Then {
    /// Adds it to a graph as operators of its own.
    fn apply(self, g: &mut Graph, y: ValueId) -> Result<ValueId, GraphError> {
        match self {
            Then::Nothing => Ok(y),
            Then::Relu => g.apply(Relu, &[y]),
            Then::AddRelu(residual) => {
                let sum = g.add(y, residual)?;
                g.apply(Relu, &[sum])
            }
        }
    }
}

/// What a network is built of. Names are PyTorch's, relative to the graph's scope. Maps are [N,C,H,W] below; layers for
/// another [`Layout`](crate::ops::layout::Layout) take and give theirs.
#[allow(clippy::missing_errors_doc, reason = "shapes that do not fit, and weights that do not belong to the network")]
pub trait Layers {
    /// Convolution `conv`, BatchNorm `norm` and what follows; x [N,C,H,W].
    fn conv_batch_norm(&mut self, g: &mut Graph, conv: &str, norm: &str, x: ValueId, spec: ConvSpec, then: Then) -> Result<ValueId, GraphError>;

    /// Linear layer with bias; x [N,channels] → [N,out].
    fn linear(&mut self, g: &mut Graph, name: &str, x: ValueId, channels: usize, out: usize) -> Result<ValueId, GraphError>;

    /// Linear layer with bias, BatchNorm and ReLU; x [N,channels] → [N,out].
    fn linear_batch_norm_relu(&mut self, g: &mut Graph, linear: &str, norm: &str, x: ValueId, channels: usize, out: usize) -> Result<ValueId, GraphError>;

    /// Rows of length 1; x [N,D].
    fn normalize_rows(&mut self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError>;

    /// Maximum over windows; x [N,C,H,W] → [N,C,H',W'].
    fn max_pool(&mut self, g: &mut Graph, x: ValueId, window: Window) -> Result<ValueId, GraphError>;

    /// Mean over the map; x [N,C,H,W] → [N,C].
    fn average_pool(&mut self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError>;
}
