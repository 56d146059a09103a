//! Presets: every setting of a run, in TOML, with the names of the official launch scripts.
//!
//! A preset file is read as a table, laid over the table of its `base`, changed by `--set` overrides, and only then
//! turned into a [`Preset`], which is valid by construction: unknown fields and impossible settings are refused here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is wrong with a preset.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// The file could not be read.
    #[error("cannot read the preset {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// Not TOML, an unknown field, or a field of the wrong type.
    #[error("{origin}: {message}")]
    Parse {
        /// The file or override that was parsed.
        origin: String,
        /// What the parser said.
        message: String,
    },
    /// A `base` that has a `base` itself.
    #[error("{path}: the base preset {base} has a base of its own; presets inherit one level only")]
    NestedBase {
        /// The preset.
        path: PathBuf,
        /// Its base.
        base: PathBuf,
    },
    /// An override that is not `section.key=value`.
    #[error("--set {text}: expected section.key=value, for example --set optim.base_lr=0.6")]
    Override {
        /// The override as given.
        text: String,
    },
    /// A setting that cannot work.
    #[error("preset setting {setting}: {problem}")]
    Invalid {
        /// `section.key`.
        setting: &'static str,
        /// What was expected, what came and what to do.
        problem: String,
    },
}

/// All settings of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preset {
    /// Encoder, projection head and prototypes.
    pub model: Model,
    /// Multi-crop and augmentation.
    pub crops: Crops,
    /// Swapped prediction loss, Sinkhorn-Knopp and queue.
    pub loss: Loss,
    /// Optimizer and learning-rate schedule.
    pub optim: Optim,
    /// What is read from the data set, and its normalisation.
    pub data: Data,
    /// Length, batch, precision and housekeeping.
    pub train: Train,
}

/// ResNet depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// One basic block a stage.
    ResNet10,
    /// Two basic blocks a stage.
    ResNet18,
    /// 3, 4, 6, 3 basic blocks.
    ResNet34,
    /// 3, 4, 6, 3 bottleneck blocks.
    ResNet50,
}

/// The first layers of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7x7 convolution with stride 2, then 3x3 max pooling with stride 2.
    ImageNet,
    /// 3x3 convolution with `stem_stride`, no pooling: for images up to about 64 px.
    Small,
}

/// Which crops share one set of BatchNorm statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNormGroups {
    /// Adjacent crops of one size go through the backbone together and all crops through the head together (official code).
    Size,
    /// Every crop goes through backbone and head on its own (lightly).
    Crop,
}

/// One number, or several: a single head of prototypes, or one head for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prototypes {
    /// One head, parameter `prototypes.weight`.
    One(usize),
    /// Several heads, parameters `prototypes.prototypes0.weight`, ….
    Heads(Vec<usize>),
}

impl Prototypes {
    /// Number of prototypes of each head.
    pub fn counts(&self) -> &[usize] {
        match self {
            Prototypes::One(count) => std::slice::from_ref(count),
            Prototypes::Heads(counts) => counts,
        }
    }

    /// Parameter names of the heads, in the order of [`counts`](Self::counts).
    pub fn parameter_names(&self) -> Vec<String> {
        match self {
            Prototypes::One(_) => vec!["prototypes.weight".into()],
            Prototypes::Heads(counts) => (0..counts.len()).map(|head| format!("prototypes.prototypes{head}.weight")).collect(),
        }
    }
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// ResNet depth.
    pub arch: Arch,
    /// Channels of the stem and the first stage: 64 is the standard network, 128 w2, 256 w4, 320 w5.
    pub width: usize,
    /// First layers.
    pub stem: Stem,
    /// Stride of the `small` stem, 1 or 2; the `imagenet` stem has stride 2.
    pub stem_stride: usize,
    /// Hidden width of the projection head; 0 for a single linear layer.
    pub hidden_mlp: usize,
    /// BatchNorm between the layers of the projection head (the official w5 weights have none).
    pub projection_batch_norm: bool,
    /// D: length of an embedding.
    pub feat_dim: usize,
    /// K: prototypes, one number or a list for several heads.
    pub nmb_prototypes: Prototypes,
    /// Which crops share BatchNorm statistics.
    pub batch_norm_groups: BatchNormGroups,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            arch: Arch::ResNet50,
            width: 64,
            stem: Stem::ImageNet,
            stem_stride: 2,
            hidden_mlp: 2048,
            projection_batch_norm: true,
            feat_dim: 128,
            nmb_prototypes: Prototypes::One(3000),
            batch_norm_groups: BatchNormGroups::Size,
        }
    }
}

/// `[crops]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Crops {
    /// Side of the crops of each entry, px.
    pub size_crops: Vec<usize>,
    /// Number of crops of each entry.
    pub nmb_crops: Vec<usize>,
    /// Smallest share of the image's area.
    pub min_scale_crops: Vec<f64>,
    /// Largest share of the image's area.
    pub max_scale_crops: Vec<f64>,
    /// Indices of the crops whose codes are computed and predicted by the others.
    pub crops_for_assign: Vec<usize>,
    /// Strength s of the colour jitter (applied with probability 0.8): brightness, contrast and saturation in 1 ± 0.8s, hue in ± 0.2s; 0 for none.
    pub jitter: f64,
    /// Probability of Gaussian blur, radius U(0.1, 2).
    pub blur: f64,
    /// Probability of greyscale.
    pub grayscale: f64,
}

impl Default for Crops {
    fn default() -> Self {
        Crops {
            size_crops: vec![224, 96],
            nmb_crops: vec![2, 6],
            min_scale_crops: vec![0.14, 0.05],
            max_scale_crops: vec![1.0, 0.14],
            crops_for_assign: vec![0, 1],
            jitter: 1.0,
            blur: 0.5,
            grayscale: 0.2,
        }
    }
}

/// Adjacent crops of equal size: one graph input `crops/<index>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropGroup {
    /// Side, px.
    pub size_px: usize,
    /// Number of crops.
    pub count: usize,
}

impl Crops {
    /// V: crops of one image.
    pub fn total(&self) -> usize {
        self.nmb_crops.iter().sum()
    }

    /// Groups of adjacent crops of equal size, in crop order.
    pub fn groups(&self) -> Vec<CropGroup> {
        let mut groups: Vec<CropGroup> = Vec::new();
        for (&size_px, &count) in self.size_crops.iter().zip(&self.nmb_crops) {
            match groups.last_mut() {
                Some(last) if last.size_px == size_px => last.count += count,
                _ => groups.push(CropGroup { size_px, count }),
            }
        }
        groups
    }
}

/// `[loss]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// τ: softmax temperature of the predictions.
    pub temperature: f64,
    /// ε: entropic regularisation of Sinkhorn-Knopp.
    pub epsilon: f64,
    /// Row and column normalisations of Sinkhorn-Knopp.
    pub sinkhorn_iterations: usize,
    /// L: embeddings kept for the codes, over all ranks; 0 for no queue.
    pub queue_length: usize,
    /// First epoch (from 0) in which the queue is filled.
    pub epoch_queue_starts: usize,
}

impl Default for Loss {
    fn default() -> Self {
        Loss { temperature: 0.1, epsilon: 0.05, sinkhorn_iterations: 3, queue_length: 0, epoch_queue_starts: 15 }
    }
}

/// Optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// LARS around SGD with momentum.
    Lars,
    /// SGD with momentum and coupled L2 decay.
    Sgd,
    /// Adam with coupled L2 decay.
    Adam,
    /// Adam with decoupled decay.
    AdamW,
}

/// How often the learning rate moves along its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulePer {
    /// Every step (official code).
    Step,
    /// Once an epoch (lightly).
    Epoch,
}

/// `[optim]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optim {
    /// Optimizer.
    pub name: OptimizerName,
    /// Learning rate after the warm-up.
    pub base_lr: f64,
    /// Learning rate the cosine decays towards.
    pub final_lr: f64,
    /// Learning rate of the first warm-up step.
    pub start_warmup: f64,
    /// Length of the linear warm-up, epochs; may be fractional.
    pub warmup_epochs: f64,
    /// How often the learning rate moves.
    pub schedule_per: SchedulePer,
    /// Weight decay.
    pub weight_decay: f64,
    /// Momentum of LARS and SGD.
    pub momentum: f64,
    /// Trust coefficient of LARS.
    pub trust_coefficient: f64,
    /// Steps at the start in which the prototypes keep their initial values.
    pub freeze_prototypes_niters: u64,
}

impl Default for Optim {
    fn default() -> Self {
        Optim {
            name: OptimizerName::Lars,
            base_lr: 4.8,
            final_lr: 0.0,
            start_warmup: 0.0,
            warmup_epochs: 10.0,
            schedule_per: SchedulePer::Step,
            weight_decay: 1e-6,
            momentum: 0.9,
            trust_coefficient: 0.001,
            freeze_prototypes_niters: 313,
        }
    }
}

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Train on a seeded random subset of this many images; 0 for all.
    pub limit: usize,
    /// Share of an epoch's images, 0 to 1, that may be broken; other images stand in for them.
    pub max_broken_share: f64,
    /// Turn images as their EXIF orientation says; off, as in torchvision.
    pub exif_orientation: bool,
    /// Mean of the RGB channels, of pixels in 0…1.
    pub mean: [f64; 3],
    /// Standard deviation of the RGB channels.
    pub std: [f64; 3],
}

impl Default for Data {
    fn default() -> Self {
        Data { limit: 0, max_broken_share: 0.01, exif_orientation: false, mean: [0.485, 0.456, 0.406], std: [0.228, 0.224, 0.225] }
    }
}

/// Arithmetic of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// Single precision throughout.
    #[serde(rename = "f32")]
    F32,
}

/// Formulations of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Operators of `ai.onnx` that every provider has.
    Portable,
    /// The fastest formulations of the CPU provider.
    Cpu,
}

/// Where the step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// ONNX Runtime's CPU provider.
    Cpu,
}

/// Which implementation of Sinkhorn-Knopp runs inside the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkhornKernel {
    /// The runtime's Rust kernel.
    Native,
    /// The function's body in standard operators.
    Graph,
}

/// `[train]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Passes over the data.
    pub epochs: usize,
    /// Effective batch: images of one optimizer step.
    pub batch_size: usize,
    /// Arithmetic.
    pub precision: Precision,
    /// Forward and backward passes of one optimizer step; only 1 so far.
    pub accumulate: usize,
    /// Seed of initial weights, shuffle, crops and augmentation.
    pub seed: u64,
    /// Loader threads; 0 for one per core.
    pub workers: usize,
    /// Save every so many steps; 0 for never.
    pub checkpoint_every_steps: u64,
    /// Save every so many epochs; 0 for only at the end.
    pub checkpoint_every_epochs: usize,
    /// Formulations of the graph; by default those of the provider.
    pub target: Option<Target>,
    /// Where the step runs.
    pub provider: Provider,
    /// Which Sinkhorn-Knopp runs.
    pub sinkhorn: SinkhornKernel,
}

impl Default for Train {
    fn default() -> Self {
        Train {
            epochs: 100,
            batch_size: 4096,
            precision: Precision::F32,
            accumulate: 1,
            seed: 31,
            workers: 0,
            checkpoint_every_steps: 0,
            checkpoint_every_epochs: 1,
            target: None,
            provider: Provider::Cpu,
            sinkhorn: SinkhornKernel::Native,
        }
    }
}

impl Train {
    /// The target that the graphs are written for: `target`, or the provider's own.
    pub fn resolved_target(&self) -> Target {
        self.target.unwrap_or(match self.provider {
            Provider::Cpu => Target::Cpu,
        })
    }
}

impl Preset {
    /// Reads a preset file, its `base` if it names one, and applies `section.key=value` overrides.
    ///
    /// # Errors
    /// An unreadable file, invalid TOML, unknown fields, and settings that cannot work.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Preset, PresetError> {
        let mut table = read_table(path)?;
        if let Some(base) = table.remove("base") {
            let toml::Value::String(base) = base else {
                return Err(PresetError::Parse {
                    origin: path.display().to_string(),
                    message: format!("base: expected the file name of another preset, got {base}"),
                });
            };
            let base = path.parent().unwrap_or(Path::new("")).join(base);
            let mut merged = read_table(&base)?;
            if merged.contains_key("base") {
                return Err(PresetError::NestedBase { path: path.into(), base });
            }
            overlay(&mut merged, table);
            table = merged;
        }
        Self::resolve(table, &path.display().to_string(), overrides)
    }

    /// Reads a preset from text, without a `base`, and applies overrides.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_toml(text: &str, overrides: &[String]) -> Result<Preset, PresetError> {
        Self::resolve(parse_table(text, "preset")?, "preset", overrides)
    }

    fn resolve(mut table: toml::Table, origin: &str, overrides: &[String]) -> Result<Preset, PresetError> {
        // Parsed once before the overrides, so that an error names its true origin.
        let _: Preset = deserialize(table.clone(), origin)?;
        for text in overrides {
            apply_override(&mut table, text)?;
        }
        let origin = if overrides.is_empty() { origin.to_owned() } else { format!("{origin} with --set {}", overrides.join(" --set ")) };
        let preset: Preset = deserialize(table, &origin)?;
        preset.validate()?;
        Ok(preset)
    }

    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), PresetError> {
        let invalid = |setting, problem: String| Err(PresetError::Invalid { setting, problem });
        let Preset { model, crops, loss, optim, data, train } = self;

        if model.width == 0 || model.width > 4096 {
            return invalid("model.width", format!("expected 1 to 4096 channels, got {}", model.width));
        }
        if !(1..=2).contains(&model.stem_stride) {
            return invalid("model.stem_stride", format!("expected 1 or 2, got {}", model.stem_stride));
        }
        if model.stem == Stem::ImageNet && model.stem_stride != 2 {
            return invalid("model.stem_stride", "the imagenet stem has stride 2; a 3x3 stem is model.stem = \"small\"".into());
        }
        if model.feat_dim == 0 {
            return invalid("model.feat_dim", "expected at least 1 (the official default is 128), got 0".into());
        }
        let counts = model.nmb_prototypes.counts();
        if counts.is_empty() {
            return invalid("model.nmb_prototypes", "expected a number or a list of at least one number, got an empty list".into());
        }
        if let Some(&count) = counts.iter().find(|&&count| count < 2) {
            return invalid(
                "model.nmb_prototypes",
                format!("expected at least 2 prototypes, got {count}; about 10 times the number of expected classes is a good start"),
            );
        }

        let entries = crops.size_crops.len();
        if entries == 0 {
            return invalid("crops.size_crops", "expected at least one crop size, got an empty list".into());
        }
        for (setting, len) in [
            ("crops.nmb_crops", crops.nmb_crops.len()),
            ("crops.min_scale_crops", crops.min_scale_crops.len()),
            ("crops.max_scale_crops", crops.max_scale_crops.len()),
        ] {
            if len != entries {
                return invalid(setting, format!("expected {entries} entries like crops.size_crops, got {len}"));
            }
        }
        for (&size, &count) in crops.size_crops.iter().zip(&crops.nmb_crops) {
            if !(8..=4096).contains(&size) {
                return invalid("crops.size_crops", format!("expected 8 to 4096 px, got {size}"));
            }
            if count == 0 {
                return invalid("crops.nmb_crops", format!("expected at least one crop of {size} px, got 0; leave the entry out instead"));
            }
        }
        for (&min, &max) in crops.min_scale_crops.iter().zip(&crops.max_scale_crops) {
            if !(min > 0.0 && min <= max && max <= 1.0) {
                return invalid("crops.min_scale_crops", format!("expected 0 < min ≤ max ≤ 1 (shares of the image's area), got {min} and {max}"));
            }
        }
        let total = crops.total();
        if total < 2 {
            return invalid("crops.nmb_crops", format!("the swapped loss needs at least 2 crops of an image, got {total}"));
        }
        if total > 64 {
            return invalid("crops.nmb_crops", format!("expected at most 64 crops of an image, got {total}"));
        }
        if crops.crops_for_assign.is_empty() {
            return invalid("crops.crops_for_assign", "expected at least one crop index, got an empty list".into());
        }
        for (position, &crop) in crops.crops_for_assign.iter().enumerate() {
            if crop >= total {
                return invalid("crops.crops_for_assign", format!("crop {crop} does not exist: there are {total} crops, numbered from 0"));
            }
            if crops.crops_for_assign[..position].contains(&crop) {
                return invalid("crops.crops_for_assign", format!("crop {crop} is listed twice"));
            }
        }
        if !(0.0..=1.25).contains(&crops.jitter) {
            return invalid("crops.jitter", format!("expected a strength from 0 to 1.25, got {}", crops.jitter));
        }
        for (setting, probability) in [("crops.blur", crops.blur), ("crops.grayscale", crops.grayscale)] {
            if !(0.0..=1.0).contains(&probability) {
                return invalid(setting, format!("expected a probability from 0 to 1, got {probability}"));
            }
        }

        if !(loss.temperature > 0.0 && loss.temperature.is_finite()) {
            return invalid("loss.temperature", format!("expected a positive number (the official value is 0.1), got {}", loss.temperature));
        }
        if !(loss.epsilon >= 0.005 && loss.epsilon.is_finite()) {
            return invalid("loss.epsilon", format!("expected at least 0.005 (the official value is 0.05), got {}", loss.epsilon));
        }
        if !(1..=100).contains(&loss.sinkhorn_iterations) {
            return invalid("loss.sinkhorn_iterations", format!("expected 1 to 100 (the official value is 3), got {}", loss.sinkhorn_iterations));
        }

        for (setting, value) in [
            ("optim.base_lr", optim.base_lr),
            ("optim.final_lr", optim.final_lr),
            ("optim.start_warmup", optim.start_warmup),
            ("optim.warmup_epochs", optim.warmup_epochs),
            ("optim.weight_decay", optim.weight_decay),
            ("optim.trust_coefficient", optim.trust_coefficient),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(setting, format!("expected a number of at least 0, got {value}"));
            }
        }
        if !(0.0..1.0).contains(&optim.momentum) {
            return invalid("optim.momentum", format!("expected a number from 0 to below 1, got {}", optim.momentum));
        }

        if !(0.0..=1.0).contains(&data.max_broken_share) {
            return invalid("data.max_broken_share", format!("expected a share from 0 to 1, got {}", data.max_broken_share));
        }
        if data.mean.iter().any(|mean| !(0.0..=1.0).contains(mean)) {
            return invalid("data.mean", format!("expected three numbers from 0 to 1, got {:?}", data.mean));
        }
        if data.std.iter().any(|std| !(*std > 0.0 && std.is_finite())) {
            return invalid("data.std", format!("expected three positive numbers, got {:?}", data.std));
        }

        if train.epochs == 0 {
            return invalid("train.epochs", "expected at least 1, got 0".into());
        }
        if train.batch_size < 2 {
            return invalid("train.batch_size", format!("BatchNorm and Sinkhorn-Knopp need at least 2 images, got {}", train.batch_size));
        }
        if train.accumulate != 1 {
            return invalid(
                "train.accumulate",
                format!(
                    "expected 1, got {}: this version does not accumulate gradients; choose a smaller train.batch_size, and a queue (loss.queue_length) for the codes",
                    train.accumulate
                ),
            );
        }
        if optim.warmup_epochs >= train.epochs as f64 {
            return invalid("optim.warmup_epochs", format!("expected less than train.epochs = {}, got {}", train.epochs, optim.warmup_epochs));
        }
        if loss.queue_length > 0 && loss.queue_length < train.batch_size {
            return invalid(
                "loss.queue_length",
                format!("expected 0 (no queue) or at least train.batch_size = {}, got {}", train.batch_size, loss.queue_length),
            );
        }
        if data.limit > 0 && data.limit < train.batch_size {
            return invalid("data.limit", format!("expected 0 (all images) or at least train.batch_size = {}, got {}", train.batch_size, data.limit));
        }
        Ok(())
    }

    /// Rows of the queue per assigned crop: `queue_length` floored to whole batches (official code); 0 for no queue.
    pub fn queue_rows(&self) -> usize {
        self.loss.queue_length / self.train.batch_size * self.train.batch_size
    }

    /// The preset as TOML, every setting written out.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a preset has only TOML types")
    }
}

fn read_table(path: &Path) -> Result<toml::Table, PresetError> {
    let text = std::fs::read_to_string(path).map_err(|reason| PresetError::Read { path: path.into(), reason })?;
    parse_table(&text, &path.display().to_string())
}

fn parse_table(text: &str, origin: &str) -> Result<toml::Table, PresetError> {
    text.parse::<toml::Table>().map_err(|error| PresetError::Parse { origin: origin.into(), message: error.to_string() })
}

fn deserialize(table: toml::Table, origin: &str) -> Result<Preset, PresetError> {
    Preset::deserialize(table).map_err(|error| PresetError::Parse { origin: origin.into(), message: error.to_string().trim_end().to_owned() })
}

/// Lays `top` over `bottom`, section by section and field by field.
fn overlay(bottom: &mut toml::Table, top: toml::Table) {
    for (key, value) in top {
        match (bottom.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                bottom.insert(key, value);
            }
        }
    }
}

fn apply_override(table: &mut toml::Table, text: &str) -> Result<(), PresetError> {
    let malformed = || PresetError::Override { text: text.into() };
    let (path, value) = text.split_once('=').ok_or_else(malformed)?;
    let (section, key) = path.trim().split_once('.').ok_or_else(malformed)?;
    let value = value.trim();
    // A bare word is a string: --set model.arch=resnet18.
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    match table.entry(section.trim()).or_insert_with(|| toml::Value::Table(toml::Table::new())) {
        toml::Value::Table(section) => {
            section.insert(key.trim().to_owned(), value);
            Ok(())
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_official_100_epoch_setting_and_is_valid() {
        let preset = Preset::from_toml("", &[]).expect("valid");
        assert_eq!(preset, Preset::default());
        assert_eq!(preset.crops.groups(), [CropGroup { size_px: 224, count: 2 }, CropGroup { size_px: 96, count: 6 }]);
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let error = Preset::from_toml("[loss]\ntemprature = 0.1", &[]).expect_err("unknown field").to_string();
        assert!(error.contains("temprature") && error.contains("temperature"), "{error}");
        let error = Preset::from_toml("[lose]\n", &[]).expect_err("unknown section").to_string();
        assert!(error.contains("lose"), "{error}");
    }

    #[test]
    fn overrides_take_numbers_lists_and_bare_words() {
        let overrides: Vec<String> =
            ["model.arch=resnet18", "optim.base_lr=0.6", "crops.nmb_crops=[2, 4]", "model.nmb_prototypes=[30, 50]"].map(String::from).into();
        let preset = Preset::from_toml("", &overrides).expect("valid");
        assert_eq!(preset.model.arch, Arch::ResNet18);
        assert_eq!(preset.optim.base_lr, 0.6);
        assert_eq!(preset.crops.nmb_crops, [2, 4]);
        assert_eq!(preset.model.nmb_prototypes.parameter_names(), ["prototypes.prototypes0.weight", "prototypes.prototypes1.weight"]);
        assert!(matches!(Preset::from_toml("", &["base_lr=1".into()]), Err(PresetError::Override { .. })));
        let error = Preset::from_toml("", &["optim.lr=1".into()]).expect_err("unknown field").to_string();
        assert!(error.contains("--set optim.lr=1") && error.contains("base_lr"), "{error}");
    }

    #[test]
    fn a_base_is_inherited_one_level() {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::write(dir.path().join("a.toml"), "[optim]\nbase_lr = 0.6\nfinal_lr = 0.1").expect("write");
        std::fs::write(dir.path().join("b.toml"), "base = \"a.toml\"\n[optim]\nfinal_lr = 0.2").expect("write");
        std::fs::write(dir.path().join("c.toml"), "base = \"b.toml\"").expect("write");
        let preset = Preset::load(&dir.path().join("b.toml"), &[]).expect("valid");
        assert_eq!((preset.optim.base_lr, preset.optim.final_lr), (0.6, 0.2));
        assert!(matches!(Preset::load(&dir.path().join("c.toml"), &[]), Err(PresetError::NestedBase { .. })));
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        for (change, setting) in [
            ("model.nmb_prototypes=1", "model.nmb_prototypes"),
            ("crops.nmb_crops=[2]", "crops.nmb_crops"),
            ("crops.nmb_crops=[0,6]", "crops.nmb_crops"),
            ("crops.crops_for_assign=[9]", "crops.crops_for_assign"),
            ("crops.min_scale_crops=[0.5,0.2]", "crops.min_scale_crops"),
            ("loss.epsilon=0", "loss.epsilon"),
            ("loss.queue_length=100", "loss.queue_length"),
            ("train.batch_size=1", "train.batch_size"),
            ("train.accumulate=2", "train.accumulate"),
            ("optim.warmup_epochs=100", "optim.warmup_epochs"),
        ] {
            match Preset::from_toml("", &[change.into()]) {
                Err(PresetError::Invalid { setting: named, .. }) => assert_eq!(named, setting, "{change}"),
                other => panic!("{change}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_written_preset_reads_back() {
        let preset = Preset::default();
        assert_eq!(Preset::from_toml(&preset.to_toml(), &[]).expect("valid"), preset);
    }
}
