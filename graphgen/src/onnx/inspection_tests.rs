//! Tests of the inspection.

use std::collections::BTreeMap;

use super::{Dim, Inspection, ModelOptions, inspect, read_model, write_model};
use crate::functions::relu_grad::ReluGrad;
use crate::ir::{DType, Graph, TensorData, TensorType};
use crate::methods::swav::train_step;
use crate::ops::conv::Window;
use crate::ops::{Conv, ConvTranspose, FusedMatMul, Gemm};
use crate::preset::{Preset, Target};

fn inspected(graph: &Graph, options: &ModelOptions) -> Inspection {
    inspect(&write_model(graph, "test", options).unwrap())
}

fn counts(operators: &BTreeMap<String, usize>) -> Vec<(&str, usize)> {
    operators.iter().map(|(name, &count)| (name.as_str(), count)).collect()
}

#[test]
fn flops_are_two_for_each_multiply_add() {
    let window = Window { kernel: 3, stride: 2, padding: 1 };
    let mut g = Graph::new();
    let (x, w) = (g.input("x", TensorType::f32(vec![2, 3, 8, 8])), g.input("w", TensorType::f32(vec![5, 3, 3, 3])));
    let y = g.apply(Conv { window }, &[x, w]).unwrap();
    let dx = g.apply(ConvTranspose { window, input_size: [8, 8] }, &[y, w]).unwrap();
    g.output("dx", dx);
    // Every output of the convolution, [2, 5, 4, 4], has 27 products; its transpose has as many products in all.
    let cost = inspected(&g, &ModelOptions::default()).cost;
    assert_eq!((cost.flops, cost.unknown_products), (2 * 2 * (2 * 5 * 4 * 4) * 27, 0));

    let mut g = Graph::new();
    let (a, b) = (g.input("a", TensorType::f32(vec![7, 4])), g.input("b", TensorType::f32(vec![7, 5])));
    let y = g.apply(Gemm { trans_a: true, trans_b: false }, &[a, b]).unwrap();
    let z = g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[y, b]).unwrap();
    g.output("z", z);
    assert_eq!(inspected(&g, &ModelOptions::new(Target::Cpu)).cost.flops, 2 * (4 * 5 * 7 + 4 * 7 * 5));
}

#[test]
fn activations_live_from_their_node_to_their_last_reader() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![10]));
    let a = g.exp(x).unwrap();
    let b = g.neg(a).unwrap();
    let flat = g.reshape(b, &[2, 5]).unwrap();
    let c = g.exp(flat).unwrap();
    let d = g.neg(c).unwrap();
    g.output("d", d);
    // Two values of 40 bytes at a time: the reshaped one is the same memory as b, and x is an input.
    assert_eq!(inspected(&g, &ModelOptions::default()).cost.activation_bytes, 80);
    g.output("a", a);
    assert_eq!(inspected(&g, &ModelOptions::default()).cost.activation_bytes, 120, "outputs stay to the end");
}

#[test]
fn functions_are_counted_as_calls_and_expanded() {
    let mut g = Graph::new();
    let (dy, y) = (g.input("dy", TensorType::f32(vec![4])), g.input("y", TensorType::f32(vec![4])));
    let dx = g.apply(ReluGrad, &[dy, y]).unwrap();
    let dx = g.apply(ReluGrad, &[dx, y]).unwrap();
    g.output("dx", dx);
    let inspection = inspected(&g, &ModelOptions::default());
    assert_eq!(counts(&inspection.operators), [("swav::ReluGrad", 2)]);
    assert_eq!(counts(&inspection.expanded), [("Greater", 2), ("Where", 2)]);
    assert_eq!(inspection.functions, 1);
    // In the second call: the first gradient, the result, and the mask of 4 bytes.
    assert_eq!((inspection.cost.activation_bytes, inspection.cost.unknown_values), (36, 0));
}

#[test]
fn parameters_are_inputs_with_a_gradient_and_state_is_what_returns_changed() {
    let mut g = Graph::new();
    let (w, mean) = (g.input("w", TensorType::f32(vec![3, 2])), g.input("running_mean", TensorType::f32(vec![2])));
    g.input("crops/0", TensorType::new(DType::U8, vec![1, 3, 2, 2]));
    let (dw, next) = (g.neg(w).unwrap(), g.neg(mean).unwrap());
    g.output("grad/w", dw);
    g.output("next/running_mean", next);
    let inspection = inspected(&g, &ModelOptions::default());
    assert_eq!((inspection.parameters.tensors, inspection.parameters.elements, inspection.parameters.bytes), (1, 6, 24));
    assert_eq!((inspection.state.tensors, inspection.state.bytes), (1, 8));
    assert_eq!(inspection.inputs[2], ("crops/0".to_owned(), "u8 [1, 3, 2, 2]".to_owned()));
}

#[test]
fn symbolic_shapes_are_reported_as_unknown_cost() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![1, 4]));
    let w = g.constant(vec![4, 2], TensorData::F32(vec![0.5; 8]));
    let y = g.matmul(x, w).unwrap();
    g.output("y", y);
    let dims = |last| vec![Dim::Symbolic("N".to_owned()), Dim::Static(last)];
    let symbolic = BTreeMap::from([("x".to_owned(), dims(4)), ("y".to_owned(), dims(2))]);
    let inspection = inspected(&g, &ModelOptions { symbolic, ..ModelOptions::default() });
    assert_eq!((inspection.cost.flops, inspection.cost.unknown_products, inspection.cost.unknown_values), (0, 1, 1));
    assert_eq!(inspection.parameters.elements, 8, "without gradients the floating-point constants are the parameters");
    assert_eq!(inspection.inputs[0].1, "f32 [N, 4]");
}

#[test]
fn transposes_inside_channels_last_bodies_are_not_at_the_peak() {
    let peak = |target: &str| {
        let changes = ["train.batch_size=4", "crops.size_crops=[96, 64]", "crops.nmb_crops=[2, 2]", target].map(String::from);
        let preset = Preset::from_toml("", &changes).expect("valid");
        let step = train_step(&preset).expect("a graph").graph;
        inspected(&step, &ModelOptions::new(preset.train.resolved_target())).cost.activation_bytes
    };
    // Taps of a max pooling are a byte each, indices eight.
    let (cpu, native) = (peak("train.target=cpu"), peak("train.target=native"));
    assert!(native < cpu, "{native} and {cpu} bytes");
}

/// A file of the corpus of hostile models.
fn hostile(name: &str) -> Inspection {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/onnx").join(name);
    inspect(&read_model(&std::fs::read(path).expect("read")).expect("a model"))
}

#[test]
fn shapes_that_no_tensor_has_count_as_unknown() {
    let inspection = hostile("huge-shape");
    assert_eq!((inspection.cost.flops, inspection.cost.unknown_products), (0, 1));
    hostile("huge-dilation");
}

#[test]
fn functions_that_call_each_other_end() {
    assert!(hostile("exponential-functions").expanded.values().sum::<usize>() > 1000);
    assert_eq!(hostile("recursive-function").functions, 1);
    hostile("cycle");
}
