//! 3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray 2015, arXiv 1509.09308), of stock operators.
//!
//! A 6x6 tile of the input, transformed, times the transformed 3x3 weight, point by point, transformed back, is a 4x4 tile of
//! the output: 36 multiplications where the definition takes 144. All tiles and images together make one matrix product for
//! each of the 36 points, which is what ONNX Runtime multiplies fastest.
//!
//! Both gradients read the points of dy, which are therefore a value of the graph, [`WinogradPoints`]. The input's gradient
//! is the convolution of dy with the flipped weight. The weight's gradient could as well come from the points of x and the
//! transposed output transform of dy; the points of dy and that transform of x cost as much, and nothing of the size of 36/16
//! maps is kept from the forward to the backward pass.

use std::collections::HashMap;

use ndarray::ArrayD;

use super::body_inputs;
use super::taps::input_size_of;
use crate::interpreter::evaluate;
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::ops::conv::Window;
use crate::ops::plane_conv::Planes;
use crate::ops::{Attribute, Conv, Domain, FusedMatMul, Gemm, Operator, PlaneConv, Slice, Vjp, arity};
use crate::preset::Target;

/// The convolutions that these functions are for: 3x3, stride 1, the output as large as the input.
pub const WINDOW: Window = Window { kernel: 3, stride: 1, padding: 1 };

/// Side of an output tile.
const OUTPUT: usize = 4;
/// Side of an input tile.
const INPUT: usize = 6;
/// Products of a tile.
const POINTS: usize = INPUT * INPUT;
/// Taps of the convolution.
const TAPS: usize = 9;

/// The finite interpolation points, as in the runtime's native kernels: exact in binary, and close enough to 1 both ways that
/// rounding errors stay half as large as with the usual ±1 and ±2. The sixth point is infinity.
const FINITE: [f64; INPUT - 1] = [0.0, 0.625, -0.625, 1.5, -1.5];

/// Bᵀ [6, 6]: for each finite point the coefficients of ∏ (z − q) over the other finite points q, for infinity over all.
fn input_matrix() -> Vec<Vec<f64>> {
    let product = |left_out: Option<usize>| {
        let factors = FINITE.iter().enumerate().filter(|&(index, _)| Some(index) != left_out);
        let mut coefficients = factors.fold(vec![1.0], |polynomial: Vec<f64>, (_, &q)| {
            let coefficient = |power: usize| polynomial.get(power).copied().unwrap_or(0.0);
            (0..=polynomial.len()).map(|power| if power == 0 { 0.0 } else { coefficient(power - 1) } - q * coefficient(power)).collect()
        });
        coefficients.resize(INPUT, 0.0);
        coefficients
    };
    (0..FINITE.len()).map(Some).chain([None]).map(product).collect()
}

/// G [6, 3]: powers of each finite point p over ∏ (p − q), and the last tap for infinity.
fn weight_matrix() -> Vec<Vec<f64>> {
    let divisor = |p: f64| FINITE.iter().filter(|&&q| q != p).map(|q| p - q).product::<f64>();
    FINITE.iter().map(|&p| [1.0, p, p * p].map(|power| power / divisor(p)).to_vec()).chain([vec![0.0, 0.0, 1.0]]).collect()
}

/// A [6, 4]: powers of each finite point, and the highest one alone for infinity.
fn output_matrix() -> Vec<Vec<f64>> {
    FINITE.iter().map(|&p| (0..OUTPUT as i32).map(|power| p.powi(power)).collect()).chain([vec![0.0, 0.0, 0.0, 1.0]]).collect()
}

/// Constant [rows², columns²] that applies a matrix along both axes: `matrix ⊗ matrix`.
fn both_axes(g: &mut Graph, matrix: &[Vec<f64>]) -> ValueId {
    let values = matrix.iter().flat_map(|a| matrix.iter().flat_map(move |b| a.iter().flat_map(move |&x| b.iter().map(move |&y| x * y)))).collect();
    g.constant([matrix.len().pow(2), matrix[0].len().pow(2)], TensorData::Exact(values))
}

/// `points` [36, X] times `matrix` [6, n] along both axes: [n, n, X].
///
/// One axis after the other: a product that gathers 36 values from rows a power of two apart waits for the caches, which hold
/// eight such rows. What is asked for as [X, n²] is transposed afterwards: a matrix product that writes columns takes 1.2 to 2 times
/// as long as both.
fn times_both_axes(g: &mut Graph, points: ValueId, matrix: &[Vec<f64>]) -> Result<ValueId, GraphError> {
    let (columns, to) = (g.ty(points).elements() / POINTS, matrix[0].len());
    let transposed = (0..to).flat_map(|column| matrix.iter().map(move |row| row[column])).collect();
    let transposed = g.constant([to, INPUT], TensorData::Exact(transposed));
    let points = g.reshape(points, &[INPUT, INPUT * columns])?;
    let half = g.matmul(transposed, points)?;
    let half = g.reshape(half, &[to, INPUT, columns])?;
    g.matmul(transposed, half)
}

/// The matrix for taps in reverse order.
fn reversed_taps(mut matrix: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    matrix.iter_mut().for_each(|row| row.reverse());
    matrix
}

/// Least channels on both sides: the transforms of a tile cost as much for every channel, its products with all others as much
/// as there are of them. Measured: with 32 channels throughout their first stage, training steps take 0.85 to 0.94 of the time
/// that they take without these functions there, with 16 channels 0.93 to 1.0.
const LEAST_CHANNELS: usize = 32;

/// Least side of a map. Of a 3x3 map a tile makes 36 products where the taps that are not on the padding make 49; of 2x2 it
/// would be 36 to 16.
const LEAST_SIDE: usize = 3;

/// Whether a convolution of x [N,C,H,W] to `out` channels is faster by these functions than by [`Convolution`] and its
/// gradients, on ONNX Runtime's CPU provider.
///
/// Measured with AVX2, 8 images of 56x56 to 7x7 maps and 32 of 24x24 to 3x3: the forward pass alone takes 0.5 to 0.7 of Conv's
/// time with 64 to 512 channels, 0.8 with 32.
///
/// [`Convolution`]: super::convolution::Convolution
pub(crate) fn pays(window: Window, x: &[usize], out: usize) -> bool {
    let [_, channels, height, width] = *x else { return false };
    window == WINDOW && channels.min(out) >= LEAST_CHANNELS && height.min(width) >= LEAST_SIDE
}

/// Tiles along H and W.
fn tiles(size: [usize; 2]) -> [usize; 2] {
    size.map(|side| side.div_ceil(OUTPUT))
}

/// `filters` [F, k·k] over the k×k windows of the maps x [N,C,H,W], a window for each tile: [F, T·N, C].
///
/// The maps are transposed, so that ONNX Runtime gathers rows of N·C elements: with the maps' own rows the transform takes twice
/// the time.
fn transformed(g: &mut Graph, x: ValueId, filters: ValueId, kernel: usize) -> Result<ValueId, GraphError> {
    let [batch, channels, height, width] = *g.shape(x) else { unreachable!("shapes were inferred") };
    let count = g.shape(filters)[0];
    let [tiles_h, tiles_w] = tiles([height, width]);
    // Windows of 6 overlap and begin on the padding, windows of 4 lie side by side.
    let before = (kernel - OUTPUT) / 2;
    let after = [tiles_h * OUTPUT + before - height, tiles_w * OUTPUT + before - width];
    let planes = g.reshape(x, &[batch * channels, height * width])?;
    let planes = g.transpose(planes, &[1, 0])?;
    let planes = g.reshape(planes, &[1, 1, height, width, batch * channels])?;
    let filters = g.reshape(filters, &[count, 1, kernel, kernel, 1])?;
    let conv = PlaneConv { planes: Planes::Last, kernel: [kernel; 2], stride: [OUTPUT; 2], before: [before; 2], after };
    let points = g.apply(conv, &[planes, filters])?;
    g.reshape(points, &[count, tiles_h * tiles_w * batch, channels])
}

/// The points [36, T·N, C] of the overlapping 6x6 tiles of x [N,C,H,W].
fn points(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let filters = both_axes(g, &input_matrix());
    transformed(g, x, filters, INPUT)
}

/// The 4x4 tiles of products [36, T·N, O], put together: [N,O,H,W].
fn assembled(g: &mut Graph, products: ValueId, [height, width]: [usize; 2]) -> Result<ValueId, GraphError> {
    let [_, columns, out] = *g.shape(products) else { unreachable!("products of points") };
    let [tiles_h, tiles_w] = tiles([height, width]);
    let batch = columns / (tiles_h * tiles_w);
    let planes = batch * out;
    let pixels = times_both_axes(g, products, &output_matrix())?;
    let pixels = g.reshape(pixels, &[OUTPUT, OUTPUT, tiles_h, tiles_w, planes])?;
    let rows = g.transpose(pixels, &[2, 0, 3, 1, 4])?;
    let mut y = g.reshape(rows, &[tiles_h * OUTPUT, tiles_w * OUTPUT, planes])?;
    if g.shape(y)[..2] != [height, width] {
        y = g.apply(Slice { axes: vec![0, 1], starts: vec![0, 0], ends: vec![height, width], steps: vec![1, 1] }, &[y])?;
    }
    let y = g.reshape(y, &[height * width, planes])?;
    let y = g.transpose(y, &[1, 0])?;
    g.reshape(y, &[batch, out, height, width])
}

/// Whether there are tiles enough for a product with a row for each of them. Else rows are channels: a product of few rows waits
/// for the weights, which are its other factor.
///
/// Measured with AVX2, 256 and 512 channels: with at least half as many rows 1.0 to 1.25 of the other form's time, which has a transpose
/// to come; with 32 rows of 512 channels 1.7.
fn many_tiles(columns: usize, channels: usize, out: usize) -> bool {
    2 * columns >= channels.max(out)
}

/// Points [36, T·N, C] times those of a convolution's weight [O,C,3,3], or, `swapped`, of a weight [C,O,3,3]: [36, T·N, O].
fn times_weight(g: &mut Graph, target: Target, points: ValueId, w: ValueId, matrix: &[Vec<f64>], swapped: bool) -> Result<ValueId, GraphError> {
    let [_, columns, channels] = *g.shape(points) else { unreachable!("points") };
    let out = g.shape(w)[if swapped { 1 } else { 0 }];
    let tile_rows = many_tiles(columns, channels, out);
    let weights = if tile_rows == swapped { weight_points(g, w, matrix)? } else { swapped_weight_points(g, w, matrix)? };
    if tile_rows {
        return g.matmul(points, weights);
    }
    let products = times_transposed(g, target, weights, points)?;
    g.transpose(products, &[0, 2, 1])
}

/// The points [36, O, C] of a weight [O,C,3,3] transformed by G.
fn weight_points(g: &mut Graph, w: ValueId, matrix: &[Vec<f64>]) -> Result<ValueId, GraphError> {
    let [out, channels, ..] = *g.shape(w) else { unreachable!("shapes were inferred") };
    let matrix = both_axes(g, matrix);
    let w = g.reshape(w, &[out * channels, TAPS])?;
    let points = g.apply(Gemm { trans_a: false, trans_b: true }, &[matrix, w])?;
    g.reshape(points, &[POINTS, out, channels])
}

/// The points [36, C, O] of a weight [O,C,3,3] transformed by G, channels swapped.
///
/// Taps before channels, and then a transpose of a matrix: one that moves nine elements at a time takes longer than both.
fn swapped_weight_points(g: &mut Graph, w: ValueId, matrix: &[Vec<f64>]) -> Result<ValueId, GraphError> {
    let [out, channels, ..] = *g.shape(w) else { unreachable!("shapes were inferred") };
    let matrix = both_axes(g, matrix);
    let w = g.reshape(w, &[out, channels, TAPS])?;
    let w = g.transpose(w, &[0, 2, 1])?;
    let w = g.reshape(w, &[out, TAPS * channels])?;
    let w = g.transpose(w, &[1, 0])?;
    let w = g.reshape(w, &[TAPS, channels * out])?;
    let points = g.matmul(matrix, w)?;
    g.reshape(points, &[POINTS, channels, out])
}

/// `a · bᵀ` for each point; a [36, M, K], b [36, N, K].
fn times_transposed(g: &mut Graph, target: Target, a: ValueId, b: ValueId) -> Result<ValueId, GraphError> {
    if target.formulations().microsoft {
        return g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[a, b]);
    }
    let b = g.transpose(b, &[0, 2, 1])?;
    g.matmul(a, b)
}

/// The body's value in double precision: what a function that is part of a convolution is checked by is that convolution.
fn eval_body(op: &impl Operator, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
    let types: Vec<TensorType> = inputs.iter().map(|input| TensorType::f32(input.shape().to_vec())).collect();
    let body = op.body(&types.iter().collect::<Vec<_>>(), Target::Portable).expect("shapes were inferred").expect("a function");
    let inputs: HashMap<_, _> = body.inputs().iter().zip(inputs).map(|(&name, &value)| (body.input_name(name).to_owned(), value.clone())).collect();
    let values = evaluate(&body, &inputs);
    body.outputs().iter().map(|&(_, output)| values.get(output).clone()).collect()
}

/// The points of a map, [36, T·N, O], with as many tiles as the map has.
fn check_points(points: &TensorType, batch: usize, size: [usize; 2]) -> Result<usize, String> {
    let [tiles_h, tiles_w] = tiles(size);
    match points.shape[..] {
        [POINTS, columns, channels] if columns == tiles_h * tiles_w * batch => Ok(channels),
        _ => Err(format!("expected points [{POINTS}, {tiles_h}·{tiles_w}·{batch}, O] of maps {size:?}, got {points}")),
    }
}

/// A 3x3 convolution of stride 1 and padding 1: inputs x [N,C,H,W], w [O,C,3,3]; output y [N,O,H,W].
#[derive(Debug, Clone, PartialEq)]
pub struct WinogradConvolution;

impl Operator for WinogradConvolution {
    const NAME: &'static str = "WinogradConvolution";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, w] = arity(inputs)?;
        Conv { window: WINDOW }.infer(&[x, w])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, x, w) = (cx.gradient()?, cx.input(0), cx.input(1));
        let points = cx.graph.apply(WinogradPoints, &[dy])?;
        // The weight's gradient comes first: it is the last reader of x.
        let dw = if cx.needs(1) { Some(cx.graph.apply(WinogradWeightGrad, &[points, x])?) } else { None };
        let dx = if cx.needs(0) {
            let input_size = input_size_of(cx.graph.shape(x));
            Some(cx.graph.apply(WinogradInputGrad { input_size }, &[points, w])?)
        } else {
            None
        };
        Ok(vec![dx, dw])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        Conv { window: WINDOW }.eval(inputs)
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [x, w]) = body_inputs(["x", "w"], inputs);
        let points = points(&mut g, x)?;
        let products = times_weight(&mut g, target, points, w, &weight_matrix(), false)?;
        let y = assembled(&mut g, products, input_size_of(&inputs[0].shape))?;
        g.output("y", y);
        Ok(Some(g))
    }
}

/// The points of overlapping 6x6 tiles, as both gradients of [`WinogradConvolution`] read them: dy [N,O,H,W] → [36, T·N, O] for
/// T tiles.
#[derive(Debug, Clone, PartialEq)]
pub struct WinogradPoints;

impl Operator for WinogradPoints {
    const NAME: &'static str = "WinogradPoints";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy] = arity(inputs)?;
        match dy.shape[..] {
            [batch, out, height, width] if dy.dtype == DType::F32 => {
                Ok(vec![TensorType::f32(vec![POINTS, tiles([height, width]).iter().product::<usize>() * batch, out])])
            }
            _ => Err(format!("expected a map f32 [N, O, H, W], got {dy}")),
        }
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_body(self, inputs)
    }

    fn body(&self, inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [dy]) = body_inputs(["dy"], inputs);
        let points = points(&mut g, dy)?;
        g.output("points", points);
        Ok(Some(g))
    }
}

/// Gradient of [`WinogradConvolution`]'s input: the points of dy [36, T·N, O], w [O,C,3,3] → dx [N,C,H,W].
#[derive(Debug, Clone, PartialEq)]
pub struct WinogradInputGrad {
    /// H and W of the convolution's input.
    pub input_size: [usize; 2],
}

impl Operator for WinogradInputGrad {
    const NAME: &'static str = "WinogradInputGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [points, w] = arity(inputs)?;
        let columns = points.shape.get(1).copied().unwrap_or(0);
        let batch = columns / tiles(self.input_size).iter().product::<usize>().max(1);
        let out = check_points(points, batch, self.input_size)?;
        match w.shape[..] {
            [w_out, channels, 3, 3] if w_out == out && w.dtype == points.dtype => {
                let [height, width] = self.input_size;
                Ok(vec![TensorType::new(w.dtype, vec![batch, channels, height, width])])
            }
            _ => Err(format!("expected a weight [{out}, C, 3, 3] for points {points}, got {w}")),
        }
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("input_size", Attribute::Ints(self.input_size.map(|side| side as i64).to_vec()))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_body(self, inputs)
    }

    /// The convolution of dy with the weight of reversed taps and swapped channels.
    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [points, w]) = body_inputs(["points", "w"], inputs);
        let products = times_weight(&mut g, target, points, w, &reversed_taps(weight_matrix()), true)?;
        let dx = assembled(&mut g, products, self.input_size)?;
        g.output("dx", dx);
        Ok(Some(g))
    }
}

/// Gradient of [`WinogradConvolution`]'s weight: the points of dy [36, T·N, O], x [N,C,H,W] → dw [O,C,3,3].
#[derive(Debug, Clone, PartialEq)]
pub struct WinogradWeightGrad;

impl Operator for WinogradWeightGrad {
    const NAME: &'static str = "WinogradWeightGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [points, x] = arity(inputs)?;
        let [batch, channels, height, width] = x.shape[..] else { return Err(format!("expected a map [N, C, H, W], got {x}")) };
        let out = check_points(points, batch, [height, width])?;
        if points.dtype != x.dtype {
            return Err(format!("expected points and map of one type, got {points} and {x}"));
        }
        Ok(vec![TensorType::new(x.dtype, vec![out, channels, 3, 3])])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_body(self, inputs)
    }

    /// `dw[k] = Σ_j x[j]·dy[j + 2 − k]` along an axis, so that of the reversed taps is Winograd's bilinear form read for the
    /// weight: Gᵀ [(Bᵀ dy) ⊙ (A x)], x in tiles of 4 side by side.
    fn body(&self, inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [points, x]) = body_inputs(["points", "x"], inputs);
        let [_, columns, out] = inputs[0].shape[..] else { unreachable!("shapes were inferred") };
        let channels = inputs[1].shape[1];
        let filters = both_axes(&mut g, &output_matrix());
        let x = transformed(&mut g, x, filters, OUTPUT)?;
        // As [6, 6, ·, ·], lest ONNX Runtime makes the transpose part of the product, which takes up to 1.5 times as long as both.
        let points = g.reshape(points, &[INPUT, INPUT, columns, out])?;
        let points = g.transpose(points, &[0, 1, 3, 2])?;
        let points = g.reshape(points, &[POINTS, out, columns])?;
        let products = g.matmul(points, x)?;
        let dw = times_both_axes(&mut g, products, &reversed_taps(weight_matrix()))?;
        let dw = g.reshape(dw, &[3, 3, out, channels])?;
        // A transpose of matrices, and the last operator: a Reshape that writes a graph's output copies.
        let dw = g.transpose(dw, &[2, 3, 0, 1])?;
        g.output("dw", dw);
        Ok(Some(g))
    }
}
