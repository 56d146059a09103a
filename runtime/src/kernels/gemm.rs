//! Matrix products on packed or row-major operands: the inner loops of every dense kernel.
//!
//! A register tile of C is accumulated over the whole inner dimension: per step one vector of B for each of two columns of
//! vectors, and one broadcast element of A for each row. The vector length is the processor's, chosen when the program
//! runs; the layout of packed operands is the same for all.

use pulp::Simd;

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
        for (rows, places) in rows.chunks(ROWS * taps).zip(places.chunks(ROWS)) {
            for column in (0..PANEL).step_by(width) {
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
                    add_broadcast_rows(simd, depth, a, &b[column..], &mut tile);
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
    let mut sums = *tile;
    let width = TILE_VECTORS * S::F32_LANES;
    for step in 0..k {
        let (b, _) = S::as_simd_f32s(&b[step * PANEL..step * PANEL + width]);
        let b: [S::f32s; TILE_VECTORS] = [b[0], b[1]];
        for row in 0..ROWS {
            let a = simd.splat_f32s(a[row][step]);
            for vector in 0..TILE_VECTORS {
                sums[row][vector] = simd.mul_add_f32s(a, b[vector], sums[row][vector]);
            }
        }
    }
    *tile = sums;
}

#[inline(always)]
fn store_tile_row<S: Simd>(_: S, sums: &[S::f32s; TILE_VECTORS], c: &mut [f32], start: usize) {
    let (c, _) = S::as_mut_simd_f32s(&mut c[start..start + TILE_VECTORS * S::F32_LANES]);
    c.copy_from_slice(sums);
}

/// C [m, n] += the outer products of pairs of rows (a, b), with a of at least m and b of at least n elements; m and n are
/// multiples of [`PANEL`], rows of C are `c_stride` apart.
#[inline(always)]
pub(super) fn add_outer_products<'a, S: Simd>(
    simd: S,
    (m, n, c_stride): (usize, usize, usize),
    pairs: impl Iterator<Item = (&'a [f32], &'a [f32])> + Clone,
    c: &mut [f32],
) {
    if S::F32_LANES == 16 {
        add_outer_products_in::<S, 8>(simd, (m, n, c_stride), pairs, c)
    } else {
        add_outer_products_in::<S, 4>(simd, (m, n, c_stride), pairs, c)
    }
}

#[inline(always)]
fn add_outer_products_in<'a, S: Simd, const ROWS: usize>(
    simd: S,
    (m, n, c_stride): (usize, usize, usize),
    pairs: impl Iterator<Item = (&'a [f32], &'a [f32])> + Clone,
    c: &mut [f32],
) {
    let width = TILE_VECTORS * S::F32_LANES;
    for row in (0..m).step_by(ROWS) {
        for column in (0..n).step_by(width) {
            let mut sums = [[simd.splat_f32s(0.0); TILE_VECTORS]; ROWS];
            for (a, b) in pairs.clone() {
                let a: &[f32; ROWS] = a[row..].first_chunk().expect("m is a multiple of the tile's rows");
                let (b, _) = S::as_simd_f32s(&b[column..column + width]);
                let b: [S::f32s; TILE_VECTORS] = [b[0], b[1]];
                for index in 0..ROWS {
                    let a = simd.splat_f32s(a[index]);
                    for vector in 0..TILE_VECTORS {
                        sums[index][vector] = simd.mul_add_f32s(a, b[vector], sums[index][vector]);
                    }
                }
            }
            for (index, sums) in sums.iter().enumerate() {
                let start = (row + index) * c_stride + column;
                let (c, _) = S::as_mut_simd_f32s(&mut c[start..start + width]);
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = simd.add_f32s(*c, *sum);
                }
            }
        }
    }
}
