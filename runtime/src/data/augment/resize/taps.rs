//! Which samples along one axis make a new one, with which weights.

/// Bits of the weights' fractions.
pub(super) const BITS: u32 = 14;
/// Old and new samples of an axis.
struct Axis {
    /// Samples that new ones are made of.
    old: usize,
    /// Where they begin among those that exist.
    first: usize,
    /// Where the last as many samples as there are weights begin.
    last_start: usize,
    /// Old samples in the distance of two new ones.
    scale: f64,
    /// Half the width of the filter.
    support: f64,
}

impl Axis {
    /// The middle of a new sample, in old ones.
    #[inline(always)]
    fn center(&self, place: usize) -> f64 {
        (place as f64 + 0.5) * self.scale
    }

    /// The first sample of a new one. What the number of weights is too large by comes after the samples that count, or before
    /// them at the end.
    #[inline(always)]
    fn start(&self, place: usize) -> usize {
        let from = (self.center(place) - self.support + 0.5).max(0.0) as usize;
        (self.first + from).min(self.last_start)
    }

    /// Makes the weights of a new sample; `values` is scratch of their number.
    #[inline(always)]
    fn weigh(&self, place: usize, start: usize, weights: &mut [i16], values: &mut [f64]) {
        let center = self.center(place);
        let offset = start as f64 - self.first as f64;
        let (slope, old) = (1.0 / self.support, self.old as f64);
        let mut sum = 0.0;
        for (k, value) in values.iter_mut().enumerate() {
            let sample = offset + k as f64;
            let weight = (1.0 - ((sample + 0.5 - center) * slope).abs()).max(0.0);
            *value = if sample >= 0.0 && sample < old { weight } else { 0.0 };
            sum += *value;
        }
        let unit = f64::from(1 << BITS) / sum;
        let mut left = 1 << BITS;
        for (weight, &value) in weights.iter_mut().zip(&*values) {
            let rounded = (value * unit + 0.5) as i32;
            *weight = rounded as i16;
            left -= rounded;
        }
        // What rounding left goes to the sample in the middle, which has the largest weight, so that an even area keeps its level.
        let middle = self.first + (center as usize).min(self.old - 1) - start;
        weights[middle] += left as i16;
    }
}

/// The samples of one axis: for each new one where they begin, and as many weights for all.
#[derive(Debug, Default)]
pub(super) struct Taps {
    pub(super) starts: Vec<usize>,
    /// i16 [new samples, count], each row with the sum 1 << BITS.
    pub(super) weights: Vec<i16>,
    /// Weights of a new sample.
    pub(super) count: usize,
    /// Scratch of as many.
    values: Vec<f64>,
}

impl Taps {
    /// The taps that make `new` samples of the `old` ones from `first` on, of `len` that exist. Pillow's triangle filter:
    /// as wide as the new samples' distance where that is larger than the old one's (`precompute_coeffs` in Resample.c).
    /// The number of weights is a multiple of `step` where that many samples exist.
    pub(super) fn set(&mut self, old: usize, new: usize, first: usize, len: usize, step: usize) {
        let scale = old as f64 / new as f64;
        let support = scale.max(1.0);
        // Further ones have no weight.
        let most = ((2.0 * support).ceil() as usize).min(old);
        let padded = most.next_multiple_of(step);
        self.count = if padded <= len { padded } else { most };
        let axis = Axis { old, first, last_start: len - self.count, scale, support };
        self.starts.clear();
        self.starts.extend((0..new).map(|place| axis.start(place)));
        self.weights.resize(new * self.count, 0);
        let places = self.starts.iter().enumerate();
        // Most windows need few weights, which are made at once where their number is known.
        match self.count {
            2 => places.zip(self.weights.as_chunks_mut::<2>().0).for_each(|((place, &start), weights)| axis.weigh(place, start, weights, &mut [0.0; 2])),
            4 => places.zip(self.weights.as_chunks_mut::<4>().0).for_each(|((place, &start), weights)| axis.weigh(place, start, weights, &mut [0.0; 4])),
            count => {
                self.values.resize(count, 0.0);
                places.zip(self.weights.chunks_exact_mut(count)).for_each(|((place, &start), weights)| axis.weigh(place, start, weights, &mut self.values));
            }
        }
    }

    /// Mirrors the new samples.
    pub(super) fn reverse(&mut self) {
        self.starts.reverse();
        let (count, new) = (self.count, self.starts.len());
        for place in 0..new / 2 {
            let (left, right) = self.weights.split_at_mut((new - 1 - place) * count);
            left[place * count..][..count].swap_with_slice(&mut right[..count]);
        }
    }

    /// Where the samples of a new one begin, and their weights.
    #[inline(always)]
    pub(super) fn of(&self, place: usize) -> (usize, &[i16]) {
        (self.starts[place], &self.weights[place * self.count..][..self.count])
    }
}
