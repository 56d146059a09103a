use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::Tensor;

use super::*;
use crate::kernels::{KernelSet, native_operators};
use crate::session::creating;
use crate::session::environment::environment;

const SAMPLES: usize = 8;
const PROTOTYPES: usize = 4;
const QUEUE: usize = 16;

fn session(model: &str, level: GraphOptimizationLevel, native: bool) -> Session {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(model);
    let environment = environment().expect("ONNX Runtime is set up");
    let _creating = creating();
    let mut builder = Session::builder(&environment).expect("builder").with_optimization_level(level).expect("level");
    if native {
        builder = builder.with_operators(native_operators(KernelSet::Functions, true, 1).expect("domain").expect("an operator")).expect("operators");
    }
    builder.commit_from_file(path).expect("session")
}

fn scores(rows: usize, seed: usize) -> Vec<f32> {
    (0..rows * PROTOTYPES).map(|index| ((index * 7 + seed * 13) % 23) as f32 / 11.5 - 1.0).collect()
}

fn run(session: &mut Session, queue: Option<(&[f32], i64)>) -> Vec<f32> {
    let scores = Tensor::from_array(([SAMPLES, PROTOTYPES], scores(SAMPLES, 1))).expect("tensor");
    let outputs = match queue {
        None => session.run(ort::inputs!["scores" => scores]),
        Some((queue, filled)) => {
            let queue = Tensor::from_array(([QUEUE, PROTOTYPES], queue.to_vec())).expect("tensor");
            let filled = Tensor::from_array(([1usize], vec![filled])).expect("tensor");
            session.run(ort::inputs!["scores" => scores, "queue_scores" => queue, "filled" => filled])
        }
    };
    outputs.expect("run")["codes"].try_extract_tensor::<f32>().expect("f32").1.to_vec()
}

fn expected(queue: &[f32]) -> Vec<f32> {
    let settings = Sinkhorn { epsilon: f64::from(0.05f32), iterations: 3, threads: 1 };
    let mut codes = vec![0.0; SAMPLES * PROTOTYPES];
    sinkhorn_knopp(settings, PROTOTYPES, queue, &scores(SAMPLES, 1), &mut codes).expect("valid");
    codes
}

/// That the kernel wins is ONNX Runtime's behaviour, not the standard's.
#[test]
fn the_native_kernel_wins_over_the_function_with_and_without_overloads() {
    use GraphOptimizationLevel::{All, Disable};
    for model in ["sinkhorn.onnx", "sinkhorn_overload.onnx"] {
        for level in [Disable, All] {
            let before = sinkhorn_calls();
            assert_eq!(run(&mut session(model, level, true), None), expected(&[]), "{model}");
            assert!(sinkhorn_calls() > before, "{model}");
        }
    }
    for level in [Disable, All] {
        let codes = run(&mut session("sinkhorn_two_overloads.onnx", level, true), None);
        assert!(codes.iter().any(|&code| code != 0.0), "both calls are native");
    }
}

#[test]
fn the_function_runs_without_the_native_kernel() {
    for model in ["sinkhorn.onnx", "sinkhorn_overload.onnx", "sinkhorn_two_overloads.onnx"] {
        let codes = run(&mut session(model, GraphOptimizationLevel::All, false), None);
        assert!(codes.iter().all(|&code| code == 0.0), "{model}: the test's function returns zeros");
    }
}

#[test]
fn the_queue_takes_part_only_when_it_is_full() {
    let queue = scores(QUEUE, 5);
    for model in ["sinkhorn_queue.onnx", "sinkhorn_queue_overload.onnx"] {
        let mut session = session(model, GraphOptimizationLevel::All, true);
        for filled in [0, 8, 15] {
            assert_eq!(run(&mut session, Some((&queue, filled))), expected(&[]), "{filled} rows");
        }
        assert_eq!(run(&mut session, Some((&queue, QUEUE as i64))), expected(&queue));
    }
}
