//! How fast this machine multiplies matrices: what a step's speed is a share of.

use std::time::{Duration, Instant};

use pulp::{Simd, WithSimd};

use super::gemm::{PANEL, Shape, rows_times_panels};

/// Operands that stay in a core's own cache.
const SHAPE: Shape = Shape { m: 240, n: 4 * PANEL, k: 256, a_stride: 256, c_stride: 4 * PANEL };
/// How long a measurement takes.
const TIME: Duration = Duration::from_millis(100);
/// Measurements; the best one counts.
const ROUNDS: usize = 5;

/// The product, again and again.
struct Products<'a> {
    a: &'a [f32],
    b: &'a [f32],
    c: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (began, mut products) = (Instant::now(), 0);
        while began.elapsed() < TIME {
            for _ in 0..8 {
                rows_times_panels(simd, SHAPE, self.a, self.b, std::hint::black_box(&mut *self.c));
            }
            products += 8;
        }
        f64::from(products) * (2 * SHAPE.m * SHAPE.n * SHAPE.k) as f64 / began.elapsed().as_secs_f64()
    }
}

/// Floating-point operations a second of the dense kernels' matrix product on `threads` threads at once, measured in half a
/// second: two for a multiplication with its addition.
pub fn measured_peak(threads: usize) -> f64 {
    let a = vec![1.0; SHAPE.m * SHAPE.a_stride];
    let b = vec![1.0; SHAPE.n * SHAPE.k];
    let one = || {
        let mut c = vec![0.0; SHAPE.m * SHAPE.c_stride];
        pulp::Arch::new().dispatch(Products { a: &a, b: &b, c: &mut c })
    };
    let all = || {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum::<f64>()
        })
    };
    (0..ROUNDS).map(|_| all()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_product_is_right() {
        let (a, b) = (vec![1.0; SHAPE.m * SHAPE.a_stride], vec![2.0; SHAPE.n * SHAPE.k]);
        let mut c = vec![0.0; SHAPE.m * SHAPE.c_stride];
        let speed = pulp::Arch::new().dispatch(Products { a: &a, b: &b, c: &mut c });
        assert!(c.iter().all(|&value| value == 2.0 * SHAPE.k as f32));
        assert!(speed > 0.0);
    }
}
