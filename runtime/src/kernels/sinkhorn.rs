//! Sinkhorn-Knopp on host memory: scores → codes.
//!
//! Paper: arXiv 2006.09882, section 3.1; official code: `distributed_sinkhorn` in `main_swav.py`. `Q = exp(scores/ε)ᵀ`
//! has one row a prototype and one column a sample; each iteration scales the rows to 1/K, then the columns to 1/B.
//!
//! The official code exponentiates unshifted scores in f32, which overflows below ε ≈ 0.0113. Here every prototype is
//! shifted by its own maximum, which changes nothing because the first row scaling undoes it, and everything is f64.
//! Where even that could underflow, the same iterations run on logarithms.

mod passes;

use std::ops::Range;

/// Samples of one unit of work. Sums over samples are added up per block and then over the blocks in order, so that
/// the codes do not depend on the number of threads.
const BLOCK_ROWS: usize = 64;

/// Below this many scores, starting threads costs more than it saves.
const SCORES_PER_THREAD: usize = 1 << 15;

/// Largest exponent range in which the scaling form is safe: entries stay above e⁻³⁰⁰, scaling factors below about
/// e³⁰⁰ times the number of scores, and products of both far inside f64's e±⁷⁰⁸.
const SCALING_RANGE: f64 = 300.0;

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

/// Memory that [`sinkhorn_knopp`] uses again: asking the system for it anew takes longer than the arithmetic.
#[derive(Debug, Default)]
pub struct Scratch {
    /// `exp(scores/ε − maximum)`, f64 [L+B, K].
    entries: Vec<f64>,
    /// Sums of each block over its samples, f64 [blocks, K].
    sums: Vec<f64>,
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
/// use runtime::kernels::sinkhorn::{Scratch, Sinkhorn, sinkhorn_knopp};
/// let settings = Sinkhorn { epsilon: 0.05, iterations: 3, threads: 1 };
/// let mut codes = [0.0; 4];
/// sinkhorn_knopp(settings, 2, &[], &[0.9, -0.9, -0.9, 0.9], &mut codes, &mut Scratch::default())?;
/// assert!(codes[0] > 0.99 && codes[3] > 0.99 && (codes[0] + codes[1] - 1.0).abs() < 1e-6);
/// # Ok::<(), runtime::kernels::sinkhorn::SinkhornError>(())
/// ```
///
/// # Errors
/// Lengths that do not fit together and settings out of range.
pub fn sinkhorn_knopp(
    settings: Sinkhorn,
    prototypes: usize,
    queue: &[f32],
    scores: &[f32],
    codes: &mut [f32],
    scratch: &mut Scratch,
) -> Result<(), SinkhornError> {
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

    let Some((maxima, range)) = samples.maxima(workers) else {
        codes.fill(f32::NAN);
        return Ok(());
    };
    if range <= SCALING_RANGE {
        scale(&samples, &maxima, settings.iterations, workers, codes, scratch);
    } else {
        scale_logarithms(&samples, settings.iterations, workers, codes);
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

    fn blocks(&self) -> Vec<Range<usize>> {
        let rows = self.rows();
        (0..rows).step_by(BLOCK_ROWS).map(|start| start..rows.min(start + BLOCK_ROWS)).collect()
    }

    /// Every prototype's largest score/ε, and the widest spread below one of them; `None` if any score is not finite.
    fn maxima(&self, workers: usize) -> Option<(Vec<f64>, f64)> {
        let partials = in_parallel(workers, self.blocks(), |rows| {
            let (mut low, mut high) = (vec![f32::INFINITY; self.prototypes], vec![f32::NEG_INFINITY; self.prototypes]);
            let mut finite = true;
            for row in rows {
                finite &= passes::widen(self.row(row), &mut low, &mut high);
            }
            finite.then_some((low, high))
        });
        let (mut low, mut high) = (vec![f32::INFINITY; self.prototypes], vec![f32::NEG_INFINITY; self.prototypes]);
        for partial in partials {
            let (lower, higher) = partial?;
            low.iter_mut().zip(lower).for_each(|(low, lower)| *low = low.min(lower));
            high.iter_mut().zip(higher).for_each(|(high, higher)| *high = high.max(higher));
        }
        let scale = 1.0 / self.epsilon;
        let maxima: Vec<f64> = high.iter().map(|&high| f64::from(high) * scale).collect();
        let range = maxima.iter().zip(&low).map(|(high, &low)| high - f64::from(low) * scale).fold(0.0, f64::max);
        Some((maxima, range))
    }
}

/// The iterations on `A = exp(scores/ε − maximum)`, with one factor a prototype; the factor of a sample is needed only
/// while its row is visited. Each pass scales a block's samples and adds up the next prototype sums.
fn scale(samples: &Samples, maxima: &[f64], iterations: usize, workers: usize, codes: &mut [f32], scratch: &mut Scratch) {
    let prototypes = samples.prototypes;
    let blocks = samples.blocks();
    scratch.entries.resize(samples.rows() * prototypes, 0.0);
    scratch.sums.resize(blocks.len() * prototypes, 0.0);
    let Scratch { entries, sums } = scratch;

    let work = blocks.into_iter().zip(entries.chunks_mut(BLOCK_ROWS * prototypes)).zip(sums.chunks_exact_mut(prototypes)).collect();
    in_parallel(workers, work, |((rows, entries), sums): ((Range<usize>, &mut [f64]), &mut [f64])| {
        sums.fill(0.0);
        for (row, entries) in rows.zip(entries.chunks_exact_mut(prototypes)) {
            passes::exponentiate(samples.row(row), 1.0 / samples.epsilon, maxima, entries, sums);
        }
    });
    let mut factors = prototype_factors(sums, prototypes);
    for _ in 1..iterations {
        let work = entries.chunks(BLOCK_ROWS * prototypes).zip(sums.chunks_exact_mut(prototypes)).collect();
        in_parallel(workers, work, |(entries, sums): (&[f64], &mut [f64])| {
            sums.fill(0.0);
            for row in entries.chunks_exact(prototypes) {
                let factor = 1.0 / (samples.rows() as f64 * passes::dot(row, &factors));
                passes::add_scaled(row, factor, sums);
            }
        });
        factors = prototype_factors(sums, prototypes);
    }

    let batch = &entries[samples.queue.len()..];
    let work = batch.chunks(BLOCK_ROWS * prototypes).zip(codes.chunks_mut(BLOCK_ROWS * prototypes)).collect();
    in_parallel(workers, work, |(entries, codes): (&[f64], &mut [f32])| {
        for (row, codes) in entries.chunks_exact(prototypes).zip(codes.chunks_exact_mut(prototypes)) {
            passes::scale_to_codes(row, &factors, 1.0 / passes::dot(row, &factors), codes);
        }
    });
}

/// The factors that scale every prototype's sum to 1/K, from the sums of the blocks.
fn prototype_factors(sums: &[f64], prototypes: usize) -> Vec<f64> {
    let mut total = vec![0.0; prototypes];
    for block in sums.chunks_exact(prototypes) {
        total.iter_mut().zip(block).for_each(|(total, part)| *total += part);
    }
    total.iter().map(|sum| 1.0 / (prototypes as f64 * sum)).collect()
}

/// The same iterations on `scores/ε + f` with one logarithmic factor a prototype: slower, and safe for any finite scores.
fn scale_logarithms(samples: &Samples, iterations: usize, workers: usize, codes: &mut [f32]) {
    let prototypes = samples.prototypes;
    let mut factors = vec![0.0; prototypes];
    for iteration in 0..iterations {
        let partials = in_parallel(workers, samples.blocks(), |rows| {
            let mut sums = vec![LogSum::default(); prototypes];
            let mut row = vec![0.0; prototypes];
            for index in rows {
                samples.row(index).iter().zip(&mut row).for_each(|(&score, entry)| *entry = f64::from(score) / samples.epsilon);
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
    let first = samples.queued();
    let work: Vec<(usize, &mut [f32])> = codes.chunks_mut(BLOCK_ROWS * prototypes).enumerate().collect();
    in_parallel(workers, work, |(block, codes)| {
        for (index, codes) in codes.chunks_exact_mut(prototypes).enumerate() {
            let row = samples.row(first + block * BLOCK_ROWS + index);
            let entries = || row.iter().zip(&factors).map(|(&score, factor)| f64::from(score) / samples.epsilon + factor);
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
        let threads: Vec<_> = std::iter::from_fn(|| {
            let part: Vec<I> = items.by_ref().take(share).collect();
            (!part.is_empty()).then(|| scope.spawn(move || part.into_iter().map(map).collect::<Vec<O>>()))
        })
        .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
#[path = "sinkhorn_tests.rs"]
mod tests;
