//! What each pass of Sinkhorn-Knopp does with a row: loops that the compiler makes vectors of.

use multiversion::multiversion;

/// As many running sums as hide the latency of an addition, in vectors of up to eight.
const SUMS: usize = 32;

/// What entries `exp(score/ε)` and factors are computed in; sums are f64 always.
pub(super) trait Entry: Copy + Default + Into<f64> + Send + Sync {
    /// What a score is multiplied by.
    type Exponent: Copy + Sync;

    /// Largest |score/ε|.
    const LARGEST_EXPONENT: f64;

    /// log₂(e)/ε
    fn exponent(epsilon: f64) -> Self::Exponent;

    /// exp(score/ε), without a branch.
    fn exp(score: f32, exponent: Self::Exponent) -> Self;

    fn times(self, other: Self) -> Self;

    /// The factor of a sample or a prototype; `None` where its products with entries could leave the range of numbers.
    fn factor(value: f64) -> Option<Self>;

    /// The place of a sample's codes as one for its entries.
    fn kept(codes: &mut [f32]) -> Option<&mut [Self]>;
}

/// Whether the processor multiplies and adds in one instruction; where it does not, f32 exponentials would be calls.
pub(super) fn has_fused_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    cfg!(target_arch = "aarch64")
}

/// Whether no score is beyond `largest` either way; false if any is not a number.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn within(row: &[f32], largest: f32) -> bool {
    row.iter().fold(true, |within, score| within & (score.abs() <= largest))
}

/// `entries = exp(row/ε)`
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn exponentiate<E: Entry>(row: &[f32], exponent: E::Exponent, entries: &mut [E]) {
    for (&score, entry) in row.iter().zip(entries) {
        *entry = E::exp(score, exponent);
    }
}

/// `Σ a·b`
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn dot<E: Entry>(a: &[E], b: &[E]) -> f64 {
    let mut sums = [0.0; SUMS];
    let (whole_a, whole_b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    let rest: f64 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(&a, &b)| a.times(b).into()).sum();
    for (a, b) in whole_a.zip(whole_b) {
        for lane in 0..SUMS {
            sums[lane] += a[lane].times(b[lane]).into();
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Adds `row · factor` to `sums`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn add_scaled<E: Entry>(row: &[E], factor: E, sums: &mut [f64]) {
    for (&entry, sum) in row.iter().zip(sums) {
        *sum += entry.times(factor).into();
    }
}

/// `row = row · factors · factor`
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn scale<E: Entry>(row: &mut [E], factors: &[E], factor: E) {
    for (entry, &prototype) in row.iter_mut().zip(factors) {
        *entry = entry.times(prototype).times(factor);
    }
}

impl Entry for f32 {
    /// In two parts: the product with a score keeps the digits that f32 drops.
    type Exponent = [f32; 2];

    /// Entries are e±⁴⁰ then; those of cosines from ε = 0.025 on.
    const LARGEST_EXPONENT: f64 = 40.0;

    fn exponent(epsilon: f64) -> [f32; 2] {
        let exponent = std::f64::consts::LOG2_E / epsilon;
        [exponent as f32, (exponent - f64::from(exponent as f32)) as f32]
    }

    /// For |score/ε| ≤ 87 within 2e-7 of itself: `2ⁿ · 2ʳ` with |r| ≤ 1/2, and 2ʳ by its series.
    #[inline(always)]
    fn exp(score: f32, [exponent, rest]: [f32; 2]) -> f32 {
        let shifted = score.mul_add(exponent, WHOLE_F32);
        let n = shifted - WHOLE_F32;
        let r = score.mul_add(rest, score.mul_add(exponent, -n));
        let mut series = POWERS_OF_TWO[TERMS_F32 - 1] as f32;
        for power in (0..TERMS_F32 - 1).rev() {
            series = series.mul_add(r, POWERS_OF_TWO[power] as f32);
        }
        series * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
    }

    #[inline(always)]
    fn times(self, other: f32) -> f32 {
        self * other
    }

    /// A sample's largest product is at least its sum over the number of prototypes, K, and its factor one over that sum and the number
    /// of samples: a factor between 10⁻³⁰ and 10³⁰ has lost less than 10⁻¹⁵ · K · samples of itself to products below f32's range.
    fn factor(value: f64) -> Option<f32> {
        (1e-30..=1e30).contains(&value).then_some(value as f32)
    }

    fn kept(codes: &mut [f32]) -> Option<&mut [f32]> {
        Some(codes)
    }
}

impl Entry for f64 {
    type Exponent = f64;

    /// Entries are e±¹⁵⁰ then; those of cosines from ε = 0.0067 on.
    const LARGEST_EXPONENT: f64 = 150.0;

    fn exponent(epsilon: f64) -> f64 {
        std::f64::consts::LOG2_E / epsilon
    }

    /// For |score/ε| ≤ 700 within 1e-11 of itself: `2ⁿ · 2ʳ` with |r| ≤ 1/2, and 2ʳ by its series.
    #[inline(always)]
    fn exp(score: f32, exponent: f64) -> f64 {
        let x = f64::from(score) * exponent;
        let shifted = x + WHOLE;
        let r = x - (shifted - WHOLE);
        let mut series = POWERS_OF_TWO[TERMS - 1];
        for power in (0..TERMS - 1).rev() {
            series = series * r + POWERS_OF_TWO[power];
        }
        series * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
    }

    #[inline(always)]
    fn times(self, other: f64) -> f64 {
        self * other
    }

    fn factor(value: f64) -> Option<f64> {
        (1e-290..=1e290).contains(&value).then_some(value)
    }

    fn kept(_: &mut [f32]) -> Option<&mut [f64]> {
        None
    }
}

/// 1.5 · 2⁵² and 1.5 · 2²³: added to a number they leave the nearest whole number in the last bits.
const WHOLE: f64 = 6_755_399_441_055_744.0;
const WHOLE_F32: f32 = 12_582_912.0;

/// Terms of the series.
const TERMS: usize = 10;
const TERMS_F32: usize = 8;

/// (ln 2)ⁿ/n!
const POWERS_OF_TWO: [f64; TERMS] = {
    let (mut series, mut n) = ([1.0; TERMS], 1);
    while n < TERMS {
        series[n] = series[n - 1] * std::f64::consts::LN_2 / n as f64;
        n += 1;
    }
    series
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The exponentials of 0 down to -300 in steps, and of their opposites, to those of the standard library.
    fn worst_error<E: Entry>(largest: f64) -> f64 {
        let scores: Vec<f32> = (-60_000..=60_000).map(|index| index as f32 * 0.005).filter(|&score| f64::from(score).abs() <= largest).collect();
        let mut entries = vec![E::default(); scores.len()];
        exponentiate(&scores, E::exponent(1.0), &mut entries);
        let errors = scores.iter().zip(entries).map(|(&score, entry)| (entry.into() / f64::from(score).exp() - 1.0).abs());
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        let (f64, f32) = (worst_error::<f64>(300.0), worst_error::<f32>(87.0));
        assert!(f64 <= 1e-11 && f32 <= 2e-7, "{f64:e} {f32:e}");
    }

    #[test]
    fn a_score_beyond_the_limit_or_none_at_all_is_seen() {
        let mut row = vec![-0.5; 100];
        assert!(within(&row, 0.5) && !within(&row, 0.4));
        row[77] = f32::NAN;
        assert!(!within(&row, 0.5));
    }
}
