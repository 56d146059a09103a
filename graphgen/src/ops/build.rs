//! Short forms for the operators that every formula needs.

use super::{Cast, Concat, Div, Exp, Identity, Log, MatMul, Max, Mul, Neg, Reciprocal, ReduceMax, ReduceMean, ReduceSum, Reshape, Slice, Sqrt, Sub, Transpose};
use crate::ir::{DType, Graph, GraphError, ValueId};
use crate::ops::Add;

type Built = Result<ValueId, GraphError>;

#[allow(missing_docs, reason = "each is the operator of its name")]
#[allow(clippy::missing_errors_doc, reason = "shapes that the operator refuses")]
impl Graph {
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Built {
        self.apply(Add, &[a, b])
    }

    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Built {
        self.apply(Sub, &[a, b])
    }

    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.apply(Mul, &[a, b])
    }

    pub fn div(&mut self, a: ValueId, b: ValueId) -> Built {
        self.apply(Div, &[a, b])
    }

    pub fn neg(&mut self, x: ValueId) -> Built {
        self.apply(Neg, &[x])
    }

    pub fn exp(&mut self, x: ValueId) -> Built {
        self.apply(Exp, &[x])
    }

    pub fn log(&mut self, x: ValueId) -> Built {
        self.apply(Log, &[x])
    }

    pub fn sqrt(&mut self, x: ValueId) -> Built {
        self.apply(Sqrt, &[x])
    }

    pub fn reciprocal(&mut self, x: ValueId) -> Built {
        self.apply(Reciprocal, &[x])
    }

    /// `factor · x`
    pub fn scale(&mut self, x: ValueId, factor: f64) -> Built {
        let factor = self.scalar_like(factor, x);
        self.mul(x, factor)
    }

    /// `x + offset`
    pub fn offset(&mut self, x: ValueId, offset: f64) -> Built {
        let offset = self.scalar_like(offset, x);
        self.add(x, offset)
    }

    /// `max(x, floor)`
    pub fn at_least(&mut self, x: ValueId, floor: f64) -> Built {
        let floor = self.scalar_like(floor, x);
        self.apply(Max, &[x, floor])
    }

    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.apply(MatMul, &[a, b])
    }

    pub fn reduce_sum(&mut self, x: ValueId, axes: &[usize], keepdims: bool) -> Built {
        self.apply(ReduceSum { axes: axes.to_vec(), keepdims }, &[x])
    }

    pub fn reduce_mean(&mut self, x: ValueId, axes: &[usize], keepdims: bool) -> Built {
        self.apply(ReduceMean { axes: axes.to_vec(), keepdims }, &[x])
    }

    pub fn reduce_max(&mut self, x: ValueId, axes: &[usize], keepdims: bool) -> Built {
        self.apply(ReduceMax { axes: axes.to_vec(), keepdims }, &[x])
    }

    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Built {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.apply(Reshape { shape: shape.to_vec() }, &[x])
    }

    pub fn transpose(&mut self, x: ValueId, permutation: &[usize]) -> Built {
        self.apply(Transpose { permutation: permutation.to_vec() }, &[x])
    }

    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Built {
        if let [only] = parts {
            return Ok(*only);
        }
        self.apply(Concat { axis }, parts)
    }

    /// Rows `start..end` of the first axis.
    pub fn rows(&mut self, x: ValueId, start: usize, end: usize) -> Built {
        if start == 0 && end == self.shape(x)[0] {
            return Ok(x);
        }
        self.apply(Slice { axes: vec![0], starts: vec![start], ends: vec![end], steps: vec![1] }, &[x])
    }

    /// `x` itself where it is of the type already.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Built {
        if self.dtype(x) == to {
            return Ok(x);
        }
        self.apply(Cast { to }, &[x])
    }

    pub fn identity(&mut self, x: ValueId) -> Built {
        self.apply(Identity, &[x])
    }
}
