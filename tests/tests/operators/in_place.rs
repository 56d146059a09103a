//! Optimizers whose next values are bound to the memory of the old ones, as the engine does.

use std::sync::Arc;

use graphgen::functions::optimizer::LarsStep;
use graphgen::ir::{Graph, TensorType};
use graphgen::onnx::{ModelOptions, encode, write_model};
use graphgen::preset::Target;
use ort::memory::Allocator;
use ort::value::Tensor;
use runtime::kernels::{KernelSet, native_operators};
use runtime::session::SessionOptions;
use runtime::session::environment::environment;

/// More than a task of the kernel has: it could read what another one has written.
const ELEMENTS: usize = 100_001;

fn values(seed: usize) -> Vec<f32> {
    (0..ELEMENTS).map(|index| (index * (7 + 2 * seed) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// Parameter and momentum after a step.
fn step(kernels: KernelSet, model: &[u8]) -> [Vec<f32>; 2] {
    let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
    let operators = native_operators(kernels, true, 1).expect("the native kernels");
    let options = SessionOptions { threads: 2, operators: operators.map(Arc::new), ..SessionOptions::default() };
    let mut session = options.open_bytes(&environment, model).expect("a graph that ONNX Runtime takes");
    let mut binding = session.create_binding().expect("a binding");
    let tensor = |values: Vec<f32>| {
        let mut tensor = Tensor::<f32>::new(&Allocator::default(), [values.len()]).expect("a tensor");
        tensor.extract_tensor_mut().1.copy_from_slice(&values);
        tensor
    };
    let (mut p, gradient, mut m, rate) = (tensor(values(1)), tensor(values(2)), tensor(values(3)), tensor(vec![0.3]));
    for (name, tensor) in [("p", &p), ("g", &gradient), ("m", &m), ("lr", &rate)] {
        binding.bind_input(name, tensor).expect("an input");
    }
    binding.bind_output("next/p", &mut p).expect("an output");
    binding.bind_output("next/m", &mut m).expect("an output");
    session.run_binding(&binding).expect("a run");
    [p, m].map(|tensor| tensor.extract_tensor().1.to_vec())
}

#[test]
fn native_optimizers_update_tensors_in_place() {
    let mut g = Graph::new();
    let [p, gradient, m] = ["p", "g", "m"].map(|name| g.input(name, TensorType::f32(vec![ELEMENTS])));
    let rate = g.input("lr", TensorType::f32(vec![1]));
    let lars = LarsStep { momentum: 0.9, weight_decay: 0.01, trust_coefficient: 0.02, epsilon: 1e-3 };
    let next = g.apply_all(lars, &[p, gradient, m, rate]).expect("a step");
    g.output("next/p", next[0]);
    g.output("next/m", next[1]);
    let model = encode(&write_model(&g, "optimizer", &ModelOptions::new(Target::Cpu)).expect("a model")).expect("a model");
    let [bodies, native] = [KernelSet::Functions, KernelSet::Native].map(|kernels| step(kernels, &model));
    for (bodies, native) in bodies.iter().zip(&native) {
        let norm = bodies.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let distance = bodies.iter().zip(native).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt() / norm;
        // The body adds up a row's squares in f32; equal bits would mean that the kernel did not run.
        assert!(distance > 0.0 && distance <= 1e-5, "{distance:e}");
    }
}
