//! Vectors in slices.

use std::ops::Range;

use pulp::Simd;

/// Neighbouring vectors, of `len` elements together: all of `COUNT` vectors, or fewer than those of one, the rest of which is 0.
#[inline(always)]
pub(super) fn load_columns<S: Simd, const COUNT: usize>(simd: S, values: &[f32], start: usize, len: usize) -> [S::f32s; COUNT] {
    let values = &values[start..start + len];
    let mut vectors = [simd.splat_f32s(0.0); COUNT];
    if len == COUNT * S::F32_LANES {
        vectors.copy_from_slice(S::as_simd_f32s(values).0);
    } else {
        vectors[0] = simd.partial_load_f32s(values);
    }
    vectors
}

/// The reverse of [`load_columns`].
#[inline(always)]
pub(super) fn store_columns<S: Simd, const COUNT: usize>(simd: S, vectors: [S::f32s; COUNT], values: &mut [f32], start: usize, len: usize) {
    let values = &mut values[start..start + len];
    if len == COUNT * S::F32_LANES {
        S::as_mut_simd_f32s(values).0.copy_from_slice(&vectors);
    } else {
        simd.partial_store_f32s(values, vectors[0]);
    }
}

/// Work on the columns of a row-major matrix, a few vectors wide at a time.
pub(super) trait Columns {
    /// Works on the `len` columns from `first`: those of `COUNT` vectors, or fewer than those of one.
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, first: usize, len: usize);
}

/// Vectors that [`for_columns`] takes at a time: as many as hide the latency of an addition.
const COLUMN_VECTORS: usize = 4;

/// Visits all of `columns` in order.
#[inline(always)]
pub(super) fn for_columns<S: Simd>(simd: S, columns: Range<usize>, work: &mut impl Columns) {
    let Range { mut start, end } = columns;
    while end - start >= COLUMN_VECTORS * S::F32_LANES {
        work.visit::<S, COLUMN_VECTORS>(simd, start, COLUMN_VECTORS * S::F32_LANES);
        start += COLUMN_VECTORS * S::F32_LANES;
    }
    while start < end {
        let len = S::F32_LANES.min(end - start);
        work.visit::<S, 1>(simd, start, len);
        start += len;
    }
}
