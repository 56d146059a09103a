//! Random numbers keyed by what they are for.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream of random numbers is used for; streams of different purposes are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The order of the images in an epoch.
    Shuffle = 1,
    /// Crops and augmentations of one image.
    Augment = 2,
    /// Which image takes a broken one's place.
    Substitute = 3,
    /// Which images belong to a subset.
    Subset = 4,
    /// Synthetic images.
    Synth = 5,
    /// Initial weights of a linear classifier.
    Classifier = 6,
}

/// A generator whose numbers are a function of `(seed, purpose, epoch, index)` alone, whatever thread asks and whenever.
///
/// The key of a ChaCha8 block function holds the four values, so that no two streams share a state. The distributions
/// are spelled out here because a run must repeat with every version of the libraries.
///
/// ```
/// use runtime::data::{Purpose, Random};
/// let draw = || Random::new(31, Purpose::Augment, 2, 1234).uniform(0.0, 1.0);
/// assert_eq!(draw(), draw());
/// ```
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of one image in one epoch.
    pub fn new(seed: u64, purpose: Purpose, epoch: u64, index: u64) -> Random {
        let mut key = [0u8; 32];
        for (bytes, value) in key.chunks_exact_mut(8).zip([seed, purpose as u64, epoch, index]) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        Random(ChaCha8Rng::from_seed(key))
    }

    /// A number in [0, 1), on a grid of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// An integer in 0..bound, `bound` ≥ 1; the bias of at most bound · 2⁻⁶⁴ is immaterial.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Puts the items in a random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// A number from the standard normal distribution (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_in_every_part_of_the_key() {
        let first = |seed, purpose, epoch, index| Random::new(seed, purpose, epoch, index).unit();
        let base = first(1, Purpose::Augment, 2, 3);
        assert_eq!(base, first(1, Purpose::Augment, 2, 3));
        for other in [first(2, Purpose::Augment, 2, 3), first(1, Purpose::Shuffle, 2, 3), first(1, Purpose::Augment, 3, 3), first(1, Purpose::Augment, 2, 4)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut random = Random::new(7, Purpose::Shuffle, 0, 0);
        let mut counts = [0usize; 5];
        for _ in 0..50_000 {
            counts[random.below(5)] += 1;
        }
        // Five standard deviations of a binomial count (√(50000·0.2·0.8) ≈ 89).
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 450), "{counts:?}");
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..1000).collect();
        Random::new(3, Purpose::Shuffle, 0, 0).shuffle(&mut items);
        assert_ne!(items, (0..1000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1000).collect::<Vec<_>>());
    }
}
