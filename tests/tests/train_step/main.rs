//! The training step in ONNX Runtime: with native kernels and without them, in every target, it is the same step.

mod harness;

use std::collections::HashMap;

use graphgen::artifacts::{export, initial_weights};
use graphgen::interpreter::evaluate;
use graphgen::ir::Graph;
use graphgen::methods::swav::train_step;
use graphgen::preset::{Preset, Target};
use ndarray::{ArrayD, IxDyn};
use runtime::kernels::KernelSet;
use runtime::session::Engine;
use runtime::session::environment::environment;
use runtime::train::open_engine;

use harness::{NETWORKS, Outcome, assert_alike, counting, crops, distances, exported, preset, run};

#[test]
fn native_kernels_and_function_bodies_take_the_same_step_in_every_target() {
    let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
    for network in NETWORKS {
        let (name, preset) = (network.name, preset(network.changes));
        let heads = preset.model.nmb_prototypes.counts().len() as u64;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bodies = [Target::Native, Target::Cpu, Target::Portable, Target::Cuda, Target::Directml].map(|target| (target, KernelSet::Functions));
        // In graphs of other targets the native kernels, which take channels-last maps only, leave all but Sinkhorn-Knopp to the bodies.
        let kernels = [Target::Native, Target::Cpu].map(|target| (target, KernelSet::Native));
        let variants = kernels.into_iter().chain(bodies);
        let step = |(index, (target, kernels)): (usize, (Target, KernelSet))| {
            let directory = directory.path().join(index.to_string());
            run(&environment, &exported(&preset, target, kernels, &directory), kernels, &directory)
        };
        let outcomes: Vec<Outcome> = variants.enumerate().map(step).collect();
        let native_calls = outcomes[..2].iter().map(|outcome| outcome.native_calls).collect::<Vec<_>>();
        assert_eq!(native_calls, [2 * heads; 2], "{name}: the native Sinkhorn-Knopp ran for each assigned crop and head");
        assert!(outcomes[2..].iter().all(|outcome| outcome.native_calls == 0), "{name}: the function bodies ran");
        for other in &outcomes[1..] {
            assert_alike(&network, 1e-5, &outcomes[0], other);
        }
    }
}

/// In f32 every order of additions has errors of its own; Winograd's transforms have some more.
#[test]
fn gradients_of_native_kernels_are_as_near_to_f64_as_those_of_the_bodies() {
    let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
    for network in [&NETWORKS[0], &NETWORKS[2]] {
        let mut preset = preset(network.changes);
        preset.train.target = Some(Target::Cpu);
        let graph = train_step(&preset).expect("valid").graph;
        let exact = evaluate(&graph, &inputs_in_f64(&preset, &graph));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let variants = [(Target::Native, KernelSet::Native), (Target::Portable, KernelSet::Functions)];
        let medians = variants.map(|(target, kernels)| {
            let directory = directory.path().join(target.to_string());
            let outcome = run(&environment, &exported(&preset, target, kernels, &directory), kernels, &directory);
            let distances = distances(&outcome, |name| exact.get(graph.find_output(name).expect("a gradient")).iter().copied().collect());
            distances[distances.len() / 2]
        });
        println!("{}: native kernels {:.1e}, bodies {:.1e} from f64", network.name, medians[0], medians[1]);
        assert!(medians[0] <= 2.0 * medians[1], "{}: {medians:?}", network.name);
    }
}

/// Initial weights, and crops by formula; a queue is empty.
fn inputs_in_f64(preset: &Preset, graph: &Graph) -> HashMap<String, ArrayD<f64>> {
    let (weights, crops) = (initial_weights(preset).expect("initial weights"), crops(preset, 0));
    let input = |&input: &_| {
        let (name, shape) = (graph.input_name(input), graph.shape(input));
        let values = match (name.strip_prefix("crops/"), weights.get(name)) {
            (Some(group), _) => crops[group.parse::<usize>().expect("a number")].iter().map(|&pixel| f64::from(pixel)).collect(),
            (_, Some(weight)) => weight.data.iter().map(|&value| f64::from(value)).collect(),
            (None, None) => vec![0.0; shape.iter().product()],
        };
        (name.to_owned(), ArrayD::from_shape_vec(IxDyn(shape), values).expect("as many values as elements"))
    };
    graph.inputs().iter().map(input).collect()
}

#[test]
fn training_on_one_batch_lowers_the_loss_with_every_optimizer() {
    let _counting = counting();
    for (optimizer, learning_rate) in [("lars", 1.0), ("sgd", 0.05), ("adam", 2e-3), ("adamw", 2e-3)] {
        let preset = preset(&["model.stem=small", "crops.size_crops=[32, 16]", &format!("optim.name={optimizer}")]);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let manifest = export(&preset, &directory.path().join("graphs")).expect("exported");
        let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
        let mut engine = open_engine(&environment, &directory.path().join("graphs"), &manifest, 1).expect("the graphs load");
        engine.load_weights(&initial_weights(&preset).expect("initial weights")).expect("the weights fit");
        let bytes = crops(&preset, 0);
        let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let mut losses = Vec::new();
        for _ in 0..40 {
            losses.push(engine.forward_backward(&slices).expect("a step").loss);
            engine.update(learning_rate, true).expect("an update");
        }
        assert!(losses[39] < losses[0] * 0.9, "{optimizer}: {losses:?}");
    }
}

#[test]
fn frozen_prototypes_stay_with_their_momentum() {
    let _counting = counting();
    let preset = preset(&["model.stem=small", "crops.size_crops=[32, 16]"]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let graphs = directory.path().join("graphs");
    let manifest = export(&preset, &graphs).expect("exported");
    let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
    let mut engine = open_engine(&environment, &graphs, &manifest, 1).expect("the graphs load");
    engine.load_weights(&initial_weights(&preset).expect("initial weights")).expect("the weights fit");
    let bytes = crops(&preset, 0);
    let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    let mut step = |train_prototypes| {
        engine.forward_backward(&slices).expect("a step");
        engine.update(0.5, train_prototypes).expect("an update");
        (engine.weights().expect("read"), engine.optimizer_state().expect("read").moments)
    };
    let (first, _) = step(false);
    let (second, moments) = step(false);
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let prototypes = "prototypes.weight";
    assert!(distance(&first[prototypes].data, &second[prototypes].data) < 1e-6, "normalising unit rows again changes nothing but rounding");
    assert!(moments["momentum/prototypes.weight"].data.iter().all(|&value| value == 0.0));
    assert!(distance(&first["conv1.weight"].data, &second["conv1.weight"].data) > 0.0, "the encoder learns");
    let (third, moments) = step(true);
    assert!(distance(&second[prototypes].data, &third[prototypes].data) > 1e-5, "released prototypes move");
    assert!(moments["momentum/prototypes.weight"].data.iter().any(|&value| value != 0.0));
}
