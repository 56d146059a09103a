//! Batch normalisation over the batch's own statistics, with residual and ReLU: `swav::BatchNormTrain` and its gradient.
//!
//! A channel is worked on as a whole: its values stay in the cache between the passes for mean, variance and result.

#[cfg(test)]
mod tests;

use pulp::{Simd, WithSimd};

use super::Resources;
use super::operator::{Attributes, Dense, Input, Output};
use super::parallel::{KernelError, for_each};

/// Elements that make a task worth handing to another thread.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Sizes of x [batch, channels, pixels].
#[derive(Debug, Clone, Copy)]
struct Maps {
    batch: usize,
    channels: usize,
    pixels: usize,
}

impl Maps {
    fn new(shape: &[usize]) -> Result<Maps, String> {
        let [batch, channels, ref map @ ..] = *shape else {
            return Err(format!("expected x [N, C] or [N, C, H, W], got {shape:?}"));
        };
        let maps = Maps { batch, channels, pixels: map.iter().product() };
        if maps.batch * maps.pixels == 0 || channels == 0 {
            return Err(format!("expected values in every channel, got {shape:?}"));
        }
        Ok(maps)
    }

    /// Channels of a task.
    fn channels_per_task(&self) -> usize {
        (TASK_ELEMENTS / (self.batch * self.pixels)).clamp(1, self.channels)
    }

    fn count(&self) -> f64 {
        (self.batch * self.pixels) as f64
    }

    /// A channel's values in an image.
    fn plane<'a>(&self, x: &'a [f32], image: usize, channel: usize) -> &'a [f32] {
        &x[(image * self.channels + channel) * self.pixels..][..self.pixels]
    }

    /// For every task its part of each image.
    fn split<'a>(&self, x: &'a mut [f32]) -> Vec<Vec<&'a mut [f32]>> {
        let per_task = self.channels_per_task();
        let mut tasks: Vec<Vec<&mut [f32]>> = (0..self.channels.div_ceil(per_task)).map(|_| Vec::with_capacity(self.batch)).collect();
        for image in x.chunks_exact_mut(self.channels * self.pixels) {
            for (task, part) in tasks.iter_mut().zip(image.chunks_mut(per_task * self.pixels)) {
                task.push(part);
            }
        }
        tasks
    }
}

fn check_vectors(shapes: &[Vec<usize>], channels: usize) -> Result<(), String> {
    match shapes.iter().find(|shape| shape.as_slice() != [channels]) {
        Some(shape) => Err(format!("expected vectors of {channels} channels, got {shape:?}")),
        None => Ok(()),
    }
}

/// `swav::BatchNormTrain`: x, scale, bias and perhaps a residual → y, mean, var.
pub(super) struct BatchNormTrain {
    epsilon: f32,
    relu: bool,
}

impl Dense for BatchNormTrain {
    const NAME: &'static str = "BatchNormTrain";
    const INPUTS: (usize, usize) = (3, 1);
    // A pass whose statistics nobody tracks has y alone.
    const OUTPUTS: (usize, usize) = (1, 2);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Ok(BatchNormTrain { epsilon: attributes.float("epsilon")?, relu: attributes.flag("relu")? })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let maps = Maps::new(&inputs[0])?;
        check_vectors(&inputs[1..3], maps.channels)?;
        if inputs.get(3).is_some_and(|residual| *residual != inputs[0]) {
            return Err(format!("expected a residual of shape {:?}, got {:?}", inputs[0], inputs[3]));
        }
        Ok(vec![inputs[0].clone(), vec![maps.channels], vec![maps.channels]])
    }

    fn compute(&self, &Resources { parallel, arch, .. }: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let maps = Maps::new(inputs[0].shape).map_err(KernelError::Shape)?;
        let [y, mean, variance] = <[Output; 3]>::try_from(outputs).map_err(|_| KernelError::Shape("expected three outputs".into()))?;
        let per_task = maps.channels_per_task();
        let parts = maps.split(y.data).into_iter().zip(mean.data.chunks_mut(per_task)).zip(variance.data.chunks_mut(per_task));
        for_each(parallel, parts, |task, ((y, mean), variance)| {
            let first = task * per_task;
            arch.dispatch(Normalize { maps, kernel: self, inputs, first, y, mean, variance });
        })
    }
}

struct Normalize<'a, 'b> {
    maps: Maps,
    kernel: &'a BatchNormTrain,
    inputs: &'a [Input<'a>],
    first: usize,
    y: Vec<&'b mut [f32]>,
    mean: &'a mut [f32],
    variance: &'a mut [f32],
}

impl WithSimd for Normalize<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Normalize { maps, kernel, inputs, first, mut y, mean, variance } = self;
        let (x, scale, bias, residual) = (inputs[0].data, inputs[1].data, inputs[2].data, inputs.get(3).map(|residual| residual.data));
        for index in 0..mean.len() {
            let channel = first + index;
            let mut total = 0.0;
            for image in 0..maps.batch {
                total += f64::from(sum(simd, maps.plane(x, image, channel)));
            }
            let average = (total / maps.count()) as f32;
            let mut total = 0.0;
            for image in 0..maps.batch {
                total += f64::from(squared_distance(simd, maps.plane(x, image, channel), average));
            }
            let spread = (total / maps.count()) as f32;
            (mean[index], variance[index]) = (average, spread);
            let factor = scale[channel] / (spread + kernel.epsilon).sqrt();
            let affine = Affine { mean: average, factor, bias: bias[channel], relu: kernel.relu };
            for (image, y) in y.iter_mut().enumerate() {
                let y = &mut y[index * maps.pixels..(index + 1) * maps.pixels];
                let residual = residual.map(|residual| maps.plane(residual, image, channel));
                affine.apply(simd, maps.plane(x, image, channel), residual, y);
            }
        }
    }
}

/// `max((x − mean) · factor + bias + residual, 0)`
struct Affine {
    mean: f32,
    factor: f32,
    bias: f32,
    relu: bool,
}

impl Affine {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, x: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let (mean, factor, bias, zero) = (simd.splat_f32s(self.mean), simd.splat_f32s(self.factor), simd.splat_f32s(self.bias), simd.splat_f32s(0.0));
        let (x_vectors, x_rest) = S::as_simd_f32s(x);
        let (y_vectors, y_rest) = S::as_mut_simd_f32s(y);
        let (residual_vectors, residual_rest) = residual.map_or((None, None), |residual| {
            let (vectors, rest) = S::as_simd_f32s(residual);
            (Some(vectors), Some(rest))
        });
        for index in 0..y_vectors.len() {
            let mut value = simd.mul_add_f32s(simd.sub_f32s(x_vectors[index], mean), factor, bias);
            if let Some(residual) = residual_vectors {
                value = simd.add_f32s(value, residual[index]);
            }
            y_vectors[index] = if self.relu { simd.max_f32s(value, zero) } else { value };
        }
        for index in 0..y_rest.len() {
            let mut value = (x_rest[index] - self.mean).mul_add(self.factor, self.bias);
            if let Some(residual) = residual_rest {
                value += residual[index];
            }
            y_rest[index] = if self.relu { value.max(0.0) } else { value };
        }
    }
}

/// Sums in as many partial sums as hide the latency of an addition.
const PARTIAL: usize = 4;

#[inline(always)]
fn sum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(values);
    let mut sums = [simd.splat_f32s(0.0); PARTIAL];
    let chunks = vectors.chunks_exact(PARTIAL);
    for &value in chunks.remainder() {
        sums[0] = simd.add_f32s(sums[0], value);
    }
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum = simd.add_f32s(*sum, value);
        }
    }
    let mut tail = 0.0;
    for &value in rest {
        tail += value;
    }
    total(simd, sums) + tail
}

#[inline(always)]
fn squared_distance<S: Simd>(simd: S, values: &[f32], mean: f32) -> f32 {
    let (vectors, rest) = S::as_simd_f32s(values);
    let centre = simd.splat_f32s(mean);
    let mut sums = [simd.splat_f32s(0.0); PARTIAL];
    let chunks = vectors.chunks_exact(PARTIAL);
    for &value in chunks.remainder() {
        let distance = simd.sub_f32s(value, centre);
        sums[0] = simd.mul_add_f32s(distance, distance, sums[0]);
    }
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            let distance = simd.sub_f32s(value, centre);
            *sum = simd.mul_add_f32s(distance, distance, *sum);
        }
    }
    let mut tail = 0.0;
    for &value in rest {
        tail += (value - mean) * (value - mean);
    }
    total(simd, sums) + tail
}

#[inline(always)]
fn total<S: Simd>(simd: S, [a, b, c, d]: [S::f32s; PARTIAL]) -> f32 {
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

/// `swav::BatchNormTrainGrad`: dy, x, scale, mean, var and, with a ReLU, y → dx, dscale, dbias and perhaps dresidual.
pub(super) struct BatchNormTrainGrad {
    epsilon: f32,
    relu: bool,
    residual: bool,
}

impl Dense for BatchNormTrainGrad {
    const NAME: &'static str = "BatchNormTrainGrad";
    const INPUTS: (usize, usize) = (5, 1);
    const OUTPUTS: (usize, usize) = (3, 1);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Ok(BatchNormTrainGrad { epsilon: attributes.float("epsilon")?, relu: attributes.flag("relu")?, residual: attributes.flag("residual")? })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let maps = Maps::new(&inputs[1])?;
        check_vectors(&inputs[2..5], maps.channels)?;
        if inputs[0] != inputs[1] || inputs.get(5).is_some_and(|y| *y != inputs[1]) || inputs.get(5).is_some() != self.relu {
            return Err(format!("expected dy and, with a ReLU, y of x's shape {:?}, got {inputs:?}", inputs[1]));
        }
        let mut outputs = vec![inputs[1].clone(), vec![maps.channels], vec![maps.channels]];
        if self.residual {
            outputs.push(inputs[1].clone());
        }
        Ok(outputs)
    }

    fn compute(&self, &Resources { parallel, arch, .. }: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let maps = Maps::new(inputs[1].shape).map_err(KernelError::Shape)?;
        let mut outputs = outputs.into_iter();
        let mut next = || outputs.next().ok_or_else(|| KernelError::Shape("an output is missing".into()));
        let (dx, dscale, dbias) = (next()?, next()?, next()?);
        let dresidual = if self.residual { Some(next()?) } else { None };
        let per_task = maps.channels_per_task();
        let mut dresidual = dresidual.map(|dresidual| maps.split(dresidual.data).into_iter());
        let parts = maps.split(dx.data).into_iter().zip(dscale.data.chunks_mut(per_task)).zip(dbias.data.chunks_mut(per_task));
        let parts = parts.map(|((dx, dscale), dbias)| (dx, dscale, dbias, dresidual.as_mut().and_then(Iterator::next)));
        for_each(parallel, parts, |task, (dx, dscale, dbias, dresidual)| {
            let first = task * per_task;
            arch.dispatch(Differentiate { maps, epsilon: self.epsilon, inputs, first, dx, dscale, dbias, dresidual });
        })
    }
}

struct Differentiate<'a, 'b> {
    maps: Maps,
    epsilon: f32,
    inputs: &'a [Input<'a>],
    first: usize,
    dx: Vec<&'b mut [f32]>,
    dscale: &'a mut [f32],
    dbias: &'a mut [f32],
    dresidual: Option<Vec<&'b mut [f32]>>,
}

impl WithSimd for Differentiate<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Differentiate { maps, epsilon, inputs, first, mut dx, dscale, dbias, mut dresidual } = self;
        let (dy, x, scale) = (inputs[0].data, inputs[1].data, inputs[2].data);
        let (mean, variance, y) = (inputs[3].data, inputs[4].data, inputs.get(5).map(|y| y.data));
        for index in 0..dscale.len() {
            let channel = first + index;
            let (mut sum_dy, mut sum_product) = (0.0, 0.0);
            for image in 0..maps.batch {
                let y = y.map(|y| maps.plane(y, image, channel));
                let (a, b) = gradient_sums(simd, maps.plane(dy, image, channel), maps.plane(x, image, channel), y, mean[channel]);
                sum_dy += f64::from(a);
                sum_product += f64::from(b);
            }
            // With x̂ the normalised input and M elements a channel: dbias = Σ dy, dscale = Σ dy·x̂,
            // dx = scale·inverse·(dy − dbias/M − x̂·dscale/M).
            let inverse = 1.0 / (f64::from(variance[channel]) + f64::from(epsilon)).sqrt();
            let slope = sum_product * inverse;
            (dscale[index], dbias[index]) = (slope as f32, sum_dy as f32);
            let gradient = Gradient {
                mean: mean[channel],
                factor: (f64::from(scale[channel]) * inverse) as f32,
                offset: (sum_dy / maps.count()) as f32,
                slope: (slope * inverse / maps.count()) as f32,
            };
            let own = index * maps.pixels..(index + 1) * maps.pixels;
            for (image, dx) in dx.iter_mut().enumerate() {
                let y = y.map(|y| maps.plane(y, image, channel));
                let dresidual = dresidual.as_mut().map(|dresidual| &mut dresidual[image][own.clone()]);
                gradient.apply(simd, maps.plane(dy, image, channel), maps.plane(x, image, channel), y, &mut dx[own.clone()], dresidual);
            }
        }
    }
}

/// dy where y is positive, else 0; dy itself without y.
#[inline(always)]
fn masked<S: Simd>(simd: S, dy: S::f32s, y: Option<S::f32s>) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    match y {
        Some(y) => simd.select_f32s(simd.less_than_f32s(zero, y), dy, zero),
        None => dy,
    }
}

#[inline(always)]
fn masked_one(dy: f32, y: Option<f32>) -> f32 {
    if y.is_none_or(|y| y > 0.0) { dy } else { 0.0 }
}

/// `Σ dy` and `Σ dy·(x − mean)` over a plane.
#[inline(always)]
fn gradient_sums<S: Simd>(simd: S, dy: &[f32], x: &[f32], y: Option<&[f32]>, mean: f32) -> (f32, f32) {
    let (dy_vectors, dy_rest) = S::as_simd_f32s(dy);
    let (x_vectors, x_rest) = S::as_simd_f32s(x);
    let (y_vectors, y_rest) = y.map_or((None, None), |y| {
        let (vectors, rest) = S::as_simd_f32s(y);
        (Some(vectors), Some(rest))
    });
    let (centre, zero) = (simd.splat_f32s(mean), simd.splat_f32s(0.0));
    let (mut sums, mut products) = ([zero; PARTIAL], [zero; PARTIAL]);
    for index in 0..dy_vectors.len() {
        let partial = index % PARTIAL;
        let value = masked(simd, dy_vectors[index], y_vectors.map(|y| y[index]));
        sums[partial] = simd.add_f32s(sums[partial], value);
        products[partial] = simd.mul_add_f32s(value, simd.sub_f32s(x_vectors[index], centre), products[partial]);
    }
    let (mut sum, mut product) = (total(simd, sums), total(simd, products));
    for index in 0..dy_rest.len() {
        let value = masked_one(dy_rest[index], y_rest.map(|y| y[index]));
        sum += value;
        product += value * (x_rest[index] - mean);
    }
    (sum, product)
}

/// `dx = factor · (dy − offset − (x − mean) · slope)`
struct Gradient {
    mean: f32,
    factor: f32,
    offset: f32,
    slope: f32,
}

impl Gradient {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, dy: &[f32], x: &[f32], y: Option<&[f32]>, dx: &mut [f32], dresidual: Option<&mut [f32]>) {
        let (mean, factor) = (simd.splat_f32s(self.mean), simd.splat_f32s(self.factor));
        let (offset, slope) = (simd.splat_f32s(self.offset), simd.splat_f32s(-self.slope));
        let (dy_vectors, dy_rest) = S::as_simd_f32s(dy);
        let (x_vectors, x_rest) = S::as_simd_f32s(x);
        let (dx_vectors, dx_rest) = S::as_mut_simd_f32s(dx);
        let (y_vectors, y_rest) = y.map_or((None, None), |y| {
            let (vectors, rest) = S::as_simd_f32s(y);
            (Some(vectors), Some(rest))
        });
        let (mut residual_vectors, mut residual_rest) = dresidual.map_or((None, None), |dresidual| {
            let (vectors, rest) = S::as_mut_simd_f32s(dresidual);
            (Some(vectors), Some(rest))
        });
        for index in 0..dx_vectors.len() {
            let value = masked(simd, dy_vectors[index], y_vectors.map(|y| y[index]));
            if let Some(residual) = &mut residual_vectors {
                residual[index] = value;
            }
            let along = simd.mul_add_f32s(simd.sub_f32s(x_vectors[index], mean), slope, simd.sub_f32s(value, offset));
            dx_vectors[index] = simd.mul_f32s(factor, along);
        }
        for index in 0..dx_rest.len() {
            let value = masked_one(dy_rest[index], y_rest.map(|y| y[index]));
            if let Some(residual) = &mut residual_rest {
                residual[index] = value;
            }
            dx_rest[index] = self.factor * (value - self.offset - (x_rest[index] - self.mean) * self.slope);
        }
    }
}
