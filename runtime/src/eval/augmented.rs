//! The official linear evaluation: a classifier on features of newly augmented images in every epoch.

use std::sync::Arc;

use graphgen::preset::Crops;
use ndarray::{Array2, concatenate};

use super::linear::{Classifier, Linear, check_loss};
use super::{EvalError, Representation};
use crate::data::{BrokenPolicy, Dataset, DecodeOptions, Loader, LoaderConfig};
use crate::session::Encoder;

/// Smallest share of an image's area that a crop shows: RandomResizedCrop's default.
const MIN_SCALE: f64 = 0.08;

/// How images become crops and features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Augmented {
    /// Side of the crops, px.
    pub crop_px: usize,
    /// Which output of the encoder.
    pub representation: Representation,
    /// Images of one run of the encoder; a static encoder uses its own.
    pub encoder_batch: usize,
    /// Loader threads; 0 for one a core.
    pub workers: usize,
}

/// How far the training is.
#[derive(Debug)]
pub enum Event<'a> {
    /// Crops used so far, over all epochs.
    Images(usize),
    /// An epoch ended.
    Epoch {
        /// Which, from 0.
        epoch: usize,
        /// Its mean cross-entropy, nats.
        loss: f64,
        /// The classifier after it.
        classifier: &'a Classifier,
    },
}

/// Trains on a RandomResizedCrop (scale 0.08 to 1) of every image, mirrored or not, drawn anew in every epoch. An incomplete
/// last batch is left out, as in training. `observe` hears of every batch and every epoch.
///
/// # Errors
/// Images that cannot be read, settings that cannot work, a loss that is not finite, and whatever the encoder reports.
///
/// # Panics
/// If there are not as many labels as images, or a label is not below `classes`.
pub fn train_on_images(
    encoder: &mut Encoder,
    dataset: &Arc<Dataset>,
    labels: &[usize],
    classes: usize,
    settings: &Linear,
    augmented: &Augmented,
    mut observe: impl FnMut(Event),
) -> Result<Classifier, EvalError> {
    settings.validate()?;
    let batch_size = settings.batch_size.min(dataset.len());
    let config = labelled_crops(augmented.crop_px, batch_size, settings.seed, augmented.workers);
    let loader = Loader::new(Arc::clone(dataset), config)?;
    let mut stream = loader.stream(0, 0);
    let mut classifier = None;
    let mut done = 0;
    for epoch in 0..settings.epochs {
        let mut sum = 0.0;
        for _ in 0..loader.batches_per_epoch() {
            let batch = stream.next()?;
            let rows = encode(encoder, batch.crops(0), augmented)?;
            let batch_labels: Vec<usize> = batch.indices().iter().map(|&index| labels[index]).collect();
            let classifier = classifier.get_or_insert_with(|| Classifier::new(rows.ncols(), classes, settings.seed));
            sum += classifier.step(rows.view(), &batch_labels, settings.lr_at(epoch), settings);
            done += batch_size;
            observe(Event::Images(done));
        }
        let loss = sum / loader.batches_per_epoch() as f64;
        check_loss(loss, settings, epoch)?;
        if let Some(classifier) = &classifier {
            observe(Event::Epoch { epoch, loss, classifier });
        }
    }
    classifier.ok_or(EvalError::Setting { setting: "--train", problem: "expected labelled images, got none".into() })
}

/// One RandomResizedCrop (scale 0.08 to 1) of every image, mirrored or not, drawn anew in every epoch: what the official
/// evaluations train on.
pub(super) fn labelled_crops(crop_px: usize, batch_size: usize, seed: u64, workers: usize) -> LoaderConfig {
    LoaderConfig {
        crops: Crops {
            size_crops: vec![crop_px],
            nmb_crops: vec![1],
            min_scale_crops: vec![MIN_SCALE],
            max_scale_crops: vec![1.0],
            crops_for_assign: vec![0],
            jitter: 0.0,
            blur: 0.0,
            grayscale: 0.0,
        },
        batch_size,
        micro_batches: 1,
        seed,
        workers,
        batches_ahead: 2,
        batches_held: 1,
        decode: DecodeOptions::default(),
        // A substitute would carry another image's label.
        broken: BrokenPolicy { max_share: 0.0, list: None },
    }
}

/// f32 [n, F] of crops u8 [n, 3, S, S].
fn encode(encoder: &mut Encoder, crops: &[u8], augmented: &Augmented) -> Result<Array2<f32>, EvalError> {
    let side = augmented.crop_px;
    let image_bytes = 3 * side * side;
    let part = encoder.static_batch().unwrap_or(augmented.encoder_batch);
    let mut parts = Vec::new();
    for images in crops.chunks(part * image_bytes) {
        let output = encoder.run(images, [images.len() / image_bytes, side, side])?;
        parts.push(match augmented.representation {
            Representation::Features => output.features,
            Representation::Embedding => output.embedding,
        });
    }
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    Ok(concatenate(ndarray::Axis(0), &views).expect("the rows of one encoder have one width"))
}
