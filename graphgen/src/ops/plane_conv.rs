//! The same kernels over every plane of a volume.

use ndarray::{Array5, ArrayD, Ix5};

use super::{Attribute, Operator, Vjp, arity};
use crate::ir::{GraphError, TensorType, ValueId};

/// Where the planes stand beside height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planes {
    /// x [N,1,P,H,W], w [F,1,1,k,l], y [N,F,P,H',W'].
    First,
    /// x [N,1,H,W,P], w [F,1,k,l,1], y [N,F,H',W',P]. ONNX Runtime's CPU provider gathers whole rows of planes.
    Last,
}

/// `y[n,f,p,i,j] = Σ x[n,0,p,s·i+a−before,s·j+b−before] · w[f,0,0,a,b]`, with a stride and a padding for either axis; inputs x, w
/// and output y as [`Planes`] has them.
///
/// Conv of rank 5: with the planes as a depth instead of a batch, the filters come first in the output, and nothing has to be
/// transposed before a product over the planes.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaneConv {
    /// Order of the axes.
    pub planes: Planes,
    /// Height and width of the kernels.
    pub kernel: [usize; 2],
    /// Strides along H and W.
    pub stride: [usize; 2],
    /// Zeros before H and W.
    pub before: [usize; 2],
    /// Zeros behind H and W.
    pub after: [usize; 2],
}

impl Planes {
    /// A shape of rank 5 with the planes first.
    fn to_first(self, shape: &[usize]) -> Option<[usize; 5]> {
        let [n, c, a, b, last] = *shape else { return None };
        Some(match self {
            Planes::First => [n, c, a, b, last],
            Planes::Last => [n, c, last, a, b],
        })
    }

    /// What belongs to the planes, to height and to width, in the order of the axes.
    fn of_volume<T>(self, planes: T, [height, width]: [T; 2]) -> [T; 3] {
        match self {
            Planes::First => [planes, height, width],
            Planes::Last => [height, width, planes],
        }
    }
}

impl PlaneConv {
    fn output(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let PlaneConv { kernel, stride, before, after, .. } = self;
        let output = |axis: usize| (size[axis] + before[axis] + after[axis]).checked_sub(kernel[axis]).map(|rest| rest / stride[axis] + 1);
        Some([output(0)?, output(1)?])
    }
}

impl Operator for PlaneConv {
    const NAME: &'static str = "Conv";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, w] = arity(inputs)?;
        let (volume, kernels) = (self.planes.to_first(&x.shape), self.planes.to_first(&w.shape));
        let (Some([batch, 1, planes, height, width]), Some([filters, 1, 1, kernel_h, kernel_w])) = (volume, kernels) else {
            return Err(format!("expected planes and kernels of one channel, {:?} of three axes, got {x} and {w}", self.planes));
        };
        if [kernel_h, kernel_w] != self.kernel || x.dtype != w.dtype {
            return Err(format!("expected kernels {:?} of the planes' type, got {x} and {w}", self.kernel));
        }
        let [out_h, out_w] = self.output([height, width]).ok_or_else(|| format!("planes {x} are smaller than the kernel {:?}", self.kernel))?;
        let spatial = self.planes.of_volume(planes, [out_h, out_w]);
        Ok(vec![TensorType::new(x.dtype, [vec![batch, filters], spatial.to_vec()].concat())])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let of_volume = |planes: i64, sides: [usize; 2]| self.planes.of_volume(planes, sides.map(|side| side as i64));
        vec![
            ("kernel_shape", Attribute::Ints(of_volume(1, self.kernel).to_vec())),
            ("pads", Attribute::Ints([of_volume(0, self.before), of_volume(0, self.after)].concat())),
            ("strides", Attribute::Ints(of_volume(1, self.stride).to_vec())),
            ("dilations", Attribute::Ints(vec![1, 1, 1])),
            ("group", Attribute::Int(1)),
        ]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" of planes (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let planes_first = |x: &ArrayD<f64>| {
            let x = x.view().into_dimensionality::<Ix5>().expect("rank 5");
            if self.planes == Planes::Last { x.permuted_axes([0, 1, 4, 2, 3]) } else { x }.to_owned()
        };
        let (x, w) = (planes_first(inputs[0]), planes_first(inputs[1]));
        let (batch, _, planes, height, width) = x.dim();
        let [out_h, out_w] = self.output([height, width]).expect("shapes were inferred");
        let PlaneConv { kernel, stride, before, .. } = self;
        let at = |axis: usize, output: usize, tap: usize| {
            (output * stride[axis] + tap).checked_sub(before[axis]).filter(|&position| position < [height, width][axis])
        };
        let y = Array5::from_shape_fn((batch, w.dim().0, planes, out_h, out_w), |(n, filter, plane, i, j)| {
            let taps = (0..kernel[0]).flat_map(|a| (0..kernel[1]).map(move |b| (a, b)));
            taps.filter_map(|(a, b)| Some(x[[n, 0, plane, at(0, i, a)?, at(1, j, b)?]] * w[[filter, 0, 0, a, b]])).sum()
        });
        let y = if self.planes == Planes::Last { y.permuted_axes([0, 1, 3, 4, 2]).as_standard_layout().into_owned() } else { y };
        vec![y.into_dyn()]
    }
}
