//! Preprocessed batches of a whole data set, in its order.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::augment::resize::Resizer;
use super::dataset::Dataset;
use super::decode::{DecodeOptions, Decoder, RgbImage};
use super::error::DataError;
use super::eval_transform::EvalTransform;
use crate::machine::thread_count;

/// Preprocessed images with their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalBatch {
    /// Indices in the data set.
    pub indices: Vec<usize>,
    /// Class indices; `None` for images of flat folders.
    pub labels: Vec<Option<usize>>,
    /// Height, px.
    pub height: usize,
    /// Width, px.
    pub width: usize,
    /// u8 [n, 3, height, width].
    pub data: Vec<u8>,
}

/// Batches in the data set's order; see [`load_eval_batches`].
#[derive(Debug)]
pub struct EvalBatches {
    /// One channel a worker; worker w makes the batches w, w + W, w + 2W, ….
    channels: Vec<Receiver<Result<EvalBatch, DataError>>>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
    batches: usize,
    /// Height, width and the first image's size, of which all others must be.
    size: Option<(usize, usize)>,
    dataset: Arc<Dataset>,
}

/// Loads all images of a data set in order, `batch_size` at a time (the last batch may be smaller), with `workers` threads
/// (0: one per core). The result does not depend on the number of threads. After an error there are no further batches.
///
/// # Errors
/// An empty batch, or a thread that cannot be started. The iterator gives an error for an image that cannot be read:
/// an evaluation that leaves images out would not be comparable.
pub fn load_eval_batches(dataset: Arc<Dataset>, transform: EvalTransform, batch_size: usize, workers: usize) -> Result<EvalBatches, DataError> {
    if batch_size == 0 {
        return Err(DataError::Zero { setting: "batch_size" });
    }
    let batches = dataset.len().div_ceil(batch_size);
    let workers = thread_count(workers).min(batches);
    let mut channels = Vec::new();
    let mut threads = Vec::new();
    for worker in 0..workers {
        // One finished batch waits while the next is made.
        let (sender, receiver) = sync_channel(1);
        let dataset = Arc::clone(&dataset);
        let work = move || {
            let mut scratch = Scratch::default();
            for batch in (worker..batches).step_by(workers) {
                let indices = batch * batch_size..((batch + 1) * batch_size).min(dataset.len());
                // The receiver goes when the iterator is dropped.
                if sender.send(make_batch(&dataset, transform, indices, &mut scratch)).is_err() {
                    return;
                }
            }
        };
        threads.push(std::thread::Builder::new().name(format!("eval-{worker}")).spawn(work).map_err(DataError::Spawn)?);
        channels.push(receiver);
    }
    Ok(EvalBatches { channels, threads, next: 0, batches, size: None, dataset })
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    encoded: Vec<u8>,
    decoder: Decoder,
    image: RgbImage,
    resizer: Resizer,
}

fn make_batch(
    dataset: &Dataset,
    transform: EvalTransform,
    indices: std::ops::Range<usize>,
    Scratch { encoded, decoder, image, resizer }: &mut Scratch,
) -> Result<EvalBatch, DataError> {
    let decode = DecodeOptions { exif_orientation: transform.exif_orientation, ..DecodeOptions::default() };
    let mut batch = EvalBatch { labels: Vec::new(), indices: Vec::new(), height: 0, width: 0, data: Vec::new() };
    for index in indices.clone() {
        let named = |source| DataError::Image { name: dataset.name(index), source: Box::new(source) };
        dataset.read_into(index, encoded)?;
        decoder.decode(encoded, decode, image).map_err(named)?;
        let made = transform.apply_with(image, resizer).map_err(named)?;
        if batch.indices.is_empty() {
            (batch.height, batch.width) = (made.height, made.width);
            batch.data.reserve_exact(indices.len() * made.data.len());
        }
        check_size(dataset, index, (made.height, made.width), (batch.height, batch.width))?;
        batch.indices.push(index);
        batch.labels.push(dataset.label(index));
        batch.data.extend_from_slice(&made.data);
    }
    Ok(batch)
}

fn check_size(dataset: &Dataset, index: usize, (got_height, got_width): (usize, usize), (height, width): (usize, usize)) -> Result<(), DataError> {
    if (got_height, got_width) == (height, width) {
        return Ok(());
    }
    Err(DataError::EvalSizes { name: dataset.name(index), got_width, got_height, width, height })
}

impl EvalBatches {
    fn receive(&mut self) -> Result<EvalBatch, DataError> {
        let channel = &self.channels[self.next % self.channels.len()];
        let batch = channel.recv().map_err(|_| DataError::WorkerPanicked)??;
        let size = *self.size.get_or_insert((batch.height, batch.width));
        check_size(&self.dataset, batch.indices[0], (batch.height, batch.width), size)?;
        Ok(batch)
    }
}

impl Iterator for EvalBatches {
    type Item = Result<EvalBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.batches {
            return None;
        }
        let batch = self.receive();
        self.next = if batch.is_ok() { self.next + 1 } else { self.batches };
        Some(batch)
    }
}

impl Drop for EvalBatches {
    fn drop(&mut self) {
        self.channels.clear();
        for thread in self.threads.drain(..) {
            // A worker's panic has been printed, and reported by the iterator.
            let _ = thread.join();
        }
    }
}
