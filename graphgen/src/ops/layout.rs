//! The order of a map's axes, and functions that know one order for two.

use ndarray::ArrayD;

use super::{Attribute, Operator, Transpose};
use crate::ir::{Graph, GraphError, TensorType, ValueId};

/// Order of the axes of maps: activations and their gradients. Weights are [O,C,k,k] in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// [N,C,H,W], that of ONNX's operators.
    #[default]
    ChannelsFirst,
    /// [N,H,W,C], that of the runtime's native kernels.
    ChannelsLast,
}

/// [N,H,W,C] → [N,C,H,W]
const TO_CHANNELS_FIRST: [usize; 4] = [0, 3, 1, 2];
/// [N,C,H,W] → [N,H,W,C]
const TO_CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];

impl Layout {
    /// Axis of the channels; of rows [N,C] it is that of [`ChannelsFirst`](Self::ChannelsFirst).
    pub fn channel_axis(self) -> usize {
        match self {
            Layout::ChannelsFirst => 1,
            Layout::ChannelsLast => 3,
        }
    }

    /// Axes of height and width.
    pub fn spatial_axes(self) -> [usize; 2] {
        match self {
            Layout::ChannelsFirst => [2, 3],
            Layout::ChannelsLast => [1, 2],
        }
    }

    /// H and W of a map's shape.
    pub(crate) fn size_of(self, shape: &[usize]) -> [usize; 2] {
        self.spatial_axes().map(|axis| shape[axis])
    }

    /// As functions have it.
    pub(crate) fn attribute(self) -> (&'static str, Attribute) {
        ("channels_last", Attribute::Int((self == Layout::ChannelsLast).into()))
    }

    /// A map of this layout → [N,C,H,W].
    ///
    /// # Errors
    /// None for a value of rank 4.
    pub(crate) fn to_channels_first(self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        match self {
            Layout::ChannelsFirst => Ok(x),
            Layout::ChannelsLast => g.transpose(x, &TO_CHANNELS_FIRST),
        }
    }

    /// A map [N,C,H,W] → one of this layout.
    ///
    /// # Errors
    /// None for a value of rank 4.
    pub(crate) fn of_channels_first(self, g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
        match self {
            Layout::ChannelsFirst => Ok(x),
            Layout::ChannelsLast => g.transpose(x, &TO_CHANNELS_LAST),
        }
    }
}

/// Which inputs and outputs of a function are maps. A function is written for [N,C,H,W]; for the other layout its types,
/// values and body are those between permutations of these.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maps {
    pub(crate) inputs: &'static [usize],
    pub(crate) outputs: &'static [usize],
}

impl Maps {
    /// The function's `infer` for maps of a layout, from that for [N,C,H,W].
    pub(crate) fn infer(
        self,
        layout: Layout,
        inputs: &[&TensorType],
        infer: impl FnOnce(&[&TensorType]) -> Result<Vec<TensorType>, String>,
    ) -> Result<Vec<TensorType>, String> {
        if layout == Layout::ChannelsFirst {
            return infer(inputs);
        }
        if let Some(&index) = self.inputs.iter().find(|&&index| inputs.get(index).is_some_and(|ty| ty.rank() != 4)) {
            return Err(format!("expected a map [N, H, W, C] as input {index}, got {}", inputs[index]));
        }
        let inputs = self.permuted_types(inputs);
        let outputs = infer(&inputs.iter().collect::<Vec<_>>()).map_err(|problem| format!("{problem}; maps are written here as [N, C, H, W]"))?;
        let outputs = outputs.into_iter().enumerate();
        Ok(outputs.map(|(index, ty)| if self.outputs.contains(&index) { permuted(&ty, &TO_CHANNELS_LAST) } else { ty }).collect())
    }

    /// The function's `eval` for maps of a layout, from that for [N,C,H,W].
    pub(crate) fn eval(self, layout: Layout, inputs: &[&ArrayD<f64>], eval: impl FnOnce(&[&ArrayD<f64>]) -> Vec<ArrayD<f64>>) -> Vec<ArrayD<f64>> {
        if layout == Layout::ChannelsFirst {
            return eval(inputs);
        }
        let permute = |value: &ArrayD<f64>, permutation: &[usize]| Transpose { permutation: permutation.to_vec() }.eval(&[value]).remove(0);
        let inputs: Vec<ArrayD<f64>> = inputs
            .iter()
            .enumerate()
            .map(|(index, &value)| if self.inputs.contains(&index) { permute(value, &TO_CHANNELS_FIRST) } else { value.clone() })
            .collect();
        let outputs = eval(&inputs.iter().collect::<Vec<_>>()).into_iter().enumerate();
        outputs.map(|(index, value)| if self.outputs.contains(&index) { permute(&value, &TO_CHANNELS_LAST) } else { value }).collect()
    }

    /// The function's `body` for maps of a layout, from that for [N,C,H,W]: the same names of inputs and outputs.
    pub(crate) fn body(
        self,
        layout: Layout,
        inputs: &[&TensorType],
        body: impl FnOnce(&[&TensorType]) -> Result<Graph, GraphError>,
    ) -> Result<Option<Graph>, GraphError> {
        if layout == Layout::ChannelsFirst {
            return body(inputs).map(Some);
        }
        let inner = body(&self.permuted_types(inputs).iter().collect::<Vec<_>>())?;
        let mut g = Graph::new();
        let mut arguments = Vec::with_capacity(inputs.len());
        for (index, (&ty, &inside)) in inputs.iter().zip(inner.inputs()).enumerate() {
            let input = g.input(inner.input_name(inside), ty.clone());
            arguments.push(if self.inputs.contains(&index) { layout.to_channels_first(&mut g, input)? } else { input });
        }
        let results = g.inline(&inner, &arguments)?;
        for (index, ((name, _), result)) in inner.outputs().iter().zip(results).enumerate() {
            let result = if self.outputs.contains(&index) { layout.of_channels_first(&mut g, result)? } else { result };
            g.output(name, result);
        }
        Ok(Some(g))
    }

    fn permuted_types(self, inputs: &[&TensorType]) -> Vec<TensorType> {
        let types = inputs.iter().enumerate();
        types.map(|(index, &ty)| if self.inputs.contains(&index) { permuted(ty, &TO_CHANNELS_FIRST) } else { ty.clone() }).collect()
    }
}

fn permuted(ty: &TensorType, permutation: &[usize; 4]) -> TensorType {
    TensorType::new(ty.dtype, permutation.map(|axis| ty.shape[axis]))
}
