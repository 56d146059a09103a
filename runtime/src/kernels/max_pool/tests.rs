use super::*;
use crate::kernels::operator::Elements;
use crate::kernels::testing::{run_tensors, values};

/// Kernel, stride, padding.
const WINDOWS: [[usize; 3]; 7] = [[3, 2, 1], [2, 2, 0], [3, 1, 1], [2, 3, 0], [5, 2, 4], [1, 1, 0], [16, 1, 8]];

/// x [N, H, W, C]: odd sizes, one channel, channels that are no multiple of a vector, more rows than a task holds.
const SHAPES: [[usize; 4]; 6] = [[2, 5, 7, 1], [1, 16, 16, 3], [3, 8, 9, 17], [2, 19, 21, 33], [1, 9, 8, 100], [2, 33, 32, 64]];

/// y and taps by the definition.
fn pool([kernel, stride, padding]: [usize; 3], [batch, height, width, channels]: [usize; 4], x: &[f32]) -> ([usize; 4], Vec<f32>, Vec<u8>) {
    let output = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let shape = [batch, output(height), output(width), channels];
    let (mut y, mut taps) = (Vec::new(), Vec::new());
    for index in 0..shape.iter().product() {
        let (channel, pixel) = (index % channels, index / channels);
        let (column, row, image) = (pixel % shape[2], pixel / shape[2] % shape[1], pixel / shape[2] / shape[1]);
        let mut best: Option<(f32, usize)> = None;
        for tap in 0..kernel * kernel {
            let (row, column) = ((row * stride + tap / kernel).wrapping_sub(padding), (column * stride + tap % kernel).wrapping_sub(padding));
            if row < height && column < width {
                let value = x[((image * height + row) * width + column) * channels + channel];
                if best.is_none_or(|(maximum, _)| value > maximum || value.is_nan()) {
                    best = Some((value, tap));
                }
            }
        }
        let (maximum, tap) = best.expect("a window that sees the map");
        y.push(maximum);
        taps.push(tap as u8);
    }
    (shape, y, taps)
}

fn cases() -> impl Iterator<Item = ([usize; 3], [usize; 4])> {
    let fits = |([kernel, _, padding], [_, height, width, _]): &([usize; 3], [usize; 4])| height.min(width) + 2 * padding >= *kernel;
    WINDOWS.into_iter().flat_map(|window| SHAPES.map(|shape| (window, shape))).filter(fits)
}

fn window([kernel, stride, padding]: [usize; 3]) -> Window {
    Window { kernel, stride, padding }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn maxima_and_taps_are_those_of_the_definition() {
    for (sizes, shape) in cases() {
        // Few distinct values, so that there are ties, and some that are no ordinary numbers.
        let x: Vec<f32> = values(shape.iter().product(), 1).iter().map(|x| (x * 6.0).round()).collect();
        let special = |x: f32| {
            if x == 5.0 {
                f32::NAN
            } else if x.abs() < 3.0 {
                f32::NEG_INFINITY
            } else {
                x
            }
        };
        for x in [x.clone(), x.iter().map(|&x| special(x)).collect()] {
            let (out_shape, y, taps) = pool(sizes, shape, &x);
            let kernel = MaxPoolTrain(window(sizes));
            assert_eq!(kernel.infer(&[shape.to_vec()]).expect("fits"), vec![out_shape.to_vec(); 2]);
            let outputs = run_tensors(&kernel, &[Input { shape: &shape, elements: Elements::F32(&x) }]);
            assert_eq!(bits(&outputs[0].0), bits(&y), "{sizes:?} of {shape:?}");
            assert_eq!(outputs[1].1, taps, "{sizes:?} of {shape:?}");
        }
    }
}

#[test]
fn gradients_go_to_the_maxima() {
    for (sizes, shape) in cases() {
        let [_, height, width, channels] = shape;
        let x = values(shape.iter().product(), 1);
        let (out_shape, y, taps) = pool(sizes, shape, &x);
        let dy = values(y.len(), 2);
        let mut expected = vec![0.0; x.len()];
        for (index, (&tap, &dy)) in taps.iter().zip(&dy).enumerate() {
            let ([kernel, stride, padding], (channel, pixel)) = (sizes, (index % channels, index / channels));
            let (column, row, image) = (pixel % out_shape[2], pixel / out_shape[2] % out_shape[1], pixel / out_shape[2] / out_shape[1]);
            let (row, column) = (row * stride + tap as usize / kernel - padding, column * stride + tap as usize % kernel - padding);
            expected[((image * height + row) * width + column) * channels + channel] += f64::from(dy);
        }
        let kernel = MaxPoolTrainGrad { window: window(sizes), input_size: [height, width] };
        let inputs = [Input { shape: &out_shape, elements: Elements::F32(&dy) }, Input { shape: &out_shape, elements: Elements::U8(&taps) }];
        let dx = run_tensors(&kernel, &inputs).remove(0).0;
        let distance = crate::kernels::testing::distance(&dx, &expected);
        assert!(distance <= 1e-6, "{sizes:?} of {shape:?}: {distance:e}");
    }
}

#[test]
fn shapes_and_windows_that_do_not_fit_are_refused() {
    let kernel = MaxPoolTrain(window([3, 2, 0]));
    assert!(kernel.infer(&[vec![1, 2, 9, 4]]).is_err(), "smaller than the kernel");
    assert!(kernel.infer(&[vec![1, 9, 9]]).is_err());
    let kernel = MaxPoolTrainGrad { window: window([3, 2, 1]), input_size: [8, 8] };
    assert!(kernel.infer(&[vec![1, 4, 4, 2], vec![1, 4, 4, 2]]).is_ok());
    assert!(kernel.infer(&[vec![1, 4, 4, 2], vec![1, 4, 4, 3]]).is_err());
    assert!(kernel.infer(&[vec![1, 5, 4, 2], vec![1, 5, 4, 2]]).is_err());
    let read = |kernel: i64, padding: i64, channels_last: i64| {
        let ints = move |name: &str| Some(vec![if name == "pads" { padding } else { kernel }; 2]);
        MaxPoolTrain::read(&Attributes { ints: &ints, int: &|_| Some(channels_last), float: &|_| None }).map(|_| ())
    };
    assert_eq!(read(3, 1, 1), Ok(()));
    for (kernel, padding, channels_last) in [(17, 1, 1), (3, 3, 1), (3, 1, 0)] {
        assert!(read(kernel, padding, channels_last).is_err(), "{kernel} {padding} {channels_last}");
    }
}
