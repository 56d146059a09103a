//! Matrix products on packed or row-major operands: the inner loops of every dense kernel.
//!
//! A register tile of C is accumulated over the whole inner dimension: per step one vector of B for each of two columns of
//! vectors, and one broadcast element of A for each row. The vector length is the processor's, chosen when the program
//! runs; the layout of packed operands is the same for all.

use pulp::{Simd, WithSimd};

/// Columns of a packed panel of B, and what channel counts are padded to: a multiple of every vector length.
pub(super) const PANEL: usize = 32;

/// Vectors side by side in a register tile.
const TILE_VECTORS: usize = 2;

/// Sizes of a product C [m, n] of inner dimension `k`, and the distance between rows of A and C.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a_stride: usize,
    pub c_stride: usize,
}

/// C = A · B, with A row-major [m, k] and B packed: [n / [`PANEL`], k, [`PANEL`]].
#[inline(always)]
pub(super) fn rows_times_panels<S: Simd>(simd: S, shape: Shape, a: &[f32], b: &[f32], c: &mut [f32]) {
    // 16-lane machines have 32 registers, 8-lane machines 16.
    if S::F32_LANES == 16 { rows_times_panels_in::<S, 12>(simd, shape, a, b, c) } else { rows_times_panels_in::<S, 6>(simd, shape, a, b, c) }
}

#[inline(always)]
fn rows_times_panels_in<S: Simd, const ROWS: usize>(simd: S, shape: Shape, a: &[f32], b: &[f32], c: &mut [f32]) {
    let width = TILE_VECTORS * S::F32_LANES;
    for (panel, b) in b.chunks_exact(shape.k * PANEL).take(shape.n / PANEL).enumerate() {
        for row in (0..shape.m).step_by(ROWS) {
            let rows = ROWS.min(shape.m - row);
            // Rows behind the last repeat it: their sums are dropped.
            let a: [&[f32]; ROWS] = std::array::from_fn(|index| {
                let start = (row + index.min(rows - 1)) * shape.a_stride;
                &a[start..start + shape.k]
            });
            for column in (0..PANEL).step_by(width) {
                let mut tile = [[simd.splat_f32s(0.0); TILE_VECTORS]; ROWS];
                add_broadcast_rows(simd, shape.k, a, &b[column..], &mut tile);
                for (index, sums) in tile.iter().enumerate().take(rows) {
                    store_tile_row(simd, sums, c, (row + index) * shape.c_stride + panel * PANEL + column);
                }
            }
        }
    }
}

/// Rows of A that a product gathers, and where its sums go.
pub(super) struct Gathered<'a> {
    /// [m][taps]: a row of A for every tap, or [`OUTSIDE`].
    pub rows: &'a [u32],
    pub taps: usize,
    /// [m]: the row of C.
    pub places: &'a [u32],
    /// Elements of a row of A.
    pub depth: usize,
    /// Distance between rows of A.
    pub a_stride: usize,
    /// Stands for a row of A that is [`OUTSIDE`]: zeros.
    pub zeros: &'a [f32],
    /// Distance between rows of C.
    pub c_stride: usize,
}

/// Stands for a row that is all zeros.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// C[place] = sum over taps of A[row of the tap] · B[tap], with B packed: [n / [`PANEL`]][taps][depth][[`PANEL`]]. A tap
/// that is [`OUTSIDE`] in a whole register tile costs nothing: rows with the same taps should stand together.
#[inline(always)]
pub(super) fn gathered_times_panels<S: Simd>(simd: S, gathered: &Gathered, a: &[f32], b: &[f32], c: &mut [f32]) {
    if S::F32_LANES == 16 { gathered_times_panels_in::<S, 12>(simd, gathered, a, b, c) } else { gathered_times_panels_in::<S, 6>(simd, gathered, a, b, c) }
}

#[inline(always)]
fn gathered_times_panels_in<S: Simd, const ROWS: usize>(simd: S, gathered: &Gathered, a: &[f32], b: &[f32], c: &mut [f32]) {
    let &Gathered { rows, taps, places, depth, a_stride, zeros, c_stride } = gathered;
    let width = TILE_VECTORS * S::F32_LANES;
    for (panel, b) in b.chunks_exact(taps * depth * PANEL).enumerate() {
        for column in (0..PANEL).step_by(width) {
            for (rows, places) in rows.chunks(ROWS * taps).zip(places.chunks(ROWS)) {
                let mut tile = [[simd.splat_f32s(0.0); TILE_VECTORS]; ROWS];
                for (tap, b) in b.chunks_exact(depth * PANEL).enumerate() {
                    // Rows behind the last repeat it: their sums are dropped.
                    let of_tap: [u32; ROWS] = std::array::from_fn(|index| rows[index.min(places.len() - 1) * taps + tap]);
                    if of_tap == [OUTSIDE; ROWS] {
                        continue;
                    }
                    let a: [&[f32]; ROWS] = std::array::from_fn(|index| match of_tap[index] {
                        OUTSIDE => &zeros[..depth],
                        row => &a[row as usize * a_stride..][..depth],
                    });
                    let b = &b[column..];
                    if S::F32_LANES == 16 { add_broadcast_rows(simd, depth, a, b, &mut tile) } else { add_tap(Tap { simd, depth, a, b, tile: &mut tile }) }
                }
                for (sums, &place) in tile.iter().zip(places) {
                    store_tile_row(simd, sums, c, place as usize * c_stride + panel * PANEL + column);
                }
            }
        }
    }
}

/// Adds A · B to a register tile, with `k` columns of A and rows of B [`PANEL`] apart.
#[inline(always)]
fn add_broadcast_rows<S: Simd, const ROWS: usize>(simd: S, k: usize, a: [&[f32]; ROWS], b: &[f32], tile: &mut [[S::f32s; TILE_VECTORS]; ROWS]) {
    let (mut rows, mut sums) = (a, *tile);
    // Known lengths spare the loop its checks.
    for row in &mut rows {
        *row = &row[..k];
    }
    let width = TILE_VECTORS * S::F32_LANES;
    for step in 0..k {
        let (b, _) = S::as_simd_f32s(&b[step * PANEL..step * PANEL + width]);
        let b: [S::f32s; TILE_VECTORS] = [b[0], b[1]];
        for row in 0..ROWS {
            let a = simd.splat_f32s(rows[row][step]);
            for vector in 0..TILE_VECTORS {
                sums[row][vector] = simd.mul_add_f32s(a, b[vector], sums[row][vector]);
            }
        }
    }
    *tile = sums;
}

/// What [`add_tap`] adds to a register tile: `depth` columns of A and rows of B [`PANEL`] apart.
struct Tap<'a, S: Simd, const ROWS: usize> {
    simd: S,
    depth: usize,
    a: [&'a [f32]; ROWS],
    b: &'a [f32],
    tile: &'a mut [[S::f32s; TILE_VECTORS]; ROWS],
}

impl<S: Simd, const ROWS: usize> WithSimd for Tap<'_, S, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<T: Simd>(self, _: T) {
        let Tap { simd, depth, a, b, tile } = self;
        add_broadcast_rows(simd, depth, a, b, tile);
    }
}

/// [`add_broadcast_rows`] as a function of its own. With 16 vector registers, the compiler keeps sums in memory where the
/// loop stands inside that of the taps, which takes twice the time (measured with AVX2).
#[inline(never)]
fn add_tap<S: Simd, const ROWS: usize>(tap: Tap<'_, S, ROWS>) {
    S::vectorize(tap.simd, tap);
}

#[inline(always)]
fn store_tile_row<S: Simd>(_: S, sums: &[S::f32s; TILE_VECTORS], c: &mut [f32], start: usize) {
    let (c, _) = S::as_mut_simd_f32s(&mut c[start..start + TILE_VECTORS * S::F32_LANES]);
    c.copy_from_slice(sums);
}

/// A row of a panel.
pub(super) type PanelRow = [f32; PANEL];

/// The rows of a panel.
#[inline(always)]
pub(super) fn panel_rows(panel: &[f32]) -> &[PanelRow] {
    panel.as_chunks().0
}

/// C [[`PANEL`], [`PANEL`]] += the outer products of pairs of rows; rows of C are `c_stride` apart.
#[inline(always)]
pub(super) fn add_outer_products<'a, S: Simd>(simd: S, pairs: impl Iterator<Item = (&'a PanelRow, &'a PanelRow)> + Clone, c: &mut [f32], c_stride: usize) {
    if S::F32_LANES == 16 { add_outer_products_in::<S, 8>(simd, pairs, c, c_stride) } else { add_outer_products_in::<S, 4>(simd, pairs, c, c_stride) }
}

#[inline(always)]
fn add_outer_products_in<'a, S: Simd, const ROWS: usize>(
    simd: S,
    pairs: impl Iterator<Item = (&'a PanelRow, &'a PanelRow)> + Clone,
    c: &mut [f32],
    c_stride: usize,
) {
    for rows in 0..PANEL / ROWS {
        for columns in 0..PANEL / (TILE_VECTORS * S::F32_LANES) {
            let mut sums = [[simd.splat_f32s(0.0); TILE_VECTORS]; ROWS];
            for (a, b) in pairs.clone() {
                let a: &[f32; ROWS] = &a.as_chunks().0[rows];
                let b: &[S::f32s; TILE_VECTORS] = &S::as_simd_f32s(b).0.as_chunks().0[columns];
                for index in 0..ROWS {
                    let a = simd.splat_f32s(a[index]);
                    for vector in 0..TILE_VECTORS {
                        sums[index][vector] = simd.mul_add_f32s(a, b[vector], sums[index][vector]);
                    }
                }
            }
            for (index, sums) in sums.iter().enumerate() {
                let c = &mut c[(rows * ROWS + index) * c_stride..][..PANEL];
                let c: &mut [S::f32s; TILE_VECTORS] = &mut S::as_mut_simd_f32s(c).0.as_chunks_mut().0[columns];
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = simd.add_f32s(*c, *sum);
                }
            }
        }
    }
}
