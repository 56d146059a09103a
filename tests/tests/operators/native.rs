//! Every native kernel, alone in a graph, against its function's body on the same tensors of random shapes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use graphgen::functions::batch_norm::BatchNormTrain;
use graphgen::functions::batch_norm_grad::BatchNormTrainGrad;
use graphgen::functions::conv_grad::{ConvInputGrad, ConvWeightGrad};
use graphgen::functions::convolution::Convolution;
use graphgen::functions::max_pool::{MaxPoolTrain, MaxPoolTrainGrad};
use graphgen::functions::normalize_pixels::NormalizePixels;
use graphgen::functions::optimizer::{AdamStep, LarsStep, SgdStep};
use graphgen::functions::sinkhorn::SinkhornKnopp;
use graphgen::ir::DType;
use graphgen::onnx::{ModelOptions, encode, write_model};
use graphgen::ops::Op;
use graphgen::ops::conv::Window;
use graphgen::ops::layout::Layout;
use graphgen::preset::Target;
use ort::environment::Environment;
use runtime::kernels::{KernelSet, native_functions, native_operators};
use runtime::session::SessionOptions;

use super::harness::{Case, Input, Random, case, environment, report, run_session};

const LAYOUT: Layout = Layout::ChannelsLast;

/// Threads of a session: tasks of a kernel run at the same time.
const THREADS: usize = 2;

/// Numbers of channels: one, less than a vector, less than a panel of 32, a panel and a part of one, whole panels.
const CHANNELS: [RangeInclusive<usize>; 5] = [1..=1, 2..=8, 9..=31, 33..=63, 64..=64];

/// So many channels that a few outputs are a product worth sharing among threads.
const MANY_CHANNELS: RangeInclusive<usize> = 200..=330;

/// Images and sides: one small map, many of them, so many larger ones that Winograd's weight gradient pays, a few middling
/// ones, and maps cut into strips.
const MAPS: [(RangeInclusive<usize>, RangeInclusive<usize>); 5] = [(1..=1, 1..=6), (40..=70, 2..=5), (24..=40, 6..=8), (2..=5, 7..=15), (1..=2, 30..=47)];

/// Convolution and both gradients, the input's with and without an addend. Empty where the window does not fit the maps.
fn convolution(r: &mut Random, window: Window, [batch, height, width]: [usize; 3], [channels, out]: [usize; 2]) -> Vec<Case> {
    let (Some(out_height), Some(out_width)) = (window.output(height), window.output(width)) else { return Vec::new() };
    let (x, w) = (r.normal(&[batch, height, width, channels]), r.normal(&[out, channels, window.kernel, window.kernel]));
    let (dy, addend) = (r.normal(&[batch, out_height, out_width, out]), r.normal(&[batch, height, width, channels]));
    let input_gradient = ConvInputGrad { window, input_size: [height, width], layout: LAYOUT };
    // Kernel and body both round, and errors of a sum add up like the root of its length. Winograd's transforms round more.
    let winograd = (window.kernel, window.stride, window.padding) == (3, 1, 1) && channels.min(out) >= 32;
    let tolerance = |terms: usize| if winograd { 2e-6 } else { 1e-6 * (terms as f64 / 512.0).sqrt().max(1.0) };
    let taps = window.kernel * window.kernel;
    vec![
        case(Convolution { window, layout: LAYOUT }, [x.clone(), w.clone()], tolerance(channels * taps)),
        case(input_gradient.clone(), [dy.clone(), w.clone()], tolerance(out * taps)),
        case(input_gradient, [dy.clone(), w, addend], tolerance(out * taps)),
        case(ConvWeightGrad { window, layout: LAYOUT }, [dy, x], tolerance(batch * out_height * out_width)),
    ]
}

fn convolutions(r: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for (kernel, stride, padding) in [(1, 1, 0), (1, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (3, 1, 0), (5, 3, 2), (7, 2, 3)] {
        let window = Window { kernel, stride, padding };
        for (images, sides) in MAPS {
            // Every number of channels meets another one, and at Winograd's window every other one.
            let pairs = if (kernel, stride) == (3, 1) { CHANNELS.len() } else { 1 };
            for (first, second) in (0..CHANNELS.len()).flat_map(|first| (1..=pairs).map(move |distance| (first, (first + distance) % CHANNELS.len()))) {
                let maps = [r.size(images.clone()), r.size(sides.clone()), r.size(sides.clone())];
                let channels = [first, second].map(|class| r.size(CHANNELS[class].clone()));
                cases.extend(convolution(r, window, maps, channels));
            }
        }
        for _ in 0..2 {
            let maps = [r.size(1..=3), r.size(2..=5), r.size(2..=5)];
            let channels = [r.size(MANY_CHANNELS), r.size(MANY_CHANNELS)];
            cases.extend(convolution(r, window, maps, channels));
        }
        cases.extend(convolution(r, window, [2, 4, 4], [256, 320]));
    }
    cases
}

fn batch_norms(r: &mut Random) -> Vec<Case> {
    // One map of one pixel has no statistics, and of two its gradient is nothing but rounding.
    let maps = MAPS.into_iter().flat_map(|(images, sides)| CHANNELS.map(|channels| (images.clone(), *sides.start().max(&3)..=*sides.end(), channels)));
    let maps = maps.map(|(images, sides, channels)| vec![r.size(images), r.size(sides.clone()), r.size(sides), r.size(channels)]).collect::<Vec<_>>();
    let rows = CHANNELS.into_iter().chain([MANY_CHANNELS]).map(|channels| vec![r.size(8..=300), r.size(channels)]).collect::<Vec<_>>();
    let (mut cases, epsilon, tolerance) = (Vec::new(), 1e-5, 1.5e-6);
    for shape in maps.into_iter().chain(rows) {
        let layout = if shape.len() == 4 { LAYOUT } else { Layout::ChannelsFirst };
        let channels = shape[shape.len() - 1];
        let (x, scale, bias) = (r.normal(&shape).map(|x| 2.0 * x + 1.0), r.positive(&[channels]), r.normal(&[channels]));
        for (relu, residual) in [(false, false), (true, false), (true, true)] {
            let mut inputs = vec![x.clone(), scale.clone(), bias.clone()];
            inputs.extend(residual.then(|| r.normal(&shape)));
            let forward = BatchNormTrain { epsilon, relu, layout };
            let outputs = Op::from(forward.clone()).eval(&inputs.iter().map(|input| &input.values).collect::<Vec<_>>());
            let [y, mean, variance] = [0, 1, 2].map(|index| Input::from_array(DType::F32, outputs[index].clone()));
            // Follows x, so that the sums over a channel do not cancel.
            let noise = r.normal(&shape);
            let dy = Input::from_array(DType::F32, &noise.values + &x.values * 0.3);
            let mut gradient = vec![dy, x.clone(), scale.clone(), mean, variance];
            gradient.extend(relu.then_some(y));
            cases.push(case(BatchNormTrainGrad { epsilon, relu, residual, layout }, gradient, tolerance));
            cases.push(case(forward.clone(), inputs.clone(), tolerance));
            cases.push(case(forward, inputs, tolerance).first_output());
        }
    }
    cases
}

fn max_pools(r: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2)] {
        let window = Window { kernel, stride, padding };
        for (images, sides) in MAPS {
            for channels in CHANNELS {
                let shape = [r.size(images.clone()), r.size(sides.clone()), r.size(sides.clone()), r.size(channels)];
                let (Some(_), Some(_)) = (window.output(shape[1]), window.output(shape[2])) else { continue };
                // Behind a ReLU many maxima are equal.
                let x = r.normal(&shape).map(|x| x.max(0.0));
                let forward = MaxPoolTrain { window, layout: LAYOUT };
                let taps = Input::from_array(DType::U8, Op::from(forward.clone()).eval(&[&x.values]).remove(1));
                let gradient = MaxPoolTrainGrad { window, input_size: [shape[1], shape[2]], layout: LAYOUT };
                cases.push(case(gradient, [r.normal(&taps.ty.shape), taps], 3e-7));
                // Maxima are not rounded.
                cases.push(case(forward, [x], 0.0));
            }
        }
    }
    cases
}

fn pixels(r: &mut Random) -> Vec<Case> {
    let shapes = MAPS.map(|(images, sides)| [r.size(images), 3, r.size(sides.clone()), r.size(sides)]);
    shapes.map(|shape| case(NormalizePixels, [r.uniform(DType::U8, &shape, 0.0, 256.0), r.normal(&[3]), r.normal(&[3])], 3e-7)).into()
}

/// Parameters of one element, of a tail, of convolutions and of several tasks.
fn optimizers(r: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [vec![1], vec![r.size(2..=40)], vec![r.size(2..=70), r.size(1..=9), 3, 3], vec![r.size(33_000..=50_000)]];
    for shape in shapes {
        let scalar = |value: f64| Input::new(DType::F32, &[1], vec![f64::from(value as f32)]);
        let (p, g, m, v) = (r.normal(&shape), r.normal(&shape), r.normal(&shape), r.positive(&shape));
        let momentum = [p.clone(), g.clone(), m.clone(), scalar(0.3)];
        cases.push(case(SgdStep { momentum: 0.9, weight_decay: 0.01 }, momentum.clone(), 3e-7));
        // The body adds up a row's squares in f32.
        cases.push(case(LarsStep { momentum: 0.9, weight_decay: 0.01, trust_coefficient: 0.02, epsilon: 1e-8 }, momentum, 1e-6));
        for decoupled in [false, true] {
            let adam = AdamStep { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, decoupled };
            cases.push(case(adam, [p.clone(), g.clone(), m.clone(), v.clone(), scalar(1e-3), scalar(0.1), scalar(0.002)], 3e-7));
        }
    }
    cases
}

/// Without a queue, with one that is filled and one that is not.
fn sinkhorns(r: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    let op = SinkhornKnopp { epsilon: 0.05, iterations: 3 };
    for prototypes in [r.size(2..=9), r.size(31..=33), r.size(100..=130)] {
        let (batch, length) = (r.size(2..=33), r.size(34..=70));
        let scores = r.uniform(DType::F32, &[batch, prototypes], -1.0, 1.0);
        // Both compute in f64.
        cases.push(case(op.clone(), [scores.clone()], 1e-6));
        let queue = r.uniform(DType::F32, &[length, prototypes], -1.0, 1.0);
        for filled in [length, length - 1] {
            cases.push(case(op.clone(), [scores.clone(), queue.clone(), Input::new(DType::I64, &[1], vec![filled as f64])], 1e-6));
        }
    }
    cases
}

/// The outputs of a case with its function's body, or with a native kernel and without a body to fall back to.
fn outputs(environment: &Environment, case: &Case, kernels: KernelSet) -> Result<Vec<Input>, Box<dyn std::error::Error>> {
    let graph = case.graph();
    let mut model = write_model(&graph, "operator", &ModelOptions::new(Target::Native))?;
    let native = kernels == KernelSet::Native;
    if native {
        model.functions.clear();
    }
    let operators = native_operators(kernels, native, THREADS)?;
    let options = SessionOptions { threads: THREADS, operators: operators.map(Arc::new), ..SessionOptions::default() };
    run_session(options.open_bytes(environment, &encode(&model)?)?, &case.inputs, graph.outputs().len())
}

/// The largest distance of an output of the kernel from the body's: relative L2; infinite where an element is not finite or bytes differ.
fn distance(environment: &Environment, case: &Case) -> Result<f64, Box<dyn std::error::Error>> {
    let [native, body] = [KernelSet::Native, KernelSet::Functions].map(|kernels| outputs(environment, case, kernels));
    let mut largest: f64 = 0.0;
    for (native, body) in native?.iter().zip(&body?) {
        if native.ty != body.ty {
            return Err(format!("{} from the kernel, {} from the body", native.ty, body.ty).into());
        }
        let squares = (&native.values - &body.values).mapv(|difference| difference * difference).sum();
        let norm = body.values.mapv(|value| value * value).sum();
        largest = largest.max(match () {
            () if !squares.is_finite() || !norm.is_finite() => f64::INFINITY,
            () if squares == 0.0 => 0.0,
            () if native.ty.dtype == DType::U8 => f64::INFINITY,
            () => (squares / norm.max(f64::MIN_POSITIVE)).sqrt(),
        });
    }
    Ok(largest)
}

#[test]
fn native_kernels_agree_with_the_bodies_on_random_shapes() {
    let Some(environment) = environment() else { return };
    let r = &mut Random::new(29);
    let families = [convolutions, batch_norms, max_pools, pixels, optimizers, sinkhorns];
    let cases: Vec<Case> = families.into_iter().flat_map(|cases| cases(r)).collect();
    let tested: BTreeSet<&str> = cases.iter().map(|case| case.op.name()).collect();
    assert_eq!(tested, native_functions(KernelSet::Native, true).into_iter().collect(), "kernels with cases, and all kernels");
    report(cases.iter().filter_map(|case| {
        let problem = match distance(&environment, case) {
            Ok(distance) if distance <= case.tolerance => return None,
            Ok(distance) => format!("differs by {distance:.1e}, allowed are {:.1e}", case.tolerance),
            Err(problem) => problem.to_string(),
        };
        Some(format!("{}: {problem}", case.describe(Target::Native)))
    }));
}
