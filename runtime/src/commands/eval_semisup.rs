//! `swav-rt eval semisup`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use graphgen::artifacts::{self, EncoderOptions, initial_weights};
use graphgen::preset::Preset;
use graphgen::weights::{Weights, import};
use serde_json::json;

use super::classification::{LabelledData, extracted, per_class_text, scores_json, write_details};
use super::options::{InputOptions, at_least_1, number};
use super::output::Output;
use crate::data::{Dataset, load_eval_batches};
use crate::eval::semisup::{FineTuned, SemiSupervised, fine_tune};
use crate::eval::{Bounds, LabelChoice, Rankings, Representation, Scores};
use crate::export::newest_checkpoint;
use crate::session::environment::environment;
use crate::session::{Encoder, SessionOptions};

/// Steps below which the official settings cannot be expected to do well.
const FEW_STEPS: usize = 200;

/// Fine-tunes the whole network with the labels of a few training images and classifies test images
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct Args {
    /// Run directory whose newest checkpoint is fine-tuned
    #[arg(long, value_name = "RUN", group = "source")]
    pub run: Option<PathBuf>,
    /// Weights to fine-tune, of --preset's network: safetensors, or PyTorch's .pth, .pth.tar or .pt
    #[arg(long, value_name = "FILE", group = "source", requires = "preset")]
    pub weights: Option<PathBuf>,
    /// Preset of the network in --weights
    #[arg(long, value_name = "FILE", requires = "weights")]
    pub preset: Option<PathBuf>,
    /// Start from random weights, to see what the pre-training is worth
    #[arg(long)]
    pub from_scratch: bool,
    #[command(flatten)]
    pub(crate) inputs: InputOptions,
    #[command(flatten)]
    pub(crate) data: LabelledData,
    /// Share of each class whose labels are used, drawn by --seed
    #[arg(long, value_name = "0..1", default_value_t = 0.01, allow_negative_numbers = true, value_parser = number(Bounds::SHARE))]
    pub share: f64,
    /// Text file with the names of the images whose labels are used, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "share")]
    pub labels: Option<PathBuf>,
    /// Passes over the labelled images
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least_1())]
    pub epochs: usize,
    /// Images of a step
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_1())]
    pub step_batch: usize,
    /// Learning rate of the encoder, multiplied by 0.2 after 60 % and 80 % of the epochs [default: 0.02 for up to 3 % of the
    /// labels, 0.01 for more]
    #[arg(long, allow_negative_numbers = true, value_parser = number(Bounds::POSITIVE))]
    pub lr: Option<f64>,
    /// Learning rate of the classifier [default: 5 for up to 3 % of the labels, 0.2 for more]
    #[arg(long, allow_negative_numbers = true, value_parser = number(Bounds::POSITIVE))]
    pub classifier_lr: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// Unlabelled images, images and weights that cannot be read, settings that cannot work.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let choice = args.labels.clone().map_or(LabelChoice::Share(args.share), LabelChoice::Listed);
    let mut pool = 0;
    let sets = args.data.open_choosing(|train: Dataset| {
        pool = train.len();
        let chosen = choice.choose(&train, args.data.seed)?;
        Ok(train.select(&chosen))
    })?;
    let (preset, weights) = args.network()?;

    let environment = environment()?;
    let model = artifacts::encoder(&preset, &weights, &EncoderOptions::default())?;
    let before = Encoder::from_bytes(&environment, &model, &SessionOptions { threads: args.inputs.threads, ..SessionOptions::default() })?;
    let extraction = args.inputs.extraction(&before, Representation::Features)?;
    let share = sets.train.len() as f64 / pool as f64;
    let crop_px = side_of(&sets.test, &extraction)?;
    let official = SemiSupervised::official(share, crop_px);
    let settings = SemiSupervised {
        epochs: args.epochs,
        batch_size: args.step_batch,
        lr: args.lr.unwrap_or(official.lr),
        classifier_lr: args.classifier_lr.unwrap_or(official.classifier_lr),
        workers: args.inputs.workers,
        threads: args.inputs.threads,
        seed: args.data.seed,
        ..official
    };
    drop(before);
    let steps = settings.epochs * (sets.train.len() / settings.batch_size.clamp(1, sets.train.len()));
    let note = if steps < FEW_STEPS {
        format!(
            "note: these are {steps} steps; the official settings are for the 12,811 images that are 1 % of ImageNet, a thousand steps: a smaller \
             --step-batch and --classifier-lr, or more --epochs may give more\n"
        )
    } else {
        String::new()
    };

    let folder = tempfile::tempdir().context("a temporary folder for the graphs")?;
    let mut progress = output.progress("epochs", settings.epochs);
    let tuned = fine_tune(&environment, &preset, &weights, &sets.train, &settings, folder.path(), |epoch, loss| {
        tracing::debug!("epoch {} of {}: loss {loss:.4}", epoch + 1, settings.epochs);
        progress.set(epoch + 1);
    })?;
    drop(progress);
    let FineTuned { mut encoder, classifier } = tuned;
    let test = extracted(&mut encoder, &extraction, &sets.test, "test images", output)?;
    let rankings: Rankings = classifier.classify(test.rows.view());
    let scores = Scores::new(&rankings, &test.labels_among(&sets.test, &sets.classes)?, &sets.classes);

    let mut summary = scores_json(&scores);
    summary["labelled_images"] = json!(sets.train.len());
    summary["train_images"] = json!(pool);
    summary["test_images"] = json!(sets.test.len());
    summary["epochs"] = json!(settings.epochs);
    summary["steps"] = json!(steps);
    summary["lr"] = json!(settings.lr);
    summary["classifier_lr"] = json!(settings.classifier_lr);
    summary["from_scratch"] = json!(args.from_scratch);
    if let Some(folder) = &args.data.out {
        write_details(folder, &scores, &rankings, &sets.test, &summary)?;
    }
    output.result(&summary, || {
        format!(
            "{} test images, network fine-tuned{} with the labels of {} of {pool} images of {} classes ({:.2} %)\n\
             semi-supervised top-1 (last of {} epochs, rates {} and {}): {:.2} %, top-5 {:.2} %\n{note}{}",
            sets.test.len(),
            if args.from_scratch { " from random weights" } else { "" },
            sets.train.len(),
            sets.classes.len(),
            100.0 * share,
            settings.epochs,
            settings.lr,
            settings.classifier_lr,
            100.0 * scores.top1(),
            100.0 * scores.top5(),
            per_class_text(&scores, 20)
        )
    })?;
    Ok(())
}

impl Args {
    /// The network and its weights: all of them, also of a projection head that the file does not have.
    fn network(&self) -> anyhow::Result<(Preset, Weights)> {
        let (preset, loaded) = match (&self.run, &self.weights, &self.preset) {
            (Some(run), ..) => {
                let checkpoint = newest_checkpoint(run)?;
                (checkpoint.progress.preset, checkpoint.weights)
            }
            (None, Some(file), Some(preset)) => {
                let preset = Preset::load(preset, &[])?;
                let weights = import(file, &artifacts::network_shapes(&preset)?)?.weights;
                (preset, weights)
            }
            _ => unreachable!("clap asks for a run, or for weights and a preset"),
        };
        let mut weights = initial_weights(&preset)?;
        if !self.from_scratch {
            weights.extend(loaded);
        }
        Ok((preset, weights))
    }
}

/// Side of the square images that the encoder gets, px.
fn side_of(dataset: &Arc<Dataset>, extraction: &crate::eval::Extraction) -> anyhow::Result<usize> {
    let first = load_eval_batches(Arc::clone(dataset), extraction.transform, 1, 1)?.next().context("at least one test image")??;
    anyhow::ensure!(first.height == first.width, "the crops need square test images to know their size, got {}x{} px; give --crop", first.height, first.width);
    Ok(first.height)
}
