//! Matrix products.

use ndarray::{Array2, ArrayD, ArrayView2, Axis, Ix2, Ix3};

use super::{Attribute, Domain, Operator, Vjp, arity};
use crate::ir::{GraphError, TensorType, ValueId};

/// `a · b`, of matrices [M, K] · [K, N], of batches of them [B, M, K] · [B, K, N], or of one matrix with each of a batch,
/// [M, K] · [B, K, N].
#[derive(Debug, Clone, PartialEq)]
pub struct MatMul;

/// Rows and columns of the last two axes, swapped if transposed.
fn matrix_dims(ty: &TensorType, transposed: bool) -> (usize, usize) {
    let [rows, columns] = ty.shape[ty.rank() - 2..] else { unreachable!("the rank was checked") };
    if transposed { (columns, rows) } else { (rows, columns) }
}

fn infer_product(inputs: &[&TensorType], trans_a: bool, trans_b: bool) -> Result<Vec<TensorType>, String> {
    let [a, b] = arity(inputs)?;
    if a.rank() != b.rank() || !(2..=3).contains(&a.rank()) || a.dtype != b.dtype || (a.rank() == 3 && a.shape[0] != b.shape[0]) {
        return Err(format!("expected two matrices or two equal batches of matrices, got {a} and {b}"));
    }
    let ((rows, inner), (inner_b, columns)) = (matrix_dims(a, trans_a), matrix_dims(b, trans_b));
    if inner != inner_b {
        return Err(format!("inner dimensions differ: {a}{} times {b}{}", if trans_a { " transposed" } else { "" }, if trans_b { " transposed" } else { "" }));
    }
    let mut shape = a.shape[..a.rank() - 2].to_vec();
    shape.extend([rows, columns]);
    Ok(vec![TensorType::new(a.dtype, shape)])
}

fn transposed(x: ArrayView2<'_, f64>, transpose: bool) -> ArrayView2<'_, f64> {
    if transpose { x.reversed_axes() } else { x }
}

fn eval_product(a: &ArrayD<f64>, b: &ArrayD<f64>, trans_a: bool, trans_b: bool) -> ArrayD<f64> {
    if a.ndim() == 2 {
        let (a, b) = (a.view().into_dimensionality::<Ix2>().expect("rank 2"), b.view().into_dimensionality::<Ix2>().expect("rank 2"));
        return transposed(a, trans_a).dot(&transposed(b, trans_b)).into_dyn();
    }
    let (a, b) = (a.view().into_dimensionality::<Ix3>().expect("rank 3"), b.view().into_dimensionality::<Ix3>().expect("rank 3"));
    let products: Vec<Array2<f64>> = a.outer_iter().zip(b.outer_iter()).map(|(a, b)| transposed(a, trans_a).dot(&transposed(b, trans_b))).collect();
    let views: Vec<_> = products.iter().map(|product| product.view()).collect();
    ndarray::stack(Axis(0), &views).expect("equal shapes").into_dyn()
}

impl Operator for MatMul {
    const NAME: &'static str = "MatMul";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if let [a, b] = *inputs
            && (a.rank(), b.rank()) == (2, 3)
        {
            let repeated = TensorType::new(a.dtype, [&b.shape[..1], &a.shape].concat());
            return infer_product(&[&repeated, b], false, false);
        }
        infer_product(inputs, false, false)
    }

    /// `da = dy · bᵀ`, `db = aᵀ · dy`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, a, b) = (cx.gradient()?, cx.input(0), cx.input(1));
        if cx.graph.shape(a).len() != cx.graph.shape(b).len() {
            return Err(cx.unknown(" of one matrix with a batch (it serves in function bodies only)"));
        }
        let swap: Vec<usize> = if cx.graph.shape(a).len() == 2 { vec![1, 0] } else { vec![0, 2, 1] };
        let da = if cx.needs(0) {
            let b = cx.graph.transpose(b, &swap)?;
            Some(cx.graph.matmul(dy, b)?)
        } else {
            None
        };
        let db = if cx.needs(1) {
            let a = cx.graph.transpose(a, &swap)?;
            Some(cx.graph.matmul(a, dy)?)
        } else {
            None
        };
        Ok(vec![da, db])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let (a, b) = (inputs[0], inputs[1]);
        if a.ndim() < b.ndim() {
            let shape = [&b.shape()[..1], a.shape()].concat();
            let a = a.broadcast(shape).expect("a new first axis").to_owned();
            return vec![eval_product(&a, b, false, false)];
        }
        vec![eval_product(a, b, false, false)]
    }
}

/// [`MatMul`] of transposed inputs in one kernel, of the domain `com.microsoft`.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedMatMul {
    /// Transpose the matrices of the first input.
    pub trans_a: bool,
    /// Transpose the matrices of the second input.
    pub trans_b: bool,
}

impl Operator for FusedMatMul {
    const NAME: &'static str = "FusedMatMul";
    const DOMAIN: Domain = Domain::Microsoft;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_product(inputs, self.trans_a, self.trans_b)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("alpha", Attribute::Float(1.0)), ("transA", Attribute::Int(self.trans_a.into())), ("transB", Attribute::Int(self.trans_b.into()))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![eval_product(inputs[0], inputs[1], self.trans_a, self.trans_b)]
    }
}

/// `a · b (+ c)` of matrices that may be transposed; `c` is a bias over the columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Gemm {
    /// Transpose the first input.
    pub trans_a: bool,
    /// Transpose the second input.
    pub trans_b: bool,
}

impl Operator for Gemm {
    const NAME: &'static str = "Gemm";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [a, b, bias @ ..] = inputs else { return Err(format!("expected 2 or 3 inputs, got {}", inputs.len())) };
        if a.rank() != 2 {
            return Err(format!("expected matrices, got {a}"));
        }
        let types = infer_product(&[a, b], self.trans_a, self.trans_b)?;
        match bias {
            [] => {}
            [bias] if bias.shape == [types[0].shape[1]] => {}
            _ => return Err(format!("expected one bias of {} elements, got {bias:?}", types[0].shape[1])),
        }
        Ok(types)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("alpha", Attribute::Float(1.0)),
            ("beta", Attribute::Float(1.0)),
            ("transA", Attribute::Int(self.trans_a.into())),
            ("transB", Attribute::Int(self.trans_b.into())),
        ]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, a, b) = (cx.gradient()?, cx.input(0), cx.input(1));
        let gemm = |trans_a, trans_b| Gemm { trans_a, trans_b };
        let da = match (cx.needs(0), self.trans_a) {
            (false, _) => None,
            (true, false) => Some(cx.graph.apply(gemm(false, !self.trans_b), &[dy, b])?),
            (true, true) => Some(cx.graph.apply(gemm(self.trans_b, true), &[b, dy])?),
        };
        let db = match (cx.needs(1), self.trans_b) {
            (false, _) => None,
            (true, false) => Some(cx.graph.apply(gemm(!self.trans_a, false), &[a, dy])?),
            (true, true) => Some(cx.graph.apply(gemm(true, self.trans_a), &[dy, a])?),
        };
        let mut gradients = vec![da, db];
        if cx.inputs.len() == 3 {
            gradients.push(if cx.needs(2) { Some(cx.graph.reduce_sum(dy, &[0], false)?) } else { None });
        }
        Ok(gradients)
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let product = eval_product(inputs[0], inputs[1], self.trans_a, self.trans_b);
        vec![match inputs.get(2) {
            Some(bias) => product + *bias,
            None => product,
        }]
    }
}
