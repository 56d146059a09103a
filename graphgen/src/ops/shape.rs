//! Operators that only move elements.

use ndarray::{ArrayD, Axis, IxDyn, Slice as NdSlice};

use super::{Attribute, Operator, Vjp, arity};
use crate::ir::{GraphError, TensorData, TensorType, ValueId};

fn ints(values: &[usize]) -> TensorData {
    TensorData::I64(values.iter().map(|&value| value as i64).collect())
}

/// The same value under another name.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity;

impl Operator for Identity {
    const NAME: &'static str = "Identity";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        super::elementwise::infer_unary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        Ok(vec![Some(dy)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].clone()]
    }
}

/// The same elements in another static shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Reshape {
    /// New shape.
    pub shape: Vec<usize>,
}

impl Operator for Reshape {
    const NAME: &'static str = "Reshape";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        if x.elements() != self.shape.iter().product::<usize>() {
            return Err(format!("expected as many elements as {:?} has, got {x}", self.shape));
        }
        Ok(vec![TensorType::new(x.dtype, self.shape.clone())])
    }

    fn constant_inputs(&self) -> Vec<TensorData> {
        vec![ints(&self.shape)]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        let shape = cx.graph.shape(cx.input(0)).to_vec();
        Ok(vec![Some(cx.graph.reshape(dy, &shape)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let elements = inputs[0].iter().copied().collect();
        vec![ArrayD::from_shape_vec(self.shape.clone(), elements).expect("as many elements")]
    }
}

/// Everything behind the first axis in one: [N, …] → [N, product]. Unlike [`Reshape`] it holds no shape constant.
#[derive(Debug, Clone, PartialEq)]
pub struct Flatten;

impl Operator for Flatten {
    const NAME: &'static str = "Flatten";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        if x.rank() < 2 {
            return Err(format!("expected at least 2 dimensions, got {x}"));
        }
        Ok(vec![TensorType::new(x.dtype, vec![x.shape[0], x.shape[1..].iter().product()])])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(1))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        let shape = cx.graph.shape(cx.input(0)).to_vec();
        Ok(vec![Some(cx.graph.reshape(dy, &shape)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let shape = inputs[0].shape();
        Reshape { shape: vec![shape[0], shape[1..].iter().product()] }.eval(inputs)
    }
}

/// Permutes the axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Transpose {
    /// Output axis i is input axis `permutation[i]`.
    pub permutation: Vec<usize>,
}

impl Operator for Transpose {
    const NAME: &'static str = "Transpose";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        let mut sorted = self.permutation.clone();
        sorted.sort_unstable();
        if sorted != (0..x.rank()).collect::<Vec<_>>() {
            return Err(format!("expected a permutation of {} axes, got {:?}", x.rank(), self.permutation));
        }
        Ok(vec![TensorType::new(x.dtype, self.permutation.iter().map(|&axis| x.shape[axis]).collect::<Vec<_>>())])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("perm", Attribute::Ints(self.permutation.iter().map(|&axis| axis as i64).collect()))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        let mut inverse = vec![0; self.permutation.len()];
        for (to, &from) in self.permutation.iter().enumerate() {
            inverse[from] = to;
        }
        Ok(vec![Some(cx.graph.transpose(dy, &inverse)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].view().permuted_axes(IxDyn(&self.permutation)).as_standard_layout().into_owned()]
    }
}

/// Joins values along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Concat {
    /// Axis.
    pub axis: usize,
}

impl Operator for Concat {
    const NAME: &'static str = "Concat";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let first = *inputs.first().ok_or("expected at least one input, got none")?;
        if self.axis >= first.rank() {
            return Err(format!("expected an axis below {}, got {}", first.rank(), self.axis));
        }
        let mut shape = first.shape.clone();
        for input in &inputs[1..] {
            let mut expected = input.shape.clone();
            if input.rank() == first.rank() {
                expected[self.axis] = first.shape[self.axis];
            }
            if expected != first.shape || input.dtype != first.dtype {
                return Err(format!("expected inputs like {first} except along axis {}, got {input}", self.axis));
            }
            shape[self.axis] += input.shape[self.axis];
        }
        Ok(vec![TensorType::new(first.dtype, shape)])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(self.axis as i64))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        let mut start = 0;
        (0..cx.inputs.len())
            .map(|index| {
                let end = start + cx.graph.shape(cx.input(index))[self.axis];
                let slice = Slice { axes: vec![self.axis], starts: vec![start], ends: vec![end], steps: vec![1] };
                start = end;
                if cx.needs(index) { cx.graph.apply(slice, &[dy]).map(Some) } else { Ok(None) }
            })
            .collect()
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let views: Vec<_> = inputs.iter().map(|input| input.view()).collect();
        vec![ndarray::concatenate(Axis(self.axis), &views).expect("shapes were inferred").as_standard_layout().into_owned()]
    }
}

/// A part of the elements along some axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Axes.
    pub axes: Vec<usize>,
    /// First index along each axis.
    pub starts: Vec<usize>,
    /// End along each axis, exclusive.
    pub ends: Vec<usize>,
    /// Step along each axis, at least 1.
    pub steps: Vec<usize>,
}

impl Operator for Slice {
    const NAME: &'static str = "Slice";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        let mut shape = x.shape.clone();
        for (((&axis, &start), &end), &step) in self.axes.iter().zip(&self.starts).zip(&self.ends).zip(&self.steps) {
            if axis >= x.rank() || start >= end || end > x.shape[axis] || step == 0 {
                return Err(format!("cannot take {start}..{end} in steps of {step} along axis {axis} of {x}"));
            }
            shape[axis] = (end - start).div_ceil(step);
        }
        Ok(vec![TensorType::new(x.dtype, shape)])
    }

    fn constant_inputs(&self) -> Vec<TensorData> {
        vec![ints(&self.starts), ints(&self.ends), ints(&self.axes), ints(&self.steps)]
    }

    /// Pads with zeros. A strided slice would need a dilating pad, which no rule here asks for.
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        if self.steps.iter().any(|&step| step != 1) {
            return Err(cx.unknown(" for steps other than 1"));
        }
        let dy = cx.gradient()?;
        let shape = cx.graph.shape(cx.input(0)).to_vec();
        let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
        for ((&axis, &start), &end) in self.axes.iter().zip(&self.starts).zip(&self.ends) {
            before[axis] = start;
            after[axis] = shape[axis] - end;
        }
        Ok(vec![Some(cx.graph.apply(Pad { before, after }, &[dy])?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let mut view = inputs[0].view();
        for (((&axis, &start), &end), &step) in self.axes.iter().zip(&self.starts).zip(&self.ends).zip(&self.steps) {
            view.slice_axis_inplace(Axis(axis), NdSlice::new(start as isize, Some(end as isize), step as isize));
        }
        vec![view.as_standard_layout().into_owned()]
    }
}

/// Zeros around the elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Pad {
    /// Zeros before each axis.
    pub before: Vec<usize>,
    /// Zeros behind each axis.
    pub after: Vec<usize>,
}

impl Operator for Pad {
    const NAME: &'static str = "Pad";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        if self.before.len() != x.rank() || self.after.len() != x.rank() {
            return Err(format!("expected pads for {} axes, got {:?} and {:?}", x.rank(), self.before, self.after));
        }
        let shape: Vec<usize> = x.shape.iter().zip(&self.before).zip(&self.after).map(|((dim, before), after)| dim + before + after).collect();
        Ok(vec![TensorType::new(x.dtype, shape)])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("mode", Attribute::String("constant"))]
    }

    fn constant_inputs(&self) -> Vec<TensorData> {
        vec![ints(&[self.before.as_slice(), &self.after].concat())]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        let shape = cx.graph.shape(cx.input(0)).to_vec();
        let ends = self.before.iter().zip(&shape).map(|(before, dim)| before + dim).collect();
        let slice = Slice { axes: (0..shape.len()).collect(), starts: self.before.clone(), ends, steps: vec![1; shape.len()] };
        Ok(vec![Some(cx.graph.apply(slice, &[dy])?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let x = inputs[0];
        let shape: Vec<usize> = x.shape().iter().zip(&self.before).zip(&self.after).map(|((dim, before), after)| dim + before + after).collect();
        let mut padded = ArrayD::zeros(shape);
        let mut inner = padded.view_mut();
        for (axis, (&before, &dim)) in self.before.iter().zip(x.shape()).enumerate() {
            inner.slice_axis_inplace(Axis(axis), NdSlice::from(before..before + dim));
        }
        inner.assign(x);
        vec![padded]
    }
}

/// Picks constant indices along an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Gather {
    /// Axis.
    pub axis: usize,
    /// Indices along the axis.
    pub indices: Vec<usize>,
}

impl Operator for Gather {
    const NAME: &'static str = "Gather";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        let length = *x.shape.get(self.axis).ok_or_else(|| format!("expected an axis below {}, got {}", x.rank(), self.axis))?;
        if let Some(index) = self.indices.iter().find(|&&index| index >= length) {
            return Err(format!("expected indices below {length}, got {index}"));
        }
        let mut shape = x.shape.clone();
        shape[self.axis] = self.indices.len();
        Ok(vec![TensorType::new(x.dtype, shape)])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(self.axis as i64))]
    }

    fn constant_inputs(&self) -> Vec<TensorData> {
        vec![ints(&self.indices)]
    }

    /// Known where the indices are a permutation.
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let length = cx.graph.shape(cx.input(0))[self.axis];
        let mut inverse = vec![usize::MAX; length];
        for (to, &from) in self.indices.iter().enumerate() {
            inverse[from] = to;
        }
        if self.indices.len() != length || inverse.contains(&usize::MAX) {
            return Err(cx.unknown(" unless the indices are a permutation"));
        }
        let dy = cx.gradient()?;
        Ok(vec![Some(cx.graph.apply(Gather { axis: self.axis, indices: inverse }, &[dy])?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].select(Axis(self.axis), &self.indices)]
    }
}
