//! Functions of the domain `swav`: their bodies on ONNX Runtime, and the bodies against the functions' own evaluation.

use graphgen::functions::batch_norm::BatchNormTrain;
use graphgen::functions::batch_norm_grad::BatchNormTrainGrad;
use graphgen::functions::conv_grad::{ConvInputGrad, ConvWeightGrad};
use graphgen::functions::convolution::Convolution;
use graphgen::functions::l2_normalize::L2Normalize;
use graphgen::functions::max_pool::{MaxPoolTrain, MaxPoolTrainGrad};
use graphgen::functions::max_pool_grad::MaxPoolGrad;
use graphgen::functions::normalize_pixels::NormalizePixels;
use graphgen::functions::optimizer::{AdamStep, LarsStep, SgdStep};
use graphgen::functions::relu_grad::ReluGrad;
use graphgen::functions::sinkhorn::SinkhornKnopp;
use graphgen::functions::winograd::{WinogradConvolution, WinogradInputGrad, WinogradPoints, WinogradWeightGrad};
use graphgen::ir::{DType, Graph};
use graphgen::ops::conv::Window;
use graphgen::ops::layout::Layout;
use graphgen::ops::{MaxPool, Op};
use graphgen::preset::Target;

use ndarray::Axis;

use super::harness::{Case, FEW_ROUNDINGS, Input, Random, case, check_bodies, check_graph, check_on_onnx_runtime, sum_of};
use super::{CHANNELS_LAST_TARGETS, TARGETS};

/// Both are computed in f64 with exact constants; the formulas may differ in their order.
const SAME_FORMULA: f64 = 1e-9;

fn eval(op: impl Into<Op>, inputs: &[&Input]) -> Vec<Input> {
    let values: Vec<_> = inputs.iter().map(|input| &input.values).collect();
    op.into().eval(&values).into_iter().map(|values| Input::from_array(DType::F32, values)).collect()
}

fn convolutions_and_gradients() -> Vec<Case> {
    let r = &mut Random::new(10);
    let mut cases = Vec::new();
    // Outputs of up to 4 pixels have a form of their own on the CPU.
    let sizes = [[2, 2], [3, 4], [4, 4], [9, 7], [17, 18]];
    for (kernel, padding) in [(1, 0), (3, 1), (3, 0), (7, 3)] {
        for (stride, [height, width]) in [1, 2].into_iter().flat_map(|stride| sizes.map(|size| (stride, size))) {
            let window = Window { kernel, stride, padding };
            let (Some(out_h), Some(out_w)) = (window.output(height), window.output(width)) else { continue };
            // Fewer than 8 input channels and more: the weight gradient has a form for each.
            for channels in [3, 9] {
                let (x, w) = (r.normal(&[2, channels, height, width]), r.normal(&[5, channels, kernel, kernel]));
                let dy = r.normal(&[2, 5, out_h, out_w]);
                let layout = Layout::ChannelsFirst;
                let input_gradient = ConvInputGrad { window, input_size: [height, width], layout };
                cases.push(case(Convolution { window, layout }, [x.clone(), w.clone()], sum_of(channels * kernel * kernel)));
                cases.push(case(input_gradient.clone(), [dy.clone(), w.clone()], sum_of(5 * kernel * kernel)));
                if channels == 3 {
                    cases.push(case(input_gradient, [dy.clone(), w, x.clone()], sum_of(5 * kernel * kernel + 1)));
                }
                cases.push(case(ConvWeightGrad { window, layout }, [dy, x], sum_of(2 * out_h * out_w)));
            }
        }
    }
    cases
}

/// Rounding errors of Winograd's transforms, beside those of a sum of as many products.
const TRANSFORMS: f64 = 8.0;

/// Maps of whole tiles, with tiles cut off on either side, and smaller than a tile.
fn convolutions_by_winograd() -> Vec<Case> {
    let r = &mut Random::new(24);
    let mut cases = Vec::new();
    for [height, width] in [[4, 8], [7, 7], [5, 9], [12, 14], [2, 3], [1, 1]] {
        let (x, w, dy) = (r.normal(&[2, 9, height, width]), r.normal(&[5, 9, 3, 3]), r.normal(&[2, 5, height, width]));
        let points = eval(WinogradPoints, &[&dy]).remove(0);
        let tolerance = |products| TRANSFORMS * sum_of(products);
        cases.push(case(WinogradConvolution, [x.clone(), w.clone()], tolerance(9 * 9)));
        cases.push(case(WinogradPoints, [dy], tolerance(36)));
        cases.push(case(WinogradInputGrad { input_size: [height, width] }, [points.clone(), w], tolerance(5 * 9)));
        cases.push(case(WinogradWeightGrad, [points, x], tolerance(2 * height * width)));
    }
    cases
}

/// `epsilon` as given, and activations around `mean`.
fn batch_norms(epsilon: f64, mean: f64) -> Vec<Case> {
    let r = &mut Random::new(11);
    let mut cases = Vec::new();
    // Rows, small maps, and maps of at least 100 pixels, for which the CPU's gradient has a form of its own. Values per
    // channel are powers of two, so that their reciprocals are exact.
    for shape in [&[16, 3][..], &[2, 3, 4, 4], &[8, 3, 1, 1], &[2, 3, 8, 16]] {
        let values = shape.iter().product::<usize>() / 3;
        // Statistics of values far from zero cancel; so does Σ dy·x − mean·Σ dy in the CPU's gradient.
        let tolerance = sum_of(values) * 2.0 * (1.0 + mean);
        let (x, scale, bias) = (r.normal(shape).map(|x| x + mean), r.normal(&[3]), r.normal(&[3]));
        for (relu, residual) in [(false, false), (true, false), (true, true)] {
            let mut inputs = vec![x.clone(), scale.clone(), bias.clone()];
            inputs.extend(residual.then(|| r.normal(shape)));
            let layout = Layout::ChannelsFirst;
            let forward = BatchNormTrain { epsilon, relu, layout };
            let outputs = eval(forward.clone(), &inputs.iter().collect::<Vec<_>>());
            let [y, mean, variance] = &outputs[..] else { panic!("three outputs") };
            let mut gradient = vec![r.normal(shape), x.clone(), scale.clone(), mean.clone(), variance.clone()];
            gradient.extend(relu.then(|| y.clone()));
            cases.push(case(BatchNormTrainGrad { epsilon, relu, residual, layout }, gradient, tolerance));
            cases.push(case(forward, inputs, tolerance));
        }
    }
    cases
}

/// Cosine scores: without a queue, with an empty, a nearly full and a full one.
fn sinkhorns(epsilon: f64) -> Vec<Case> {
    let r = &mut Random::new(12);
    let mut cases = Vec::new();
    let (batch, prototypes, length) = (12, 10, 24);
    for iterations in 1..=3 {
        let op = SinkhornKnopp { epsilon, iterations };
        // The logarithms are as large as 2/ε, and their rounding error is the relative error of the codes.
        let tolerance = 2.0 / epsilon * FEW_ROUNDINGS;
        let scores = r.uniform(DType::F32, &[batch, prototypes], -1.0, 1.0);
        cases.push(case(op.clone(), [scores.clone()], tolerance));
        for filled in [0, length - 1, length] {
            let queue = r.uniform(DType::F32, &[length, prototypes], -1.0, 1.0);
            let queue = if filled == 0 { queue.map(|_| 0.0) } else { queue };
            cases.push(case(op.clone(), [scores.clone(), queue, Input::new(DType::I64, &[1], vec![filled as f64])], tolerance));
        }
    }
    cases
}

fn max_pool_gradients() -> Vec<Case> {
    let r = &mut Random::new(13);
    let mut cases = Vec::new();
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1)] {
        // The last one's zeros are filled by a node instead of stored in the file.
        for [channels, height, width] in [[3, 8, 8], [3, 9, 7], [32, 16, 17]] {
            let x = r.normal(&[2, channels, height, width]);
            let window = Window { kernel, stride, padding };
            let pooled = MaxPool { window };
            let indices = Op::from(pooled).eval(&[&x.values]).remove(1);
            let dy = r.normal(indices.shape());
            cases.push(case(MaxPoolGrad { window, input_size: [height, width] }, [dy, Input::from_array(DType::I64, indices)], FEW_ROUNDINGS));
        }
    }
    cases
}

/// Poolings that give taps, and their gradients. Maps narrower than the window have taps on the padding on both sides of them.
fn max_pools() -> Vec<Case> {
    let r = &mut Random::new(17);
    let (mut cases, layout) = (Vec::new(), Layout::ChannelsFirst);
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 2, 2)] {
        for [channels, height, width] in [[3, 8, 8], [5, 9, 7], [3, 5, 2], [3, 2, 5], [32, 16, 17]] {
            let window = Window { kernel, stride, padding };
            let (Some(_), Some(_)) = (window.output(height), window.output(width)) else { continue };
            // Behind a ReLU many maxima are equal.
            for x in [r.normal(&[2, channels, height, width]), r.normal(&[2, channels, height, width]).map(|x| x.max(0.0))] {
                let forward = MaxPoolTrain { window, layout };
                let taps = Input::from_array(DType::U8, Op::from(forward.clone()).eval(&[&x.values]).remove(1));
                let gradient = MaxPoolTrainGrad { window, input_size: [height, width], layout };
                cases.push(case(gradient, [r.normal(&taps.ty.shape), taps], sum_of(kernel * kernel)));
                cases.push(case(forward, [x], 0.0));
            }
        }
    }
    cases
}

/// Pixels of every value, and channels that are no colours.
fn pixels() -> Vec<Case> {
    let r = &mut Random::new(23);
    let sizes = [[1, 3, 1, 1], [2, 3, 9, 7], [3, 1, 4, 5], [2, 5, 16, 3]];
    let case_of = |shape: [usize; 4]| {
        let pixels = (0..shape.iter().product::<usize>()).map(|index| (index * 101 % 256) as f64).collect();
        case(NormalizePixels, [Input::new(DType::U8, &shape, pixels), r.normal(&[shape[1]]), r.normal(&[shape[1]])], FEW_ROUNDINGS)
    };
    sizes.map(case_of).into()
}

/// The cases whose maps have two layouts, in the other one.
fn channels_last(cases: &[Case]) -> Vec<Case> {
    let layout = Layout::ChannelsLast;
    let permuted = |input: &Input| Input::from_array(input.ty.dtype, input.values.clone().permuted_axes(vec![0, 2, 3, 1]).as_standard_layout().into_owned());
    let moved = cases.iter().filter(|case| case.inputs[0].ty.rank() == 4).map(|old| {
        let (op, maps): (Op, &[usize]) = match old.op.clone() {
            Op::Convolution(op) => (Convolution { layout, ..op }.into(), &[0]),
            Op::ConvInputGrad(op) => (ConvInputGrad { layout, ..op }.into(), &[0, 2]),
            Op::ConvWeightGrad(op) => (ConvWeightGrad { layout, ..op }.into(), &[0, 1]),
            Op::BatchNormTrain(op) => (BatchNormTrain { layout, ..op }.into(), &[0, 3]),
            Op::BatchNormTrainGrad(op) => (BatchNormTrainGrad { layout, ..op }.into(), &[0, 1, 5]),
            Op::MaxPoolTrain(op) => (MaxPoolTrain { layout, ..op }.into(), &[0]),
            Op::MaxPoolTrainGrad(op) => (MaxPoolTrainGrad { layout, ..op }.into(), &[0, 1]),
            other => panic!("{other:?} has one layout"),
        };
        let inputs = old.inputs.iter().enumerate().map(|(index, input)| if maps.contains(&index) { permuted(input) } else { input.clone() });
        case(op, inputs.collect::<Vec<_>>(), old.tolerance)
    });
    moved.collect()
}

fn row_and_activation_functions(epsilon: f64) -> Vec<Case> {
    let r = &mut Random::new(14);
    let mut rows = r.normal(&[6, 16]);
    // A row of zeros stays one.
    rows.values.index_axis_mut(Axis(0), 2).fill(0.0);
    vec![
        case(ReluGrad, [r.normal(&[4, 5]), r.normal(&[4, 5]).map(|y| y.max(0.0))], 0.0),
        case(ReluGrad, [r.normal(&[2, 3, 4, 4]), r.normal(&[2, 3, 4, 4]).map(|y| y.max(0.0))], 0.0),
        case(L2Normalize { epsilon }, [rows], FEW_ROUNDINGS),
    ]
}

/// The first parameter's shape is a convolution's, the second's a bias's; then a zero parameter and a zero gradient.
fn optimizer_steps() -> Vec<Case> {
    let r = &mut Random::new(15);
    let scalar = |value: f64| Input::new(DType::F32, &[1], vec![f64::from(value as f32)]);
    let mut cases = Vec::new();
    for (shape, parameter, gradient) in [(&[5, 3, 3, 3][..], 1.0, 1.0), (&[7], 1.0, 1.0), (&[4, 6], 0.0, 1.0), (&[4, 6], 1.0, 0.0), (&[4, 6], 0.0, 0.0)] {
        let (p, g) = (r.normal(shape).map(|x| parameter * x), r.normal(shape).map(|x| gradient * x));
        let (m, v) = (r.normal(shape), r.positive(shape));
        let momentum = [p.clone(), g.clone(), m.clone(), scalar(0.3)];
        cases.push(case(SgdStep { momentum: 0.9, weight_decay: 1e-4 }, momentum.clone(), FEW_ROUNDINGS));
        // The norms sum up to 135 squares.
        let lars = LarsStep { momentum: 0.9, weight_decay: 1e-6, trust_coefficient: 0.001, epsilon: 1e-8 };
        cases.push(case(lars, momentum, sum_of(135)));
        for decoupled in [false, true] {
            let adam = AdamStep { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, decoupled };
            let inputs = [p.clone(), g.clone(), m.clone(), v.clone(), scalar(1e-3), scalar(0.1), scalar(0.002)];
            // Momentum over root variance may be larger than the parameter, by 1/c₁.
            cases.push(case(adam, inputs, 4.0 * FEW_ROUNDINGS));
        }
    }
    cases
}

#[test]
fn convolutions_and_gradients_agree() {
    let cases = convolutions_and_gradients();
    check_on_onnx_runtime(&cases, &TARGETS);
    check_on_onnx_runtime(&channels_last(&cases), &CHANNELS_LAST_TARGETS);
}

#[test]
fn convolutions_by_winograd_agree() {
    check_on_onnx_runtime(&convolutions_by_winograd(), &TARGETS);
}

#[test]
fn batch_norms_agree() {
    for mean in [0.0, 10.0] {
        let cases = batch_norms(1e-5, mean);
        check_on_onnx_runtime(&cases, &TARGETS);
        check_on_onnx_runtime(&channels_last(&cases), &CHANNELS_LAST_TARGETS);
    }
}

/// ONNX Runtime's kernel may write statistics over memory that optimisations let two calls share.
#[test]
fn batch_norms_that_share_their_parameters_keep_their_own_statistics() {
    let r = &mut Random::new(16);
    let epsilon = 1e-5;
    let (first, last) = (Layout::ChannelsFirst, Layout::ChannelsLast);
    for (layout, shape) in [(first, &[16, 3][..]), (first, &[4, 3, 4, 4]), (last, &[4, 4, 4, 3])] {
        let inputs = [r.normal(shape), r.normal(shape).map(|x| 2.0 * x), r.normal(&[3]), r.normal(&[3])];
        let mut g = Graph::new();
        let ids: Vec<_> = inputs.iter().enumerate().map(|(index, input)| g.input(&format!("x{index}"), input.ty.clone())).collect();
        let [a, b, scale, bias] = ids[..] else { unreachable!("four inputs") };
        let mut forward = |x| g.apply_all(BatchNormTrain { epsilon, relu: false, layout }, &[x, scale, bias]).expect("shapes fit");
        let (from_a, from_b) = (forward(a), forward(b));
        // Each gradient needs the other's output: both run after both forward passes.
        for (dy, x, own) in [(from_b[0], a, &from_a), (from_a[0], b, &from_b)] {
            for gradient in
                g.apply_all(BatchNormTrainGrad { epsilon, relu: false, residual: false, layout }, &[dy, x, scale, own[1], own[2]]).expect("shapes fit")
            {
                g.output(&format!("y{}", g.outputs().len()), gradient);
            }
        }
        // dscale of independent values nearly cancels: a tenth of its terms' root sum of squares.
        let targets: &[Target] = if layout == first { &TARGETS } else { &CHANNELS_LAST_TARGETS };
        check_graph(&g, &inputs, targets, 10.0 * sum_of(64));
    }
}

#[test]
fn sinkhorn_agrees() {
    check_on_onnx_runtime(&sinkhorns(0.05), &TARGETS);
    check_on_onnx_runtime(&sinkhorns(0.005), &TARGETS);
}

#[test]
fn max_pool_gradients_agree() {
    check_on_onnx_runtime(&max_pool_gradients(), &TARGETS);
}

#[test]
fn max_pools_that_give_taps_agree() {
    let cases = max_pools();
    check_on_onnx_runtime(&cases, &TARGETS);
    check_on_onnx_runtime(&channels_last(&cases), &CHANNELS_LAST_TARGETS);
}

#[test]
fn pixels_are_normalized() {
    check_on_onnx_runtime(&pixels(), &CHANNELS_LAST_TARGETS);
}

#[test]
fn row_and_activation_functions_agree() {
    check_on_onnx_runtime(&row_and_activation_functions(1e-12), &TARGETS);
}

#[test]
fn optimizer_steps_agree() {
    check_on_onnx_runtime(&optimizer_steps(), &TARGETS);
}

#[test]
fn functions_run_when_only_their_first_output_is_used() {
    let mut cases = batch_norms(1e-5, 0.0);
    cases.extend(channels_last(&cases));
    cases.extend(max_pools());
    cases.extend(row_and_activation_functions(1e-12));
    cases.extend(optimizer_steps());
    let cases: Vec<Case> = cases.into_iter().map(Case::first_output).collect();
    check_on_onnx_runtime(&cases, &TARGETS);
}

#[test]
fn bodies_equal_the_evaluation() {
    for cases in [convolutions_and_gradients(), batch_norms(1e-5, 0.0), batch_norms(1e-5, 10.0), max_pools()] {
        check_bodies(&cases, &TARGETS, SAME_FORMULA);
        check_bodies(&channels_last(&cases), &CHANNELS_LAST_TARGETS, SAME_FORMULA);
    }
    check_bodies(&convolutions_by_winograd(), &TARGETS, SAME_FORMULA);
    check_bodies(&sinkhorns(0.05), &TARGETS, SAME_FORMULA);
    check_bodies(&sinkhorns(0.005), &TARGETS, SAME_FORMULA);
    check_bodies(&max_pool_gradients(), &TARGETS, SAME_FORMULA);
    check_bodies(&row_and_activation_functions(1e-12), &TARGETS, SAME_FORMULA);
    check_bodies(&optimizer_steps(), &TARGETS, SAME_FORMULA);
}
