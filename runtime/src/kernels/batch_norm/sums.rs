//! Sums over the rows of a matrix, channel by channel.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Matrix, TASK_ELEMENTS};
use crate::kernels::Resources;
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::simd::{Columns, for_columns, load_columns, store_columns};

/// Most channels of a tile.
pub(super) const WIDTH: usize = 256;

/// Most rows of a tile: as many as are added up in f32.
const HEIGHT: usize = 256;

/// Two terms of every element, to be summed up.
pub(super) trait Terms: Copy + Sync {
    /// Adds the terms of the elements from `at`; `centre` belongs to their channels.
    fn add<S: Simd, const COUNT: usize>(&self, simd: S, at: usize, len: usize, centre: &[S::f32s; COUNT], sums: &mut [[S::f32s; COUNT]; 2]);
}

/// Sums both terms over the rows, in f32 within tiles of the matrix and in f64 over these, always in the same order.
/// `finish` gets a range of channels with their sums, and what `outputs` has for every [`WIDTH`] channels.
///
/// `centre`: f32 [channels], handed to the terms.
pub(super) fn column_sums<O: Send>(
    &Resources { parallel, pool, arch, .. }: &Resources,
    matrix: Matrix,
    terms: impl Terms,
    centre: &[f32],
    outputs: impl IntoIterator<Item = O>,
    finish: impl Fn(Range<usize>, &[f64], &[f64], O) + Sync,
) -> Result<(), KernelError> {
    let width = matrix.channels.min(WIDTH);
    let (height, across) = ((TASK_ELEMENTS / width).min(HEIGHT).min(matrix.rows), matrix.channels.div_ceil(width));
    let channels = |slice: usize| slice * width..matrix.channels.min((slice + 1) * width);
    let mut partial = pool.take(matrix.rows.div_ceil(height) * across * 2 * width);
    // From the last row back: the cache holds the end of a map that has just been written, and in the end its beginning, where
    // the next pass starts.
    for_each(parallel, partial.chunks_exact_mut(2 * width).enumerate().rev(), |_, (tile, sums)| {
        let first = tile / across * height;
        let (first_sums, second_sums) = sums.split_at_mut(width);
        let (rows, channels) = (first..matrix.rows.min(first + height), channels(tile % across));
        arch.dispatch(Tile { terms, stride: matrix.channels, rows, channels, centre, sums: [first_sums, second_sums] });
    })?;
    for_each(parallel, outputs, |slice, output| {
        let channels = channels(slice);
        let tiles = partial.chunks_exact(2 * width).skip(slice).step_by(across);
        let [first, second] = arch.dispatch(Total { tiles, width });
        finish(channels.clone(), &first[..channels.len()], &second[..channels.len()], output);
    })
}

struct Tile<'a, T> {
    terms: T,
    stride: usize,
    rows: Range<usize>,
    channels: Range<usize>,
    centre: &'a [f32],
    sums: [&'a mut [f32]; 2],
}

impl<T: Terms> WithSimd for Tile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_columns(simd, self.channels.clone(), &mut self);
    }
}

impl<T: Terms> Columns for Tile<'_, T> {
    #[inline(always)]
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, first: usize, len: usize) {
        let centre = load_columns::<S, COUNT>(simd, self.centre, first, len);
        let mut sums = [[simd.splat_f32s(0.0); COUNT]; 2];
        for row in self.rows.clone() {
            self.terms.add(simd, row * self.stride + first, len, &centre, &mut sums);
        }
        for (sums, vectors) in self.sums.iter_mut().zip(sums) {
            store_columns(simd, vectors, sums, first - self.channels.start, len);
        }
    }
}

/// Adds up the sums of tiles.
struct Total<I> {
    tiles: I,
    width: usize,
}

impl<'a, I: Iterator<Item = &'a [f32]>> WithSimd for Total<I> {
    type Output = [[f64; WIDTH]; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        let mut totals = [[0.0; WIDTH]; 2];
        for tile in self.tiles {
            for (half, totals) in totals.iter_mut().enumerate() {
                let tile = &tile[half * self.width..][..self.width];
                for (total, &sum) in totals[..self.width].iter_mut().zip(tile) {
                    *total += f64::from(sum);
                }
            }
        }
        totals
    }
}
