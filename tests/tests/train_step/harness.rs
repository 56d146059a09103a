//! Small networks, and their training step in an engine.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use graphgen::artifacts::{export, initial_weights};
use graphgen::manifest::Manifest;
use graphgen::preset::{Preset, SinkhornKernel, Target};
use ort::environment::Environment;
use runtime::kernels::{KernelSet, sinkhorn_calls};
use runtime::train::open_engine_with;

/// The count of native calls is one for the whole process.
static COUNTING: Mutex<()> = Mutex::new(());

/// A network and how far its gradients may lie apart: median and largest relative L2 distance over the parameters.
pub struct Network {
    pub name: &'static str,
    pub changes: &'static [&'static str],
    pub limits: [f64; 2],
}

/// Each step is 3e-6 to 9e-6 from f64 in the median, so that two may be 1.2e-5 apart. The sign of a pre-activation near 0 may flip
/// and move the gradient of a BatchNorm's bias.
const SHALLOW: [f64; 2] = [2e-5, 1e-2];
/// A bottleneck has three places for such flips, and weights of 1x1 that meet fewer of the pixels.
const BOTTLENECK: [f64; 2] = [1e-4, 5e-2];
/// Flips multiply with depth: weights that differ by 1e-7 move the gradients of this ResNet-50 by 1.5e-2 in the median and
/// 3e-2 at most.
const DEEP: [f64; 2] = [6e-2, 1.2e-1];

/// Small networks that have every kind of layer between them.
pub const NETWORKS: [Network; 6] = [
    Network { name: "small stem, several crops, queue", changes: &["model.stem=small", "crops.size_crops=[32, 16]", "loss.queue_length=16"], limits: SHALLOW },
    Network {
        name: "one statistic per crop, two heads",
        changes: &["model.stem=small", "model.batch_norm_groups=crop", "model.nmb_prototypes=[12, 20]", "crops.size_crops=[32, 24]"],
        limits: SHALLOW,
    },
    Network { name: "max pooling", changes: &["crops.size_crops=[64, 48]", "train.batch_size=16"], limits: SHALLOW },
    // As many channels as Winograd's functions take, on maps of 12 to 3 pixels a side. Few images, so that hardly any of so many
    // pre-activations is near enough to 0 to flip.
    Network {
        name: "width",
        changes: &["model.stem=small", "model.width=64", "crops.size_crops=[12, 8]", "crops.nmb_crops=[2, 1]", "train.batch_size=4"],
        limits: BOTTLENECK,
    },
    Network { name: "bottlenecks", changes: &["model.arch=resnet14", "crops.size_crops=[64, 48]", "train.batch_size=16"], limits: BOTTLENECK },
    Network { name: "depth", changes: &["model.arch=resnet50", "model.width=32", "crops.size_crops=[64, 48]", "train.batch_size=16"], limits: DEEP },
];

pub fn preset(changes: &[&str]) -> Preset {
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
pub fn crops(preset: &Preset, salt: usize) -> Vec<Vec<u8>> {
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
pub struct Outcome {
    pub losses: Vec<f64>,
    pub gradients: Vec<(String, Vec<f32>)>,
    pub native_calls: u64,
}

/// Held while steps run, for the count.
pub fn counting() -> MutexGuard<'static, ()> {
    COUNTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the graphs of a target to a directory.
pub fn exported(preset: &Preset, target: Target, kernels: KernelSet, directory: &Path) -> Manifest {
    let mut preset = preset.clone();
    preset.train.target = Some(target);
    preset.train.sinkhorn = match kernels {
        KernelSet::Native => SinkhornKernel::Native,
        KernelSet::Functions => SinkhornKernel::Graph,
    };
    export(&preset, directory).expect("exported")
}

/// Takes the steps of the graphs in a directory.
pub fn run(environment: &Environment, manifest: &Manifest, kernels: KernelSet, directory: &Path) -> Outcome {
    let _counting = counting();
    let preset = &manifest.preset;
    let weights = initial_weights(preset).expect("initial weights");

    let mut engine = open_engine_with(environment, directory, manifest, 1, kernels).expect("the graphs load");
    engine.load_weights(&weights).expect("the weights fit");
    let before = sinkhorn_calls();
    let bytes = crops(preset, 0);
    let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    engine.forward_backward(&slices).expect("a step");
    let native_calls = sinkhorn_calls() - before;
    let gradients = manifest.parameters.iter().map(|parameter| {
        let name = format!("grad/{}", parameter.name);
        let gradient = engine.output(&name).expect("read").expect("a gradient");
        (name, gradient.data)
    });
    let gradients = gradients.collect();

    let mut engine = open_engine_with(environment, directory, manifest, 1, kernels).expect("the graphs load");
    engine.load_weights(&weights).expect("the weights fit");
    let losses = (0..3).map(|step| {
        let bytes = crops(preset, step);
        let slices: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let output = engine.forward_backward(&slices).expect("a step");
        engine.advance_queue().expect("a copy");
        engine.update(0.01, true).expect("an update");
        f64::from(output.loss)
    });
    Outcome { losses: losses.collect(), gradients, native_calls }
}

/// Relative L2 distance of every parameter's gradient from `expected`, which has a gradient for each name, ascending.
pub fn distances(outcome: &Outcome, expected: impl Fn(&str) -> Vec<f64>) -> Vec<f64> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    // Before a BatchNorm a bias moves nothing: its gradient is rounding noise.
    let gradients = outcome.gradients.iter().filter(|(name, _)| name != "grad/projection_head.0.bias");
    let mut distances: Vec<f64> = gradients
        .map(|(name, values)| {
            let expected = expected(name);
            assert_eq!(values.len(), expected.len(), "{name}");
            let difference = norm(&mut values.iter().zip(&expected).map(|(&value, expected)| f64::from(value) - expected));
            difference / norm(&mut expected.iter().copied())
        })
        .collect();
    distances.sort_by(f64::total_cmp);
    distances
}

impl Outcome {
    fn gradient(&self, name: &str) -> Vec<f64> {
        let (_, values) = self.gradients.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}"));
        values.iter().map(|&value| f64::from(value)).collect()
    }
}

/// Whether two outcomes of a network are the same step within its limits, and that of the first loss.
pub fn assert_alike(network: &Network, loss_limit: f64, one: &Outcome, other: &Outcome) {
    let Network { name, limits, .. } = network;
    let relative = (other.losses[0] - one.losses[0]).abs() / one.losses[0];
    assert!(relative <= loss_limit, "{name}: loss {} and {}", one.losses[0], other.losses[0]);
    let distances = distances(other, |name| one.gradient(name));
    let (median, largest) = (distances[distances.len() / 2], distances[distances.len() - 1]);
    assert!(median <= limits[0] && largest <= limits[1], "{name}: median {median:e}, largest {largest:e}");
    for (a, b) in one.losses.iter().zip(&other.losses) {
        assert!((a - b).abs() / a <= limits[1], "{name}: losses {:?} and {:?}", one.losses, other.losses);
    }
}
