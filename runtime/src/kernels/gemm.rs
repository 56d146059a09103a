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
                let tile = broadcast_rows::<S, ROWS>(simd, shape.k, a, &b[column..]);
                for (index, sums) in tile.iter().enumerate().take(rows) {
                    let start = (row + index) * shape.c_stride + panel * PANEL + column;
                    let (c, _) = S::as_mut_simd_f32s(&mut c[start..start + width]);
                    c.copy_from_slice(sums);
                }
            }
        }
    }
}

#[inline(always)]
fn broadcast_rows<S: Simd, const ROWS: usize>(simd: S, k: usize, a: [&[f32]; ROWS], b: &[f32]) -> [[S::f32s; TILE_VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); TILE_VECTORS]; ROWS];
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
    sums
}

/// C += Aᵀ · B, with A row-major [k, m] and B row-major [k, n] with rows `b_stride` apart; m and n are multiples of
/// [`PANEL`].
#[inline(always)]
pub(super) fn add_transposed_times_rows<S: Simd>(simd: S, shape: Shape, b_stride: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    if S::F32_LANES == 16 { add_transposed_in::<S, 8>(simd, shape, b_stride, a, b, c) } else { add_transposed_in::<S, 4>(simd, shape, b_stride, a, b, c) }
}

#[inline(always)]
fn add_transposed_in<S: Simd, const ROWS: usize>(simd: S, shape: Shape, b_stride: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
    let width = TILE_VECTORS * S::F32_LANES;
    for row in (0..shape.m).step_by(ROWS) {
        for column in (0..shape.n).step_by(width) {
            let mut sums = [[simd.splat_f32s(0.0); TILE_VECTORS]; ROWS];
            let (a, b) = (a.chunks(shape.a_stride), b.chunks(b_stride));
            for (a, b) in a.zip(b).take(shape.k) {
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
                let start = (row + index) * shape.c_stride + column;
                let (c, _) = S::as_mut_simd_f32s(&mut c[start..start + width]);
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = simd.add_f32s(*c, *sum);
                }
            }
        }
    }
}
