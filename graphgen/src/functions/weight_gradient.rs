//! Formulations of a convolution's weight gradient, and the choice between them.
//!
//! All of them gather, for each of the k·k taps, the inputs that met that tap of the kernel, and multiply them with dy.
//! They differ in the order of the axes and so in the shape of the matrix product.

use super::formulations::WeightGradientForm;
use super::taps::{columns, taps};
use crate::ir::{Graph, GraphError, TensorData, ValueId};
use crate::ops::conv::Window;
use crate::ops::{ConvGrad, FusedMatMul, Gemm};
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
    /// The training build's kernel.
    Kernel,
}

/// Measured on ONNX Runtime's CPU provider: merging the batch into the product pays while maps are small; few input
/// channels make thin products unless the taps stand side by side. The choice for GPUs is not measured: it keeps the
/// memory of taps side by side, k·k times the input, to inputs of few channels.
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
        Form::Kernel => kernel(g, window, dy, x),
    }
}

/// The weight that the kernel takes besides serves for its shape: its elements matter to the input's gradient, which is not
/// used.
fn kernel(g: &mut Graph, window: Window, dy: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let shape = [g.shape(dy)[1], g.shape(x)[1], window.kernel, window.kernel];
    let weight = g.constant(shape, TensorData::F32(vec![0.0; shape.iter().product()]));
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
    let [batch, out, out_h, out_w] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let (channels, kernel, pixels) = (g.shape(x)[1], window.kernel, out_h * out_w);
    let taps = taps(g, window, x, [out_h, out_w], 2)?;
    let columns = g.concat(&taps, 1)?;
    let columns = g.reshape(columns, &[batch, kernel * kernel * channels, pixels])?;
    let dy = g.reshape(dy, &[batch, out, pixels])?;
    let products = g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[columns, dy])?;
    let dw = g.reduce_sum(products, &[0], false)?;
    let dw = g.reshape(dw, &[kernel * kernel, channels, out])?;
    let dw = g.transpose(dw, &[2, 1, 0])?;
    g.reshape(dw, &[out, channels, kernel, kernel])
}
