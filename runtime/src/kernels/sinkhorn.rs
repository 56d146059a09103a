//! Sinkhorn-Knopp on host memory: scores → codes.
//!
//! Paper: arXiv 2006.09882, section 3.1; official code: `distributed_sinkhorn` in `main_swav.py`. `Q = exp(scores/ε)ᵀ`
//! has one row a prototype and one column a sample; each iteration scales the rows to 1/K, then the columns to 1/B.
//!
//! The official code exponentiates in f32, which overflows below ε ≈ 0.0113. Here the scores choose the precision: f32 for entries
//! and factors, with sums in f64, where no product can leave its range; else f64; and beyond that the same iterations on logarithms.
//! Processors that do not multiply and add in one instruction take f64 for f32.

mod passes;

use std::ops::Range;

use passes::Entry;

/// Samples of one unit of work. Sums over samples are added up per block and then over the blocks in order, so that
/// the codes do not depend on the number of threads.
const BLOCK_ROWS: usize = 64;

/// Below this many scores, starting threads costs more than it saves.
const SCORES_PER_THREAD: usize = 1 << 15;

/// Settings of [`sinkhorn_knopp`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sinkhorn {
    /// ε: entropic regularisation, positive.
    pub epsilon: f64,
    /// Row and column scalings, at least 1.
    pub iterations: usize,
    /// Threads to use at most; the codes are the same for any number.
    pub threads: usize,
}

/// What [`sinkhorn_knopp`] cannot work with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SinkhornError {
    /// A length that is no whole number of rows.
    #[error("Sinkhorn-Knopp: {name} has {length} elements, expected a multiple of the {prototypes} prototypes")]
    Length {
        /// The argument.
        name: &'static str,
        /// Its length.
        length: usize,
        /// K.
        prototypes: usize,
    },
    /// Scores and codes of different lengths.
    #[error("Sinkhorn-Knopp: scores have {scores} elements and codes {codes}, expected as many")]
    Codes {
        /// Elements of the scores.
        scores: usize,
        /// Elements of the codes.
        codes: usize,
    },
    /// A setting out of range.
    #[error("Sinkhorn-Knopp: expected a positive epsilon and at least one iteration, got epsilon {epsilon} and {iterations} iterations")]
    Setting {
        /// ε.
        epsilon: f64,
        /// Iterations.
        iterations: usize,
    },
}

/// Codes of the batch.
///
/// - `queue`: f32 [L, K] row-major, scores of queued embeddings that take part before the batch; may be empty
/// - `scores`: f32 [B, K] row-major
/// - `codes`: f32 [B, K] row-major, written; every row sums to 1
///
/// Finite scores with ε ≥ 0.005 give finite codes. If any score is not finite, all codes are NaN: the loss then is, too,
/// and the step is refused there.
///
/// ```
/// use runtime::kernels::sinkhorn::{Sinkhorn, sinkhorn_knopp};
/// let settings = Sinkhorn { epsilon: 0.05, iterations: 3, threads: 1 };
/// let mut codes = [0.0; 4];
/// sinkhorn_knopp(settings, 2, &[], &[0.9, -0.9, -0.9, 0.9], &mut codes)?;
/// assert!(codes[0] > 0.99 && codes[3] > 0.99 && (codes[0] + codes[1] - 1.0).abs() < 1e-6);
/// # Ok::<(), runtime::kernels::sinkhorn::SinkhornError>(())
/// ```
///
/// # Errors
/// Lengths that do not fit together and settings out of range.
pub fn sinkhorn_knopp(settings: Sinkhorn, prototypes: usize, queue: &[f32], scores: &[f32], codes: &mut [f32]) -> Result<(), SinkhornError> {
    for (name, length) in [("queue", queue.len()), ("scores", scores.len())] {
        if prototypes == 0 || length % prototypes != 0 {
            return Err(SinkhornError::Length { name, length, prototypes });
        }
    }
    if scores.len() != codes.len() {
        return Err(SinkhornError::Codes { scores: scores.len(), codes: codes.len() });
    }
    if settings.epsilon.is_nan() || settings.epsilon <= 0.0 || settings.iterations == 0 {
        return Err(SinkhornError::Setting { epsilon: settings.epsilon, iterations: settings.iterations });
    }
    if scores.is_empty() {
        return Ok(());
    }
    let samples = Samples { queue, scores, prototypes, epsilon: settings.epsilon };
    let workers = settings.threads.min((queue.len() + scores.len()) / SCORES_PER_THREAD).max(1);

    let iterations = settings.iterations;
    let in_f32 = passes::has_fused_products() && scale::<f32>(&samples, iterations, workers, codes).is_some();
    if in_f32 || scale::<f64>(&samples, iterations, workers, codes).is_some() {
        return Ok(());
    }
    match queue.iter().chain(scores).all(|score| score.is_finite()) {
        true => scale_logarithms(&samples, iterations, workers, codes),
        false => codes.fill(f32::NAN),
    }
    Ok(())
}

/// The rows of queue and batch, in that order.
struct Samples<'a> {
    queue: &'a [f32],
    scores: &'a [f32],
    prototypes: usize,
    epsilon: f64,
}

impl<'a> Samples<'a> {
    fn queued(&self) -> usize {
        self.queue.len() / self.prototypes
    }

    fn rows(&self) -> usize {
        self.queued() + self.scores.len() / self.prototypes
    }

    fn row(&self, index: usize) -> &'a [f32] {
        let (matrix, index) = match index.checked_sub(self.queued()) {
            None => (self.queue, index),
            Some(index) => (self.scores, index),
        };
        &matrix[index * self.prototypes..][..self.prototypes]
    }

    /// `codes`: those of the batch.
    fn blocks<'b>(&self, mut codes: &'b mut [f32]) -> Vec<Block<'b>> {
        let (rows, queued) = (self.rows(), self.queued());
        let block = |first: usize| {
            let rows = first..rows.min(first + BLOCK_ROWS);
            let of_batch = rows.end - rows.end.min(rows.start.max(queued));
            let (own, rest) = std::mem::take(&mut codes).split_at_mut(of_batch * self.prototypes);
            codes = rest;
            Block { rows, codes: own }
        };
        (0..rows).step_by(BLOCK_ROWS).map(block).collect()
    }

    /// Those that have samples of the batch: what is left to do with their codes alone is shared evenly.
    fn blocks_of_batch<'b>(&self, codes: &'b mut [f32]) -> Vec<Block<'b>> {
        let mut blocks = self.blocks(codes);
        blocks.retain(|block| !block.codes.is_empty());
        blocks
    }
}

/// Some samples, and the codes of those that are in the batch.
struct Block<'a> {
    rows: Range<usize>,
    codes: &'a mut [f32],
}

impl<'a> Block<'a> {
    /// The scores of every sample and, in the batch, its codes.
    fn samples<'s>(self, samples: &'s Samples<'s>) -> impl Iterator<Item = (&'s [f32], Option<&'a mut [f32]>)> {
        let mut codes = self.codes.chunks_exact_mut(samples.prototypes);
        self.rows.map(move |row| (samples.row(row), if row < samples.queued() { None } else { codes.next() }))
    }
}

/// The iterations on `A = exp(scores/ε)`, with one factor a prototype; the factor of a sample is needed only while its row is
/// visited. Each pass scales the samples and adds up the next prototype sums. `None` where scores or factors leave what `E` is
/// for; `codes` mean nothing then.
///
/// Until they are known, the place of the codes keeps the entries of the batch, if it can. Those of the queue are computed anew in
/// every pass, which takes less time than writing and reading them.
fn scale<E: Entry>(samples: &Samples, iterations: usize, workers: usize, codes: &mut [f32]) -> Option<()> {
    let (prototypes, exponent) = (samples.prototypes, E::exponent(samples.epsilon));
    let largest = (E::LARGEST_EXPONENT * samples.epsilon) as f32;
    let mut factors = Vec::new();
    for iteration in 0..iterations {
        let sums = in_parallel(workers, samples.blocks(codes), |block| {
            let (mut buffer, mut sums) = (vec![E::default(); prototypes], vec![0.0; prototypes]);
            for (scores, codes) in block.samples(samples) {
                if iteration == 0 && !passes::within(scores, largest) {
                    return None;
                }
                let kept = codes.and_then(E::kept);
                let is_kept = kept.is_some();
                let entries = kept.unwrap_or(&mut buffer);
                if iteration == 0 || !is_kept {
                    passes::exponentiate(scores, exponent, entries);
                }
                // Samples are unscaled before the first iteration.
                let factor = if iteration == 0 { 1.0 } else { 1.0 / (samples.rows() as f64 * passes::dot(entries, &factors)) };
                passes::add_scaled(entries, E::factor(factor)?, &mut sums);
            }
            Some(sums)
        });
        factors = prototype_factors(&sums.into_iter().collect::<Option<Vec<_>>>()?, prototypes)?;
    }

    let scaled = in_parallel(workers, samples.blocks_of_batch(codes), |block| {
        let mut buffer = vec![E::default(); prototypes];
        for (scores, codes) in block.samples(samples) {
            let Some(codes) = codes else { continue };
            match E::kept(codes) {
                Some(entries) => to_codes(entries, &factors)?,
                None => {
                    passes::exponentiate(scores, exponent, &mut buffer);
                    to_codes(&mut buffer, &factors)?;
                    codes.iter_mut().zip(&buffer).for_each(|(code, &entry)| *code = entry.into() as f32);
                }
            }
        }
        Some(())
    });
    scaled.into_iter().collect()
}

/// A sample's entries to its codes, in place.
fn to_codes<E: Entry>(entries: &mut [E], factors: &[E]) -> Option<()> {
    let factor = E::factor(1.0 / passes::dot(entries, factors))?;
    passes::scale(entries, factors, factor);
    Some(())
}

/// The factors that scale every prototype's sum to 1/K, from the sums of the blocks.
fn prototype_factors<E: Entry>(sums: &[Vec<f64>], prototypes: usize) -> Option<Vec<E>> {
    let mut total = vec![0.0; prototypes];
    for block in sums {
        total.iter_mut().zip(block).for_each(|(total, part)| *total += part);
    }
    total.iter().map(|sum| E::factor(1.0 / (prototypes as f64 * sum))).collect()
}

/// The same iterations on `scores/ε + f` with one logarithmic factor a prototype: slower, and safe for any finite scores.
fn scale_logarithms(samples: &Samples, iterations: usize, workers: usize, codes: &mut [f32]) {
    let prototypes = samples.prototypes;
    let mut factors = vec![0.0; prototypes];
    for iteration in 0..iterations {
        let partials = in_parallel(workers, samples.blocks(codes), |block| {
            let mut sums = vec![LogSum::default(); prototypes];
            let mut row = vec![0.0; prototypes];
            for (scores, _) in block.samples(samples) {
                scores.iter().zip(&mut row).for_each(|(&score, entry)| *entry = f64::from(score) / samples.epsilon);
                // Samples are unscaled before the first iteration, and to sum 1 (up to a constant) afterwards.
                let sample = if iteration == 0 { 0.0 } else { -log_sum(row.iter().zip(&factors).map(|(entry, factor)| entry + factor)).logarithm() };
                row.iter().zip(&mut sums).for_each(|(entry, sum)| sum.add(entry + sample, 1.0));
            }
            sums
        });
        let mut sums = vec![LogSum::default(); prototypes];
        for partial in partials {
            sums.iter_mut().zip(partial).for_each(|(sum, part)| sum.add(part.maximum, part.sum));
        }
        factors = sums.iter().map(|sum| -sum.logarithm()).collect();
    }
    in_parallel(workers, samples.blocks_of_batch(codes), |block| {
        for (scores, codes) in block.samples(samples) {
            let Some(codes) = codes else { continue };
            let entries = || scores.iter().zip(&factors).map(|(&score, factor)| f64::from(score) / samples.epsilon + factor);
            // Divided rather than subtracted: beside a huge maximum, the logarithm of the sum would be rounded away.
            let total = log_sum(entries());
            codes.iter_mut().zip(entries()).for_each(|(code, entry)| *code = ((entry - total.maximum).exp() / total.sum) as f32);
        }
    });
}

/// `sum · exp(maximum)`, added up without overflow.
#[derive(Clone, Copy)]
struct LogSum {
    maximum: f64,
    sum: f64,
}

impl Default for LogSum {
    fn default() -> Self {
        LogSum { maximum: f64::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSum {
    /// Adds `weight · exp(exponent)`.
    fn add(&mut self, exponent: f64, weight: f64) {
        if exponent > self.maximum {
            self.sum = self.sum * (self.maximum - exponent).exp() + weight;
            self.maximum = exponent;
        } else {
            self.sum += weight * (exponent - self.maximum).exp();
        }
    }

    fn logarithm(self) -> f64 {
        self.maximum + self.sum.ln()
    }
}

fn log_sum(exponents: impl Iterator<Item = f64>) -> LogSum {
    let mut sum = LogSum::default();
    exponents.for_each(|exponent| sum.add(exponent, 1.0));
    sum
}

/// Maps `items` on `workers` threads, in order.
fn in_parallel<I: Send, O: Send>(workers: usize, items: Vec<I>, map: impl Fn(I) -> O + Sync) -> Vec<O> {
    if workers <= 1 || items.len() <= 1 {
        return items.into_iter().map(map).collect();
    }
    let share = items.len().div_ceil(workers);
    let mut items = items.into_iter();
    let map = &map;
    std::thread::scope(|scope| {
        let own: Vec<I> = items.by_ref().take(share).collect();
        let threads: Vec<_> = std::iter::from_fn(|| {
            let part: Vec<I> = items.by_ref().take(share).collect();
            (!part.is_empty()).then(|| scope.spawn(move || part.into_iter().map(map).collect::<Vec<O>>()))
        })
        .collect();
        let mut mapped: Vec<O> = own.into_iter().map(map).collect();
        for thread in threads {
            mapped.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        mapped
    })
}

#[cfg(test)]
#[path = "sinkhorn_tests.rs"]
mod tests;
