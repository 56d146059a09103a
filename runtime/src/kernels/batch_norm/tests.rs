use super::*;
use crate::kernels::operator::Dense;
use crate::kernels::testing::{distance, run, values};

const EPSILON: f32 = 1e-5;

/// Rows [N, C] and maps [N, H, W, C], with channels that are no multiple of a vector, more and fewer values than a task holds, and more
/// channels than a tile.
const SHAPES: [&[usize]; 11] = [
    &[16, 5],
    &[2, 1, 2, 3],
    &[3, 3, 3, 17],
    &[2, 5, 7, 33],
    &[4, 64, 65, 1],
    &[1, 64, 65, 3],
    &[9, 4, 4, 100],
    &[1, 40, 40, 64],
    &[1, 2, 3, 257],
    &[70, 600],
    &[200, 300],
];

fn assert_close(name: &str, shape: &[usize], actual: &[f32], expected: &[f64]) {
    let distance = distance(actual, expected);
    assert!(distance <= 2e-6, "{name} of {shape:?}: {distance:e}");
}

#[test]
fn forward_and_gradient_are_the_definition() {
    for (shape, (relu, with_residual)) in SHAPES.into_iter().flat_map(|shape| [(false, false), (true, false), (true, true)].map(|tail| (shape, tail))) {
        let (len, channels) = (shape.iter().product::<usize>(), shape[shape.len() - 1]);
        let channel = |index: usize| index % channels;
        // A mean that is large against the spread shows sums that cancel.
        let x: Vec<f32> = values(len, 1).iter().map(|x| x + 3.0).collect();
        let (scale, bias, residual, dy) = (values(channels, 2), values(channels, 3), values(len, 4), values(len, 5));

        let count = (len / channels) as f64;
        let mut mean = vec![0.0; channels];
        (0..len).for_each(|index| mean[channel(index)] += f64::from(x[index]) / count);
        let mut variance = vec![0.0; channels];
        (0..len).for_each(|index| variance[channel(index)] += (f64::from(x[index]) - mean[channel(index)]).powi(2) / count);
        let inverse: Vec<f64> = variance.iter().map(|variance| 1.0 / (variance + f64::from(EPSILON)).sqrt()).collect();
        let normalized: Vec<f64> = (0..len).map(|index| (f64::from(x[index]) - mean[channel(index)]) * inverse[channel(index)]).collect();
        let y: Vec<f64> = (0..len)
            .map(|index| {
                let affine = normalized[index] * f64::from(scale[channel(index)]) + f64::from(bias[channel(index)]);
                let sum = affine + if with_residual { f64::from(residual[index]) } else { 0.0 };
                if relu { sum.max(0.0) } else { sum }
            })
            .collect();

        let (map, vector) = (shape.to_vec(), vec![channels]);
        let mut inputs: Vec<(&[usize], &[f32])> = vec![(&map, &x), (&vector, &scale), (&vector, &bias)];
        if with_residual {
            inputs.push((&map, &residual));
        }
        let outputs = run(&BatchNormTrain { epsilon: EPSILON, relu, channels_last: shape.len() == 4 }, &inputs);
        for (name, (actual, expected)) in ["y", "mean", "var"].into_iter().zip(outputs.iter().zip([&y, &mean, &variance])) {
            assert_close(name, shape, actual, expected);
        }

        let dz: Vec<f64> = (0..len).map(|index| if relu && outputs[0][index] <= 0.0 { 0.0 } else { f64::from(dy[index]) }).collect();
        let (mut dbias, mut dscale) = (vec![0.0; channels], vec![0.0; channels]);
        (0..len).for_each(|index| dbias[channel(index)] += dz[index]);
        (0..len).for_each(|index| dscale[channel(index)] += dz[index] * normalized[index]);
        let dx: Vec<f64> = (0..len)
            .map(|index| {
                let channel = channel(index);
                f64::from(scale[channel]) * inverse[channel] * (dz[index] - dbias[channel] / count - normalized[index] * dscale[channel] / count)
            })
            .collect();
        let mut inputs: Vec<(&[usize], &[f32])> = vec![(&map, &dy), (&map, &x), (&vector, &scale), (&vector, &outputs[1]), (&vector, &outputs[2])];
        if relu {
            inputs.push((&map, &outputs[0]));
        }
        let gradients = run(&BatchNormTrainGrad { epsilon: EPSILON, relu, residual: with_residual, channels_last: shape.len() == 4 }, &inputs);
        assert_eq!(gradients.len(), if with_residual { 4 } else { 3 });
        for (name, (actual, expected)) in ["dx", "dscale", "dbias", "dresidual"].into_iter().zip(gradients.iter().zip([&dx, &dscale, &dbias, &dz])) {
            assert_close(name, shape, actual, expected);
        }
    }
}

#[test]
fn a_small_spread_about_a_large_mean_is_kept() {
    // Means of a few tiles differ, and the first rows of all are far from the rest.
    let (rows, channels) = (5000, 20);
    let mut x: Vec<f32> = values(rows * channels, 1).iter().map(|x| x + 1000.0).collect();
    x[..4 * channels].fill(900.0);
    let kernel = BatchNormTrain { epsilon: EPSILON, relu: false, channels_last: false };
    let ([map, vector], ones, zeros) = ([vec![rows, channels], vec![channels]], vec![1.0; channels], vec![0.0; channels]);
    let outputs = run(&kernel, &[(&map, &x), (&vector, &ones), (&vector, &zeros)]);
    let of_channel = |channel: usize| x.iter().skip(channel).step_by(channels).map(|&x| f64::from(x));
    let mean: Vec<f64> = (0..channels).map(|channel| of_channel(channel).sum::<f64>() / rows as f64).collect();
    let variance: Vec<f64> = (0..channels).map(|channel| of_channel(channel).map(|x| (x - mean[channel]).powi(2)).sum::<f64>() / rows as f64).collect();
    assert_close("mean", &map, &outputs[1], &mean);
    assert_close("var", &map, &outputs[2], &variance);
    let y: Vec<f64> = (0..x.len()).map(|at| (f64::from(x[at]) - mean[at % channels]) / (variance[at % channels] + f64::from(EPSILON)).sqrt()).collect();
    // The mean is handed on in f32: half a unit in its last place, 3e-5, beside a spread of 3.
    let distance = distance(&outputs[0], &y);
    assert!(distance <= 2e-5, "y: {distance:e}");
}

#[test]
fn constant_channels_have_no_variance_and_bad_values_stay_visible() {
    let (rows, channels) = (300, 3);
    let mut x: Vec<f32> = (0..rows * channels).map(|index| [0.0, 1234.567, 1.0][index % channels]).collect();
    x[200 * channels + 2] = f32::NAN;
    let kernel = BatchNormTrain { epsilon: EPSILON, relu: false, channels_last: false };
    let outputs = run(&kernel, &[(&[rows, channels], &x), (&[channels], &[1.0; 3]), (&[channels], &[0.0; 3])]);
    assert_eq!((outputs[1][0], outputs[2][0]), (0.0, 0.0));
    assert!((outputs[1][1] - 1234.567).abs() <= 2e-4 && outputs[2][1] <= 1e-9, "{} {}", outputs[1][1], outputs[2][1]);
    assert!(outputs[1][2].is_nan() && outputs[2][2].is_nan());
}

#[test]
fn shapes_that_do_not_belong_together_are_refused() {
    let kernel = BatchNormTrain { epsilon: EPSILON, relu: true, channels_last: true };
    let (map, vector) = (vec![2, 4, 4, 3], vec![3]);
    assert!(kernel.infer(&[map.clone(), vector.clone(), vector.clone()]).is_ok());
    assert!(kernel.infer(&[map.clone(), vector.clone(), vec![4]]).is_err());
    assert!(kernel.infer(&[map.clone(), vector.clone(), vector.clone(), vec![2, 4, 5, 3]]).is_err());
    assert!(kernel.infer(&[vec![2, 4, 3], vector.clone(), vector.clone()]).is_err());
    let kernel = BatchNormTrainGrad { epsilon: EPSILON, relu: true, residual: false, channels_last: true };
    assert!(kernel.infer(&[map.clone(), map.clone(), vector.clone(), vector.clone(), vector.clone()]).is_err(), "y is missing");
    let kernel = BatchNormTrain { epsilon: EPSILON, relu: true, channels_last: false };
    assert!(kernel.infer(&[vec![2, 3], vector.clone(), vector.clone()]).is_ok());
    let error = kernel.infer(&[map, vector.clone(), vector]).expect_err("channel-major");
    assert!(error.contains("target `native`"), "{error}");
}
