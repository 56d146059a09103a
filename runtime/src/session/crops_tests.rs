use std::path::Path;

use ort::memory::Allocator;

use super::*;
use crate::session::SessionOptions;
use crate::session::environment::environment;

const BYTES: usize = 48;

/// A graph over crops u8 [4, 3, 2, 2], its other inputs and its loss.
struct Graph {
    bound: Bound,
    loss: Tensor<f32>,
}

impl Graph {
    /// `tests/models/tiny_train_step.onnx` with weights of 1.
    fn open() -> Graph {
        let (file, options) = ("tiny_train_step.onnx", SessionOptions { threads: 1, ..SessionOptions::default() });
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(file);
        let session = options.open(&environment().expect("ONNX Runtime is set up"), &path).expect("a graph");
        let mut bound = Bound::of(file, session, &options).expect("a binding");
        let mut weights = zeros::<f32>(&[12, 3]).expect("a tensor");
        weights.extract_tensor_mut().1.fill(1.0);
        let (mean, queue, filled) = (zeros::<f32>(&[3]), zeros::<f32>(&[1, 8, 3]), zeros::<i64>(&[1]));
        bound.binding.bind_input("w", &weights).expect("bound");
        bound.binding.bind_input("bn.running_mean", &mean.expect("a tensor")).expect("bound");
        bound.binding.bind_input("queue/embeddings", &queue.expect("a tensor")).expect("bound");
        bound.binding.bind_input("queue/filled", &filled.expect("a tensor")).expect("bound");
        let mut loss = zeros::<f32>(&[1]).expect("a tensor");
        bound.binding.bind_output("loss", &mut loss).expect("bound");
        Graph { bound, loss }
    }

    /// The value that all pixels of the last run had: 12 of them are a row, and the loss is its sum squared, in 256ths.
    fn value(&self) -> u8 {
        (self.loss.extract_tensor().1[0].sqrt() * 256.0 / 12.0).round() as u8
    }
}

fn inputs(memory: &Memory) -> CropInputs {
    CropInputs::zeros(&[TensorSpec { name: "crops/0".into(), dtype: "u8".into(), shape: vec![4, 3, 2, 2] }], memory).expect("tensors")
}

fn on_a_device() -> CropInputs {
    inputs(&Memory::Device(Allocator::default()))
}

/// Runs a graph on a batch of equal pixels with another one as the next; the value that the graph has seen.
fn run(inputs: &mut CropInputs, graph: &mut Graph, (number, value): (Option<u64>, u8), next: Option<(Option<u64>, u8)>) -> Result<u8, EngineError> {
    let (pixels, next_pixels) = ([value; BYTES], [next.map_or(0, |(_, value)| value); BYTES]);
    let (groups, next_groups) = ([pixels.as_slice()], [next_pixels.as_slice()]);
    let batch = BatchCrops { groups: &groups, number };
    let next = next.map(|(number, _)| BatchCrops { groups: &next_groups, number }.micro_batch(0));
    inputs.run(&mut graph.bound, batch.micro_batch(0), next)?;
    Ok(graph.value())
}

#[test]
fn crops_that_were_copied_ahead_are_not_copied_again() {
    let (mut graph, mut inputs) = (Graph::open(), on_a_device());
    assert!(inputs.copies_ahead());
    assert_eq!(run(&mut inputs, &mut graph, (Some(0), 10), Some((Some(1), 20))).expect("a run"), 10);
    // The other value under the same number shows that nothing was copied.
    assert_eq!(run(&mut inputs, &mut graph, (Some(1), 99), Some((Some(2), 30))).expect("a run"), 20);
    assert_eq!(run(&mut inputs, &mut graph, (Some(2), 99), None).expect("a run"), 30);
    assert_eq!(run(&mut inputs, &mut graph, (Some(2), 40), None).expect("a run"), 40, "only one run has them");
}

#[test]
fn crops_that_were_copied_ahead_are_those_of_no_other_batch() {
    let (mut graph, mut inputs) = (Graph::open(), on_a_device());
    run(&mut inputs, &mut graph, (Some(0), 10), Some((Some(1), 20))).expect("a run");
    assert_eq!(run(&mut inputs, &mut graph, (Some(2), 30), None).expect("a run"), 30);
    assert_eq!(run(&mut inputs, &mut graph, (Some(1), 40), Some((Some(3), 50))).expect("a run"), 40, "they were given up");
    assert_eq!(run(&mut inputs, &mut graph, (None, 60), None).expect("a run"), 60);
}

#[test]
fn on_the_host_nothing_is_copied_ahead() {
    let (mut graph, mut inputs) = (Graph::open(), inputs(&Memory::Host));
    assert!(inputs.bind(&mut graph.bound.binding, "crops/0").expect("bound"));
    assert!(!inputs.bind(&mut graph.bound.binding, "crops/1").expect("no error") && !inputs.copies_ahead());
    assert_eq!(run(&mut inputs, &mut graph, (Some(0), 10), Some((Some(1), 20))).expect("a run"), 10);
    assert_eq!(run(&mut inputs, &mut graph, (Some(1), 30), None).expect("a run"), 30);
}

#[test]
fn a_copy_or_a_run_that_fails_is_an_error_and_leaves_nothing_ahead() {
    let (mut graph, mut inputs) = (Graph::open(), on_a_device());
    let device = inputs.device.as_mut().expect("on a device");
    let whole = std::mem::replace(&mut device.current, vec![zeros(&[1, 3, 2, 2]).expect("a tensor")]);
    // The sets change places before the run: the small tensor is the one that is copied to during it.
    let error = run(&mut inputs, &mut graph, (Some(0), 10), Some((Some(1), 20))).expect_err("another size").to_string();
    assert!(error.contains("copying crops to the device"), "{error}");
    let device = inputs.device.as_mut().expect("on a device");
    assert_eq!(device.ahead, None);
    device.next = whole;

    graph.bound.binding.clear_inputs();
    let error = run(&mut inputs, &mut graph, (Some(0), 10), Some((Some(1), 20))).expect_err("inputs are missing").to_string();
    assert!(error.contains("running tiny_train_step.onnx"), "{error}");
    assert_eq!(inputs.device.expect("on a device").ahead, None);
}
