use std::path::PathBuf;

use graphgen::manifest::MANIFEST_VERSION;
use graphgen::preset::{Preset, Target};

use super::*;
use crate::session::Engine;
use crate::session::environment::environment;

const ROWS: usize = 4;
const PIXELS: usize = 12;
const D: usize = 3;
const QUEUE: usize = 8;

fn spec(name: &str, dtype: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype: dtype.into(), shape: shape.into() }
}

/// The manifest of the graphs that `tests/models/generate_tiny.py` wrote.
fn manifest() -> Manifest {
    let w = spec("w", "f32", &[PIXELS, D]);
    let (mean, queue, filled) = (spec("bn.running_mean", "f32", &[D]), spec("queue/embeddings", "f32", &[1, QUEUE, D]), spec("queue/filled", "i64", &[1]));
    let named = |name: &str, like: &TensorSpec| TensorSpec { name: name.into(), ..like.clone() };
    let graph = |file: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>| GraphSpec { file: file.into(), sha256: String::new(), inputs, outputs };
    let one = spec("", "f32", &[1]);
    Manifest {
        version: MANIFEST_VERSION,
        preset: Preset::default(),
        target: Target::Portable,
        opset: 17,
        microsoft_operators: vec![],
        functions: vec![],
        parameters: vec![w.clone()],
        running_statistics: vec![mean.clone()],
        train_step: graph(
            "tiny_train_step.onnx",
            vec![spec("crops/0", "u8", &[ROWS, 3, 2, 2]), w.clone(), mean.clone(), queue.clone(), filled.clone()],
            vec![
                named("loss", &one),
                spec("embeddings", "f32", &[ROWS, D]),
                named("grad/w", &w),
                named("next/bn.running_mean", &mean),
                named("stats/grad_norm", &one),
                named("next/queue/embeddings", &queue),
                named("next/queue/filled", &filled),
            ],
        ),
        optimizer: graph(
            "tiny_optimizer.onnx",
            vec![
                named("learning_rate", &one),
                spec("train_prototypes", "bool", &[1]),
                w.clone(),
                named("grad/w", &w),
                named("momentum/w", &w),
                spec("step", "i64", &[1]),
            ],
            vec![named("next/w", &w), named("next/momentum/w", &w), spec("next/step", "i64", &[1])],
        ),
        accumulation: None,
        training_api: None,
        hash: String::new(),
        initial_loss_scale: None,
        init: None,
    }
}

fn models() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

fn options() -> SessionOptions {
    SessionOptions { threads: 1, ..SessionOptions::default() }
}

fn open(manifest: &Manifest) -> Result<StockEngine, EngineError> {
    StockEngine::open(&environment().expect("ONNX Runtime is set up"), &models(), manifest, &options())
}

/// An engine with weights that takes the host's memory for a device's.
fn open_as_on_device() -> StockEngine {
    let engine = StockEngine::open_as_on_device(&environment().expect("ONNX Runtime is set up"), &models(), &manifest(), &options());
    let mut engine = engine.expect("open");
    engine.load_weights(&weights()).expect("load");
    engine
}

fn weights() -> Weights {
    let data = (0..PIXELS * D).map(|index| (index as f32 - 17.0) / 10.0).collect();
    let mean = WeightTensor { shape: vec![D], data: vec![1.0, -1.0, 0.5] };
    Weights::from([("w".into(), WeightTensor { shape: vec![PIXELS, D], data }), ("bn.running_mean".into(), mean)])
}

fn crops(salt: usize) -> Vec<u8> {
    (0..ROWS * PIXELS).map(|index| ((index * 37 + salt * 101) % 256) as u8).collect()
}

/// The same step in f64.
struct Reference {
    w: Vec<f64>,
    momentum: Vec<f64>,
    mean: Vec<f64>,
}

impl Reference {
    fn step(&mut self, crops: &[u8], learning_rate: f64) -> (f64, Vec<f64>) {
        let x: Vec<f64> = crops.iter().map(|&pixel| f64::from(pixel) / 256.0).collect();
        let y: Vec<f64> = (0..ROWS * D).map(|i| (0..PIXELS).map(|p| x[i / D * PIXELS + p] * self.w[p * D + i % D]).sum()).collect();
        let loss = y.iter().map(|y| y * y).sum::<f64>() / y.len() as f64;
        for d in 0..D {
            self.mean[d] = 0.9 * self.mean[d] + 0.1 * (0..ROWS).map(|row| y[row * D + d]).sum::<f64>() / ROWS as f64;
        }
        for (index, w) in self.w.iter_mut().enumerate() {
            let gradient: f64 = (0..ROWS).map(|row| x[row * PIXELS + index / D] * y[row * D + index % D] * 2.0 / (ROWS * D) as f64).sum();
            self.momentum[index] = 0.5 * self.momentum[index] + gradient;
            *w -= learning_rate * self.momentum[index];
        }
        (loss, y)
    }
}

fn assert_close(got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 1e-5 * expected.abs().max(1.0), "{got} is not {expected}");
    }
}

#[test]
fn steps_update_the_state_in_place() {
    let mut engine = open(&manifest()).expect("open");
    let start = weights();
    engine.load_weights(&start).expect("load");
    engine.request_output("embeddings").expect("exists");
    let f64s = |name: &str| start[name].data.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let mut reference = Reference { w: f64s("w"), momentum: vec![0.0; PIXELS * D], mean: f64s("bn.running_mean") };
    for step in 0..4 {
        let (loss, embeddings) = reference.step(&crops(step), 0.1);
        let output = engine.forward_backward(&[&crops(step)]).expect("run");
        assert_close(&[output.loss], &[loss]);
        assert!(output.stats["grad_norm"] > 0.0);
        assert_close(&engine.output("embeddings").expect("read").expect("requested").data, &embeddings);
        engine.update(0.1, true).expect("update");
        let weights = engine.weights().expect("read");
        assert_close(&weights["w"].data, &reference.w);
        assert_close(&weights["bn.running_mean"].data, &reference.mean);
        assert_close(&engine.optimizer_state().expect("read").moments["momentum/w"].data, &reference.momentum);
    }
    assert_eq!(engine.optimizer_state().expect("read").step, Some(4));
}

/// Takes a step on numbered crops; its loss and gradient.
fn step(engine: &mut StockEngine, number: usize, next: Option<usize>) -> (StepOutput, WeightTensor) {
    let (pixels, next_pixels) = (crops(number), next.map(crops));
    let (groups, next_groups) = ([pixels.as_slice()], next_pixels.as_ref().map(|pixels| [pixels.as_slice()]));
    let numbered = |number: usize| Some(number as u64);
    let next = next.zip(next_groups.as_ref()).map(|(next, groups)| BatchCrops { groups, number: numbered(next) });
    let output = engine.forward_backward_with_next(BatchCrops { groups: &groups, number: numbered(number) }, next).expect("a step");
    let gradient = engine.output("grad/w").expect("read").expect("a gradient");
    engine.advance_queue().expect("a copy");
    engine.update(0.1, true).expect("update");
    (output, gradient)
}

#[test]
fn copying_ahead_changes_no_bit() {
    let mut host = open(&manifest()).expect("open");
    host.load_weights(&weights()).expect("load");
    let (mut device, mut ahead) = (open_as_on_device(), open_as_on_device());
    assert_eq!([&host, &device].map(StockEngine::copies_ahead), [false, true]);
    for number in 0..5 {
        let expected = step(&mut host, number, Some(number + 1));
        assert_eq!(step(&mut device, number, None), expected, "step {number}, nothing ahead");
        assert_eq!(step(&mut ahead, number, Some(number + 1)), expected, "step {number}");
    }
    for engine in [&device, &ahead] {
        assert_eq!(engine.weights().expect("read"), host.weights().expect("read"));
        assert_eq!(engine.queue_state().expect("read"), host.queue_state().expect("read"));
    }
}

#[test]
fn a_batch_that_was_copied_ahead_and_given_up_has_no_influence() {
    let (mut plain, mut ahead) = (open_as_on_device(), open_as_on_device());
    // Going back: the step after 0 is not 1, and 1 comes later with crops of its own.
    step(&mut plain, 0, None);
    step(&mut ahead, 0, Some(1));
    for number in [2, 1] {
        assert_eq!(step(&mut ahead, number, Some(7)), step(&mut plain, number, None), "step {number}");
    }
    // Crops without a number.
    let (got, expected) = (ahead.forward_backward(&[&crops(3)]), plain.forward_backward(&[&crops(3)]));
    assert_eq!(got.expect("a step"), expected.expect("a step"));
}

#[test]
fn a_next_batch_of_the_wrong_size_is_named_before_the_step() {
    for mut engine in [open_as_on_device(), open(&manifest()).expect("open")] {
        engine.load_weights(&weights()).expect("load");
        let pixels = crops(0);
        let (groups, next_groups) = ([pixels.as_slice()], [&pixels[..5]]);
        let next = BatchCrops { groups: &next_groups, number: Some(1) };
        let error = engine.forward_backward_with_next(BatchCrops { groups: &groups, number: Some(0) }, Some(next)).expect_err("size").to_string();
        assert!(error.contains("crops/0 of the next batch: expected 48 bytes for shape [4, 3, 2, 2], got 5"), "{error}");
        assert_eq!(engine.weights().expect("read"), weights(), "the running statistics stay");
    }
}

#[test]
fn what_is_asked_for_does_not_disturb_training() {
    let run = |requested: &[&str]| {
        let mut engine = open(&manifest()).expect("open");
        engine.load_weights(&weights()).expect("load");
        for name in requested {
            engine.request_output(name).expect("exists");
        }
        for step in 0..2 {
            engine.forward_backward(&[&crops(step)]).expect("run");
            engine.update(0.1, true).expect("update");
        }
        engine
    };
    let (plain, asked) = (run(&[]), run(&["grad/w", "embeddings"]));
    assert_eq!(plain.weights().expect("read"), asked.weights().expect("read"));
    assert!(asked.output("grad/w").expect("read").expect("a gradient").data.iter().any(|&value| value != 0.0));
    assert_eq!(plain.output("embeddings").expect("read"), None);
    let mut engine = plain;
    for name in ["loss", "next/bn.running_mean", "next/queue/filled", "stats/grad_norm"] {
        let error = engine.request_output(name).expect_err("state").to_string();
        assert!(error.contains(name) && error.contains("weights"), "{error}");
    }
}

#[test]
fn the_queue_moves_only_when_it_is_told_to() {
    let mut engine = open(&manifest()).expect("open");
    engine.load_weights(&weights()).expect("load");
    engine.request_output("embeddings").expect("exists");
    engine.forward_backward(&[&crops(0)]).expect("run");
    assert_eq!(engine.queue_filled(), Some((0, QUEUE)));
    let first = engine.output("embeddings").expect("read").expect("requested").data;
    engine.advance_queue().expect("a copy");
    assert_eq!(engine.queue_filled(), Some((4, QUEUE)));
    engine.forward_backward(&[&crops(1)]).expect("run");
    engine.advance_queue().expect("a copy");
    let queue = engine.queue_state().expect("read").expect("a queue");
    assert_eq!(queue.filled, 8);
    assert_eq!(queue.embeddings.data[..ROWS * D], engine.output("embeddings").expect("read").expect("requested").data);
    assert_eq!(queue.embeddings.data[ROWS * D..], first);
}

#[test]
fn a_state_taken_over_goes_on_bit_for_bit() {
    let run = |engine: &mut StockEngine, steps: std::ops::Range<usize>| {
        for step in steps {
            engine.forward_backward(&[&crops(step)]).expect("run");
            engine.advance_queue().expect("a copy");
            engine.update(0.1, true).expect("update");
        }
    };
    let mut whole = open(&manifest()).expect("open");
    whole.load_weights(&weights()).expect("load");
    run(&mut whole, 0..3);
    let (weights, optimizer, queue) = (whole.weights().expect("read"), whole.optimizer_state().expect("read"), whole.queue_state().expect("read"));
    run(&mut whole, 3..6);

    let mut resumed = open(&manifest()).expect("open");
    resumed.load_weights(&weights).expect("load");
    resumed.load_optimizer_state(&optimizer).expect("load");
    resumed.load_queue(queue.as_ref()).expect("load");
    run(&mut resumed, 3..6);
    assert_eq!(resumed.weights().expect("read"), whole.weights().expect("read"));
    assert_eq!(resumed.optimizer_state().expect("read"), whole.optimizer_state().expect("read"));
    assert_eq!(resumed.queue_state().expect("read"), whole.queue_state().expect("read"));
}

#[test]
fn the_state_is_read_where_it_lies() {
    let engine = open(&manifest()).expect("open");
    let state = engine.state().expect("a state");
    let names: Vec<&str> = state.weights.keys().chain(state.moments.keys()).map(String::as_str).collect();
    assert_eq!(names, ["bn.running_mean", "w", "momentum/w"]);
    let queue = state.queue.as_ref().expect("a queue");
    for tensor in state.weights.values().chain(state.moments.values()).chain([&queue.embeddings]) {
        assert!(matches!(tensor.read().expect("on the host"), std::borrow::Cow::Borrowed(_)));
    }
}

#[test]
fn what_does_not_fit_is_named_and_changes_nothing() {
    let mut engine = open(&manifest()).expect("open");
    engine.load_weights(&weights()).expect("load");

    let mut wrong = weights();
    wrong.insert("w".into(), WeightTensor { shape: vec![D, PIXELS], data: vec![0.0; PIXELS * D] });
    let error = engine.load_weights(&wrong).expect_err("shape").to_string();
    assert!(error.contains("w: expected shape [12, 3], got [3, 12]"), "{error}");
    let mut wrong = weights();
    wrong.remove("bn.running_mean");
    assert!(engine.load_weights(&wrong).expect_err("missing").to_string().contains("bn.running_mean"));
    let mut wrong = weights();
    wrong.insert("bn.num_batches_tracked".into(), WeightTensor { shape: vec![], data: vec![7.0] });
    engine.load_weights(&wrong).expect("PyTorch's counters are passed over");
    wrong.insert("fc.weight".into(), WeightTensor { shape: vec![], data: vec![7.0] });
    assert!(engine.load_weights(&wrong).expect_err("unknown").to_string().contains("fc.weight"));
    assert_eq!(engine.weights().expect("read"), weights());

    assert!(engine.load_queue(None).is_err());
    assert!(engine.load_optimizer_state(&OptimizerState::default()).is_err());
    let error = engine.forward_backward(&[&[0; 5]]).expect_err("size").to_string();
    assert!(error.contains("crops/0: expected 48 bytes"), "{error}");
    assert!(engine.forward_backward(&[]).is_err());
    assert!(engine.request_output("codes").expect_err("unknown").to_string().contains("codes"));
}

#[test]
fn graphs_outside_the_contract_are_refused() {
    let mut without_loss = manifest();
    without_loss.train_step.outputs.remove(0);
    let error = open(&without_loss).err().expect("refused").to_string();
    assert!(error.contains("tiny_train_step.onnx") && error.contains("loss"), "{error}");
    let mut unknown_input = manifest();
    unknown_input.parameters.clear();
    assert!(open(&unknown_input).err().expect("refused").to_string().contains("input w"));
    let mut absent = manifest();
    absent.optimizer.file = "absent.onnx".into();
    assert!(open(&absent).err().expect("refused").to_string().contains("absent.onnx"));
}
