//! Semi-supervised evaluation: the whole network is fine-tuned with the labels of a few images.
//!
//! The protocol of SwAV's `eval_semisup.py`: SGD with momentum 0.9 and no weight decay, one learning rate for the encoder and
//! one for a new linear classifier, both multiplied by 0.2 after epochs 12 and 16 of 20; RandomResizedCrop and flip.

use std::path::Path;
use std::sync::Arc;

use graphgen::artifacts::{self, EncoderOptions};
use graphgen::methods::supervised::{CLASSIFIER, FineTuning, fine_tuning_step, is_classifier};
use graphgen::nn::initialize;
use graphgen::preset::{Preset, Provider};
use graphgen::weights::Weights;
use ndarray::{Array1, Array2};
use ort::environment::Environment;

use super::augmented::labelled_crops;
use super::linear::Classifier;
use super::{Bounds, EvalError};
use crate::data::{Dataset, Loader};
use crate::kernels::{KernelSet, native_operators};
use crate::machine::thread_count;
use crate::session::{Encoder, EngineError, SessionOptions, StepOutput, StockEngine};

/// Settings of the fine-tuning.
#[derive(Debug, Clone, PartialEq)]
pub struct SemiSupervised {
    /// Passes over the labelled images.
    pub epochs: usize,
    /// Images of a step; all labelled images if there are fewer.
    pub batch_size: usize,
    /// Learning rate of the encoder in the first epochs.
    pub lr: f64,
    /// Learning rate of the classifier in the first epochs.
    pub classifier_lr: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Side of the crops, px.
    pub crop_px: usize,
    /// Loader threads; 0 for one a core.
    pub workers: usize,
    /// Threads of one operator; 0 for one a core.
    pub threads: usize,
    /// Seed of the classifier's initial weights, order and crops.
    pub seed: u64,
}

/// What the learning rates are multiplied by, twice.
const DECAY: f64 = 0.2;
/// Share of labels up to which the official learning rates for 1 % are used.
const FEW_LABELS: f64 = 0.03;

impl SemiSupervised {
    /// The official settings for images of `crop_px`: those for 1 % of the labels, or for a share above 3 % those for 10 %.
    pub fn official(share: f64, crop_px: usize) -> SemiSupervised {
        let (lr, classifier_lr) = if share <= FEW_LABELS { (0.02, 5.0) } else { (0.01, 0.2) };
        SemiSupervised { epochs: 20, batch_size: 256, lr, classifier_lr, momentum: 0.9, crop_px, workers: 0, threads: 0, seed: 31 }
    }

    /// Learning rate of the encoder in an epoch, from 0: multiplied by 0.2 after 60 % of the epochs, and again after 80 %.
    pub fn lr_at(&self, epoch: usize) -> f64 {
        let decays = [3, 4].into_iter().filter(|fifths| 5 * epoch >= fifths * self.epochs).count();
        self.lr * DECAY.powi(decays as i32)
    }

    fn validate(&self) -> Result<(), EvalError> {
        for (setting, value) in [("--epochs", self.epochs), ("--step-batch", self.batch_size)] {
            if value == 0 {
                return Err(EvalError::Setting { setting, problem: "expected at least 1, got 0".into() });
            }
        }
        Bounds::POSITIVE.require("--lr", self.lr)?;
        Bounds::POSITIVE.require("--classifier-lr", self.classifier_lr)
    }
}

/// A fine-tuned network.
pub struct FineTuned {
    /// The encoder; its projection head is that of before, and fits it no more.
    pub encoder: Encoder,
    /// The classifier of the encoder's features.
    pub classifier: Classifier,
}

/// Fine-tunes a preset's network from `weights` on labelled images, all of `dataset`. An incomplete last batch of an epoch is
/// left out, as in training. `folder` takes the graphs. `after_epoch` gets the epoch (from 0) and its mean cross-entropy in
/// nats, each batch's before its update.
///
/// # Errors
/// Images without a label or that cannot be read, settings that cannot work, a loss that is not finite, and whatever
/// ONNX Runtime reports.
pub fn fine_tune(
    environment: &Environment,
    preset: &Preset,
    weights: &Weights,
    dataset: &Arc<Dataset>,
    settings: &SemiSupervised,
    folder: &Path,
    mut after_epoch: impl FnMut(usize, f64),
) -> Result<FineTuned, EvalError> {
    settings.validate()?;
    let labels = (0..dataset.len()).map(|index| dataset.label(index).ok_or_else(|| EvalError::Unlabelled { name: dataset.name(index) }));
    let labels = labels.collect::<Result<Vec<usize>, _>>()?;
    // An evaluation runs on the CPU, wherever the encoder was trained.
    let mut preset = preset.clone();
    (preset.train.provider, preset.train.target) = (Provider::Cpu, None);
    let graphs = FineTuning {
        classes: dataset.class_names().len(),
        batch_size: settings.batch_size.min(dataset.len()),
        crop_px: settings.crop_px,
        momentum: settings.momentum,
        classifier_lr_factor: settings.classifier_lr / settings.lr,
    };
    let manifest = artifacts::export_fine_tuning(&preset, &graphs, folder)?;
    let operators = native_operators(KernelSet::Native.in_graphs_of(manifest.target), false, thread_count(settings.threads))
        .map_err(EngineError::run("registering the native kernels"))?;
    let options = SessionOptions { threads: settings.threads, operators: operators.map(Arc::new), ..SessionOptions::default() };
    let mut engine = StockEngine::open(environment, folder, &manifest, &options)?;
    engine.load_weights(&initial_weights(&preset, weights, &graphs, settings.seed)?)?;

    let loader = Loader::new(Arc::clone(dataset), labelled_crops(settings.crop_px, graphs.batch_size, settings.seed, settings.workers))?;
    let mut stream = loader.stream(0, 0);
    for epoch in 0..settings.epochs {
        let mut sum = 0.0;
        for _ in 0..loader.batches_per_epoch() {
            let batch = stream.next()?;
            engine.load_labels(&batch.indices().iter().map(|&index| labels[index]).collect::<Vec<_>>())?;
            let output = engine.forward_backward(&[batch.crops(0)])?;
            check_numbers(&output, settings, epoch)?;
            sum += f64::from(output.loss);
            engine.update(settings.lr_at(epoch) as f32, false)?;
        }
        let loss = sum / loader.batches_per_epoch() as f64;
        after_epoch(epoch, loss);
    }
    fine_tuned(environment, &preset, weights, engine.weights()?, settings)
}

/// Fails where the loss or a gradient is no number any more. The loss alone would not tell: ReLU turns NaN into 0.
fn check_numbers(output: &StepOutput, settings: &SemiSupervised, epoch: usize) -> Result<(), EvalError> {
    let norm = output.stats.get("grad_norm").copied().unwrap_or(0.0);
    if output.loss.is_finite() && norm.is_finite() {
        return Ok(());
    }
    let problem = format!(
        "expected rates at which the network learns, but with {} and --classifier-lr {} the loss is {} and the norm of the gradients {norm} in epoch {}; \
         lower them",
        settings.lr,
        settings.classifier_lr,
        output.loss,
        epoch + 1
    );
    Err(EvalError::Setting { setting: "--lr", problem })
}

/// The network's weights, with a new classifier.
fn initial_weights(preset: &Preset, weights: &Weights, graphs: &FineTuning, seed: u64) -> Result<Weights, EvalError> {
    let step = fine_tuning_step(preset, graphs).map_err(artifacts::ArtifactError::from)?;
    let is_needed = |name: &String| step.parameters.iter().any(|parameter| parameter.name == *name) || step.running_statistics.iter().any(|s| s.name == *name);
    let mut initial: Weights = weights.iter().filter(|(name, _)| is_needed(name)).map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    for parameter in step.parameters.iter().filter(|parameter| is_classifier(&parameter.name)) {
        initial.insert(parameter.name.clone(), initialize(seed, &parameter.name, &parameter.shape, parameter.init));
    }
    Ok(initial)
}

/// Takes the trained weights apart: the encoder with its old projection head, and the classifier.
fn fine_tuned(environment: &Environment, preset: &Preset, before: &Weights, mut trained: Weights, settings: &SemiSupervised) -> Result<FineTuned, EvalError> {
    let mut part = |part: &str| trained.remove(&format!("{CLASSIFIER}.{part}")).expect("the graphs have a classifier");
    let (weight, bias) = (part("weight"), part("bias"));
    let weight = Array2::from_shape_vec((weight.shape[0], weight.shape[1]), weight.data).expect("the weight is a matrix");
    let classifier = Classifier::from_parameters(weight, Array1::from_vec(bias.data));
    let mut weights = before.clone();
    weights.extend(trained);
    let model = artifacts::encoder(preset, &weights, &EncoderOptions::default())?;
    let encoder = Encoder::from_bytes(environment, &model, &SessionOptions { threads: settings.threads, ..SessionOptions::default() })?;
    Ok(FineTuned { encoder, classifier })
}

#[cfg(test)]
mod tests {
    use graphgen::artifacts::initial_weights as fresh_weights;
    use graphgen::weights::WeightTensor;

    use super::*;
    use crate::data::{Purpose, Random};
    use crate::eval::{Extraction, Scores, extract};
    use crate::session::environment::environment;

    const PRESET: &str = "
[model]
arch = 'resnet10'
width = 8
stem = 'small'
hidden_mlp = 0
feat_dim = 4
nmb_prototypes = 6
[crops]
size_crops = [16]
nmb_crops = [2]
min_scale_crops = [0.3]
max_scale_crops = [1.0]
[train]
precision = 'mixed-f16'
emulate_f16 = true
batch_size = 64
accumulate = 8
";

    /// Noisy images of three classes, each with a colour of its own.
    fn write_colours(data: &Path, of_each: usize) {
        for class in 0..3 {
            let folder = data.join(class.to_string());
            std::fs::create_dir_all(&folder).expect("create");
            for index in 0..of_each {
                let mut random = Random::new(1, Purpose::Synth, class as u64, index as u64);
                let mut colour = || image::Rgb([0, 1, 2].map(|channel| random.below(160) as u8 + if channel == class { 95 } else { 0 }));
                let picture = image::RgbImage::from_fn(16, 16, |_, _| colour());
                picture.save(folder.join(format!("{index}.png"))).expect("write");
            }
        }
    }

    fn top1(tuned: &mut FineTuned, dataset: &Arc<Dataset>) -> f64 {
        let features = extract(&mut tuned.encoder, dataset, &Extraction { workers: 1, ..Extraction::default() }, |_| {}).expect("readable");
        let labels = features.labels_among(dataset, dataset.class_names()).expect("labelled");
        Scores::new(&tuned.classifier.classify(features.rows.view()), &labels, dataset.class_names()).top1()
    }

    #[test]
    fn a_few_steps_make_the_network_right_more_often() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let data = folder.path().join("images");
        write_colours(&data, 16);
        let dataset = Arc::new(Dataset::open(&[data]).expect("a data set"));
        let (environment, preset) = (environment().expect("ONNX Runtime is set up"), Preset::from_toml(PRESET, &[]).expect("valid"));
        let weights = fresh_weights(&preset).expect("a network");
        let settings = SemiSupervised { epochs: 5, batch_size: 16, lr: 0.02, classifier_lr: 0.2, workers: 1, threads: 1, ..SemiSupervised::official(1.0, 16) };
        let run = |weights: &Weights, settings: &SemiSupervised| {
            let mut losses = Vec::new();
            let graphs = tempfile::tempdir().expect("temporary directory");
            let tuned = fine_tune(&environment, &preset, weights, &dataset, settings, graphs.path(), |_, loss| losses.push(loss));
            tuned.map(|tuned| (tuned, losses))
        };
        let (mut barely, _) = run(&weights, &SemiSupervised { epochs: 1, lr: 1e-9, classifier_lr: 1e-9, ..settings.clone() }).expect("trained");
        let (mut tuned, losses) = run(&weights, &settings).expect("trained");
        let (before, after) = (top1(&mut barely, &dataset), top1(&mut tuned, &dataset));
        assert!(losses.len() == 5 && losses[4] < losses[0] / 2.0, "{losses:?}");
        // Chance is a third.
        assert!(before < 0.6 && after > 0.9, "{before} {after}");
        let (_, again) = run(&weights, &settings).expect("trained");
        assert_eq!(again, losses, "the same seed gives the same network");
        let broken =
            Weights::from_iter(weights.iter().map(|(name, tensor)| (name.clone(), WeightTensor { data: vec![f32::NAN; tensor.data.len()], ..tensor.clone() })));
        let error = run(&broken, &settings).err().expect("no number").to_string();
        assert!(error.contains("--lr") && error.contains("in epoch 1; lower them"), "{error}");
        let error = run(&weights, &SemiSupervised { epochs: 0, ..settings }).err().expect("none").to_string();
        assert!(error.contains("--epochs: expected at least 1"), "{error}");
    }

    #[test]
    fn rates_are_the_official_ones_and_fall_after_epochs_12_and_16() {
        let (few, more) = (SemiSupervised::official(0.01, 224), SemiSupervised::official(0.1, 224));
        assert_eq!((few.lr, few.classifier_lr, more.lr, more.classifier_lr), (0.02, 5.0, 0.01, 0.2));
        for (epoch, expected) in [(0, 0.02), (11, 0.02), (12, 0.004), (15, 0.004), (16, 0.0008), (19, 0.0008)] {
            assert!((few.lr_at(epoch) - expected).abs() < 1e-12, "{epoch}");
        }
    }
}
