//! The optimizers, fed with gradients by formula: zero norms, weight decay, the first step, prototypes released late.

use graphgen::ir::{Graph, TensorData, TensorType};
use graphgen::nn::{Init, Parameter};
use graphgen::optim::optimizer_step;
use graphgen::preset::Preset;
use serde_json::Value;

use super::fixture::{Fixture, Projected, distances, overrides};
use super::formula::{self, weight};
use super::onnx_runtime::{Inputs, VARIANTS, in_f64, in_onnx_runtime, output};

const F64: f64 = 1e-9;
const F32: f64 = 1e-5;
const OPTIMIZERS: [&str; 4] = ["lars", "sgd", "adam", "adamw"];

fn shape(spec: &Value) -> Vec<usize> {
    spec["shape"].as_array().expect("a shape").iter().map(|size| size.as_u64().expect("a size") as usize).collect()
}

fn name(spec: &Value) -> &str {
    spec["name"].as_str().expect("a name")
}

/// Zeros where the golden has them.
fn unless_zero(spec: &Value, part: &str, values: Vec<f32>) -> Vec<f32> {
    let zero = spec["zero"].as_array().expect("a list").iter().any(|zero| zero == part);
    if zero { vec![0.0; values.len()] } else { values }
}

/// Runs the golden's steps with `run`, which computes the f32 outputs of a graph, and compares all states after each.
fn check(bound: f64, run: impl Fn(&Graph, &Inputs) -> Vec<(String, TensorData)>) {
    let fixture = Fixture::open("optimizer.safetensors");
    let specs = fixture.metadata("parameters");
    let specs = specs.as_array().expect("a list");
    for optimizer in OPTIMIZERS {
        let mut settings = overrides(&fixture.metadata("settings"));
        settings.push(format!("optim.name={optimizer}"));
        let preset = Preset::from_toml("", &settings).expect("a valid preset");
        let input = Graph::new().input("", TensorType::f32([]));
        let parameter = |spec| Parameter { name: name(spec).to_owned(), shape: shape(spec), init: Init::Zeros, input };
        let graph = optimizer_step(&preset, &specs.iter().map(parameter).collect::<Vec<_>>()).expect("a graph");

        let mut state = Inputs::new();
        for &input in graph.inputs() {
            let (name, elements) = (graph.input_name(input), graph.ty(input).elements());
            if name == "step" {
                state.insert(name.to_owned(), TensorData::I64(vec![0]));
            } else if name.starts_with("momentum/") || name.starts_with("variance/") {
                state.insert(name.to_owned(), TensorData::F32(vec![0.0; elements]));
            }
        }
        for spec in specs {
            state.insert(name(spec).to_owned(), TensorData::F32(unless_zero(spec, "parameter", weight(name(spec), &shape(spec)))));
        }
        for (step, rate) in fixture.metadata("rates").as_array().expect("a list").iter().enumerate() {
            let mut inputs = state.clone();
            inputs.insert("learning_rate".to_owned(), TensorData::Exact(vec![rate.as_f64().expect("a rate")]));
            inputs.insert("train_prototypes".to_owned(), TensorData::Bool(vec![step as u64 >= preset.optim.freeze_prototypes_niters]));
            for spec in specs {
                let power = spec["power"].as_u64().unwrap_or(1);
                let uniform = formula::uniform(&format!("step{step}/grad/{}", name(spec))).take(shape(spec).iter().product());
                let gradient = uniform.map(|value| (0..power).fold(1.0, |product, _| product * value) as f32).collect();
                let gradient = unless_zero(spec, "gradient", gradient);
                inputs.insert(format!("grad/{}", name(spec)), TensorData::F32(gradient));
            }
            state.extend(run(&graph, &inputs));
            if state.contains_key("step") {
                state.insert("step".to_owned(), TensorData::I64(vec![step as i64 + 1]));
            }
            let states = state.iter().filter(|(name, _)| *name != "step").map(|(name, data)| Projected::new(name, data.to_f64())).collect();
            let distances = distances(states, fixture.values(&format!("{optimizer}/{step}")), |_| false);
            println!("{optimizer}, step {step}: {distances}");
            assert!(distances.largest <= bound, "{optimizer}, step {step}: {distances}");
        }
    }
}

fn states(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.outputs().iter().filter_map(|(name, _)| name.strip_prefix("next/")).filter(|&name| name != "step")
}

#[test]
fn every_optimizer_in_f64() {
    check(F64, |graph, inputs| {
        let evaluation = in_f64(graph, inputs);
        let value = |name: &str| output(graph, &evaluation, &format!("next/{name}")).iter().copied().collect();
        states(graph).map(|name| (name.to_owned(), TensorData::Exact(value(name)))).collect()
    });
}

#[test]
fn every_optimizer_in_onnx_runtime() {
    for variant in VARIANTS {
        check(F32, |graph, inputs| {
            let mut outputs = in_onnx_runtime(graph, inputs, variant);
            states(graph).map(|name| (name.to_owned(), TensorData::F32(outputs.remove(&format!("next/{name}")).expect("an output")))).collect()
        });
    }
}
