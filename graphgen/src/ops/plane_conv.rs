//! The same kernels over every plane of a volume.

use ndarray::{Array5, ArrayD, Ix5};

use super::{Attribute, Operator, Vjp, arity};
use crate::ir::{GraphError, TensorType, ValueId};

/// `y[n,f,p,i,j] = Σ x[n,0,p,s·i+a−before,s·j+b−before] · w[f,0,0,a,b]`; inputs x [N,1,P,H,W], w [F,1,1,k,k]; output y [N,F,P,H',W'].
///
/// Conv of rank 5: with the planes as a depth instead of a batch, the filters come first in the output, and nothing has to be
/// transposed before a product over the planes.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaneConv {
    /// Side of the kernels.
    pub kernel: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Zeros before both axes.
    pub before: usize,
    /// Zeros behind H and W.
    pub after: [usize; 2],
}

impl PlaneConv {
    fn output(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let [height, width] = [0, 1].map(|axis| (size[axis] + self.before + self.after[axis]).checked_sub(self.kernel).map(|rest| rest / self.stride + 1));
        Some([height?, width?])
    }
}

impl Operator for PlaneConv {
    const NAME: &'static str = "Conv";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, w] = arity(inputs)?;
        let ([batch, 1, planes, height, width], [filters, 1, 1, kernel_h, kernel_w]) = (x.shape.as_slice(), w.shape.as_slice()) else {
            return Err(format!("expected planes [N, 1, P, H, W] and kernels [F, 1, 1, k, k], got {x} and {w}"));
        };
        if [*kernel_h, *kernel_w] != [self.kernel; 2] || x.dtype != w.dtype {
            return Err(format!("expected kernels {0}x{0} of the planes' type, got {x} and {w}", self.kernel));
        }
        let [out_h, out_w] = self.output([*height, *width]).ok_or_else(|| format!("planes {x} are smaller than the {0}x{0} kernel", self.kernel))?;
        Ok(vec![TensorType::new(x.dtype, vec![*batch, *filters, *planes, out_h, out_w])])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let [kernel, stride, before, after_h, after_w] = [self.kernel, self.stride, self.before, self.after[0], self.after[1]].map(|value| value as i64);
        vec![
            ("kernel_shape", Attribute::Ints(vec![1, kernel, kernel])),
            ("pads", Attribute::Ints(vec![0, before, before, 0, after_h, after_w])),
            ("strides", Attribute::Ints(vec![1, stride, stride])),
            ("dilations", Attribute::Ints(vec![1, 1, 1])),
            ("group", Attribute::Int(1)),
        ]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" of planes (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let rank5 = |x: &ArrayD<f64>| x.view().into_dimensionality::<Ix5>().expect("rank 5").to_owned();
        let (x, w) = (rank5(inputs[0]), rank5(inputs[1]));
        let (batch, _, planes, height, width) = x.dim();
        let [out_h, out_w] = self.output([height, width]).expect("shapes were inferred");
        let at = |output: usize, tap: usize, length: usize| (output * self.stride + tap).checked_sub(self.before).filter(|&position| position < length);
        let y = Array5::from_shape_fn((batch, w.dim().0, planes, out_h, out_w), |(n, filter, plane, i, j)| {
            let taps = (0..self.kernel).flat_map(|a| (0..self.kernel).map(move |b| (a, b)));
            taps.filter_map(|(a, b)| Some(x[[n, 0, plane, at(i, a, height)?, at(j, b, width)?]] * w[[filter, 0, 0, a, b]])).sum()
        });
        vec![y.into_dyn()]
    }
}
