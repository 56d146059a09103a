//! Work on whole rows of a matrix, a few at a time.

use pulp::{Simd, WithSimd};

use crate::kernels::simd::{Columns, for_columns};

/// Elements that are worked on, column by column, while the values of their channels are in registers: few enough for memory to
/// be read from end to end.
const STRIP_ELEMENTS: usize = 256;

/// Whole rows of a matrix, whose elements can be worked on one by one.
pub(super) trait Rows {
    /// Their number of elements.
    fn elements(&self) -> usize;

    /// Works on the `len` elements from each of `elements` on: those of the channels from `channel`.
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, channel: usize, len: usize, elements: impl Iterator<Item = usize>);
}

/// Visits all elements of `rows`, strip by strip.
pub(super) struct InStrips<R> {
    pub channels: usize,
    pub rows: R,
}

impl<R: Rows> WithSimd for InStrips<R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let InStrips { channels, mut rows } = self;
        let (elements, strip) = (rows.elements(), (STRIP_ELEMENTS / channels).max(1) * channels);
        for start in (0..elements).step_by(strip) {
            let end = elements.min(start + strip);
            for_columns(simd, 0..channels, &mut Strip { rows: &mut rows, channels, start, end });
        }
    }
}

/// Elements of some neighbouring rows.
struct Strip<'a, R> {
    rows: &'a mut R,
    channels: usize,
    start: usize,
    end: usize,
}

impl<R: Rows> Columns for Strip<'_, R> {
    #[inline(always)]
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, first: usize, len: usize) {
        self.rows.visit::<S, COUNT>(simd, first, len, (self.start + first..self.end).step_by(self.channels));
    }
}
