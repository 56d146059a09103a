//! One thread of the loader: reads, decodes and augments images.

use std::cell::Cell;
use std::sync::Arc;

use super::dataset::Dataset;
use super::decode::{DecodeOptions, Decoder, RgbImage};
use super::error::DataError;
use super::multi_crop::{CropPlan, MultiCrop, Scratch, crop_bytes};
use super::random::{Purpose, Random};
use super::ring::{Claim, Ring, Slot, lock};
use super::stages::{Lap, StageTimes};

/// Images tried in place of a broken one.
const SUBSTITUTE_TRIES: usize = 16;

/// One thread's data set handle, settings and buffers.
pub(super) struct Worker {
    dataset: Arc<Dataset>,
    multi_crop: MultiCrop,
    decode: DecodeOptions,
    seed: u64,
    /// Images claimed at once.
    run: usize,
    encoded: Vec<u8>,
    decoder: Decoder,
    image: RgbImage,
    /// What was drawn for the image's crops.
    plans: Vec<CropPlan>,
    scratch: Scratch,
    /// All crops of one image.
    crops: Vec<u8>,
}

/// Reports a panicking worker to the consumer, who would wait for ever.
struct PanicReport<'a>(&'a Ring);

impl Drop for PanicReport<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(DataError::WorkerPanicked);
        }
    }
}

impl Worker {
    pub(super) fn new(dataset: Arc<Dataset>, multi_crop: MultiCrop, decode: DecodeOptions, seed: u64, run: usize) -> Worker {
        let crops = vec![0; multi_crop.bytes_per_image()];
        Worker {
            dataset,
            multi_crop,
            decode,
            seed,
            run,
            encoded: Vec::new(),
            decoder: Decoder::default(),
            image: RgbImage::default(),
            plans: Vec::new(),
            scratch: Scratch::default(),
            crops,
        }
    }

    /// Makes images until the stream ends.
    pub(super) fn work(mut self, ring: &Ring) {
        let _report = PanicReport(ring);
        while let Some(Claim { slot, places }) = ring.claim(self.run) {
            for place in places {
                self.make(&slot, place, ring);
            }
        }
    }

    /// Makes one image's crops and puts them into its batch.
    fn make(&mut self, slot: &Slot, place: usize, ring: &Ring) {
        let epoch = slot.position.epoch as u64;
        let index = slot.indices[place];
        let mut times = StageTimes { images: 1, ..StageTimes::default() };
        let mut broken = None;
        let mut error = None;
        let draws = Random::new(self.seed, Purpose::Augment, epoch, index as u64);
        if let Err(first) = self.read(index, &draws, &mut times) {
            broken = Some((place, first.to_string()));
            error = self.read_substitute(epoch, index, &draws, first, &mut times).err();
        }
        if error.is_none() {
            self.multi_crop.apply_plans(&self.image, &self.plans, &mut self.scratch, &mut self.crops, &mut times);
        }

        let mut clock = Lap::start();
        let mut filled = lock(&slot.filled);
        if error.is_none() {
            scatter(&self.multi_crop, &self.crops, place, ring.micro_batch_size, &mut filled.buffers);
        }
        times.other += clock.lap();
        filled.images += 1;
        filled.times += times;
        filled.broken.extend(broken);
        filled.error = filled.error.take().or(error);
        let complete = filled.images == ring.batch_size;
        drop(filled);
        if complete {
            ring.complete();
        }
    }

    /// Reads and decodes an image, and plans its crops, so that only what they show need be decoded.
    fn read(&mut self, index: usize, draws: &Random, times: &mut StageTimes) -> Result<(), DataError> {
        let mut clock = Lap::start();
        self.dataset.read_into(index, &mut self.encoded)?;
        times.encoded_bytes += self.encoded.len() as u64;
        times.read += clock.lap();
        let (multi_crop, plans) = (&self.multi_crop, &mut self.plans);
        let planned = Cell::new(None);
        let mut plan = |width, height| {
            planned.set(Some((width, height)));
            plans.clear();
            plans.extend(multi_crop.plan(&mut draws.clone(), width, height));
            plans.iter().map(|plan| plan.window).collect()
        };
        let decoded = self.decoder.decode_windows(&self.encoded, self.decode, &mut plan, &mut self.image);
        let size = (self.image.width(), self.image.height());
        if decoded.is_ok() && planned.get() != Some(size) {
            plan(size.0, size.1);
        }
        times.decode += clock.lap();
        decoded.map_err(|source| DataError::Image { name: self.dataset.name(index), source: Box::new(source) })
    }

    /// Reads the first readable of the images drawn for the place of a broken one.
    fn read_substitute(&mut self, epoch: u64, index: usize, draws: &Random, mut last: DataError, times: &mut StageTimes) -> Result<(), DataError> {
        let mut random = Random::new(self.seed, Purpose::Substitute, epoch, index as u64);
        for _ in 0..SUBSTITUTE_TRIES {
            let other = random.below(self.dataset.len());
            match self.read(other, draws, times) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(DataError::NoSubstitute { tries: SUBSTITUTE_TRIES, last: Box::new(last) })
    }
}

/// Copies an image's crops to their places in the groups' buffers, u8 [N, count, B, 3, S, S].
fn scatter(multi_crop: &MultiCrop, mut crops: &[u8], place: usize, micro_batch_size: usize, buffers: &mut [Vec<u8>]) {
    let (micro, row) = (place / micro_batch_size, place % micro_batch_size);
    for (group, buffer) in multi_crop.groups().iter().zip(buffers) {
        let bytes = crop_bytes(group.size_px);
        for number in 0..group.count {
            let (crop, rest) = crops.split_at(bytes);
            buffer[((micro * group.count + number) * micro_batch_size + row) * bytes..][..bytes].copy_from_slice(crop);
            crops = rest;
        }
    }
}
