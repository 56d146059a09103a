//! One forward and backward pass: scores, embeddings, codes, loss, every gradient, running statistics.

use std::fmt::{Display, Formatter};

use graphgen::ir::TensorData;
use graphgen::methods::swav::{TrainStep, train_step};
use graphgen::preset::{Preset, Target};
use serde_json::Value;

use super::fixture::{Distances, Fixture, Projected, distances, overrides};
use super::formula;
use super::onnx_runtime::{Inputs, VARIANTS, Variant, in_f64, in_onnx_runtime, output};

/// Bound of graphgen's f64 evaluation, for everything.
const F64: f64 = 1e-9;
/// Bound of scores, embeddings, codes and loss of ONNX Runtime in f32.
const OUTPUTS: f64 = 1e-5;
/// Bounds of its gradients over the parameters, median and largest: one ReLU that flips moves those of the layers before it.
const GRADIENTS: [f64; 2] = [1e-4, 5e-2];
/// Bound of its running statistics.
const STATISTICS: f64 = 1e-5;

/// A bias in front of a BatchNorm moves nothing: its gradient is rounding noise, small beside its weight's.
const NOISE: &str = "projection_head.0.bias";

struct Case {
    name: String,
    preset: Preset,
    step: TrainStep,
    inputs: Inputs,
}

impl Case {
    fn new(case: &Value, target: Target) -> Case {
        let mut preset = Preset::from_toml("", &overrides(&case["settings"])).expect("a valid preset");
        preset.train.target = Some(target);
        let step = train_step(&preset).expect("a graph");
        let graph = &step.graph;
        let mut inputs = Inputs::new();
        for (index, crops) in formula::crops(&preset, case["crops"].as_str().expect("a prefix")).into_iter().enumerate() {
            inputs.insert(format!("crops/{index}"), TensorData::U8(crops));
        }
        for &input in graph.inputs() {
            let name = graph.input_name(input);
            if !inputs.contains_key(name) {
                inputs.insert(name.to_owned(), TensorData::F32(formula::weight(name, graph.shape(input))));
            }
        }
        Case { name: case["name"].as_str().expect("a name").to_owned(), preset, step, inputs }
    }

    /// Compares what `output` computes with the golden: relative error of the loss, gradients, running statistics, and
    /// scores, codes and embeddings.
    fn compare(&self, fixture: &Fixture, output: &dyn Fn(&str) -> Vec<f64>) -> Errors {
        let name = &self.name;
        let project = |name: &str, output_name: &str| Projected::new(name, output(output_name));
        let gradients: Vec<Projected> = self.step.parameters.iter().map(|p| project(&p.name, &format!("grad/{}", p.name))).collect();
        let statistics = self.step.running_statistics.iter().map(|s| project(&s.name, &format!("next/{}", s.name))).collect();
        let of_heads = |(name, _): &&(String, _)| ["scores", "codes", "embeddings"].contains(&name.split('/').next().unwrap_or_default());
        let outputs = self.step.graph.outputs().iter().filter(of_heads).map(|(name, _)| project(name, name)).collect();

        let model = &self.preset.model;
        let noisy = model.hidden_mlp > 0 && model.projection_batch_norm;
        let norm = |name: &str| gradients.iter().find(|gradient| gradient.name == name).map_or(0.0, |gradient| gradient.row[0]);
        let noise = if noisy { norm(NOISE) / norm("projection_head.0.weight") } else { 0.0 };
        let loss = fixture.values(&format!("{name}/loss"))[0];
        Errors {
            loss: (output("loss")[0] / loss - 1.0).abs(),
            noise,
            gradients: distances(gradients, fixture.values(&format!("{name}/gradients")), |name| noisy && name == NOISE),
            statistics: distances(statistics, fixture.values(&format!("{name}/statistics")), |_| false),
            outputs: distances(outputs, fixture.values(&format!("{name}/outputs")), |_| false),
        }
    }
}

struct Errors {
    loss: f64,
    noise: f64,
    gradients: Distances,
    statistics: Distances,
    outputs: Distances,
}

impl Display for Errors {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Errors { loss, noise, gradients, statistics, outputs } = self;
        write!(f, "loss {loss:.1e}; outputs {outputs}; gradients {gradients}; noise {noise:.1e}; running statistics {statistics}")
    }
}

/// The cases of a prefix, with graphs of a target.
fn cases(prefix: &str, target: Target) -> (Fixture, Vec<Case>) {
    let fixture = Fixture::open("step.safetensors");
    let cases = fixture.metadata("cases");
    let wanted = |case: &&Value| case["name"].as_str().is_some_and(|name| name.starts_with(prefix));
    let cases: Vec<Case> = cases.as_array().expect("a list").iter().filter(wanted).map(|case| Case::new(case, target)).collect();
    assert!(!cases.is_empty(), "no case {prefix}");
    (fixture, cases)
}

fn check_in_f64(prefix: &str) {
    for target in VARIANTS.map(Variant::target) {
        let (fixture, cases) = cases(prefix, target);
        for case in cases {
            let graph = &case.step.graph;
            let evaluation = in_f64(graph, &case.inputs);
            let errors = case.compare(&fixture, &|name| output(graph, &evaluation, name).iter().copied().collect());
            println!("{} of {target} in f64: {errors}", case.name);
            let largest = [errors.loss, errors.noise, errors.gradients.largest, errors.statistics.largest, errors.outputs.largest];
            assert!(largest.into_iter().all(|error| error <= F64), "{} of {target}: {errors}", case.name);
        }
    }
}

fn check_in_onnx_runtime(prefix: &str) {
    for variant in VARIANTS {
        let (fixture, cases) = cases(prefix, variant.target());
        for case in cases {
            let outputs = in_onnx_runtime(&case.step.graph, &case.inputs, variant);
            let errors = case.compare(&fixture, &|name| outputs[name].iter().map(|&value| value.into()).collect());
            println!("{} {variant:?}: {errors}", case.name);
            let holds = errors.loss <= OUTPUTS
                && errors.outputs.largest <= OUTPUTS
                && errors.noise <= OUTPUTS
                && errors.gradients.median <= GRADIENTS[0]
                && errors.gradients.largest <= GRADIENTS[1]
                && errors.statistics.largest <= STATISTICS;
            assert!(holds, "{} {variant:?}: {errors}", case.name);
        }
    }
}

#[test]
fn tiny_networks_in_f64() {
    check_in_f64("tiny");
    check_in_f64("narrow");
}

#[test]
fn tiny_networks_in_onnx_runtime() {
    check_in_onnx_runtime("tiny");
}

#[test]
fn resnet18_in_onnx_runtime() {
    check_in_onnx_runtime("resnet18");
}

#[test]
fn resnet50_and_w2_in_onnx_runtime() {
    check_in_onnx_runtime("resnet50");
}
