use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// The official code's `distributed_sinkhorn`, in f64 and shifted by one global maximum.
fn naive(scores: &[f32], prototypes: usize, epsilon: f64, iterations: usize) -> Vec<f64> {
    let samples = scores.len() / prototypes;
    let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut q: Vec<f64> = scores.iter().map(|&score| (f64::from(score - maximum) / epsilon).exp()).collect();
    let total: f64 = q.iter().sum();
    q.iter_mut().for_each(|entry| *entry /= total);
    for _ in 0..iterations {
        for prototype in 0..prototypes {
            let sum: f64 = (0..samples).map(|sample| q[sample * prototypes + prototype]).sum();
            (0..samples).for_each(|sample| q[sample * prototypes + prototype] /= sum * prototypes as f64);
        }
        for row in q.chunks_exact_mut(prototypes) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|entry| *entry /= sum * samples as f64);
        }
    }
    q.iter().map(|entry| entry * samples as f64).collect()
}

fn cosines(samples: usize, prototypes: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..samples * prototypes).map(|_| rng.random_range(-1.0..1.0f32)).collect()
}

fn codes(settings: Sinkhorn, prototypes: usize, queue: &[f32], scores: &[f32]) -> Vec<f32> {
    let mut codes = vec![-1.0; scores.len()];
    sinkhorn_knopp(settings, prototypes, queue, scores, &mut codes).expect("valid arguments");
    codes
}

fn assert_rows_sum_to_one(codes: &[f32], prototypes: usize) {
    for row in codes.chunks_exact(prototypes) {
        let sum: f64 = row.iter().map(|&code| f64::from(code)).sum();
        // Codes are rounded to f32 one by one: at most half a unit in the last place each.
        assert!((sum - 1.0).abs() < 1e-6, "a sample's codes sum to {sum}");
    }
}

#[test]
fn codes_equal_the_naive_f64_form() {
    for (samples, prototypes) in [(1, 2), (2, 2), (7, 5), (64, 30), (130, 17)] {
        for epsilon in [0.005, 0.01, 0.05, 0.3, 1.0] {
            for iterations in [1, 2, 3, 10] {
                let scores = cosines(samples, prototypes, samples as u64);
                let got = codes(Sinkhorn { epsilon, iterations, threads: 1 }, prototypes, &[], &scores);
                let expected = naive(&scores, prototypes, epsilon, iterations);
                assert_rows_sum_to_one(&got, prototypes);
                for (got, expected) in got.iter().zip(&expected) {
                    // f32 rounding of the result, and of `score - maximum` in the naive form divided by ε.
                    assert!((f64::from(*got) - expected).abs() < 1e-7 + 3e-7 / epsilon * expected, "{got} {expected} at ε {epsilon}");
                }
            }
        }
    }
}

/// Codes computed in one precision, if it can.
fn codes_in<E: Entry>(scores: &[f32], prototypes: usize, epsilon: f64, iterations: usize) -> Option<Vec<f32>> {
    let samples = Samples { queue: &[], scores, prototypes, epsilon };
    let mut codes = vec![-1.0; scores.len()];
    scale::<E>(&samples, iterations, 1, &mut codes).map(|()| codes)
}

#[test]
fn logarithms_and_both_precisions_agree() {
    let prototypes = 11;
    let scores = cosines(90, prototypes, 3);
    for iterations in [1, 3] {
        let mut by_logarithms = vec![0.0; scores.len()];
        scale_logarithms(&Samples { queue: &[], scores: &scores, prototypes, epsilon: 0.05 }, iterations, 1, &mut by_logarithms);
        let in_f32 = codes_in::<f32>(&scores, prototypes, 0.05, iterations).expect("small exponents");
        let in_f64 = codes_in::<f64>(&scores, prototypes, 0.05, iterations).expect("small exponents");
        for (codes, tolerance) in [(in_f32, 1e-6), (in_f64, 2e-7)] {
            assert!(codes.iter().zip(&by_logarithms).all(|(a, b)| (a - b).abs() <= tolerance * a.max(*b)), "after {iterations} iterations");
        }
    }
}

#[test]
fn each_precision_takes_what_it_can_hold() {
    // A sample as far as can be from all prototypes, to which the others are close: its products are exp(−2·exponent).
    let (prototypes, samples) = (5, 8);
    let apart: Vec<f32> = (0..samples * prototypes).map(|index| if index < prototypes { -1.0 } else { 1.0 }).collect();
    let close = cosines(samples, prototypes, 8);
    // By exponent: which precisions hold close and apart scores.
    for (exponent, [close_f32, apart_f32, close_f64, apart_f64]) in [
        (30.0, [true, true, true, true]),
        (39.0, [true, false, true, true]),
        (41.0, [false, false, true, true]),
        (140.0, [false, false, true, true]),
        (151.0, [false; 4]),
    ] {
        for (scores, in_f32, in_f64) in [(&close, close_f32, close_f64), (&apart, apart_f32, apart_f64)] {
            let epsilon = f64::from(scores.iter().fold(0.0f32, |largest, score| largest.max(score.abs()))) / exponent;
            assert_eq!(codes_in::<f32>(scores, prototypes, epsilon, 3).is_some(), in_f32, "f32 at {exponent}");
            assert_eq!(codes_in::<f64>(scores, prototypes, epsilon, 3).is_some(), in_f64, "f64 at {exponent}");
            let got = codes(Sinkhorn { epsilon, iterations: 3, threads: 1 }, prototypes, &[], scores);
            let expected = naive(scores, prototypes, epsilon, 3);
            for (got, expected) in got.iter().zip(&expected) {
                assert!((f64::from(*got) - expected).abs() < 1e-7 + 3e-7 / epsilon * expected, "{got} {expected} at {exponent}");
            }
        }
    }
}

#[test]
fn any_finite_scores_give_finite_codes() {
    let extremes = [f32::MAX, f32::MIN, 0.0, 1.0, -1.0, 1e-30, 100.0, -1e10, 3e30];
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for round in 0..200 {
        let (samples, prototypes) = (1 + round % 9, 2 + round % 7);
        let scores: Vec<f32> = (0..samples * prototypes).map(|_| extremes[rng.random_range(0..extremes.len())]).collect();
        for iterations in [1, 3, 10] {
            let codes = codes(Sinkhorn { epsilon: 0.005, iterations, threads: 1 }, prototypes, &[], &scores);
            assert!(codes.iter().all(|code| code.is_finite()), "{scores:?} gave {codes:?}");
            assert_rows_sum_to_one(&codes, prototypes);
        }
    }
}

#[test]
fn non_finite_scores_give_nan_codes() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let codes = codes(Sinkhorn { epsilon: 0.05, iterations: 3, threads: 1 }, 2, &[], &[0.0, 1.0, bad, 0.5]);
        assert!(codes.iter().all(|code| code.is_nan()), "{codes:?}");
    }
}

#[test]
fn the_queue_takes_part_before_the_batch_and_returns_nothing() {
    let prototypes = 6;
    let (queue, scores) = (cosines(70, prototypes, 4), cosines(9, prototypes, 5));
    let settings = Sinkhorn { epsilon: 0.05, iterations: 3, threads: 1 };
    let together: Vec<f32> = queue.iter().chain(&scores).copied().collect();
    let got = codes(settings, prototypes, &queue, &scores);
    assert_eq!(got, codes(settings, prototypes, &[], &together)[queue.len()..]);
    assert_ne!(got, codes(settings, prototypes, &[], &scores));
}

#[test]
fn codes_do_not_depend_on_the_number_of_threads() {
    let prototypes = 300;
    let (queue, scores) = (cosines(500, prototypes, 6), cosines(211, prototypes, 7));
    for epsilon in [0.005, 0.05] {
        let one = codes(Sinkhorn { epsilon, iterations: 3, threads: 1 }, prototypes, &queue, &scores);
        for threads in [2, 3, 8] {
            assert_eq!(one, codes(Sinkhorn { epsilon, iterations: 3, threads }, prototypes, &queue, &scores), "{threads} threads");
        }
    }
}

#[test]
fn wrong_lengths_and_settings_are_named() {
    let settings = Sinkhorn { epsilon: 0.05, iterations: 3, threads: 1 };
    let mut codes = [0.0; 3];
    assert!(matches!(sinkhorn_knopp(settings, 2, &[], &[0.0; 3], &mut codes), Err(SinkhornError::Length { name: "scores", .. })));
    assert!(matches!(sinkhorn_knopp(settings, 3, &[], &[0.0; 6], &mut codes), Err(SinkhornError::Codes { .. })));
    let zero = Sinkhorn { iterations: 0, ..settings };
    assert!(matches!(sinkhorn_knopp(zero, 3, &[], &[0.0; 3], &mut codes), Err(SinkhornError::Setting { .. })));
}
