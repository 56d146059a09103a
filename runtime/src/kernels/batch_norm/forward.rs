//! `swav::BatchNormTrain`.

use pulp::{Simd, WithSimd};

use super::strips::{InStrips, Rows};
use super::sums::{Terms, WIDTH, column_sums};
use super::{Matrix, check_layout, check_vectors};
use crate::kernels::Resources;
use crate::kernels::operator::{Attributes, Dense, Input, Output, exactly};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::simd::{load_columns, store_columns};

/// `swav::BatchNormTrain`: x, scale, bias and perhaps a residual → y, mean, var.
pub(in crate::kernels) struct BatchNormTrain {
    pub(super) epsilon: f32,
    pub(super) relu: bool,
    pub(super) channels_last: bool,
}

impl Dense for BatchNormTrain {
    const NAME: &'static str = "BatchNormTrain";
    const INPUTS: (usize, usize) = (3, 1);
    // A pass whose statistics nobody tracks has y alone.
    const OUTPUTS: (usize, usize) = (1, 2);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Ok(BatchNormTrain { epsilon: attributes.float("epsilon")?, relu: attributes.flag("relu")?, channels_last: attributes.flag("channels_last")? })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        check_layout(&inputs[0], self.channels_last)?;
        let Matrix { channels, .. } = Matrix::new(&inputs[0])?;
        check_vectors(&inputs[1..3], channels)?;
        if inputs.get(3).is_some_and(|residual| *residual != inputs[0]) {
            return Err(format!("expected a residual of shape {:?}, got {:?}", inputs[0], inputs[3]));
        }
        Ok(vec![inputs[0].clone(), vec![channels], vec![channels]])
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let &Resources { parallel, pool, arch, .. } = with;
        let matrix = Matrix::new(inputs[0].shape).map_err(KernelError::Shape)?;
        let ([x, scale, bias], residual) = ([inputs[0].f32()?, inputs[1].f32()?, inputs[2].f32()?], inputs.get(3).map(Input::f32).transpose()?);
        let [y, mean, variance] = exactly(outputs)?;
        let (y, mean, variance) = (y.f32()?, mean.f32()?, variance.f32()?);
        let mut scratch = pool.take(2 * matrix.channels);
        let (centre, factor) = scratch.split_at_mut(matrix.channels);
        arch.dispatch(Sample { x, matrix, centre });
        let centre = &*centre;

        let statistics = mean.chunks_mut(WIDTH).zip(variance.chunks_mut(WIDTH)).zip(factor.chunks_mut(WIDTH));
        column_sums(with, matrix, Moments { x }, centre, statistics, |channels, sums, squares, ((mean, variance), factor)| {
            let (count, scale, centre) = (matrix.rows as f64, &scale[channels.clone()], &centre[channels]);
            for index in 0..mean.len() {
                let offset = sums[index] / count;
                let spread = squares[index] / count - offset * offset;
                // Rounding may leave less than nothing; what is not a number stays so.
                let spread = if spread < 0.0 { 0.0 } else { spread };
                mean[index] = (f64::from(centre[index]) + offset) as f32;
                variance[index] = spread as f32;
                factor[index] = (f64::from(scale[index]) / (spread + f64::from(self.epsilon)).sqrt()) as f32;
            }
        })?;

        let (mean, factor, elements) = (&*mean, &*factor, matrix.elements_per_task());
        let parts = y.chunks_mut(elements);
        for_each(parallel, parts, |task, y| {
            let rows = Normalize { x, residual, start: task * elements, mean, factor, bias, relu: self.relu, y };
            arch.dispatch(InStrips { channels: matrix.channels, rows });
        })
    }
}

/// Rows that [`Sample`] takes.
const SAMPLED: usize = 16;

/// A value near every channel's mean: the mean of a few rows from all over the batch.
///
/// Squared distances are summed up from there. What the difference to the mean adds to them, and is taken away in the end, is
/// then small beside the variance, and one pass over memory is enough. Chan, Golub and LeVeque, "Algorithms for computing the sample
/// variance", The American Statistician 37 (1983): shifted data.
struct Sample<'a> {
    x: &'a [f32],
    matrix: Matrix,
    centre: &'a mut [f32],
}

impl WithSimd for Sample<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Sample { x, matrix: Matrix { rows, channels }, centre } = self;
        let count = rows.min(SAMPLED);
        centre.fill(0.0);
        for index in 0..count {
            // The golden ratio's multiples are spread evenly, and keep no step with the columns of a map.
            let row = if rows > count { (((index + 1) as f64 * 0.618_033_988_749_895).fract() * rows as f64) as usize } else { index };
            let row = &x[row * channels..][..channels];
            for (centre, &value) in centre.iter_mut().zip(row) {
                *centre += value / count as f32;
            }
        }
    }
}

/// The first and second moments about the centre.
#[derive(Clone, Copy)]
struct Moments<'a> {
    x: &'a [f32],
}

impl Terms for Moments<'_> {
    #[inline(always)]
    fn add<S: Simd, const COUNT: usize>(&self, simd: S, at: usize, len: usize, centre: &[S::f32s; COUNT], [sums, squares]: &mut [[S::f32s; COUNT]; 2]) {
        let x = load_columns::<S, COUNT>(simd, self.x, at, len);
        for index in 0..COUNT {
            let distance = simd.sub_f32s(x[index], centre[index]);
            sums[index] = simd.add_f32s(sums[index], distance);
            squares[index] = simd.mul_add_f32s(distance, distance, squares[index]);
        }
    }
}

/// `y = max((x − mean) · factor + bias + residual, 0)` of some rows. x and the residual are those of all rows, y begins at element `start`.
struct Normalize<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    start: usize,
    mean: &'a [f32],
    factor: &'a [f32],
    bias: &'a [f32],
    relu: bool,
    y: &'a mut [f32],
}

impl Rows for Normalize<'_> {
    fn elements(&self) -> usize {
        self.y.len()
    }

    #[inline(always)]
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, channel: usize, len: usize, elements: impl Iterator<Item = usize>) {
        let zero = simd.splat_f32s(0.0);
        let mean = load_columns::<S, COUNT>(simd, self.mean, channel, len);
        let factor = load_columns::<S, COUNT>(simd, self.factor, channel, len);
        let bias = load_columns::<S, COUNT>(simd, self.bias, channel, len);
        for at in elements {
            let x = load_columns::<S, COUNT>(simd, self.x, self.start + at, len);
            let mut y = [zero; COUNT];
            for index in 0..COUNT {
                y[index] = simd.mul_add_f32s(simd.sub_f32s(x[index], mean[index]), factor[index], bias[index]);
            }
            if let Some(residual) = self.residual {
                let residual = load_columns::<S, COUNT>(simd, residual, self.start + at, len);
                for index in 0..COUNT {
                    y[index] = simd.add_f32s(y[index], residual[index]);
                }
            }
            if self.relu {
                for y in &mut y {
                    *y = simd.max_f32s(*y, zero);
                }
            }
            store_columns(simd, y, self.y, at, len);
        }
    }
}
