//! The training step in ONNX Runtime: with native kernels and without them, in every target, it is the same step.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use graphgen::artifacts::{export, initial_weights};
use graphgen::preset::{Preset, SinkhornKernel, Target};
use runtime::kernels::{KernelSet, sinkhorn_calls};
use runtime::session::Engine;
use runtime::session::environment::environment;
use runtime::train::{open_engine, open_engine_with};

/// The count of native calls is one for the whole process.
static COUNTING: Mutex<()> = Mutex::new(());

/// A network and how far its gradients may lie apart: median and largest relative L2 distance over the parameters.
struct Network {
    name: &'static str,
    changes: &'static [&'static str],
    limits: [f64; 2],
}

/// The sign of a pre-activation near 0 may flip and move the gradient of a BatchNorm's bias.
const SHALLOW: [f64; 2] = [1e-5, 1e-2];
/// A bottleneck has three places for such flips, and weights of 1x1 that meet fewer of the pixels.
const BOTTLENECK: [f64; 2] = [1e-4, 5e-2];
/// Flips multiply with depth: weights that differ by 1e-7 move the gradients of this ResNet-50 by 1.5e-2 in the median and
/// 3e-2 at most.
const DEEP: [f64; 2] = [6e-2, 1.2e-1];

/// Small networks that have every kind of layer between them.
const NETWORKS: [Network; 5] = [
    Network { name: "small stem, several crops, queue", changes: &["model.stem=small", "crops.size_crops=[32, 16]", "loss.queue_length=16"], limits: SHALLOW },
    Network {
        name: "one statistic per crop, two heads",
        changes: &["model.stem=small", "model.batch_norm_groups=crop", "model.nmb_prototypes=[12, 20]", "crops.size_crops=[32, 24]"],
        limits: SHALLOW,
    },
    Network { name: "max pooling", changes: &["crops.size_crops=[64, 48]", "train.batch_size=16"], limits: SHALLOW },
    Network { name: "bottlenecks", changes: &["model.arch=resnet14", "crops.size_crops=[64, 48]", "train.batch_size=16"], limits: BOTTLENECK },
    Network { name: "depth", changes: &["model.arch=resnet50", "model.width=32", "crops.size_crops=[64, 48]", "train.batch_size=16"], limits: DEEP },
];

fn preset(changes: &[&str]) -> Preset {
    let mut overrides: Vec<String> = [
        "model.arch=resnet10",
        "model.width=16",
        "model.hidden_mlp=32",
        "model.feat_dim=16",
        "model.nmb_prototypes=24",
        "crops.nmb_crops=[2, 2]",
        "loss.epoch_queue_starts=0",
        "train.batch_size=8",
    ]
    .map(String::from)
    .into();
    overrides.extend(changes.iter().map(|&change| change.to_owned()));
    Preset::from_toml("", &overrides).expect("a valid preset")
}

/// Pixels that differ everywhere, by formula.
fn crops(preset: &Preset, salt: usize) -> Vec<Vec<u8>> {
    let groups = preset.crops.groups();
    groups
        .iter()
        .enumerate()
        .map(|(group, crops)| {
            let bytes = crops.count * preset.train.batch_size * 3 * crops.size_px * crops.size_px;
            (0..bytes).map(|index| ((((index + 1) * (salt + 3) * 2_654_435_761 + group * 977) >> 13) & 255) as u8).collect()
        })
        .collect()
}

/// Losses of three steps, and loss and gradients of the first one.
struct Outcome {
    losses: Vec<f64>,
    gradients: Vec<(String, Vec<f32>)>,
    native_calls: u64,
}

/// Held while steps run, for the count.
fn counting() -> MutexGuard<'static, ()> {
    COUNTING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(preset: &Preset, target: Target, kernels: KernelSet, directory: &Path) -> Outcome {
    let _counting = counting();
    let mut preset = preset.clone();
    preset.train.target = Some(target);
    preset.train.sinkhorn = match kernels {
        KernelSet::Native => SinkhornKernel::Native,
        KernelSet::Functions => SinkhornKernel::Graph,
    };
    let manifest = export(&preset, directory).expect("exported");
    let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
    let weights = initial_weights(&preset).expect("initial weights");

    let mut engine = open_engine_with(&environment, directory, &manifest, 1, kernels).expect("the graphs load");
    engine.load_weights(&weights).expect("the weights fit");
    let before = sinkhorn_calls();
    let bytes = crops(&preset, 0);
    let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    engine.forward_backward(&slices).expect("a step");
    let native_calls = sinkhorn_calls() - before;
    let gradients = manifest.parameters.iter().map(|parameter| {
        let name = format!("grad/{}", parameter.name);
        let gradient = engine.output(&name).expect("read").expect("a gradient");
        (name, gradient.data)
    });
    let gradients = gradients.collect();

    let mut engine = open_engine_with(&environment, directory, &manifest, 1, kernels).expect("the graphs load");
    engine.load_weights(&weights).expect("the weights fit");
    let losses = (0..3).map(|step| {
        let bytes = crops(&preset, step);
        let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let output = engine.forward_backward(&slices).expect("a step");
        engine.advance_queue().expect("a copy");
        engine.update(0.01, true).expect("an update");
        f64::from(output.loss)
    });
    Outcome { losses: losses.collect(), gradients, native_calls }
}

/// Relative L2 distance of every parameter's gradient, ascending.
fn distances(a: &Outcome, b: &Outcome) -> Vec<f64> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let mut distances: Vec<f64> = a
        .gradients
        .iter()
        .zip(&b.gradients)
        // Before a BatchNorm a bias moves nothing: its gradient is rounding noise.
        .filter(|((name, _), _)| name != "grad/projection_head.0.bias")
        .map(|((_, a), (_, b))| {
            let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
            difference / norm(&mut a.iter().map(|&a| f64::from(a)))
        })
        .collect();
    distances.sort_by(f64::total_cmp);
    distances
}

#[test]
fn native_kernels_and_function_bodies_take_the_same_step_in_every_target() {
    for Network { name, changes, limits } in NETWORKS {
        let preset = preset(changes);
        let heads = preset.model.nmb_prototypes.counts().len() as u64;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bodies = [Target::Cpu, Target::Portable, Target::Cuda, Target::Directml].map(|target| (target, KernelSet::Functions));
        let variants = std::iter::once((Target::Cpu, KernelSet::Native)).chain(bodies);
        let outcomes: Vec<Outcome> =
            variants.enumerate().map(|(index, (target, kernels))| run(&preset, target, kernels, &directory.path().join(index.to_string()))).collect();
        assert_eq!(outcomes[0].native_calls, 2 * heads, "{name}: the native Sinkhorn-Knopp ran for each assigned crop and head");
        assert!(outcomes[1..].iter().all(|outcome| outcome.native_calls == 0), "{name}: the function bodies ran");
        for other in &outcomes[1..] {
            let relative = (other.losses[0] - outcomes[0].losses[0]).abs() / outcomes[0].losses[0];
            assert!(relative <= 1e-5, "{name}: loss {} and {}", outcomes[0].losses[0], other.losses[0]);
            let distances = distances(&outcomes[0], other);
            let (median, largest) = (distances[distances.len() / 2], distances[distances.len() - 1]);
            assert!(median <= limits[0] && largest <= limits[1], "{name}: median {median:e}, largest {largest:e}");
            for (a, b) in outcomes[0].losses.iter().zip(&other.losses) {
                assert!((a - b).abs() / a <= limits[1], "{name}: losses {:?} and {:?}", outcomes[0].losses, other.losses);
            }
        }
    }
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
