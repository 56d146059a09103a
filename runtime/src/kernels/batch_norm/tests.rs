use super::*;
use crate::kernels::testing::{distance, run, values};

const EPSILON: f32 = 1e-5;

/// Rows, single pixels, maps that are no multiple of a vector, more and fewer values than a task holds.
const SHAPES: [[usize; 4]; 6] = [[16, 5, 1, 1], [2, 3, 1, 2], [3, 7, 3, 3], [2, 33, 5, 7], [4, 2, 64, 65], [9, 40, 4, 4]];

fn assert_close(name: &str, shape: [usize; 4], actual: &[f32], expected: &[f64]) {
    let distance = distance(actual, expected);
    assert!(distance <= 2e-6, "{name} of {shape:?}: {distance:e}");
}

#[test]
fn forward_and_gradient_are_the_definition() {
    for (shape, (relu, with_residual)) in SHAPES.into_iter().flat_map(|shape| [(false, false), (true, false), (true, true)].map(|tail| (shape, tail))) {
        let [batch, channels, height, width] = shape;
        let (len, pixels) = (shape.iter().product::<usize>(), height * width);
        let channel = |index: usize| index / pixels % channels;
        // A mean that is large against the spread shows sums that cancel.
        let x: Vec<f32> = values(len, 1).iter().map(|x| x + 3.0).collect();
        let (scale, bias, residual, dy) = (values(channels, 2), values(channels, 3), values(len, 4), values(len, 5));

        let count = (batch * pixels) as f64;
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
        let outputs = run(&BatchNormTrain { epsilon: EPSILON, relu }, &inputs);
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
        let gradients = run(&BatchNormTrainGrad { epsilon: EPSILON, relu, residual: with_residual }, &inputs);
        assert_eq!(gradients.len(), if with_residual { 4 } else { 3 });
        for (name, (actual, expected)) in ["dx", "dscale", "dbias", "dresidual"].into_iter().zip(gradients.iter().zip([&dx, &dscale, &dbias, &dz])) {
            assert_close(name, shape, actual, expected);
        }
    }
}

#[test]
fn shapes_that_do_not_belong_together_are_refused() {
    let kernel = BatchNormTrain { epsilon: EPSILON, relu: true };
    let (map, vector) = (vec![2, 3, 4, 4], vec![3]);
    assert!(kernel.infer(&[map.clone(), vector.clone(), vec![4]]).is_err());
    assert!(kernel.infer(&[map.clone(), vector.clone(), vector.clone(), vec![2, 3, 4, 5]]).is_err());
    let kernel = BatchNormTrainGrad { epsilon: EPSILON, relu: true, residual: false };
    assert!(kernel.infer(&[map.clone(), map, vector.clone(), vector.clone(), vector]).is_err(), "y is missing");
}
