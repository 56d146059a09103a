//! Two-dimensional convolutions, NCHW, one group.

use ndarray::{Array2, Array4, ArrayD, ArrayView4, Ix4};

use super::{Attribute, Operator, Vjp};
use crate::ir::{GraphError, TensorType, ValueId};

/// Square window, stride and padding of a convolution or pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Side of the kernel.
    pub kernel: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
}

impl Window {
    /// Length of the output along an axis of length `length`.
    pub fn output(&self, length: usize) -> Option<usize> {
        Some((length + 2 * self.padding).checked_sub(self.kernel)? / self.stride + 1)
    }

    /// The input position that a tap meets at an output position, unless it falls on the padding.
    pub(crate) fn input(&self, output: usize, tap: usize, length: usize) -> Option<usize> {
        (output * self.stride + tap).checked_sub(self.padding).filter(|&position| position < length)
    }

    pub(crate) fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let (kernel, stride, padding) = (self.kernel as i64, self.stride as i64, self.padding as i64);
        vec![("kernel_shape", Attribute::Ints(vec![kernel; 2])), ("pads", Attribute::Ints(vec![padding; 4])), ("strides", Attribute::Ints(vec![stride; 2]))]
    }
}

/// `y[n,o,i,j] = Σ x[n,c,s·i+a−p,s·j+b−p] · w[o,c,a,b] (+ bias[o])`; inputs x [N,C,H,W], w [O,C,k,k], bias [O].
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Kernel, stride and padding.
    pub window: Window,
}

impl Operator for Conv {
    const NAME: &'static str = "Conv";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, w, bias @ ..] = inputs else { return Err(format!("expected 2 or 3 inputs, got {}", inputs.len())) };
        let ([batch, channels, height, width], [out, in_channels, kernel_h, kernel_w]) = (x.shape.as_slice(), w.shape.as_slice()) else {
            return Err(format!("expected input and weight of 4 dimensions, got {x} and {w}"));
        };
        if in_channels != channels {
            return Err(format!("weight expects {in_channels} input channels, got {channels}"));
        }
        if [*kernel_h, *kernel_w] != [self.window.kernel; 2] {
            return Err(format!("weight is {kernel_h}x{kernel_w}, the attributes say {0}x{0}", self.window.kernel));
        }
        if !bias.is_empty() && (bias.len() > 1 || bias[0].shape != [*out]) {
            return Err(format!("expected one bias of {out} elements, got {bias:?}"));
        }
        let too_small = || format!("input {height}x{width} is smaller than the {0}x{0} kernel", self.window.kernel);
        let (out_h, out_w) = (self.window.output(*height).ok_or_else(too_small)?, self.window.output(*width).ok_or_else(too_small)?);
        Ok(vec![TensorType::new(x.dtype, vec![*batch, *out, out_h, out_w])])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = self.window.attributes();
        attributes.extend([("dilations", Attribute::Ints(vec![1, 1])), ("group", Attribute::Int(1))]);
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (training graphs use Convolution)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let (x, w) = (rank4(inputs[0]), rank4(inputs[1]));
        let (n, _, height, width) = x.dim();
        let [out_h, out_w] = [height, width].map(|length| self.window.output(length).expect("shapes were inferred"));
        let products = kernels_as_rows(&w).dot(&columns(self.window, &x, [out_h, out_w]));
        let y = products.to_shape((w.dim().0, n, out_h, out_w)).expect("a column for every output position");
        let mut y = y.permuted_axes([1, 0, 2, 3]).as_standard_layout().into_owned();
        if let Some(bias) = inputs.get(2) {
            let bias = bias.view().into_shape_with_order((1, w.dim().0, 1, 1)).expect("a vector");
            y += &bias;
        }
        vec![y.into_dyn()]
    }
}

/// A view of rank 4.
pub(crate) fn rank4(x: &ArrayD<f64>) -> ArrayView4<'_, f64> {
    x.view().into_dimensionality::<Ix4>().expect("rank 4")
}

/// Kernels [O,C,k,k] as a matrix [O, C·k·k].
fn kernels_as_rows(w: &ArrayView4<'_, f64>) -> Array2<f64> {
    let (out, channels, height, width) = w.dim();
    w.to_shape((out, channels * height * width)).expect("as many elements").into_owned()
}

/// Output values [N,O,H',W'] as a matrix [O, N·H'·W'].
pub(crate) fn outputs_as_rows(y: &ArrayView4<'_, f64>) -> Array2<f64> {
    let (n, out, height, width) = y.dim();
    y.view().permuted_axes([1, 0, 2, 3]).to_shape((out, n * height * width)).expect("as many elements").into_owned()
}

/// A convolution's input x [N,C,H,W] as the matrix [C·k·k, N·H'·W'] that its kernels multiply: what each tap meets at
/// each output position, 0 on the padding.
pub(crate) fn columns(window: Window, x: &ArrayView4<'_, f64>, output: [usize; 2]) -> Array2<f64> {
    let (n, channels, ..) = x.dim();
    let mut columns = Array2::zeros((channels * window.kernel * window.kernel, n * output[0] * output[1]));
    each_entry(window, x.dim(), output, |entry, position| columns[entry] = x[position]);
    columns
}

/// Calls `f` with every entry of [`columns`] that does not fall on the padding, and its position in x.
fn each_entry(
    window: Window,
    (batch, channels, height, width): (usize, usize, usize, usize),
    [out_h, out_w]: [usize; 2],
    mut f: impl FnMut([usize; 2], [usize; 4]),
) {
    let taps = (0..window.kernel).flat_map(|a| (0..window.kernel).map(move |b| (a, b)));
    for (row, (c, (a, b))) in (0..channels).flat_map(|c| taps.clone().map(move |tap| (c, tap))).enumerate() {
        for (n, i) in (0..batch).flat_map(|n| (0..out_h).map(move |i| (n, i))) {
            let Some(in_h) = window.input(i, a, height) else { continue };
            for j in 0..out_w {
                let Some(in_w) = window.input(j, b, width) else { continue };
                f([row, (n * out_h + i) * out_w + j], [n, c, in_h, in_w]);
            }
        }
    }
}

/// The transpose of [`Conv`] with respect to its input; inputs dy [N,O,H',W'], w [O,C,k,k].
#[derive(Debug, Clone, PartialEq)]
pub struct ConvTranspose {
    /// Kernel, stride and padding of the convolution.
    pub window: Window,
    /// H and W of the convolution's input.
    pub input_size: [usize; 2],
}

/// `dx` of a convolution, shared with [`ConvInputGrad`].
pub(crate) fn infer_input_gradient(window: Window, input_size: [usize; 2], inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    let [dy, w] = super::arity(inputs)?;
    let ([batch, out, out_h, out_w], [w_out, channels, _, _]) = (dy.shape.as_slice(), w.shape.as_slice()) else {
        return Err(format!("expected gradient and weight of 4 dimensions, got {dy} and {w}"));
    };
    if out != w_out || [window.output(input_size[0]), window.output(input_size[1])] != [Some(*out_h), Some(*out_w)] {
        return Err(format!("gradient {dy} does not belong to a convolution of {input_size:?} with weight {w}"));
    }
    Ok(vec![TensorType::new(dy.dtype, vec![*batch, *channels, input_size[0], input_size[1]])])
}

/// `dx` of a convolution in double precision.
pub(crate) fn eval_input_gradient(window: Window, input_size: [usize; 2], inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
    let (dy, w) = (rank4(inputs[0]), rank4(inputs[1]));
    let mut dx = Array4::zeros((dy.dim().0, w.dim().1, input_size[0], input_size[1]));
    let columns = kernels_as_rows(&w).t().dot(&outputs_as_rows(&dy));
    each_entry(window, dx.dim(), [dy.dim().2, dy.dim().3], |entry, position| dx[position] += columns[entry]);
    vec![dx.into_dyn()]
}

/// `dw` of a convolution in double precision: dy [N,O,H',W'], x [N,C,H,W] → [O,C,k,k].
pub(crate) fn eval_weight_gradient(window: Window, dy: &ArrayD<f64>, x: &ArrayD<f64>) -> ArrayD<f64> {
    let (dy, x) = (rank4(dy), rank4(x));
    let (kernel, (_, out, out_h, out_w)) = (window.kernel, dy.dim());
    let dw = outputs_as_rows(&dy).dot(&columns(window, &x, [out_h, out_w]).t());
    dw.to_shape((out, x.dim().1, kernel, kernel)).expect("a product for every tap").into_owned().into_dyn()
}

impl Operator for ConvTranspose {
    const NAME: &'static str = "ConvTranspose";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_input_gradient(self.window, self.input_size, inputs)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let Window { kernel, stride, padding } = self.window;
        let output_padding = |length: usize| {
            let steps = (length + 2 * padding - kernel) / stride;
            (length + 2 * padding - kernel - steps * stride) as i64
        };
        let mut attributes = self.window.attributes();
        attributes.extend([
            ("dilations", Attribute::Ints(vec![1, 1])),
            ("group", Attribute::Int(1)),
            ("output_padding", Attribute::Ints(self.input_size.map(output_padding).to_vec())),
        ]);
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_input_gradient(self.window, self.input_size, inputs)
    }
}
