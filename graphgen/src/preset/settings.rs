//! The settings, section by section, and their defaults.

use serde::{Deserialize, Serialize};

use super::{Device, Guards};

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
    /// How a provider that is not the CPU works.
    pub device: Device,
    /// What a run watches itself for.
    pub guards: Guards,
}

/// ResNet depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// One basic block a stage.
    ResNet10,
    /// One bottleneck block a stage.
    ResNet14,
    /// Two basic blocks a stage.
    ResNet18,
    /// Two bottleneck blocks a stage.
    ResNet26,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Precision {
    /// Single precision throughout.
    #[serde(rename = "f32")]
    #[default]
    F32,
    /// Activations and the copies of weights that meet them in 16 bits, with loss scaling; parameters, optimizer state,
    /// statistics, loss, softmax and Sinkhorn-Knopp in f32.
    #[serde(rename = "mixed-f16")]
    MixedF16,
}

/// Formulations of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Operators of `ai.onnx` that every provider has.
    Portable,
    /// The fastest formulations of the CPU provider.
    Cpu,
    /// What the runtime's native kernels take, with maps [N,H,W,C]. Elsewhere the functions' bodies run, which are those of `cpu`
    /// between transposes: slower, unless the ONNX Runtime cancels them.
    Native,
    /// Operators of the CUDA provider.
    Cuda,
    /// Operators of the DirectML provider.
    Directml,
    /// The target `cpu` with those gradient kernels of ONNX Runtime's training build that are faster.
    #[serde(rename = "ort-training")]
    OrtTraining,
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::Directml => "directml",
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Target::Portable => "portable",
            Target::Cpu => "cpu",
            Target::Native => "native",
            Target::Cuda => "cuda",
            Target::Directml => "directml",
            Target::OrtTraining => "ort-training",
        })
    }
}

/// Where the step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// ONNX Runtime's CPU provider.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// GPUs with DirectX 12, under Windows.
    Directml,
}

/// Which implementation of Sinkhorn-Knopp runs inside the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkhornKernel {
    /// `native` on the CPU, `graph` on devices: scores and codes stay there. Which of the two is faster on a device has not
    /// been measured yet.
    Auto,
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
    /// With `mixed-f16`: round to 16 bits by explicit casts around f32 arithmetic. For tests on the CPU, whose provider
    /// would run a 16-bit graph in f32; slower than f32.
    pub emulate_f16: bool,
    /// N: micro-batches of one optimizer step. Above 1 their codes are assigned together and their gradients averaged, as
    /// by N data-parallel processes without synchronised BatchNorm.
    pub accumulate: usize,
    /// Seed of initial weights, shuffle, crops and augmentation.
    pub seed: u64,
    /// Loader threads; 0 for one per core.
    pub workers: usize,
    /// Save every so many steps; 0 for never.
    pub checkpoint_every_steps: u64,
    /// Save every so many epochs; 0 for only at the end.
    pub checkpoint_every_epochs: usize,
    /// Newest checkpoints that stay.
    pub keep_last: usize,
    /// The checkpoint at the end of every so many epochs stays for good; 0 for none.
    pub keep_every: usize,
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
            emulate_f16: false,
            accumulate: 1,
            seed: 31,
            workers: 0,
            checkpoint_every_steps: 0,
            checkpoint_every_epochs: 1,
            keep_last: 3,
            keep_every: 0,
            target: None,
            provider: Provider::Cpu,
            sinkhorn: SinkhornKernel::Auto,
        }
    }
}

impl Train {
    /// B: images of one forward and backward pass, `batch_size / accumulate`.
    pub fn micro_batch_size(&self) -> usize {
        self.batch_size / self.accumulate
    }

    /// Which Sinkhorn-Knopp runs: `native` or `graph`.
    pub fn resolved_sinkhorn(&self) -> SinkhornKernel {
        match (self.sinkhorn, self.provider) {
            (SinkhornKernel::Auto, Provider::Cpu) => SinkhornKernel::Native,
            (SinkhornKernel::Auto, Provider::Cuda | Provider::Directml) => SinkhornKernel::Graph,
            (chosen, _) => chosen,
        }
    }

    /// The target that the graphs are written for: `target`, or the provider's own.
    pub fn resolved_target(&self) -> Target {
        self.target.unwrap_or(match self.provider {
            // What is emulated there is a GPU's arithmetic.
            Provider::Cpu if self.precision == Precision::MixedF16 => Target::Cuda,
            Provider::Cpu => Target::Native,
            Provider::Cuda => Target::Cuda,
            Provider::Directml => Target::Directml,
        })
    }
}

impl Preset {
    /// Rows of the queue per assigned crop: `queue_length` floored to whole batches (official code); 0 for no queue.
    pub fn queue_rows(&self) -> usize {
        self.loss.queue_length / self.train.batch_size * self.train.batch_size
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
}
