//! The loader: batches of a data set in order, made by threads of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use graphgen::preset::Crops;

use super::batch::Batch;
use super::broken::{BrokenImages, BrokenPolicy};
use super::dataset::Dataset;
use super::decode::DecodeOptions;
use super::error::DataError;
use super::multi_crop::MultiCrop;
use super::ring::Ring;
use super::schedule::{Position, Schedule};
use super::worker::Worker;
use crate::machine::thread_count;

/// Settings of a [`Loader`].
#[derive(Debug, Clone)]
pub struct LoaderConfig {
    /// Crops and augmentations; valid preset settings.
    pub crops: Crops,
    /// Images of a batch.
    pub batch_size: usize,
    /// N: equal parts of a batch, each of them crop-major; 1 for a batch in one piece. Images, order and pixels do not
    /// depend on it.
    pub micro_batches: usize,
    /// Seed of order, crops and augmentations.
    pub seed: u64,
    /// Threads; 0 for one per core.
    pub workers: usize,
    /// Batches made ahead of those in use, at least 1.
    pub batches_ahead: usize,
    /// Batches in use at once, at least 1: with more than this the workers have fewer to make ahead.
    pub batches_held: usize,
    /// How images are decoded.
    pub decode: DecodeOptions,
    /// What is done about images that cannot be read.
    pub broken: BrokenPolicy,
}

/// Makes multi-crop batches of a data set.
///
/// ```no_run
/// use std::sync::Arc;
/// use runtime::data::{BrokenPolicy, Dataset, DecodeOptions, Loader, LoaderConfig};
/// let dataset = Arc::new(Dataset::open(&["photos".into()])?);
/// let (decode, broken) = (DecodeOptions::default(), BrokenPolicy::default());
/// let crops = Default::default();
/// let config = LoaderConfig { crops, batch_size: 64, micro_batches: 1, seed: 31, workers: 0, batches_ahead: 2, batches_held: 1, decode, broken };
/// let loader = Loader::new(dataset, config)?;
/// let mut stream = loader.stream(0, 0);
/// let batch = stream.next()?;
/// assert_eq!(batch.crops(0).len(), 2 * 64 * 3 * 224 * 224);
/// # Ok::<(), runtime::data::DataError>(())
/// ```
#[derive(Debug)]
pub struct Loader {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    /// Of the next batch, whichever stream hands it out.
    next_number: Arc<AtomicU64>,
}

impl Loader {
    /// A loader for a data set.
    ///
    /// # Errors
    /// A batch that is empty, larger than the data set, or not to be cut into equal micro-batches.
    pub fn new(dataset: Arc<Dataset>, config: LoaderConfig) -> Result<Loader, DataError> {
        if config.batch_size == 0 {
            return Err(DataError::Zero { setting: "batch_size" });
        }
        if config.micro_batches == 0 {
            return Err(DataError::Zero { setting: "micro_batches" });
        }
        if !config.batch_size.is_multiple_of(config.micro_batches) {
            return Err(DataError::UnequalMicroBatches { batch_size: config.batch_size, micro_batches: config.micro_batches });
        }
        if config.batch_size > dataset.len() {
            return Err(DataError::BatchTooLarge { batch_size: config.batch_size, images: dataset.len() });
        }
        Ok(Loader { dataset, config, next_number: Arc::default() })
    }

    /// Batches of an epoch; an incomplete last one is left out.
    pub fn batches_per_epoch(&self) -> usize {
        self.dataset.len() / self.config.batch_size
    }

    /// Streams batches from (`epoch`, `batch`) on, epoch after epoch, until it is dropped; both count from 0. Starts the
    /// worker threads. What a thread that cannot be started means is reported by the first [`BatchStream::next`].
    pub fn stream(&self, epoch: usize, batch: usize) -> BatchStream {
        let config = &self.config;
        let multi_crop = MultiCrop::new(&config.crops);
        let workers = thread_count(config.workers);
        let schedule = Schedule::new(config.seed, self.dataset.len(), config.batch_size, Position { epoch, batch });
        let batches = config.batches_ahead.max(1) + config.batches_held.max(1);
        let ring = Arc::new(Ring::new(&multi_crop, (config.batch_size, config.micro_batches), batches, schedule));
        let mut threads = Vec::new();
        for number in 0..workers {
            // Short enough that all threads end a batch at about the same time.
            let run = (config.batch_size / (4 * workers)).clamp(1, 16);
            let worker = Worker::new(Arc::clone(&self.dataset), multi_crop.clone(), config.decode, config.seed, run);
            let thread_ring = Arc::clone(&ring);
            match std::thread::Builder::new().name(format!("loader-{number}")).spawn(move || worker.work(&thread_ring)) {
                Ok(thread) => threads.push(thread),
                Err(error) => ring.fail(DataError::Spawn(error)),
            }
        }
        let broken = BrokenImages::new(config.broken.clone(), self.batches_per_epoch() * config.batch_size);
        BatchStream { ring, threads, broken, next_number: Arc::clone(&self.next_number), error: None, failed: false, waiting_since: None }
    }
}

/// Batches in their order. Dropping it ends the worker threads.
#[derive(Debug)]
pub struct BatchStream {
    ring: Arc<Ring>,
    threads: Vec<JoinHandle<()>>,
    broken: BrokenImages,
    next_number: Arc<AtomicU64>,
    /// What [`next_if_ready`](Self::next_if_ready) met in place of a batch.
    error: Option<DataError>,
    failed: bool,
    /// Since when the consumer has been waiting for the batch that comes next.
    waiting_since: Option<Instant>,
}

impl BatchStream {
    /// The next batch; waits for it where the loader does not keep up.
    ///
    /// # Errors
    /// More broken images than the policy allows of an epoch's (counted from where the stream began), no substitute for
    /// one, a list of them that cannot be written, or a worker that could not be started or panicked. After an error there are no further batches.
    #[expect(clippy::should_implement_trait, reason = "the stream never ends, so that an Option would only be in the way")]
    pub fn next(&mut self) -> Result<Batch, DataError> {
        loop {
            if let Some(batch) = self.next_by(None)? {
                return Ok(batch);
            }
        }
    }

    /// As [`next`](Self::next), but gives `None` if the batch is not there within `patience`; it comes next then.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn next_within(&mut self, patience: Duration) -> Result<Option<Batch>, DataError> {
        self.next_by(Instant::now().checked_add(patience))
    }

    /// The next batch if it is there already. Looking is not waiting, and an error is left to [`next`](Self::next), which
    /// meets it when the batch is due.
    pub fn next_if_ready(&mut self) -> Option<Batch> {
        if self.failed || self.error.is_some() {
            return None;
        }
        self.receive(Some(Instant::now())).unwrap_or_else(|error| {
            self.error = Some(error);
            None
        })
    }

    /// How long the batch that comes next has been waited for so far.
    pub fn waiting(&self) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the stream without waiting for its threads, which may hang in a read: each ends with the image it is at.
    pub fn abandon(mut self) {
        self.threads.clear();
    }

    fn next_by(&mut self, deadline: Option<Instant>) -> Result<Option<Batch>, DataError> {
        if self.failed {
            return Err(DataError::StreamEnded);
        }
        self.waiting_since.get_or_insert_with(Instant::now);
        let batch = self.error.take().map_or_else(|| self.receive(deadline), Err);
        self.failed = batch.is_err();
        batch
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<Batch>, DataError> {
        let Some((slot, filled)) = self.ring.take_oldest(deadline)? else { return Ok(None) };
        let batch = Batch {
            ring: Arc::clone(&self.ring),
            number: self.next_number.fetch_add(1, Ordering::Relaxed),
            position: slot.position,
            indices: slot.indices.clone(),
            buffers: filled.buffers,
            waited: self.waiting_since.take().map_or(Duration::ZERO, |since| since.elapsed()),
            substitutes: filled.broken.len(),
            times: filled.times,
        };
        if let Some(error) = filled.error {
            return Err(error);
        }
        self.broken.count(batch.epoch(), filled.broken)?;
        Ok(Some(batch))
    }
}

impl Drop for BatchStream {
    fn drop(&mut self) {
        self.ring.close();
        for thread in self.threads.drain(..) {
            // A worker's panic has been printed, and reported by `next`.
            let _ = thread.join();
        }
    }
}
