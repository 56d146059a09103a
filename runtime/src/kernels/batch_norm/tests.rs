use super::*;
use crate::kernels::parallel::Serial;
use crate::kernels::scratch::ScratchPool;

const EPSILON: f32 = 1e-5;

fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Rows, single pixels, maps that are no multiple of a vector, more and fewer values than a task holds.
const SHAPES: [[usize; 4]; 6] = [[16, 5, 1, 1], [2, 3, 1, 2], [3, 7, 3, 3], [2, 33, 5, 7], [4, 2, 64, 65], [9, 40, 4, 4]];

fn run<K: Dense>(kernel: &K, shapes: &[Vec<usize>], inputs: &[&[f32]]) -> Vec<Vec<f32>> {
    let pool = ScratchPool::default();
    let with = Resources { parallel: &Serial, pool: &pool, arch: pulp::Arch::new() };
    let mut outputs: Vec<Vec<f32>> = kernel.infer(shapes).expect("fitting shapes").iter().map(|shape| vec![f32::NAN; shape.iter().product()]).collect();
    kernel.compute(&with, shapes, inputs, outputs.iter_mut().map(Vec::as_mut_slice).collect()).expect("runs");
    outputs
}

fn assert_close(name: &str, shape: [usize; 4], actual: &[f32], expected: &[f64]) {
    let norm = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
    let difference = actual.iter().zip(expected).map(|(&actual, expected)| (f64::from(actual) - expected).powi(2)).sum::<f64>().sqrt();
    assert!(difference <= 2e-6 * norm + 1e-9, "{name} of {shape:?}: {:e}", difference / norm);
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
        let mut shapes = vec![map.clone(), vector.clone(), vector.clone()];
        let mut inputs: Vec<&[f32]> = vec![&x, &scale, &bias];
        if with_residual {
            shapes.push(map.clone());
            inputs.push(&residual);
        }
        let outputs = run(&BatchNormTrain { epsilon: EPSILON, relu }, &shapes, &inputs);
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
        let mut shapes = vec![map.clone(), map.clone(), vector.clone(), vector.clone(), vector];
        let mut inputs: Vec<&[f32]> = vec![&dy, &x, &scale, &outputs[1], &outputs[2]];
        if relu {
            shapes.push(map);
            inputs.push(&outputs[0]);
        }
        let gradients = run(&BatchNormTrainGrad { epsilon: EPSILON, relu, residual: with_residual }, &shapes, &inputs);
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
