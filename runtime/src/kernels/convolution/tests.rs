use super::*;
use crate::kernels::parallel::Serial;
use crate::kernels::scratch::ScratchPool;

fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Calls `each` with the indices in x, w and y of every product of the convolution's definition.
fn products(g: Geometry, mut each: impl FnMut(usize, usize, usize)) {
    for (n, o, i, j) in indices([g.batch, g.out, g.out_height, g.out_width]) {
        for (c, a, b, _) in indices([g.channels, g.kernel, g.kernel, 1]) {
            let (row, column) = ((i * g.stride + a).wrapping_sub(g.padding), (j * g.stride + b).wrapping_sub(g.padding));
            if row < g.height && column < g.width {
                let x = ((n * g.channels + c) * g.height + row) * g.width + column;
                let w = ((o * g.channels + c) * g.kernel + a) * g.kernel + b;
                each(x, w, ((n * g.out + o) * g.out_height + i) * g.out_width + j);
            }
        }
    }
}

fn indices([a, b, c, d]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |index| (index / (b * c * d), index / (c * d) % b, index / d % c, index % d))
}

fn geometry(batch: usize, channels: usize, out: usize, [height, width]: [usize; 2], [kernel, stride, padding]: [usize; 3]) -> Geometry {
    let side = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    Geometry { batch, channels, height, width, out, out_height: side(height), out_width: side(width), kernel, stride, padding }
}

fn error(actual: &[f32], expected: &[f64]) -> f64 {
    let norm = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
    let difference = actual.iter().zip(expected).map(|(&actual, expected)| (f64::from(actual) - expected).powi(2)).sum::<f64>().sqrt();
    difference / norm.max(1e-30)
}

/// Every size class: tiles cut by the border, one and several images a piece, strips of large maps, padded and few
/// channels, pointwise, strided, the stem, windows that see nothing but padding.
fn cases() -> Vec<Geometry> {
    let three = [3, 1, 1];
    vec![
        geometry(3, 32, 33, [4, 4], three),
        geometry(2, 35, 40, [7, 7], three),
        geometry(5, 32, 64, [5, 9], three),
        geometry(1, 64, 32, [30, 61], three),
        geometry(70, 33, 32, [3, 3], three),
        geometry(4, 40, 24, [2, 2], three),
        geometry(2, 16, 17, [6, 5], three),
        geometry(3, 9, 5, [6, 6], three),
        geometry(2, 3, 20, [12, 11], three),
        geometry(2, 3, 32, [31, 32], [7, 2, 3]),
        geometry(3, 32, 48, [9, 8], [3, 2, 1]),
        geometry(2, 64, 100, [13, 14], [1, 1, 0]),
        geometry(2, 64, 33, [7, 7], [1, 2, 0]),
        geometry(1, 1, 1, [1, 1], [1, 1, 0]),
        geometry(1, 10, 3, [1, 1], three),
        geometry(130, 12, 8, [1, 1], [3, 2, 1]),
        geometry(2, 12, 8, [5, 5], [2, 3, 2]),
    ]
}

fn check(kernel: impl Fn(&Resources, Geometry, &[f32], &[f32], &[f32]) -> (Vec<f32>, Vec<f64>)) {
    let pool = ScratchPool::default();
    // Scratch that is not zero shows what relies on it.
    pool.take(1 << 20).fill(f32::NAN);
    let with = Resources { parallel: &Serial, pool: &pool, arch: pulp::Arch::new() };
    for g in cases() {
        let x = values(g.batch * g.channels * g.height * g.width, 1);
        let w = values(g.out * g.channels * g.kernel * g.kernel, 2);
        let dy = values(g.batch * g.out * g.out_height * g.out_width, 3);
        let (actual, expected) = kernel(&with, g, &x, &w, &dy);
        let error = error(&actual, &expected);
        // Winograd's transforms lose about one digit.
        assert!(error < if g.suits_winograd() { 3e-6 } else { 5e-7 }, "{g:?}: {error:e}");
    }
}

#[test]
fn forward_is_the_definition() {
    check(|with, g, x, w, dy| {
        let mut expected = vec![0.0; dy.len()];
        products(g, |x_at, w_at, y_at| expected[y_at] += f64::from(x[x_at]) * f64::from(w[w_at]));
        let mut y = vec![f32::NAN; dy.len()];
        forward(with, g, x, w, &mut y).expect("runs");
        (y, expected)
    });
}

#[test]
fn the_input_gradient_is_the_definition() {
    check(|with, g, x, w, dy| {
        let mut expected = vec![0.0; x.len()];
        products(g, |x_at, w_at, y_at| expected[x_at] += f64::from(dy[y_at]) * f64::from(w[w_at]));
        let mut dx = vec![f32::NAN; x.len()];
        input_gradient(with, g, dy, w, &mut dx).expect("runs");
        (dx, expected)
    });
}

#[test]
fn the_weight_gradient_is_the_definition() {
    check(|with, g, x, w, dy| {
        let mut expected = vec![0.0; w.len()];
        products(g, |x_at, w_at, y_at| expected[w_at] += f64::from(dy[y_at]) * f64::from(x[x_at]));
        let mut dw = vec![f32::NAN; w.len()];
        weight_gradient(with, g, dy, x, &mut dw).expect("runs");
        (dw, expected)
    });
}
