//! `swav::BatchNormTrainGrad`.

use pulp::Simd;

use super::strips::{InStrips, Rows};
use super::sums::{Terms, WIDTH, column_sums};
use super::{Matrix, check_layout, check_vectors};
use crate::kernels::Resources;
use crate::kernels::operator::{Attributes, Dense, Input, Output};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::simd::{load_columns, store_columns};

/// `swav::BatchNormTrainGrad`: dy, x, scale, mean, var and, with a ReLU, y → dx, dscale, dbias and perhaps dresidual.
pub(in crate::kernels) struct BatchNormTrainGrad {
    pub(super) epsilon: f32,
    pub(super) relu: bool,
    pub(super) residual: bool,
    pub(super) channels_last: bool,
}

impl Dense for BatchNormTrainGrad {
    const NAME: &'static str = "BatchNormTrainGrad";
    const INPUTS: (usize, usize) = (5, 1);
    const OUTPUTS: (usize, usize) = (3, 1);
    // x and dy are of no more use: their memory has been read when it is written.
    const IN_PLACE: &'static [(u32, u32)] = &[(1, 0), (0, 3)];

    fn read(attributes: &Attributes) -> Result<Self, String> {
        let (epsilon, flag) = (attributes.float("epsilon")?, |name| attributes.flag(name));
        Ok(BatchNormTrainGrad { epsilon, relu: flag("relu")?, residual: flag("residual")?, channels_last: flag("channels_last")? })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        check_layout(&inputs[1], self.channels_last)?;
        let Matrix { channels, .. } = Matrix::new(&inputs[1])?;
        check_vectors(&inputs[2..5], channels)?;
        if inputs[0] != inputs[1] || inputs.get(5).is_some_and(|y| *y != inputs[1]) || inputs.get(5).is_some() != self.relu {
            return Err(format!("expected dy and, with a ReLU, y of x's shape {:?}, got {inputs:?}", inputs[1]));
        }
        let mut outputs = vec![inputs[1].clone(), vec![channels], vec![channels]];
        if self.residual {
            outputs.push(inputs[1].clone());
        }
        Ok(outputs)
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let &Resources { parallel, pool, arch, .. } = with;
        let matrix = Matrix::new(inputs[1].shape).map_err(KernelError::Shape)?;
        let (scale, mean, variance) = (inputs[2].f32()?, inputs[3].f32()?, inputs[4].f32()?);
        let (dy, x, y) = (inputs[0].apart()?, inputs[1].apart()?, inputs.get(5).map(Input::f32).transpose()?);
        let mut outputs = outputs.into_iter();
        let mut next = || outputs.next().ok_or_else(|| KernelError::Shape("an output is missing".into()))?.f32();
        let (dx, dscale, dbias) = (next()?, next()?, next()?);
        let dresidual = if self.residual { Some(next()?) } else { None };
        let mut scratch = pool.take(3 * matrix.channels);
        let (factor, rest) = scratch.split_at_mut(matrix.channels);
        let (offset, slope) = rest.split_at_mut(matrix.channels);

        // With x̂ the normalised input and M elements a channel: dbias = Σ dy, dscale = Σ dy·x̂,
        // dx = scale·inverse·(dy − dbias/M − x̂·dscale/M).
        let gradients = dscale.chunks_mut(WIDTH).zip(dbias.chunks_mut(WIDTH));
        let of_dx = factor.chunks_mut(WIDTH).zip(offset.chunks_mut(WIDTH)).zip(slope.chunks_mut(WIDTH));
        let maps = Maps { dy: dy.or(dresidual.as_deref()).unwrap_or_default(), x: x.unwrap_or(dx), y };
        column_sums(with, matrix, maps, mean, gradients.zip(of_dx), |channels, sums, products, ((dscale, dbias), ((factor, offset), slope))| {
            let (count, scale, variance) = (matrix.rows as f64, &scale[channels.clone()], &variance[channels]);
            for index in 0..sums.len() {
                let inverse = 1.0 / (f64::from(variance[index]) + f64::from(self.epsilon)).sqrt();
                let along = products[index] * inverse;
                (dscale[index], dbias[index]) = (along as f32, sums[index] as f32);
                factor[index] = (f64::from(scale[index]) * inverse) as f32;
                offset[index] = (sums[index] / count) as f32;
                slope[index] = (-along * inverse / count) as f32;
            }
        })?;

        let (factor, offset, slope, elements) = (&*factor, &*offset, &*slope, matrix.elements_per_task());
        let mut dresidual = dresidual.map(|dresidual| dresidual.chunks_mut(elements));
        let parts = dx.chunks_mut(elements).map(|dx| (dx, dresidual.as_mut().and_then(Iterator::next)));
        for_each(parallel, parts, |task, (dx, dresidual)| {
            let rows = Differentiate { dy, x, y, start: task * elements, mean, factor, offset, slope, dx, dresidual };
            arch.dispatch(InStrips { channels: matrix.channels, rows });
        })
    }
}

/// dy where y is positive, else 0; dy itself without y.
#[inline(always)]
fn masked<S: Simd, const COUNT: usize>(simd: S, mut dy: [S::f32s; COUNT], y: Option<&[f32]>, at: usize, len: usize) -> [S::f32s; COUNT] {
    if let Some(y) = y {
        let (y, zero) = (load_columns::<S, COUNT>(simd, y, at, len), simd.splat_f32s(0.0));
        for index in 0..COUNT {
            dy[index] = simd.select_f32s(simd.less_than_f32s(zero, y[index]), dy[index], zero);
        }
    }
    dy
}

/// What the sums read of every element.
#[derive(Clone, Copy)]
struct Maps<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    y: Option<&'a [f32]>,
}

/// `Σ dy` and `Σ dy·(x − mean)`
impl Terms for Maps<'_> {
    #[inline(always)]
    fn add<S: Simd, const COUNT: usize>(&self, simd: S, at: usize, len: usize, mean: &[S::f32s; COUNT], [sums, products]: &mut [[S::f32s; COUNT]; 2]) {
        let dy = masked(simd, load_columns::<S, COUNT>(simd, self.dy, at, len), self.y, at, len);
        let x = load_columns::<S, COUNT>(simd, self.x, at, len);
        for index in 0..COUNT {
            sums[index] = simd.add_f32s(sums[index], dy[index]);
            products[index] = simd.mul_add_f32s(dy[index], simd.sub_f32s(x[index], mean[index]), products[index]);
        }
    }
}

/// `dx = factor · (dy − offset + (x − mean) · slope)` of some rows. The maps are those of all rows, the outputs begin at
/// element `start`; without x its elements are those of dx, without dy those of dresidual.
struct Differentiate<'a> {
    dy: Option<&'a [f32]>,
    x: Option<&'a [f32]>,
    y: Option<&'a [f32]>,
    start: usize,
    mean: &'a [f32],
    factor: &'a [f32],
    offset: &'a [f32],
    slope: &'a [f32],
    dx: &'a mut [f32],
    dresidual: Option<&'a mut [f32]>,
}

impl Rows for Differentiate<'_> {
    fn elements(&self) -> usize {
        self.dx.len()
    }

    #[inline(always)]
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, channel: usize, len: usize, elements: impl Iterator<Item = usize>) {
        let mean = load_columns::<S, COUNT>(simd, self.mean, channel, len);
        let factor = load_columns::<S, COUNT>(simd, self.factor, channel, len);
        let offset = load_columns::<S, COUNT>(simd, self.offset, channel, len);
        let slope = load_columns::<S, COUNT>(simd, self.slope, channel, len);
        for at in elements {
            let (dy, dy_at) = self.dy.map_or((self.dresidual.as_deref().unwrap_or_default(), at), |dy| (dy, self.start + at));
            let (x, x_at) = self.x.map_or((&*self.dx, at), |x| (x, self.start + at));
            let dy = masked(simd, load_columns::<S, COUNT>(simd, dy, dy_at, len), self.y, self.start + at, len);
            let x = load_columns::<S, COUNT>(simd, x, x_at, len);
            if let Some(dresidual) = &mut self.dresidual {
                store_columns(simd, dy, dresidual, at, len);
            }
            let mut dx = dy;
            for index in 0..COUNT {
                let difference = simd.sub_f32s(dy[index], offset[index]);
                let along = simd.mul_add_f32s(simd.sub_f32s(x[index], mean[index]), slope[index], difference);
                dx[index] = simd.mul_f32s(factor[index], along);
            }
            store_columns(simd, dx, self.dx, at, len);
        }
    }
}
