//! Sinkhorn-Knopp over ε and iterations, with scores that overflow f32 and f64, without and with a queue.

use graphgen::functions::sinkhorn::SinkhornKnopp;
use graphgen::ir::{DType, Graph, TensorData, TensorType};
use runtime::kernels::sinkhorn::{Sinkhorn, sinkhorn_knopp};
use serde_json::Value;

use super::fixture::Fixture;
use super::formula::scaled;
use super::onnx_runtime::{Inputs, Variant, in_f64, in_onnx_runtime, output};

/// Bounds of codes from the f64 evaluation and of codes that leave a kernel as f32; a code is at most 1.
const F64: f64 = 1e-9;
const F32: f64 = 1e-6;
const BATCH: usize = 4;
const PROTOTYPES: usize = 7;

struct Case {
    epsilon: f64,
    iterations: usize,
    /// Largest score.
    largest: f64,
    queue: Vec<f32>,
    scores: Vec<f32>,
    codes: Vec<f64>,
}

impl Case {
    /// The operator, which is given ε as f32 holds it, like the golden.
    fn graph(&self) -> (Graph, Inputs) {
        let mut graph = Graph::new();
        let length = self.queue.len() / PROTOTYPES;
        let mut ids = vec![graph.input("scores", TensorType::f32([BATCH, PROTOTYPES]))];
        let mut inputs = Inputs::from([("scores".to_owned(), TensorData::F32(self.scores.clone()))]);
        if length > 0 {
            ids.push(graph.input("queue", TensorType::f32([length, PROTOTYPES])));
            ids.push(graph.input("filled", TensorType::new(DType::I64, [1])));
            inputs.insert("queue".to_owned(), TensorData::F32(self.queue.clone()));
            inputs.insert("filled".to_owned(), TensorData::I64(vec![length as i64]));
        }
        let codes = graph.apply(SinkhornKnopp { epsilon: self.epsilon, iterations: self.iterations }, &ids).expect("valid");
        graph.output("codes", codes);
        (graph, inputs)
    }

    fn error(&self, codes: impl IntoIterator<Item = f64>) -> f64 {
        let differences = codes.into_iter().zip(&self.codes).map(|(code, golden)| (code - golden).abs());
        differences.fold(0.0, |largest: f64, difference| if difference.is_nan() { f64::INFINITY } else { largest.max(difference) })
    }

    fn describe(&self) -> String {
        format!("epsilon {}, {} iterations, scores up to {}, queue of {}", self.epsilon, self.iterations, self.largest, self.queue.len() / PROTOTYPES)
    }
}

fn cases() -> Vec<Case> {
    let fixture = Fixture::open("sinkhorn.safetensors");
    let axes = fixture.metadata("axes");
    let axis = |name: &str| axes[name].as_array().expect("a list").iter().map(|value: &Value| value.as_f64().expect("a number")).collect::<Vec<_>>();
    let mut codes = fixture.values("codes").chunks_exact(BATCH * PROTOTYPES);
    let mut cases = Vec::new();
    for epsilon in axis("epsilons") {
        for iterations in axis("iterations") {
            for largest in axis("largest") {
                for queue in axis("queue") {
                    cases.push(Case {
                        epsilon: f64::from(epsilon as f32),
                        iterations: iterations as usize,
                        largest,
                        queue: scaled("queue_scores", &[queue as usize, PROTOTYPES], largest, 0.0),
                        scores: scaled("scores", &[BATCH, PROTOTYPES], largest, 0.0),
                        codes: codes.next().expect("codes of every case").to_vec(),
                    });
                }
            }
        }
    }
    assert!(codes.next().is_none(), "a case for all codes");
    cases
}

fn check(bound: f64, codes: impl Fn(&Case) -> Vec<f64>) {
    let mut largest: f64 = 0.0;
    for case in cases() {
        let error = case.error(codes(&case));
        largest = largest.max(error);
        assert!(error <= bound, "{}: {error:e}", case.describe());
    }
    println!("largest error of a code: {largest:.1e}");
}

#[test]
fn the_f64_evaluation() {
    check(F64, |case| {
        let (graph, inputs) = case.graph();
        output(&graph, &in_f64(&graph, &inputs), "codes").iter().copied().collect()
    });
}

#[test]
fn the_native_kernel() {
    check(F32, |case| {
        let settings = Sinkhorn { epsilon: case.epsilon, iterations: case.iterations, threads: 1 };
        let mut codes = vec![0.0; case.scores.len()];
        sinkhorn_knopp(settings, PROTOTYPES, &case.queue, &case.scores, &mut codes).expect("codes");
        codes.into_iter().map(f64::from).collect()
    });
}

fn in_session(case: &Case, variant: Variant) -> Vec<f64> {
    let (graph, inputs) = case.graph();
    in_onnx_runtime(&graph, &inputs, variant)["codes"].iter().map(|&code| code.into()).collect()
}

#[test]
fn the_native_kernel_inside_onnx_runtime() {
    check(F32, |case| in_session(case, Variant::Native));
}

#[test]
fn the_body_in_standard_operators() {
    check(F32, |case| in_session(case, Variant::Portable));
}
