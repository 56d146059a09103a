//! Vectors in slices.

use pulp::Simd;

/// The vector at an element of a slice.
#[inline(always)]
pub(super) fn load<S: Simd>(_: S, values: &[f32], start: usize) -> S::f32s {
    S::as_simd_f32s(&values[start..start + S::F32_LANES]).0[0]
}

/// Writes a vector to an element of a slice and those behind it.
#[inline(always)]
pub(super) fn store<S: Simd>(_: S, vector: S::f32s, values: &mut [f32], start: usize) {
    S::as_mut_simd_f32s(&mut values[start..start + S::F32_LANES]).0[0] = vector;
}
