use super::*;
use crate::kernels::testing::{distance, run, values};

/// Calls `each` with the indices in x, w and y of every product of the convolution's definition.
fn products(g: Geometry, mut each: impl FnMut(usize, usize, usize)) {
    for (n, o, i, j) in indices([g.batch, g.out, g.out_height, g.out_width]) {
        for (c, a, b, _) in indices([g.channels, g.kernel, g.kernel, 1]) {
            let (row, column) = ((i * g.stride + a).wrapping_sub(g.padding), (j * g.stride + b).wrapping_sub(g.padding));
            if row < g.height && column < g.width {
                let x = ((n * g.height + row) * g.width + column) * g.channels + c;
                let w = ((o * g.channels + c) * g.kernel + a) * g.kernel + b;
                each(x, w, ((n * g.out_height + i) * g.out_width + j) * g.out + o);
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

/// Every size class: tiles cut by the border, one and several images a piece, strips of large maps, padded and few
/// channels, pointwise, strided, the stem, windows that see nothing but padding, many pieces, rows of a page, panels of many channels.
fn cases() -> Vec<Geometry> {
    let three = [3, 1, 1];
    vec![
        geometry(3, 32, 33, [4, 4], three),
        geometry(2, 35, 40, [7, 7], three),
        geometry(5, 32, 64, [5, 9], three),
        geometry(1, 64, 32, [30, 61], three),
        geometry(70, 33, 32, [3, 3], three),
        geometry(300, 32, 32, [4, 4], three),
        geometry(2, 416, 32, [12, 12], three),
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
        geometry(17, 33, 40, [14, 14], [1, 1, 0]),
        geometry(4, 3, 20, [63, 61], [7, 2, 3]),
        geometry(2, 1024, 12, [3, 3], [1, 1, 0]),
        geometry(2, 64, 32, [9, 9], [1, 2, 0]),
        geometry(3, 64, 96, [10, 7], [3, 2, 1]),
    ]
}

/// Tensors of a case: shape and values.
struct Case {
    x: (Vec<usize>, Vec<f32>),
    w: (Vec<usize>, Vec<f32>),
    dy: (Vec<usize>, Vec<f32>),
}

/// Compares what `kernel` makes of every case with sums that `term` fills: of one product of the definition, by its
/// indices in x, w and y.
fn check(kernel: impl Fn(Window, Geometry, &Case) -> Vec<f32>, len: impl Fn(&Case) -> usize, term: impl Fn(&Case, [usize; 3]) -> (usize, f64)) {
    for g in cases() {
        let tensor = |shape: [usize; 4], seed| (shape.to_vec(), values(shape.iter().product(), seed));
        let case = Case {
            x: tensor([g.batch, g.height, g.width, g.channels], 1),
            w: tensor([g.out, g.channels, g.kernel, g.kernel], 2),
            dy: tensor([g.batch, g.out_height, g.out_width, g.out], 3),
        };
        let mut expected = vec![0.0; len(&case)];
        products(g, |x, w, y| {
            let (place, value) = term(&case, [x, w, y]);
            expected[place] += value;
        });
        let actual = kernel(Window { kernel: g.kernel, stride: g.stride, padding: g.padding }, g, &case);
        let error = distance(&actual, &expected);
        // Winograd's transforms lose about one digit; rounding grows with the root of a sum's length.
        let length = (g.channels * g.taps()) as f64;
        assert!(error < if g.suits_winograd() { 3e-6 } else { 5e-7 * (length / 512.0).sqrt().max(1.0) }, "{g:?}: {error:e}");
    }
}

fn only(mut outputs: Vec<Vec<f32>>) -> Vec<f32> {
    assert_eq!(outputs.len(), 1);
    outputs.remove(0)
}

#[test]
fn forward_is_the_definition() {
    let kernel = |window, _, case: &Case| only(run(&Forward(window), &[(&case.x.0, &case.x.1), (&case.w.0, &case.w.1)]));
    check(kernel, |case| case.dy.1.len(), |case, [x, w, y]| (y, f64::from(case.x.1[x]) * f64::from(case.w.1[w])));
}

#[test]
fn the_input_gradient_is_the_definition() {
    let kernel = |window, g: Geometry, case: &Case| {
        only(run(&InputGradient { window, input_size: [g.height, g.width] }, &[(&case.dy.0, &case.dy.1), (&case.w.0, &case.w.1)]))
    };
    check(kernel, |case| case.x.1.len(), |case, [x, w, y]| (x, f64::from(case.dy.1[y]) * f64::from(case.w.1[w])));
}

#[test]
fn the_addend_is_added_to_the_input_gradient() {
    for g in cases() {
        let kernel = InputGradient { window: Window { kernel: g.kernel, stride: g.stride, padding: g.padding }, input_size: [g.height, g.width] };
        let tensor = |shape: [usize; 4], seed| (shape.to_vec(), values(shape.iter().product(), seed));
        let (dy, w) = (tensor([g.batch, g.out_height, g.out_width, g.out], 1), tensor([g.out, g.channels, g.kernel, g.kernel], 2));
        let addend = tensor([g.batch, g.height, g.width, g.channels], 3);
        let without = only(run(&kernel, &[(&dy.0, &dy.1), (&w.0, &w.1)]));
        let with = only(run(&kernel, &[(&dy.0, &dy.1), (&w.0, &w.1), (&addend.0, &addend.1)]));
        let expected: Vec<f32> = without.iter().zip(&addend.1).map(|(without, addend)| without + addend).collect();
        assert!(with == expected, "{g:?}");
    }
}

#[test]
fn the_weight_gradient_is_the_definition() {
    let kernel = |window, _, case: &Case| only(run(&WeightGradient(window), &[(&case.dy.0, &case.dy.1), (&case.x.0, &case.x.1)]));
    check(kernel, |case| case.w.1.len(), |case, [x, w, y]| (w, f64::from(case.dy.1[y]) * f64::from(case.x.1[x])));
}

#[test]
fn empty_tensors_are_refused() {
    assert_eq!(rank_four(&[vec![2, 8, 8, 64]]), Ok([[2, 8, 8, 64]]));
    let message = rank_four::<1>(&[vec![0, 8, 8, 64]]).expect_err("no images");
    assert!(message.contains("none of them empty, got [[0, 8, 8, 64]]"), "{message}");
}
