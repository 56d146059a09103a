//! What each pass of Sinkhorn-Knopp does with a row: loops that the compiler makes vectors of.

use multiversion::multiversion;

/// As many running sums as hide the latency of an addition, in vectors of up to eight.
const SUMS: usize = 32;

/// Lowers `low` to the row's scores and raises `high` to them; whether all scores are finite.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn widen(row: &[f32], low: &mut [f32], high: &mut [f32]) -> bool {
    let mut finite = true;
    for ((&score, low), high) in row.iter().zip(low).zip(high) {
        *low = low.min(score);
        *high = high.max(score);
        finite &= score.is_finite();
    }
    finite
}

/// `entries = exp(row · scale − maxima)`, and adds the entries to `sums`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn exponentiate(row: &[f32], scale: f64, maxima: &[f64], entries: &mut [f64], sums: &mut [f64]) {
    for (((&score, &maximum), entry), sum) in row.iter().zip(maxima).zip(entries).zip(sums) {
        *entry = exp(f64::from(score) * scale - maximum);
        *sum += *entry;
    }
}

/// `Σ a·b`
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; SUMS];
    let (whole_a, whole_b) = (a.chunks_exact(SUMS), b.chunks_exact(SUMS));
    let rest: f64 = whole_a.remainder().iter().zip(whole_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in whole_a.zip(whole_b) {
        for lane in 0..SUMS {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Adds `row · factor` to `sums`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn add_scaled(row: &[f64], factor: f64, sums: &mut [f64]) {
    for (entry, sum) in row.iter().zip(sums) {
        *sum += entry * factor;
    }
}

/// `codes = row · factors · factor`
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub(super) fn scale_to_codes(row: &[f64], factors: &[f64], factor: f64, codes: &mut [f32]) {
    for ((entry, prototype), code) in row.iter().zip(factors).zip(codes) {
        *code = (entry * prototype * factor) as f32;
    }
}

/// ln 2 in two parts, the first of which has zeros enough at its end for its multiples to be exact.
const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];

/// 1.5 · 2⁵²: added to a number it leaves the nearest whole number in the last bits.
const WHOLE: f64 = 6_755_399_441_055_744.0;

/// Terms of the series of exp.
const TERMS: usize = 14;

/// 1/n!
const INVERSE_FACTORIALS: [f64; TERMS] = {
    let (mut inverse, mut factorial, mut n) = ([1.0; TERMS], 1.0, 1);
    while n < TERMS {
        factorial *= n as f64;
        inverse[n] = 1.0 / factorial;
        n += 1;
    }
    inverse
};

/// exp(x) for −700 ≤ x ≤ 700 within 1e-15 of itself, without a branch: `2ⁿ · exp(r)` with |r| ≤ ln 2 / 2, and exp(r) by its series.
#[inline(always)]
fn exp(x: f64) -> f64 {
    let shifted = x * std::f64::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = (x - n * LN_2[0]) - n * LN_2[1];
    let mut series = INVERSE_FACTORIALS[TERMS - 1];
    for power in (0..TERMS - 1).rev() {
        series = series * r + INVERSE_FACTORIALS[power];
    }
    let power_of_two = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    series * power_of_two
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        let row: Vec<f32> = (0..=60_000).map(|index| index as f32 * -0.005).collect();
        let (mut entries, mut sums) = (vec![0.0; row.len()], vec![1.0; row.len()]);
        exponentiate(&row, 1.0, &vec![0.0; row.len()], &mut entries, &mut sums);
        for ((&x, &entry), &sum) in row.iter().zip(&entries).zip(&sums) {
            let expected = f64::from(x).exp();
            assert!((entry - expected).abs() <= 1e-15 * expected, "exp({x}): {entry:e}, {expected:e}");
            assert_eq!(sum, 1.0 + entry);
        }
        assert_eq!(entries[0], 1.0);
    }
}
