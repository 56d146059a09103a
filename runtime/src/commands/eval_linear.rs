//! `swav-rt eval linear`.

use anyhow::Context;
use serde_json::json;

use super::classification::{LabelledData, features, open_encoder, per_class_text, scores_json, write_details};
use super::options::{FeatureOptions, at_least_1, number};
use super::output::Output;
use crate::eval::augmented::{Augmented, Event, train_on_images};
use crate::eval::linear::{Classifier, Linear, train_on_features};
use crate::eval::{Bounds, Rankings, Scores};
use crate::session::environment::environment;

/// Trains a linear classifier on the frozen encoder's features and classifies test images
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(crate) features: FeatureOptions,
    #[command(flatten)]
    pub(crate) data: LabelledData,
    /// Train on a newly drawn crop of every image in every epoch (the official evaluation), not on features computed once
    #[arg(long)]
    pub augment: bool,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = Linear::default().epochs, value_parser = at_least_1())]
    pub epochs: usize,
    /// Images of a step of the classifier
    #[arg(long, value_name = "N", default_value_t = Linear::default().batch_size, value_parser = at_least_1())]
    pub step_batch: usize,
    /// Learning rate of the first epoch; a cosine takes it to 0
    #[arg(long, default_value_t = Linear::default().lr, allow_negative_numbers = true, value_parser = number(Bounds::POSITIVE))]
    pub lr: f64,
    /// Weight decay
    #[arg(long, default_value_t = Linear::default().weight_decay, allow_negative_numbers = true, value_parser = number(Bounds::DECAY))]
    pub weight_decay: f64,
}

/// Runs the command.
///
/// # Errors
/// Unlabelled images, images and encoders that cannot be read, settings that cannot work.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let settings =
        Linear { epochs: args.epochs, batch_size: args.step_batch, lr: args.lr, weight_decay: args.weight_decay, seed: args.data.seed, ..Linear::default() };
    let sets = args.data.open()?;
    let mut encoder = open_encoder(&environment()?, &args.features)?;
    let test = features(&mut encoder, &args.features, &sets.test, "test images", output)?;
    let test_labels = test.labels_among(&sets.test, &sets.classes)?;

    let mut best: Option<(f64, usize)> = None;
    let mut watch = |epoch: usize, loss: f64, classifier: &Classifier| {
        let scores = Scores::new(&classifier.classify(test.rows.view()), &test_labels, &sets.classes);
        if best.is_none_or(|(top1, _)| scores.top1() > top1) {
            best = Some((scores.top1(), epoch));
        }
        tracing::debug!("epoch {} of {}: loss {loss:.4}, top-1 {:.2} %", epoch + 1, settings.epochs, 100.0 * scores.top1());
    };
    let classifier = if args.augment {
        let labels = (0..sets.train.len()).map(|index| sets.train.label(index).context("a label")).collect::<Result<Vec<_>, _>>()?;
        let extraction = args.features.extraction(&encoder)?;
        let [height, width] = test.size_px;
        anyhow::ensure!(height == width, "--augment needs square test images to know the crops' size, got {width}x{height} px; give --crop");
        let augmented =
            Augmented { crop_px: height, representation: extraction.representation, encoder_batch: extraction.batch_size, workers: extraction.workers };
        let mut progress = output.progress("crops", settings.epochs * sets.train.len());
        train_on_images(&mut encoder, &sets.train, &labels, sets.classes.len(), &settings, &augmented, |event| match event {
            Event::Images(done) => progress.set(done),
            Event::Epoch { epoch, loss, classifier } => watch(epoch, loss, classifier),
        })?
    } else {
        let train = features(&mut encoder, &args.features, &sets.train, "training images", output)?;
        let labels = train.labels_among(&sets.train, &sets.classes)?;
        let mut progress = output.progress("epochs", settings.epochs);
        train_on_features(train.rows.view(), &labels, sets.classes.len(), &settings, |epoch, loss, classifier| {
            watch(epoch, loss, classifier);
            progress.set(epoch + 1);
        })?
    };

    let rankings: Rankings = classifier.classify(test.rows.view());
    let scores = Scores::new(&rankings, &test_labels, &sets.classes);
    let (best_top1, best_epoch) = best.context("at least one epoch")?;
    let inputs = if args.augment { "augmented images" } else { "features" };
    let mut summary = scores_json(&scores);
    summary["train_images"] = json!(sets.train.len());
    summary["test_images"] = json!(sets.test.len());
    summary["epochs"] = json!(settings.epochs);
    summary["lr"] = json!(settings.lr);
    summary["inputs"] = json!(inputs);
    summary["best_top1"] = json!(best_top1);
    summary["best_epoch"] = json!(best_epoch + 1);
    if let Some(folder) = &args.data.out {
        write_details(folder, &scores, &rankings, &sets.test, &summary)?;
    }
    output.result(&summary, || {
        format!(
            "{} test images, classifier of {} classes trained on {inputs} of {} images\n\
             linear top-1 (last of {} epochs): {:.2} %, top-5 {:.2} %\n\
             best epoch on the test images ({}): {:.2} %\n{}",
            sets.test.len(),
            sets.classes.len(),
            sets.train.len(),
            settings.epochs,
            100.0 * scores.top1(),
            100.0 * scores.top5(),
            best_epoch + 1,
            100.0 * best_top1,
            per_class_text(&scores, 20)
        )
    })?;
    Ok(())
}
