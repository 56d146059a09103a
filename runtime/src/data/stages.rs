//! Where the time of an image goes.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// Time spent in each stage, summed over images, and what was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Images in the sums.
    pub images: u64,
    /// Bytes of encoded images read.
    pub encoded_bytes: u64,
    /// Reading files or archive members.
    pub read: Duration,
    /// Decoding to RGB.
    pub decode: Duration,
    /// Cropping and resizing.
    pub resize: Duration,
    /// Colour jitter and greyscale.
    pub jitter: Duration,
    /// Gaussian blur.
    pub blur: Duration,
    /// Flips and copying into the batch.
    pub other: Duration,
}

impl AddAssign for StageTimes {
    fn add_assign(&mut self, more: StageTimes) {
        self.images += more.images;
        self.encoded_bytes += more.encoded_bytes;
        self.read += more.read;
        self.decode += more.decode;
        self.resize += more.resize;
        self.jitter += more.jitter;
        self.blur += more.blur;
        self.other += more.other;
    }
}

/// A clock that gives the time since the last reading.
pub(crate) struct Lap(Instant);

impl Lap {
    pub(crate) fn start() -> Lap {
        Lap(Instant::now())
    }

    pub(crate) fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let passed = now - self.0;
        self.0 = now;
        passed
    }
}
