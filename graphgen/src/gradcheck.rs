//! Checks gradient rules against central differences in double precision.

use std::collections::HashMap;

use ndarray::{ArrayD, IxDyn};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::autodiff::gradients;
use crate::interpreter::evaluate;
use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::ops::Op;

/// Inputs of a graph by name.
pub type Inputs = HashMap<String, ArrayD<f64>>;

/// Half the distance of the central difference. Small, since BatchNorm over a handful of values curves strongly.
const STEP: f64 = 1e-7;

/// Random values in ±1 for every input of a graph, whole numbers for integers.
pub fn random_inputs(graph: &Graph, seed: u64) -> Inputs {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let inputs = graph.inputs().iter().map(|&input| {
        let mut draw = || match graph.dtype(input) {
            DType::F32 | DType::F16 | DType::F64 => rng.random_range(-1.0..1.0),
            DType::U8 => f64::from(rng.random::<u8>()),
            DType::I64 => 0.0,
            DType::Bool => 1.0,
        };
        (graph.input_name(input).to_owned(), ArrayD::from_shape_simple_fn(IxDyn(graph.shape(input)), &mut draw))
    });
    inputs.collect()
}

/// The largest relative error, over the given inputs, between the graph's gradients of `scalar` and central differences
/// along one random direction each.
///
/// # Errors
/// A missing gradient rule.
///
/// # Panics
/// If an input gets no gradient, or one of another type than its own.
pub fn largest_gradient_error(graph: &mut Graph, scalar: ValueId, with_respect_to: &[ValueId], inputs: &Inputs) -> Result<f64, GraphError> {
    let gradients = gradients(graph, scalar, with_respect_to)?;
    let evaluation = evaluate(graph, inputs);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut largest = 0.0_f64;
    for (&input, gradient) in with_respect_to.iter().zip(gradients) {
        let name = graph.input_name(input).to_owned();
        let gradient = gradient.unwrap_or_else(|| panic!("no gradient reaches the input {name}"));
        assert_eq!(graph.ty(gradient), graph.ty(input), "type of the gradient of the input {name}");
        let direction = ArrayD::from_shape_simple_fn(IxDyn(graph.shape(input)), || rng.random_range(-1.0..1.0));
        let at = |offset: f64| {
            let mut moved = inputs.clone();
            let value = &moved[&name] + &(&direction * offset);
            moved.insert(name.clone(), value);
            evaluate(graph, &moved).get(scalar).sum()
        };
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let analytic = (evaluation.get(gradient) * &direction).sum();
        // The scale is what the terms of the projection add up to: where they cancel, so does their accuracy.
        let scale = (evaluation.get(gradient) * &direction).mapv(f64::abs).sum().max(1e-3);
        largest = largest.max((numeric - analytic).abs() / scale);
    }
    Ok(largest)
}

/// Checks one operator: the gradients of a random projection of its first output with respect to the inputs that are
/// `differentiable`; the others must get none.
///
/// # Panics
/// If a gradient is wrong, missing, of the wrong type, or there where none should be.
pub fn check_gradients(op: impl Into<Op>, types: &[TensorType], differentiable: &[bool]) {
    check_gradients_at(op, types, differentiable, |_| {});
}

/// [`check_gradients`] at inputs (named `0`, `1`, …) that `adjust` has moved, for operators with a restricted domain.
///
/// # Panics
/// As [`check_gradients`].
pub fn check_gradients_at(op: impl Into<Op>, types: &[TensorType], differentiable: &[bool], adjust: impl FnOnce(&mut Inputs)) {
    let op = op.into();
    let mut graph = Graph::new();
    let inputs: Vec<ValueId> = types.iter().enumerate().map(|(index, ty)| graph.input(&index.to_string(), ty.clone())).collect();
    let output = graph.apply_all(op.clone(), &inputs).unwrap_or_else(|error| panic!("{error}"))[0];
    let projection = graph.input("projection", graph.ty(output).clone());
    let product = graph.mul(output, projection).expect("equal shapes");
    let axes: Vec<usize> = (0..graph.shape(output).len()).collect();
    let scalar = graph.reduce_sum(product, &axes, false).expect("a reduction");
    let mut values = random_inputs(&graph, 1);
    adjust(&mut values);

    let (with, without): (Vec<_>, Vec<_>) = inputs.iter().zip(differentiable).partition(|(_, differentiable)| **differentiable);
    let with: Vec<ValueId> = with.into_iter().map(|(&input, _)| input).collect();
    let error = largest_gradient_error(&mut graph.clone(), scalar, &with, &values).unwrap_or_else(|error| panic!("{error}"));
    assert!(error < 1e-6, "{}: relative error {error:e}", op.name());
    for (&input, _) in without {
        let gradient = gradients(&mut graph, scalar, &[input]).unwrap_or_else(|error| panic!("{error}"))[0];
        assert!(gradient.is_none(), "{}: input {} has a gradient", op.name(), graph.input_name(input));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::conv::Window;
    use crate::ops::layout::Layout;
    use crate::ops::*;

    fn f32(shape: &[usize]) -> TensorType {
        TensorType::f32(shape)
    }

    fn away_from_zero(inputs: &mut Inputs) {
        for value in inputs.values_mut() {
            value.mapv_inplace(|x| x.signum() * (0.5 + x.abs()));
        }
    }

    fn positive(inputs: &mut Inputs) {
        for name in ["0", "1"] {
            if let Some(value) = inputs.get_mut(name) {
                value.mapv_inplace(|x| 0.5 + x.abs());
            }
        }
    }

    #[test]
    fn arithmetic_with_and_without_broadcasting() {
        for shapes in [[&[2, 3][..], &[2, 3][..]], [&[2, 3, 4], &[3, 1]], [&[1], &[2, 2]], [&[2, 3], &[]]] {
            let types = shapes.map(f32);
            check_gradients(Add, &types, &[true, true]);
            check_gradients(Sub, &types, &[true, true]);
            check_gradients(Mul, &types, &[true, true]);
            check_gradients_at(Div, &types, &[true, true], away_from_zero);
        }
    }

    #[test]
    fn functions_of_one_value() {
        let types = [f32(&[3, 4])];
        check_gradients(Neg, &types, &[true]);
        check_gradients(Exp, &types, &[true]);
        check_gradients(Tanh, &types, &[true]);
        check_gradients_at(Log, &types, &[true], positive);
        check_gradients_at(Sqrt, &types, &[true], positive);
        check_gradients_at(Reciprocal, &types, &[true], away_from_zero);
        check_gradients_at(Relu, &types, &[true], away_from_zero);
        check_gradients(Identity, &types, &[true]);
        check_gradients(Cast { to: DType::F32 }, &types, &[true]);
    }

    #[test]
    fn selection_passes_gradients_to_the_values_only() {
        let condition = TensorType::new(DType::Bool, vec![2, 3]);
        check_gradients_at(Where, &[condition, f32(&[2, 3]), f32(&[1, 3])], &[false, true, true], |inputs| {
            inputs.get_mut("0").expect("the condition")[[0, 1]] = 0.0;
        });
    }

    #[test]
    fn values_without_a_gradient_say_so() {
        let mut graph = Graph::new();
        let x = graph.input("x", f32(&[2, 3]));
        let greater = graph.apply(Greater, &[x, x]).expect("valid");
        let equal = graph.apply(Equal, &[x, x]).expect("valid");
        let codes = graph.apply(SinkhornKnopp { epsilon: 0.05, iterations: 3 }, &[x]).expect("valid");
        for value in [greater, equal, codes] {
            let value = graph.cast(value, DType::F32).expect("valid");
            let scalar = graph.reduce_sum(value, &[0, 1], false).expect("valid");
            assert_eq!(gradients(&mut graph, scalar, &[x]).expect("known"), [None]);
        }
    }

    #[test]
    fn operators_without_a_rule_are_errors_that_name_the_place() {
        let mut graph = Graph::new();
        let x = graph.input("x", f32(&[2, 3]));
        let max = graph.scoped("head", |graph| graph.at_least(x, 0.1)).expect("valid");
        let scalar = graph.reduce_sum(max, &[0, 1], false).expect("valid");
        assert_eq!(gradients(&mut graph, scalar, &[x]).expect_err("no rule").to_string(), "head: Max: its gradient is not known");
    }

    #[test]
    fn reductions() {
        for axes in [vec![0], vec![1, 2], vec![0, 2]] {
            for keepdims in [true, false] {
                check_gradients(ReduceSum { axes: axes.clone(), keepdims }, &[f32(&[2, 3, 4])], &[true]);
                check_gradients(ReduceSumSquare { axes: axes.clone(), keepdims }, &[f32(&[2, 3, 4])], &[true]);
                check_gradients(ReduceMean { axes: axes.clone(), keepdims }, &[f32(&[2, 3, 4])], &[true]);
            }
        }
    }

    #[test]
    fn moves_of_elements() {
        let types = [f32(&[2, 3, 4])];
        check_gradients(Reshape { shape: vec![4, 6] }, &types, &[true]);
        check_gradients(Flatten, &types, &[true]);
        check_gradients(Transpose { permutation: vec![2, 0, 1] }, &types, &[true]);
        check_gradients(Concat { axis: 1 }, &[f32(&[2, 3]), f32(&[2, 1]), f32(&[2, 2])], &[true, true, true]);
        check_gradients(Slice { axes: vec![1, 2], starts: vec![1, 0], ends: vec![3, 3], steps: vec![1, 1] }, &types, &[true]);
        check_gradients(Pad { before: vec![0, 1, 2], after: vec![1, 0, 1] }, &types, &[true]);
        check_gradients(Gather { axis: 2, indices: vec![3, 1, 0, 2] }, &types, &[true]);
    }

    #[test]
    fn matrix_products() {
        check_gradients(MatMul, &[f32(&[2, 3]), f32(&[3, 4])], &[true, true]);
        check_gradients(MatMul, &[f32(&[2, 3, 4]), f32(&[2, 4, 5])], &[true, true]);
        for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let a = if trans_a { [3, 2] } else { [2, 3] };
            let b = if trans_b { [4, 3] } else { [3, 4] };
            check_gradients(Gemm { trans_a, trans_b }, &[f32(&a), f32(&b), f32(&[4])], &[true, true, true]);
        }
    }

    #[test]
    fn convolutions() {
        for (kernel, stride, padding, size) in [(1, 1, 0, 4), (1, 2, 0, 5), (3, 1, 1, 5), (3, 2, 1, 6), (3, 2, 1, 5), (7, 2, 3, 9), (3, 1, 0, 5)] {
            let window = Window { kernel, stride, padding };
            let types = [f32(&[2, 2, size, size + 1]), f32(&[3, 2, kernel, kernel])];
            check_gradients(Convolution { window, layout: Layout::ChannelsFirst }, &types, &[true, true]);
            let types = [f32(&[2, size, size + 1, 2]), f32(&[3, 2, kernel, kernel])];
            check_gradients(Convolution { window, layout: Layout::ChannelsLast }, &types, &[true, true]);
        }
    }

    #[test]
    fn convolutions_of_one_input_and_of_sums() {
        let window = Window { kernel: 3, stride: 1, padding: 1 };
        for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
            let mut graph = Graph::new();
            let (x, w) = (graph.input("x", f32(&[2, 3, 3, 3])), graph.input("w", f32(&[3, 3, 3, 3])));
            let convolution = Convolution { window, layout };
            let a = graph.apply(convolution.clone(), &[x, w]).expect("valid");
            let b = graph.apply(convolution.clone(), &[a, w]).expect("valid");
            let sum = graph.add(a, b).expect("valid");
            let c = graph.apply(convolution, &[sum, w]).expect("valid");
            let all = graph.add(c, sum).expect("valid");
            // x also meets itself: both of the product's places get a gradient.
            let square = graph.mul(x, x).expect("valid");
            let all = graph.mul(all, square).expect("valid");
            let scalar = graph.reduce_sum(all, &[0, 1, 2, 3], false).expect("valid");
            let inputs = random_inputs(&graph, 3);
            let error = largest_gradient_error(&mut graph, scalar, &[x, w], &inputs).expect("known");
            assert!(error < 1e-6, "{layout:?}: {error:e}");
            let with_addend = graph.nodes().iter().filter(|node| node.op.name() == "ConvInputGrad" && node.inputs.len() == 3).count();
            // The gradients of a, of sum and of x come from two readers each.
            assert_eq!(with_addend, if layout == Layout::ChannelsLast { 3 } else { 0 }, "{layout:?}");
        }
    }

    #[test]
    fn convolutions_by_winograd() {
        // Maps of whole tiles, with tiles cut off on either side, and smaller than a tile.
        for [height, width] in [[4, 8], [7, 7], [5, 9], [2, 3], [1, 1]] {
            check_gradients(WinogradConvolution, &[f32(&[2, 3, height, width]), f32(&[2, 3, 3, 3])], &[true, true]);
        }
    }

    #[test]
    fn pooling() {
        check_gradients(MaxPool { window: Window { kernel: 3, stride: 2, padding: 1 } }, &[f32(&[2, 2, 6, 7])], &[true]);
        check_gradients(MaxPool { window: Window { kernel: 2, stride: 2, padding: 0 } }, &[f32(&[1, 2, 5, 4])], &[true]);
        check_gradients(GlobalAveragePool, &[f32(&[2, 3, 2, 4])], &[true]);
        for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (4, 1, 1)] {
            let window = Window { kernel, stride, padding };
            // Maps narrower than the window, whose taps then lie on the padding, among them.
            for [height, width] in [[6, 7], [5, 2], [2, 5]] {
                let fits = window.output(height).is_some() && window.output(width).is_some();
                for (layout, shape) in [(Layout::ChannelsFirst, [2, 3, height, width]), (Layout::ChannelsLast, [2, height, width, 3])] {
                    if fits {
                        check_gradients(MaxPoolTrain { window, layout }, &[f32(&shape)], &[true]);
                    }
                }
            }
        }
    }

    #[test]
    fn normalizations() {
        check_gradients(L2Normalize { epsilon: 1e-12 }, &[f32(&[3, 5])], &[true]);
        check_gradients(Softmax, &[f32(&[3, 5])], &[true]);
        check_gradients(LogSoftmax, &[f32(&[3, 5])], &[true]);
        let (first, last) = (Layout::ChannelsFirst, Layout::ChannelsLast);
        for (layout, shape) in [(first, &[6, 3][..]), (first, &[3, 2, 2, 3]), (last, &[3, 2, 3, 2])] {
            let channels = f32(&[if layout == last { shape[3] } else { shape[1] }]);
            for relu in [false, true] {
                let inputs = [f32(shape), channels.clone(), channels.clone(), f32(shape)];
                check_gradients(BatchNormTrain { epsilon: 1e-5, relu, layout }, &inputs[..3], &[true; 3]);
                if relu {
                    check_gradients(BatchNormTrain { epsilon: 1e-5, relu, layout }, &inputs, &[true; 4]);
                }
            }
        }
    }
}
