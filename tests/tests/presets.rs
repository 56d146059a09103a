//! The presets in `models/`: valid, and with the values of the launch scripts they name.

use std::path::{Path, PathBuf};

use graphgen::methods::swav::train_step;
use graphgen::onnx::{ModelOptions, encode, write_model};
use graphgen::preset::{Arch, BatchNormGroups, Optim, OptimizerName, Preset, Prototypes, SchedulePer, Stem};

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

fn presets() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(models()).expect("the folder of presets").map(|entry| entry.expect("an entry").path());
    let presets: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    assert!(presets.len() >= 12, "{} presets", presets.len());
    presets
}

fn load(name: &str, overrides: &[&str]) -> Preset {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    Preset::load(&models().join(format!("{name}.toml")), &overrides).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_preset_of_the_project_is_valid_and_names_its_source() {
    for path in presets() {
        Preset::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.lines().any(|line| line.starts_with("# Source:")), "{}: no source", path.display());
    }
}

/// At its own batch size: what is as large as the maps of 4,096 images must not be built in memory.
#[test]
fn every_preset_has_a_training_step_that_fits_a_file() {
    for path in presets() {
        let preset = Preset::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let step = train_step(&preset).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let model = write_model(&step.graph, "train_step", &ModelOptions::new(preset.train.resolved_target())).expect("a model");
        let megabytes = encode(&model).expect("bytes").len() / 1_000_000;
        assert!(megabytes < 100, "{}: {megabytes} MB", path.display());
    }
}

/// What tells the official launch scripts apart.
struct Official {
    name: &'static str,
    epochs: usize,
    batch_size: usize,
    width: usize,
    hidden_mlp: usize,
    size_crops: &'static [usize],
    nmb_crops: &'static [usize],
    min_scale_crops: &'static [f64],
    max_scale_crops: &'static [f64],
    /// base_lr, final_lr, start_warmup, warmup_epochs.
    learning_rate: [f64; 4],
    frozen: u64,
    /// Length and first epoch.
    queue: Option<(usize, usize)>,
}

/// 64 GPUs x 64 images, 2x224 + 6x96 (`swav_<epochs>ep_pretrain.sh`).
const LARGE_BATCH: Official = Official {
    name: "imagenet-resnet50-100ep-bs4096",
    epochs: 100,
    batch_size: 4096,
    width: 64,
    hidden_mlp: 2048,
    size_crops: &[224, 96],
    nmb_crops: &[2, 6],
    min_scale_crops: &[0.14, 0.05],
    max_scale_crops: &[1.0, 0.14],
    learning_rate: [4.8, 0.0048, 0.3, 10.0],
    frozen: 313,
    queue: None,
};

/// 4 GPUs x 64 images (`swav_<epochs>ep_bs256_pretrain.sh`).
const SMALL_BATCH: Official = Official {
    name: "imagenet-resnet50-200ep-bs256",
    epochs: 200,
    batch_size: 256,
    learning_rate: [0.6, 0.0006, 0.0, 0.0],
    frozen: 5005,
    queue: Some((3840, 15)),
    ..LARGE_BATCH
};

const OFFICIAL: [Official; 9] = [
    LARGE_BATCH,
    Official { name: "imagenet-resnet50-200ep-bs4096", epochs: 200, ..LARGE_BATCH },
    Official { name: "imagenet-resnet50-400ep-bs4096", epochs: 400, ..LARGE_BATCH },
    Official { name: "imagenet-resnet50-800ep-bs4096", epochs: 800, ..LARGE_BATCH },
    SMALL_BATCH,
    Official { name: "imagenet-resnet50-400ep-bs256", epochs: 400, ..SMALL_BATCH },
    Official {
        name: "imagenet-resnet50-400ep-2x224-bs4096",
        epochs: 400,
        size_crops: &[224],
        nmb_crops: &[2],
        min_scale_crops: &[0.08],
        max_scale_crops: &[1.0],
        ..LARGE_BATCH
    },
    Official { name: "imagenet-resnet50w2-400ep-bs4096", epochs: 400, width: 128, hidden_mlp: 8192, nmb_crops: &[2, 4], ..LARGE_BATCH },
    Official {
        name: "imagenet-resnet50w4-400ep-bs2560",
        epochs: 400,
        batch_size: 2560,
        width: 256,
        hidden_mlp: 8192,
        nmb_crops: &[2, 4],
        min_scale_crops: &[0.08, 0.08],
        queue: Some((2560, 0)),
        ..LARGE_BATCH
    },
];

#[test]
fn the_official_settings_are_those_of_the_launch_scripts() {
    for official in OFFICIAL {
        let name = official.name;
        let Preset { model, crops, loss, optim, data, train, device: _, guards: _ } = load(name, &[]);
        assert_eq!((model.arch, model.stem, model.stem_stride, model.width), (Arch::ResNet50, Stem::ImageNet, 2, official.width), "{name}");
        assert_eq!((model.hidden_mlp, model.projection_batch_norm, model.feat_dim), (official.hidden_mlp, true, 128), "{name}");
        assert_eq!((model.nmb_prototypes, model.batch_norm_groups), (Prototypes::One(3000), BatchNormGroups::Size), "{name}");

        assert_eq!((crops.size_crops.as_slice(), crops.nmb_crops.as_slice()), (official.size_crops, official.nmb_crops), "{name}");
        assert_eq!((crops.min_scale_crops.as_slice(), crops.max_scale_crops.as_slice()), (official.min_scale_crops, official.max_scale_crops), "{name}");
        assert_eq!((crops.crops_for_assign, crops.jitter, crops.blur, crops.grayscale), (vec![0, 1], 1.0, 0.5, 0.2), "{name}");

        assert_eq!((loss.temperature, loss.epsilon, loss.sinkhorn_iterations), (0.1, 0.05, 3), "{name}");
        let queue = (loss.queue_length > 0).then_some((loss.queue_length, loss.epoch_queue_starts));
        assert_eq!(queue, official.queue, "{name}");

        let [base_lr, final_lr, start_warmup, warmup_epochs] = official.learning_rate;
        let expected = Optim {
            name: OptimizerName::Lars,
            base_lr,
            final_lr,
            start_warmup,
            warmup_epochs,
            schedule_per: SchedulePer::Step,
            weight_decay: 1e-6,
            momentum: 0.9,
            trust_coefficient: 0.001,
            freeze_prototypes_niters: official.frozen,
        };
        assert_eq!(optim, expected, "{name}");
        assert_eq!((data.mean, data.std, data.limit), ([0.485, 0.456, 0.406], [0.228, 0.224, 0.225], 0), "{name}");
        assert_eq!((train.epochs, train.batch_size), (official.epochs, official.batch_size), "{name}");
    }
}

#[test]
fn the_cifar10_setting_is_that_of_lightly() {
    let Preset { model, crops, loss, optim, train, .. } = load("cifar10-resnet18", &[]);
    assert_eq!((model.arch, model.stem, model.stem_stride, model.width), (Arch::ResNet18, Stem::Small, 1, 64));
    assert_eq!((model.hidden_mlp, model.feat_dim, model.nmb_prototypes), (512, 128, Prototypes::One(512)));
    assert_eq!(model.batch_norm_groups, BatchNormGroups::Crop);
    assert_eq!((crops.size_crops, crops.nmb_crops, crops.min_scale_crops, crops.max_scale_crops), (vec![32], vec![2], vec![0.14], vec![1.0]));
    assert_eq!((crops.crops_for_assign, crops.jitter, crops.blur, crops.grayscale), (vec![0, 1], 0.5, 0.0, 0.2));
    assert_eq!((loss.temperature, loss.epsilon, loss.sinkhorn_iterations, loss.queue_length), (0.1, 0.05, 3, 0));
    assert_eq!((optim.name, optim.schedule_per, optim.weight_decay), (OptimizerName::Adam, SchedulePer::Epoch, 1e-6));
    assert_eq!((optim.base_lr, optim.final_lr, optim.warmup_epochs, optim.freeze_prototypes_niters), (1e-3 * train.batch_size as f64 / 128.0, 0.0, 0.0, 0));
    assert_eq!((train.epochs, train.batch_size), (200, 512));
}

#[test]
fn large_batches_can_be_accumulated_as_the_documentation_says() {
    // Micro-batches of the official BatchNorm groups: 8 GPUs of 64, 32 and 40 images.
    for (name, accumulate, group) in
        [("imagenet-resnet50-100ep-bs4096", 8, 512), ("imagenet-resnet50w2-400ep-bs4096", 16, 256), ("imagenet-resnet50w4-400ep-bs2560", 8, 320)]
    {
        let preset = load(name, &[&format!("train.accumulate={accumulate}")]);
        assert_eq!(preset.train.micro_batch_size(), group, "{name}");
    }
    let preset = load("imagenet-resnet50w4-400ep-bs2560", &["train.accumulate=64"]);
    assert_eq!(preset.queue_rows(), 2560, "whole effective batches");
}

#[test]
fn several_prototype_heads_are_one_setting() {
    let preset = load("imagenet-resnet50-100ep-bs4096", &["model.nmb_prototypes=[3000, 3000, 3000]"]);
    assert_eq!(preset.model.nmb_prototypes.counts(), [3000, 3000, 3000]);
    assert_eq!(preset.model.nmb_prototypes.parameter_names()[2], "prototypes.prototypes2.weight");
}
