//! Formulations of a convolution's weight gradient, and the choice between them.
//!
//! All of them gather, for each of the k·k taps, the inputs that met that tap of the kernel, and multiply them with dy.
//! They differ in the order of the axes and so in the shape of the matrix product.

use super::formulations::WeightGradientForm;
use super::taps::{columns, taps};
use crate::ir::{Graph, GraphError, TensorData, ValueId};
use crate::ops::conv::Window;
use crate::ops::plane_conv::Planes;
use crate::ops::{ConvGrad, FusedMatMul, Gemm, PlaneConv};
use crate::preset::Target;

/// How the products are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One product over batch and pixels together, taps side by side: [N·P, O]ᵀ · [N·P, k·k·C]. Standard operators only.
    OneGemm,
    /// For each tap one product over batch and pixels together, [N·P, O]ᵀ · [N·P, C].
    GemmPerTap,
    /// For each tap a product for each image, [O, P] · [C, P]ᵀ, summed over the batch. Reads x in its own order.
    PerTap,
    /// One product for each image, taps side by side, [k·k·C, P] · [O, P]ᵀ, summed over the batch: for few channels.
    PerImage,
    /// One product over batch and pixels together, [O, N·P] · [k·k·C, N·P]ᵀ, for taps gathered by constant kernels.
    Rows,
    /// [`PerImage`](Self::PerImage) for taps gathered by constant kernels.
    RowsPerImage,
    /// The training build's kernel.
    Kernel,
}

/// Measured on ONNX Runtime's CPU provider: merging the batch into the product pays while maps are small; few input
/// channels make thin products unless the taps stand side by side. The choice for GPUs is not measured: it keeps the
/// memory of taps side by side, k·k times the input, to inputs of few channels.
///
/// A constant one-hot kernel for each tap gathers it, in one Conv where Pad, a strided Slice for each tap and Concat were: the
/// whole gradient takes 0.6 of the time for a 7x7 stem and 0.3 to 0.65 for 3x3 convolutions of stride 2. Rows of channels are
/// copied in pieces of a map and need no transposed first factor, which takes 0.55 to 0.9 of the time on maps of up to 14x14.
fn choose(target: Target, window: Window, channels: usize, pixels: usize) -> Form {
    match target.formulations().weight_gradient {
        WeightGradientForm::Kernel => Form::Kernel,
        WeightGradientForm::OneGemm => Form::OneGemm,
        WeightGradientForm::GemmPerTap if window.kernel == 1 || channels < 8 => Form::OneGemm,
        WeightGradientForm::GemmPerTap => Form::GemmPerTap,
        WeightGradientForm::Cpu if window.kernel == 1 && pixels > 14 * 14 => Form::PerTap,
        WeightGradientForm::Cpu if window.kernel == 1 || pixels <= 8 * 8 => Form::OneGemm,
        WeightGradientForm::Cpu if channels < 8 => Form::PerImage,
        WeightGradientForm::Cpu => Form::PerTap,
        WeightGradientForm::CpuByKernels if window.kernel == 1 && window.stride == 1 && pixels > 14 * 14 => Form::PerTap,
        WeightGradientForm::CpuByKernels if channels < 8 => Form::RowsPerImage,
        WeightGradientForm::CpuByKernels => Form::Rows,
    }
}

/// `dw` [O,C,k,k] from dy [N,O,H',W'] and x [N,C,H,W].
pub(super) fn build(g: &mut Graph, window: Window, target: Target, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [_, _, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    match choose(target, window, g.shape(x)[1], out_h * out_w) {
        Form::OneGemm => one_gemm(g, window, dy, x),
        Form::GemmPerTap => gemm_per_tap(g, window, dy, x),
        Form::PerTap => per_tap(g, window, dy, x),
        Form::PerImage => per_image(g, window, dy, x),
        Form::Rows => rows(g, window, dy, x),
        Form::RowsPerImage => rows_per_image(g, window, dy, x),
        Form::Kernel => kernel(g, window, dy, x),
    }
}

/// The weight that the kernel takes besides serves for its shape: its elements matter to the input's gradient, which is not
/// used.
fn kernel(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let shape = [g.shape(dy)[1], g.shape(x)[1], window.kernel, window.kernel];
    let weight = g.constant(shape, TensorData::Filled(0.0, shape.iter().product()));
    Ok(g.apply_all(ConvGrad { window }, &[dy, x, weight])?[1])
}

fn one_gemm(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [batch, out, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let (channels, kernel, rows) = (g.shape(x)[1], window.kernel, batch * out_h * out_w);
    let columns = columns(g, window, x, [out_h, out_w])?;
    let dy = g.transpose(dy, &[0, 2, 3, 1])?;
    let dy = g.reshape(dy, &[rows, out])?;
    let dw = g.apply(Gemm { trans_a: true, trans_b: false }, &[dy, columns])?;
    let dw = g.reshape(dw, &[out, kernel * kernel, channels])?;
    let dw = if kernel == 1 { dw } else { g.transpose(dw, &[0, 2, 1])? };
    g.reshape(dw, &[out, channels, kernel, kernel])
}

/// Side of a kernel from which on its rows and columns are gathered one after the other: k one-hot kernels of k taps twice in place
/// of k·k of k·k, for which the copies pay. Measured: 0.6 of the time for a 7x7 stem, 1.2 for 3x3.
const SEPARATE_AXES: usize = 5;

/// The taps of planes [N,1,P,H,W], by one-hot kernels: [N,k·k,P,H',W'].
fn gathered(g: &mut Graph, window: Window, planes: ValueId, output: [usize; 2]) -> Result<ValueId, GraphError> {
    let Window { kernel, stride, padding } = window;
    if (kernel, stride) == (1, 1) {
        return Ok(planes);
    }
    let [batch, _, count, height, width] = *g.shape(planes) else { unreachable!("planes") };
    // What the last window leaves over is cut off by the division when the output's size is computed.
    let after = [0, 1].map(|axis| ((output[axis] - 1) * stride + kernel).saturating_sub([height, width][axis] + padding));
    if kernel < SEPARATE_AXES {
        let all = PlaneConv { planes: Planes::First, kernel: [kernel; 2], stride: [stride; 2], before: [padding; 2], after };
        return one_hot(g, all, planes);
    }
    let columns = PlaneConv { planes: Planes::First, kernel: [1, kernel], stride: [1, stride], before: [0, padding], after: [0, after[1]] };
    let rows = PlaneConv { planes: Planes::First, kernel: [kernel, 1], stride: [stride, 1], before: [padding, 0], after: [after[0], 0] };
    let columns = one_hot(g, columns, planes)?;
    let columns = g.reshape(columns, &[batch, 1, kernel * count, height, output[1]])?;
    let rows = one_hot(g, rows, columns)?;
    g.reshape(rows, &[batch, kernel * kernel, count, output[0], output[1]])
}

/// A plane for each tap of a kernel.
fn one_hot(g: &mut Graph, conv: PlaneConv, planes: ValueId) -> Result<ValueId, GraphError> {
    let [height, width] = conv.kernel;
    let taps = height * width;
    let one_hot = (0..taps * taps).map(|index| if index % (taps + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let kernels = g.constant([taps, 1, 1, height, width], TensorData::F32(one_hot));
    g.apply(conv, &[planes, kernels])
}

fn rows(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [batch, out, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let [_, channels, height, width] = *g.shape(x) else { unreachable!("shapes were inferred") };
    let (taps, columns) = (window.kernel * window.kernel, batch * out_h * out_w);
    let x = g.transpose(x, &[1, 0, 2, 3])?;
    let planes = g.reshape(x, &[1, 1, channels * batch, height, width])?;
    let gathered = gathered(g, window, planes, [out_h, out_w])?;
    let gathered = g.reshape(gathered, &[taps * channels, columns])?;
    let dy = g.transpose(dy, &[1, 0, 2, 3])?;
    let dy = g.reshape(dy, &[out, columns])?;
    let dw = g.apply(Gemm { trans_a: false, trans_b: true }, &[dy, gathered])?;
    let dw = g.reshape(dw, &[out, taps, channels])?;
    let dw = if taps == 1 { dw } else { g.transpose(dw, &[0, 2, 1])? };
    g.reshape(dw, &[out, channels, window.kernel, window.kernel])
}

fn rows_per_image(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [_, _, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let [batch, channels, height, width] = *g.shape(x) else { unreachable!("shapes were inferred") };
    let planes = g.reshape(x, &[batch, 1, channels, height, width])?;
    let columns = gathered(g, window, planes, [out_h, out_w])?;
    product_per_image(g, window, dy, columns)
}

fn gemm_per_tap(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [batch, out, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let (channels, kernel, rows) = (g.shape(x)[1], window.kernel, batch * out_h * out_w);
    let dy = g.transpose(dy, &[0, 2, 3, 1])?;
    let dy = g.reshape(dy, &[rows, out])?;
    let x = g.transpose(x, &[0, 2, 3, 1])?;
    let mut products = Vec::with_capacity(kernel * kernel);
    for tap in taps(g, window, x, [out_h, out_w], 1)? {
        let tap = g.reshape(tap, &[rows, channels])?;
        let product = g.apply(Gemm { trans_a: true, trans_b: false }, &[dy, tap])?;
        products.push(g.reshape(product, &[out, channels, 1])?);
    }
    let dw = g.concat(&products, 2)?;
    g.reshape(dw, &[out, channels, kernel, kernel])
}

fn per_tap(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [batch, out, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let (channels, kernel, pixels) = (g.shape(x)[1], window.kernel, out_h * out_w);
    let dy = g.reshape(dy, &[batch, out, pixels])?;
    let mut sums = Vec::with_capacity(kernel * kernel);
    for tap in taps(g, window, x, [out_h, out_w], 2)? {
        let tap = g.reshape(tap, &[batch, channels, pixels])?;
        let products = g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[dy, tap])?;
        let sum = g.reduce_sum(products, &[0], false)?;
        sums.push(g.reshape(sum, &[out, channels, 1])?);
    }
    let dw = g.concat(&sums, 2)?;
    g.reshape(dw, &[out, channels, kernel, kernel])
}

fn per_image(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [_, _, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let taps = taps(g, window, x, [out_h, out_w], 2)?;
    let columns = g.concat(&taps, 1)?;
    product_per_image(g, window, dy, columns)
}

/// From dy [N,O,H',W'] and what each tap met, tap by tap: k·k·C maps for each image.
fn product_per_image(g: &mut Graph, window: Window, dy: ValueId, columns: ValueId) -> Result<ValueId, GraphError> {
    let [batch, out, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let (taps, pixels) = (window.kernel * window.kernel, out_h * out_w);
    let channels = g.ty(columns).elements() / (batch * taps * pixels);
    let columns = g.reshape(columns, &[batch, taps * channels, pixels])?;
    let dy = g.reshape(dy, &[batch, out, pixels])?;
    let products = g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[columns, dy])?;
    let dw = g.reduce_sum(products, &[0], false)?;
    let dw = g.reshape(dw, &[taps, channels, out])?;
    let dw = g.transpose(dw, &[2, 1, 0])?;
    g.reshape(dw, &[out, channels, window.kernel, window.kernel])
}
