//! The training API's engine beside the stock one, each with its own ONNX Runtime. Without the training build
//! (`scripts/setup.sh --engine training-api`) these tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use graphgen::artifacts::export;
use graphgen::interpreter::evaluate;
use graphgen::ir::{DType, Graph, TensorData, TensorType};
use graphgen::manifest::{Manifest, TensorSpec};
use graphgen::onnx::{ModelOptions, encode, write_model};
use graphgen::ops::{InPlaceAccumulator, Slice};
use graphgen::optim::optimizer_step;
use graphgen::preset::{Preset, Target};
use graphgen::training_api;
use graphgen::weights::{WeightTensor, Weights, load_safetensors};
use ndarray::ArrayD;
use runtime::data::synth::{self, SynthConfig};
use runtime::session::environment::{EnvironmentError, Library};
use runtime::session::{Engine, OptimizerState, SessionOptions, TrainingApiEngine};
use runtime::train::StepMetrics;

/// 40 images in batches of 8: 20 steps. The queue of two batches starts in the second epoch. No warm-up.
///
/// So small a network is chaotic: where the sign of a value near zero flips, losses move by 1e-3 and more. At a temperature of 0.1 and
/// with SGD or Adam a learning rate that is 1e-6 off moves the stock engine's own losses by 1e-1 and 2e-3 within 20 steps; at 0.2 one
/// that is 1e-7 off moves them by 1e-6 from most seeds, but by up to 2e-2 from some.
const PRESET: &str = concat!(
    include_str!("presets/tiny.toml"),
    "
[loss]
temperature = 0.2
queue_length = 16
epoch_queue_starts = 1
[optim]
warmup_epochs = 0
[train]
batch_size = 8
epochs = 4
workers = 1
"
);

/// Micro-batches of 4 images, with two heads.
const MICRO_BATCHES: [&str; 3] = ["train.accumulate=2", "model.nmb_prototypes=[12, 9]", "train.sinkhorn=graph"];

/// What is compared over many steps is compared from these, and the median counts.
const SEEDS: [&str; 3] = ["train.seed=31", "train.seed=32", "train.seed=33"];

/// Optimizers with settings of their own. With frozen prototypes, Adam and AdamW count their steps for themselves.
const OPTIMIZERS: [&[&str]; 5] = [
    &["optim.name=lars", "optim.base_lr=0.3", "optim.weight_decay=1e-4", "optim.freeze_prototypes_niters=3"],
    &["optim.name=sgd", "optim.base_lr=3e-4", "optim.weight_decay=1e-2", "optim.freeze_prototypes_niters=3"],
    &["optim.name=adam", "optim.base_lr=3e-4", "optim.weight_decay=1e-2", "optim.freeze_prototypes_niters=3"],
    &["optim.name=adamw", "optim.base_lr=1e-3", "optim.weight_decay=0.1", "optim.freeze_prototypes_niters=3"],
    &["optim.name=adamw", "optim.base_lr=1e-3", "optim.weight_decay=0.1", "optim.freeze_prototypes_niters=0"],
];

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project folder")
}

fn is_set_up() -> bool {
    let found = project().join(".ort/training/libonnxruntime.so").is_file();
    if !found {
        eprintln!("skipped: there is no training build; scripts/setup.sh --engine training-api gets it (Linux on x86-64)");
    }
    found
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("temporary directory"));
        synth::write(&folder.path("images"), &SynthConfig { images: 40, classes: 4, size_px: 24, seed: 1 }, |_| {}).expect("images");
        std::fs::write(folder.path("preset.toml"), PRESET).expect("write");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `swav-rt train` in a process of its own, with the library that the engine finds in the project folder.
    fn train(&self, run: &str, engine: &str, settings: &[&str], more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swav-rt"));
        command.current_dir(project()).env_remove("ORT_DYLIB_PATH").args(["train", "--engine", engine, "--threads", "1"]);
        command.arg("--preset").arg(self.path("preset.toml")).arg("--data").arg(self.path("images")).arg("--out").arg(self.path(run)).args(more);
        settings.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.output().expect("the program runs")
    }

    fn losses(&self, run: &str, engine: &str, settings: &[&str], more: &[&str]) -> Vec<f64> {
        let output = self.train(run, engine, settings, more);
        assert!(output.status.success(), "{settings:?} on {engine}: {}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).expect("metrics");
        text.lines().map(|line| f64::from(serde_json::from_str::<StepMetrics>(line).expect("an object a line").loss)).collect()
    }
}

/// Largest relative difference.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b.abs()).fold(0.0, f64::max)
}

#[test]
fn both_engines_train_alike() {
    if !is_set_up() {
        return;
    }
    let folder = Folder::new();
    let several: Vec<&str> = MICRO_BATCHES.iter().chain(OPTIMIZERS[0]).copied().collect();
    for (index, settings) in OPTIMIZERS.into_iter().chain([several.as_slice()]).enumerate() {
        let mut differences = SEEDS.map(|seed| {
            let settings = [settings, &[seed]].concat();
            let stock = folder.losses(&format!("stock-{index}-{seed}"), "stock", &settings, &[]);
            let training_api = folder.losses(&format!("training-api-{index}-{seed}"), "training-api", &settings, &[]);
            assert_eq!(stock.len(), 20);
            let (first, all) = (difference(&training_api[..1], &stock[..1]), difference(&training_api, &stock));
            println!("{}, {seed}: first step {first:.1e}, 20 steps {all:.1e}", settings[0]);
            assert!(first <= 1e-5, "{settings:?}: first step {first:e}");
            all
        });
        differences.sort_by(f64::total_cmp);
        assert!(differences[SEEDS.len() / 2] <= 1e-4, "{settings:?}: 20 steps {differences:?}");
    }
}

#[test]
fn a_run_goes_on_with_the_other_engine() {
    if !is_set_up() {
        return;
    }
    let folder = Folder::new();
    let several: Vec<&str> = MICRO_BATCHES.iter().chain(OPTIMIZERS[0]).copied().collect();
    for (index, settings) in [OPTIMIZERS[0], OPTIMIZERS[3], &several].into_iter().enumerate() {
        let whole = folder.losses(&format!("whole-{index}"), "stock", settings, &[]);
        // The second step is one with frozen prototypes, the seventh one with a filling queue.
        for (engines, stop) in [(["stock", "training-api"], "7"), (["training-api", "stock"], "7"), (["stock", "training-api"], "2")] {
            let run = format!("{}-{stop}-{index}", engines[0]);
            folder.losses(&run, engines[0], settings, &["--max-steps", stop]);
            let losses = folder.losses(&run, engines[1], settings, &[]);
            let difference = difference(&losses, &whole);
            println!("{}, {} to {} after {stop} steps: {difference:.1e}", settings[0], engines[0], engines[1]);
            assert!(difference <= 1e-3, "{settings:?} on {engines:?}: {difference:e}");
        }
    }
}

#[test]
fn a_library_without_the_training_api_is_named_with_the_way_out() {
    let folder = Folder::new();
    let stock = project().join(".ort/lib/libonnxruntime.so");
    if !stock.is_file() {
        eprintln!("skipped: {} is not there", stock.display());
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_swav-rt"));
    command.env("ORT_DYLIB_PATH", &stock).args(["train", "--engine", "training-api"]);
    command.arg("--preset").arg(folder.path("preset.toml")).arg("--data").arg(folder.path("images")).arg("--out").arg(folder.path("run"));
    let output = command.output().expect("the program runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<&str> = message.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!((output.status.code(), errors.len()), (Some(1), 1), "{message}");
    for part in ["has no training API", "scripts/setup.sh --engine training-api", "docs/training-api.md"] {
        assert!(errors[0].contains(part), "{message}");
    }
    assert!(!folder.path("run").exists(), "nothing was written");
}

#[test]
fn what_the_training_api_cannot_follow_is_refused_before_anything_is_written() {
    if !is_set_up() {
        return;
    }
    let folder = Folder::new();
    let output = folder.train("run", "training-api", &["model.nmb_prototypes=8", "model.hidden_mlp=8"], &[]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("optim.freeze_prototypes_niters") && message.contains("--engine stock"), "{message}");
    assert!(!folder.path("run").exists());
}

#[test]
fn the_stock_engine_refuses_the_training_builds_kernels_before_anything_is_written() {
    let folder = Folder::new();
    let output = folder.train("run", "stock", &["train.target=ort-training"], &[]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("train.target") && message.contains("--engine training-api"), "{message}");
    assert!(!folder.path("run").exists());
}

/// Gradients of all parameters from 8-bit numbers, one of which is 128: the tests' own training step.
fn gradient_of(g: &mut Graph, bytes: graphgen::ir::ValueId, start: usize, shape: &[usize]) -> graphgen::ir::ValueId {
    let length = shape.iter().product::<usize>();
    let part = Slice { axes: vec![0], starts: vec![start], ends: vec![start + length], steps: vec![1] };
    let part = g.apply(part, &[bytes]).expect("within the bytes");
    let numbers = g.cast(part, DType::F32).expect("u8");
    let centred = g.offset(numbers, -128.0).expect("f32");
    let small = g.scale(centred, 1.0 / 1024.0).expect("f32");
    g.reshape(small, shape).expect("as many elements")
}

fn elements(manifest: &Manifest) -> usize {
    manifest.parameters.iter().map(|spec| spec.shape.iter().product::<usize>()).sum()
}

/// Replaces the training model by one whose gradients come straight from the crops.
fn with_given_gradients(directory: &Path, manifest: &mut Manifest) {
    let mut g = Graph::new();
    let crops = TensorSpec { name: "crops/0".into(), dtype: "u8".into(), shape: vec![elements(manifest)] };
    let bytes = g.input("crops/0", TensorType::new(DType::U8, crops.shape.clone()));
    let reset = g.input("lazy_reset_grad", TensorType::new(DType::Bool, vec![1]));
    let loss = g.constant([1], TensorData::F32(vec![1.0]));
    g.output("loss", loss);
    let mut start = 0;
    for spec in &manifest.parameters {
        g.input(&spec.name, TensorType::f32(spec.shape.clone()));
        let buffer = g.input(&format!("{}_grad.accumulation.buffer", spec.name), TensorType::f32(spec.shape.clone()));
        let gradient = gradient_of(&mut g, bytes, start, &spec.shape);
        let done = g.apply(InPlaceAccumulator, &[buffer, gradient, reset]).expect("of one shape");
        g.output(&format!("{}_grad.accumulation.out", spec.name), done);
        start += spec.shape.iter().product::<usize>();
    }
    let model = encode(&write_model(&g, "gradients", &ModelOptions::new(Target::Cpu)).expect("a model")).expect("small");
    std::fs::write(directory.join(training_api::FOLDER).join(training_api::TRAINING_MODEL_FILE), model).expect("write");
    manifest.running_statistics.clear();
    let spec = manifest.training_api.as_mut().expect("added");
    spec.inputs = vec![crops];
    spec.outputs = vec![TensorSpec { name: "loss".into(), dtype: "f32".into(), shape: vec![1] }];
}

/// A state in f64 and its graph.
struct Reference {
    graph: Graph,
    values: graphgen::gradcheck::Inputs,
}

impl Reference {
    fn new(preset: &Preset, weights: &Weights, step: &graphgen::methods::swav::TrainStep) -> Reference {
        let graph = optimizer_step(preset, &step.parameters).expect("valid");
        let mut values = graphgen::gradcheck::Inputs::new();
        for &input in graph.inputs() {
            let name = graph.input_name(input);
            let value = match weights.get(name) {
                Some(weight) => ArrayD::from_shape_vec(weight.shape.clone(), weight.data.iter().map(|&value| f64::from(value)).collect()).expect("its shape"),
                None => ArrayD::zeros(graph.shape(input).to_vec()),
            };
            values.insert(name.to_owned(), value);
        }
        Reference { graph, values }
    }

    fn step(&mut self, gradients: &Weights, learning_rate: f32, train_prototypes: bool) {
        for (name, value) in [("learning_rate", f64::from(learning_rate)), ("train_prototypes", f64::from(u8::from(train_prototypes)))] {
            self.values.insert(name.to_owned(), ArrayD::from_elem(vec![1], value));
        }
        for (name, gradient) in gradients {
            let value = ArrayD::from_shape_vec(gradient.shape.clone(), gradient.data.iter().map(|&value| f64::from(value)).collect()).expect("its shape");
            self.values.insert(format!("grad/{name}"), value);
        }
        let values = evaluate(&self.graph, &self.values);
        for (name, value) in self.graph.outputs() {
            self.values.insert(name.trim_start_matches("next/").to_owned(), values.get(*value).clone());
        }
    }
}

/// Relative L2 distance of f32 from f64.
fn distance(got: &WeightTensor, expected: &ArrayD<f64>) -> f64 {
    assert_eq!(got.shape, expected.shape());
    let (mut error, mut norm) = (0.0, 0.0);
    for (&got, &expected) in got.data.iter().zip(expected) {
        error += (f64::from(got) - expected).powi(2);
        norm += expected.powi(2);
    }
    if norm == 0.0 { error.sqrt() } else { (error / norm).sqrt() }
}

fn engine(preset: &Preset, directory: &Path) -> Option<(TrainingApiEngine, Manifest, Weights)> {
    let environment = match Library::Training.environment() {
        Ok(environment) => environment,
        Err(error @ (EnvironmentError::NotFound { .. } | EnvironmentError::NoTrainingApi { .. })) => {
            eprintln!("skipped: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let graphs = directory.join("graphs");
    export(preset, &graphs).expect("exported");
    let mut manifest = training_api::add(&graphs).expect("added");
    let mut weights = load_safetensors(&graphs.join("init.safetensors")).expect("weights");
    weights.retain(|name, _| manifest.parameters.iter().any(|spec| spec.name == *name));
    with_given_gradients(&graphs, &mut manifest);
    let options = SessionOptions { threads: 1, ..SessionOptions::default() };
    let mut engine = TrainingApiEngine::open(&environment, &graphs, &manifest, &options, &[]).expect("the models load");
    engine.load_weights(&weights).expect("they fit");
    Some((engine, manifest, weights))
}

#[test]
fn with_the_same_gradients_an_update_is_the_same() {
    let two_heads: Vec<&str> = OPTIMIZERS[0].iter().copied().chain(["model.nmb_prototypes=[12, 9]"]).collect();
    for settings in OPTIMIZERS.into_iter().chain([two_heads.as_slice()]) {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let preset = Preset::from_toml(PRESET, &settings).expect("valid");
        let directory = tempfile::tempdir().expect("temporary directory");
        let Some((mut engine, manifest, weights)) = engine(&preset, directory.path()) else { return };
        let mut reference = Reference::new(&preset, &weights, &graphgen::methods::swav::train_step(&preset).expect("valid"));

        let learning_rate = preset.optim.base_lr as f32;
        for step in 0..5_u64 {
            let crops: Vec<u8> = (0..elements(&manifest)).map(|index| (((index + 3) * (2 * step as usize + 3) * 2_654_435_761) >> 13) as u8).collect();
            let mut rest = crops.as_slice();
            let mut gradients = Weights::new();
            for spec in &manifest.parameters {
                let (part, after) = rest.split_at(spec.shape.iter().product());
                rest = after;
                let data = part.iter().map(|&byte| (f32::from(byte) - 128.0) / 1024.0).collect();
                gradients.insert(spec.name.clone(), WeightTensor { shape: spec.shape.clone(), data });
            }
            let trains = step >= preset.optim.freeze_prototypes_niters;
            // The training step normalises the prototypes; here nothing does but this.
            let mut before = engine.weights().expect("weights");
            let prototypes = preset.model.nmb_prototypes.parameter_names();
            for (_, weights) in before.iter_mut().filter(|(name, _)| prototypes.contains(name)) {
                for row in weights.data.chunks_mut(preset.model.feat_dim) {
                    let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|value| *value /= norm);
                }
            }
            engine.load_weights(&before).expect("they fit");
            // Twice: the gradients are those of the last pass, not a sum.
            engine.forward_backward(&[&crops]).expect("a pass");
            engine.forward_backward(&[&crops]).expect("a pass");
            engine.update(learning_rate, trains).expect("an update");
            reference.step(&gradients, learning_rate, trains);

            let got = engine.weights().expect("weights");
            for (name, weight) in &got {
                let distance = distance(weight, &reference.values[name]);
                assert!(distance <= 1e-6 * (step + 1) as f64, "{} step {step}: {name} {distance:e}", settings[0]);
            }
            for name in prototypes.iter().filter(|_| !trains) {
                assert_eq!(got[name], before[name], "frozen");
            }
            let OptimizerState { moments, step: counted } = engine.optimizer_state().expect("moments");
            for (name, moment) in &moments {
                // AdamWOptimizer takes 1 − β₂ from β₂ in f32, which is 1.3e-5 off; its bias correction is off by the same.
                let bound = if name.starts_with("variance/") { 2e-5 } else { 1e-6 };
                let distance = distance(moment, &reference.values[name]);
                assert!(distance <= bound, "{} step {step}: {name} {distance:e}", settings[0]);
            }
            assert_eq!(counted, settings[0].contains("adam").then_some(step as i64 + 1));
            assert_eq!(moments.len(), manifest.parameters.len() * if counted.is_some() { 2 } else { 1 });

            // A state that is loaded is the state that was saved.
            let state = engine.optimizer_state().expect("moments");
            engine.load_optimizer_state(&state, step + 1).expect("it fits");
            assert_eq!(engine.optimizer_state().expect("moments"), state);
            assert_eq!(engine.weights().expect("weights"), got);
        }
        let error = engine.load_optimizer_state(&OptimizerState::default(), 5).expect_err("another's").to_string();
        assert!(error.contains("another optimizer"), "{error}");
        let error = engine.forward_backward(&[&[0; 5]]).expect_err("size").to_string();
        assert!(error.contains("crops/0: expected"), "{error}");
        assert_eq!(engine.queue_filled(), None);
    }
}
