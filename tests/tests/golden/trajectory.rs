//! Whole runs against PyTorch f64: the training loop, the queue from empty over half full to active, frozen prototypes,
//! warm-up and cosine; and 20 steps of ResNet-18.
//!
//! Three comparisons. In f64, graphgen's evaluation trains freely: its losses, codes and states are PyTorch's to 1e-9, so
//! that its states are PyTorch's states. ONNX Runtime then takes every step from those, rounded to f32; and it trains
//! freely, by the runtime's own trainer.

use graphgen::artifacts::export;
use graphgen::ir::{Graph, TensorData};
use graphgen::manifest::Manifest;
use graphgen::methods::swav::{TrainStep, train_step};
use graphgen::optim::optimizer_step;
use graphgen::preset::Preset;
use graphgen::weights::{WeightTensor, Weights};
use runtime::session::environment::environment;
use runtime::session::{BatchCrops, OptimizerState, QueueState, StockEngine};
use runtime::train::{LearningRate, Trainer, open_engine};

use super::fixture::{Fixture, Projected, distances, overrides};
use super::formula::{self, distance, project};
use super::onnx_runtime::{Inputs, in_f64, output};

/// Bound of losses, codes and states in f64.
const F64: f64 = 1e-9;
/// Bound of a loss in f32 that starts from PyTorch's state.
const FROM_ITS_STATE: f64 = 1e-5;
/// Bound of the losses of a free run in f32.
const FREE: f64 = 1e-3;
/// The bias in front of a BatchNorm, whose gradient is noise.
const NOISE: &str = "projection_head.0.bias";

/// A run of the golden.
struct Run {
    name: &'static str,
    fixture: Fixture,
    preset: Preset,
    steps_per_epoch: u64,
}

impl Run {
    fn open(name: &'static str) -> Run {
        let fixture = Fixture::open("trajectory.safetensors");
        let description = fixture.metadata("runs")[name].clone();
        let preset = Preset::from_toml("", &overrides(&description["settings"])).expect("a valid preset");
        Run { name, fixture, preset, steps_per_epoch: description["steps_per_epoch"].as_u64().expect("steps") }
    }

    /// Losses of PyTorch.
    fn losses(&self) -> &[f64] {
        self.fixture.values(&format!("{}/losses", self.name))
    }

    fn crops(&self, step: usize) -> Vec<Vec<u8>> {
        formula::crops(&self.preset, &format!("step{step}/"))
    }

    fn engine(&self, step: &TrainStep) -> (StockEngine, Manifest) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let manifest = export(&self.preset, directory.path()).expect("exported");
        let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
        let mut engine = open_engine(&environment, directory.path(), &manifest, 1).expect("the graphs load");
        engine.load_weights(&weights(step, &initial_state(step))).expect("the weights fit");
        (engine, manifest)
    }
}

/// Parameters and running statistics by formula.
fn initial_state(step: &TrainStep) -> Inputs {
    let parameters = step.parameters.iter().map(|parameter| (&parameter.name, parameter.shape.clone()));
    let statistics = step.running_statistics.iter().map(|statistic| (&statistic.name, vec![statistic.channels]));
    let value = |name: &str, shape: &[usize]| if name == NOISE { vec![0.0; shape[0]] } else { formula::weight(name, shape) };
    parameters.chain(statistics).map(|(name, shape)| (name.clone(), TensorData::F32(value(name, &shape)))).collect()
}

fn rounded(data: &TensorData) -> Vec<f32> {
    data.to_f64().into_iter().map(|value| value as f32).collect()
}

/// The state's parameters and running statistics, as an engine loads them.
fn weights(step: &TrainStep, state: &Inputs) -> Weights {
    let parameters = step.parameters.iter().map(|parameter| (&parameter.name, parameter.shape.clone()));
    let statistics = step.running_statistics.iter().map(|statistic| (&statistic.name, vec![statistic.channels]));
    parameters.chain(statistics).map(|(name, shape)| (name.clone(), WeightTensor { shape, data: rounded(&state[name]) })).collect()
}

/// Takes an evaluation's `next/…` into the state, of those that are in it.
fn advance(state: &mut Inputs, graph: &Graph, evaluation: &graphgen::interpreter::Evaluation) {
    for (name, _) in graph.outputs() {
        if let Some(target) = name.strip_prefix("next/").and_then(|state_name| state.get_mut(state_name)) {
            *target = TensorData::Exact(output(graph, evaluation, name).iter().copied().collect());
        }
    }
}

/// Trains in f64, compares with PyTorch, and calls `visit` with the state before each step.
fn train_in_f64(run: &Run, mut visit: impl FnMut(usize, &TrainStep, &Inputs)) {
    let (name, preset) = (run.name, &run.preset);
    let step_graph = train_step(preset).expect("a graph");
    let optimizer = optimizer_step(preset, &step_graph.parameters).expect("a graph");
    let schedule = LearningRate::new(&preset.optim, run.steps_per_epoch, preset.train.epochs);
    let graph = &step_graph.graph;

    let mut state = initial_state(&step_graph);
    for parameter in &step_graph.parameters {
        state.insert(format!("momentum/{}", parameter.name), TensorData::Exact(vec![0.0; parameter.shape.iter().product()]));
    }
    let mut queue = Inputs::new();
    if let Some(input) = graph.find_input("queue/embeddings") {
        queue.insert("queue/embeddings".into(), TensorData::Exact(vec![0.0; graph.ty(input).elements()]));
        queue.insert("queue/filled".into(), TensorData::I64(vec![0]));
    }
    let mut worst: f64 = 0.0;
    for (step, &loss) in run.losses().iter().enumerate() {
        let mut inputs: Inputs = state.iter().chain(&queue).map(|(name, data)| (name.clone(), data.clone())).collect();
        visit(step, &step_graph, &inputs);
        for (index, crops) in run.crops(step).into_iter().enumerate() {
            inputs.insert(format!("crops/{index}"), TensorData::U8(crops));
        }
        let evaluation = in_f64(graph, &inputs);
        let value = |name: &str| output(graph, &evaluation, name).iter().copied();
        let loss_error = (value("loss").next().expect("a loss") / loss - 1.0).abs();
        let codes = project("codes", value("codes"));
        let codes_error = distance(&codes, &run.fixture.values(&format!("{name}/codes"))[step * codes.len()..][..codes.len()]);
        assert!(loss_error <= F64 && codes_error <= F64, "{name}, step {step}: loss {loss_error:e}, codes {codes_error:e}");
        worst = worst.max(loss_error).max(codes_error);

        let active = step as u64 / run.steps_per_epoch >= preset.loss.epoch_queue_starts as u64;
        if active && !queue.is_empty() {
            advance(&mut queue, graph, &evaluation);
            queue.insert("queue/filled".into(), TensorData::I64(vec![value("next/queue/filled").next().expect("a number") as i64]));
        }
        for parameter in &step_graph.parameters {
            let gradient = format!("grad/{}", parameter.name);
            inputs.insert(gradient.clone(), TensorData::Exact(value(&gradient).collect()));
        }
        inputs.insert("learning_rate".into(), TensorData::Exact(vec![schedule.at(step as u64)]));
        inputs.insert("train_prototypes".into(), TensorData::Bool(vec![step as u64 >= preset.optim.freeze_prototypes_niters]));
        advance(&mut state, graph, &evaluation);
        advance(&mut state, &optimizer, &in_f64(&optimizer, &inputs));

        if let Some(golden) = run.fixture.find(&format!("{name}/{step}")) {
            let rows = queue.iter().filter(|(name, _)| active && *name == "queue/embeddings");
            let states = state.iter().chain(rows).map(|(name, data)| Projected::new(name, data.to_f64())).collect();
            let distances = distances(states, golden, |name| name.ends_with(NOISE));
            assert!(distances.largest <= F64, "{name}, after step {step}: {distances}");
            worst = worst.max(distances.largest);
        }
    }
    println!("{name} in f64: {worst:.1e}");
}

/// Takes the engine to a state and steps from there; the loss.
fn step_from(engine: &mut StockEngine, run: &Run, step: usize, graph: &TrainStep, state: &Inputs) -> f64 {
    engine.load_weights(&weights(graph, state)).expect("the weights fit");
    let moment = |parameter: &graphgen::nn::Parameter| {
        let name = format!("momentum/{}", parameter.name);
        let tensor = WeightTensor { shape: parameter.shape.clone(), data: rounded(&state[&name]) };
        (name, tensor)
    };
    let moments = graph.parameters.iter().map(moment).collect();
    engine.load_optimizer_state(&OptimizerState { moments, step: None }).expect("the state fits");
    if let Some(input) = graph.graph.find_input("queue/embeddings") {
        let embeddings = WeightTensor { shape: graph.graph.shape(input).to_vec(), data: rounded(&state["queue/embeddings"]) };
        let filled = state["queue/filled"].to_f64()[0] as i64;
        engine.load_queue(Some(&QueueState { embeddings, filled })).expect("the queue fits");
    }
    let crops = run.crops(step);
    engine.forward_backward(&crops.iter().map(Vec::as_slice).collect::<Vec<_>>()).expect("a step").loss.into()
}

fn check_from_pytorchs_state(name: &'static str) {
    let run = Run::open(name);
    let mut engine = None;
    let mut worst: f64 = 0.0;
    train_in_f64(&run, |step, graph, state| {
        let (engine, _) = engine.get_or_insert_with(|| run.engine(graph));
        let error = (step_from(engine, &run, step, graph, state) / run.losses()[step] - 1.0).abs();
        assert!(error <= FROM_ITS_STATE, "{name}, step {step}: {error:e}");
        worst = worst.max(error);
    });
    println!("{name} from PyTorch's states: {worst:.1e}");
}

fn check_free(name: &'static str) {
    let run = Run::open(name);
    let (engine, _) = run.engine(&train_step(&run.preset).expect("a graph"));
    let mut trainer = Trainer::new(Box::new(engine), &run.preset, run.steps_per_epoch, 0);
    let mut worst: f64 = 0.0;
    for (step, loss) in run.losses().iter().enumerate() {
        let crops = run.crops(step);
        let groups: Vec<&[u8]> = crops.iter().map(Vec::as_slice).collect();
        let mut report = trainer.forward(BatchCrops { groups: &groups, number: None }, None).expect("a step's first half");
        trainer.apply(&mut report).expect("its second half");
        let error = (f64::from(report.loss) / loss - 1.0).abs();
        assert!(error <= FREE, "{name}, step {step}: {error:e}");
        worst = worst.max(error);
    }
    println!("{name} running freely: {worst:.1e}");
}

#[test]
fn a_run_with_a_queue_in_f64_and_from_pytorchs_states() {
    check_from_pytorchs_state("queue");
}

#[test]
fn a_free_run_with_a_queue() {
    check_free("queue");
}

#[test]
fn twenty_steps_of_resnet18_in_f64_and_from_pytorchs_states() {
    check_from_pytorchs_state("resnet18");
}

#[test]
fn twenty_free_steps_of_resnet18() {
    check_free("resnet18");
}
