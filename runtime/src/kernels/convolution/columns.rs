//! Convolutions of any window as one matrix product: for every output pixel a row of the inputs under its taps.

use pulp::{Simd, WithSimd};

use super::{Geometry, Resources, sum_over_pieces};
use crate::kernels::channel_last::{from_rows, padded, to_rows};
use crate::kernels::gemm::{PANEL, Shape, add_transposed_times_rows, rows_times_panels};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;
use crate::kernels::simd::{load, store};

/// Output pixels of a piece.
const PIECE_PIXELS: usize = 96;

/// Input channels up to which the taps of a pixel are gathered one by one: whole vectors would be mostly padding.
const FEW_CHANNELS: usize = 8;

/// Stands for a place outside the map.
const OUTSIDE: u32 = u32::MAX;

/// The input pixel under every tap of every output pixel, [out pixels][taps], or [`OUTSIDE`]; empty where it is the pixel
/// itself.
fn pixels_under_taps(plan: Plan) -> Vec<u32> {
    let geometry = plan.geometry;
    if plan.is_pointwise() {
        return Vec::new();
    }
    let Geometry { stride, padding, kernel, height, width, out_height, out_width, .. } = geometry;
    let mut under = Vec::with_capacity(geometry.out_pixels() * geometry.taps());
    for (y, x) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
        for (i, j) in (0..kernel).flat_map(|i| (0..kernel).map(move |j| (i, j))) {
            let row = (y * stride + i).checked_sub(padding).filter(|&row| row < height);
            let column = (x * stride + j).checked_sub(padding).filter(|&column| column < width);
            let pixel = row.zip(column).and_then(|(row, column)| u32::try_from(row * width + column).ok());
            under.push(pixel.unwrap_or(OUTSIDE));
        }
    }
    under
}

/// Some rows of an output map.
#[derive(Debug, Clone, Copy)]
struct Strip {
    first: usize,
    rows: usize,
}

/// How the convolution's rows are laid out, and how the batch is cut.
#[derive(Debug, Clone, Copy)]
struct Plan {
    geometry: Geometry,
    /// Images of a piece.
    images: usize,
    /// Output rows of a strip.
    rows: usize,
}

impl Plan {
    fn new(geometry: Geometry, pixels: usize) -> Plan {
        let whole = geometry.out_pixels();
        if whole > pixels {
            Plan { geometry, images: 1, rows: (pixels / geometry.out_width).max(1) }
        } else {
            Plan { geometry, images: pixels / whole, rows: geometry.out_height }
        }
    }

    fn strips(self) -> impl Iterator<Item = Strip> {
        (0..self.geometry.out_height).step_by(self.rows).map(move |first| Strip { first, rows: self.rows.min(self.geometry.out_height - first) })
    }

    /// Output pixels of a piece at most.
    fn pixels(&self) -> usize {
        self.images * self.rows * self.geometry.out_width
    }

    fn few_channels(&self) -> bool {
        self.geometry.channels <= FEW_CHANNELS
    }

    /// Elements of a pixel's row of taps: [taps][padded channels], or [channels][taps] with few channels, padded.
    fn row_len(&self) -> usize {
        if self.few_channels() { padded(self.geometry.channels * self.geometry.taps()) } else { padded(self.geometry.channels) * self.geometry.taps() }
    }

    /// Place of a tap of a channel in a row.
    fn place(&self, channel: usize, tap: usize) -> usize {
        if self.few_channels() { channel * self.geometry.taps() + tap } else { tap * padded(self.geometry.channels) + channel }
    }

    /// Input rows that a strip reads: first, and count.
    fn input_rows(&self, strip: Strip) -> (usize, usize) {
        let Geometry { stride, padding, kernel, height, .. } = self.geometry;
        let first = (strip.first * stride).saturating_sub(padding).min(height);
        let last = ((strip.first + strip.rows - 1) * stride + kernel).saturating_sub(padding).min(height);
        (first, last.max(first) - first)
    }

    /// Input pixels of a strip at most, and one more that stands for all outside.
    fn input_pixels(&self) -> usize {
        let Geometry { stride, kernel, height, width, .. } = self.geometry;
        ((self.rows - 1) * stride + kernel).min(height) * width + 1
    }

    /// The part of [`pixels_under_taps`] of a strip, by output pixel.
    fn under<'a>(&self, under: &'a [u32], strip: Strip) -> std::slice::ChunksExact<'a, u32> {
        let row = self.geometry.out_width * self.geometry.taps();
        under[strip.first * row..(strip.first + strip.rows) * row].chunks_exact(self.geometry.taps())
    }

    /// Whether a pixel's row of taps is the pixel itself.
    fn is_pointwise(&self) -> bool {
        (self.geometry.kernel, self.geometry.stride, self.geometry.padding) == (1, 1, 0) && !self.few_channels()
    }
}

/// Writes the rows of taps of a strip of one image, [out pixels][[`Plan::row_len`]]. `pixels`: room for the strip's
/// input pixels with the channels last.
#[inline(always)]
fn fill_rows<S: Simd>(simd: S, plan: Plan, under: &[u32], strip: Strip, x: &[f32], pixels: &mut [f32], rows: &mut [f32]) {
    let Geometry { channels, width, .. } = plan.geometry;
    let (plane, row_len, taps) = (plan.geometry.pixels(), plan.row_len(), plan.geometry.taps());
    let (first, count) = plan.input_rows(strip);
    if plan.is_pointwise() {
        return to_rows(&x[first * width..], plane, channels, count * width, rows, row_len);
    }
    let outputs = plan.under(under, strip).zip(rows.chunks_exact_mut(row_len));
    if plan.few_channels() {
        for (under, row) in outputs {
            row[channels * taps..].fill(0.0);
            for (x, row) in x.chunks_exact(plane).zip(row.chunks_exact_mut(taps)) {
                for (value, &pixel) in row.iter_mut().zip(under) {
                    *value = if pixel == OUTSIDE { 0.0 } else { x[pixel as usize] };
                }
            }
        }
        return;
    }
    let channels_padded = padded(channels);
    to_rows(x.get(first * width..).unwrap_or_default(), plane, channels, count * width, pixels, channels_padded);
    pixels[count * width * channels_padded..][..channels_padded].fill(0.0);
    for (under, row) in outputs {
        for (&pixel, row) in under.iter().zip(row.chunks_exact_mut(channels_padded)) {
            let pixel = if pixel == OUTSIDE { count * width } else { pixel as usize - first * width };
            let from = &pixels[pixel * channels_padded..][..channels_padded];
            for lane in (0..channels_padded).step_by(S::F32_LANES) {
                store(simd, load(simd, from, lane), row, lane);
            }
        }
    }
}

/// y = x * w.
pub(super) fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let Geometry { channels, out, .. } = geometry;
    let plan = Plan::new(geometry, PIECE_PIXELS);
    let under = pixels_under_taps(plan);
    let (row_len, taps) = (plan.row_len(), geometry.taps());
    let mut packed = pool.take(row_len * padded(out));
    for_each(parallel, packed.chunks_exact_mut(row_len * PANEL), |panel, packed| {
        packed.fill(0.0);
        for output in panel * PANEL..(panel * PANEL + PANEL).min(out) {
            for channel in 0..channels {
                for tap in 0..taps {
                    packed[plan.place(channel, tap) * PANEL + output % PANEL] = w[(output * channels + channel) * taps + tap];
                }
            }
        }
    })?;
    let pieces = x.chunks(plan.images * channels * geometry.pixels()).zip(y.chunks_mut(plan.images * out * geometry.out_pixels()));
    let packed = &packed;
    for_each(parallel, pieces, |_, (x, y)| arch.dispatch(Forward { plan, under: &under, x, packed, y, pool }))
}

struct Forward<'a> {
    plan: Plan,
    under: &'a [u32],
    x: &'a [f32],
    packed: &'a [f32],
    y: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Forward { plan, under, x, packed, y, pool } = self;
        let Geometry { channels, out, out_width, .. } = plan.geometry;
        let (row_len, out_padded, plane, out_plane) = (plan.row_len(), padded(out), plan.geometry.pixels(), plan.geometry.out_pixels());
        let (rows_len, products_len) = (plan.pixels() * row_len, plan.pixels() * out_padded);
        let mut scratch = pool.take(rows_len + products_len + plan.input_pixels() * padded(channels));
        let (rows, rest) = scratch.split_at_mut(rows_len);
        let (products, pixels) = rest.split_at_mut(products_len);
        for strip in plan.strips() {
            let count = strip.rows * out_width;
            let mut done = 0;
            for x in x.chunks_exact(channels * plane) {
                fill_rows(simd, plan, under, strip, x, pixels, &mut rows[done * row_len..(done + count) * row_len]);
                done += count;
            }
            let shape = Shape { m: done, n: out_padded, k: row_len, a_stride: row_len, c_stride: out_padded };
            rows_times_panels(simd, shape, rows, packed, products);
            for (image, y) in y.chunks_exact_mut(out * out_plane).enumerate() {
                from_rows(&products[image * count * out_padded..], out_padded, out, count, &mut y[strip.first * out_width..], out_plane);
            }
        }
    }
}

/// dx: every output pixel's gradient times the weights, added to the pixels under its taps.
pub(super) fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let Geometry { channels, out, .. } = geometry;
    let plan = Plan::new(geometry, PIECE_PIXELS);
    let under = pixels_under_taps(plan);
    let (channels_padded, out_padded, taps) = (padded(channels), padded(out), geometry.taps());
    // [panel of (tap, channel)][out][PANEL]
    let panel_len = out_padded * PANEL;
    let mut packed = pool.take(taps * channels_padded * out_padded);
    for_each(parallel, packed.chunks_exact_mut(panel_len), |panel, packed| {
        let (tap, first) = (panel * PANEL / channels_padded, panel * PANEL % channels_padded);
        packed.fill(0.0);
        for output in 0..out {
            for channel in first..(first + PANEL).min(channels) {
                packed[output * PANEL + channel - first] = w[(output * channels + channel) * taps + tap];
            }
        }
    })?;
    let pieces = dy.chunks(plan.images * out * geometry.out_pixels()).zip(dx.chunks_mut(plan.images * channels * geometry.pixels()));
    let packed = &packed;
    for_each(parallel, pieces, |_, (dy, dx)| arch.dispatch(InputGradient { plan, under: &under, dy, packed, dx, pool }))
}

struct InputGradient<'a> {
    plan: Plan,
    under: &'a [u32],
    dy: &'a [f32],
    packed: &'a [f32],
    dx: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let InputGradient { plan, under, dy, packed, dx, pool } = self;
        let Geometry { channels, out, width, out_width, .. } = plan.geometry;
        let (channels_padded, out_padded) = (padded(channels), padded(out));
        let (plane, out_plane) = (plan.geometry.pixels(), plan.geometry.out_pixels());
        let row_len = plan.geometry.taps() * channels_padded;
        let (dy_len, rows_len) = (plan.pixels() * out_padded, plan.pixels() * row_len);
        let sum_len = if plan.is_pointwise() { 0 } else { plane * channels_padded };
        let mut scratch = pool.take(dy_len + rows_len + plan.images * sum_len);
        let (dy_rows, rest) = scratch.split_at_mut(dy_len);
        let (rows, sums) = rest.split_at_mut(rows_len);
        sums.fill(0.0);
        for strip in plan.strips() {
            let count = strip.rows * out_width;
            let mut done = 0;
            for dy in dy.chunks_exact(out * out_plane) {
                to_rows(&dy[strip.first * out_width..], out_plane, out, count, &mut dy_rows[done * out_padded..], out_padded);
                done += count;
            }
            let shape = Shape { m: done, n: row_len, k: out_padded, a_stride: out_padded, c_stride: row_len };
            rows_times_panels(simd, shape, dy_rows, packed, rows);
            for (image, dx) in dx.chunks_exact_mut(channels * plane).enumerate() {
                let rows = &rows[image * count * row_len..];
                if plan.is_pointwise() {
                    from_rows(rows, row_len, channels, count, &mut dx[strip.first * width..], plane);
                } else {
                    add_rows(simd, plan, under, strip, rows, &mut sums[image * sum_len..(image + 1) * sum_len]);
                }
            }
        }
        if !plan.is_pointwise() {
            for (dx, sums) in dx.chunks_exact_mut(channels * plane).zip(sums.chunks_exact(sum_len)) {
                from_rows(sums, channels_padded, channels, plane, dx, plane);
            }
        }
    }
}

/// Adds rows of taps to the pixels that they stand for.
#[inline(always)]
fn add_rows<S: Simd>(simd: S, plan: Plan, under: &[u32], strip: Strip, rows: &[f32], sums: &mut [f32]) {
    let channels_padded = padded(plan.geometry.channels);
    for (under, row) in plan.under(under, strip).zip(rows.chunks_exact(plan.geometry.taps() * channels_padded)) {
        for (&pixel, row) in under.iter().zip(row.chunks_exact(channels_padded)) {
            if pixel == OUTSIDE {
                continue;
            }
            let sums = &mut sums[pixel as usize * channels_padded..][..channels_padded];
            for lane in (0..channels_padded).step_by(S::F32_LANES) {
                let sum = simd.add_f32s(load(simd, sums, lane), load(simd, row, lane));
                store(simd, sum, sums, lane);
            }
        }
    }
}

/// dw: rows of taps times the output's gradient, summed over all pixels.
pub(super) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let Geometry { batch, channels, out, .. } = geometry;
    let plan = Plan::new(geometry, 2 * PIECE_PIXELS);
    let under = pixels_under_taps(plan);
    let (row_len, out_padded, taps) = (plan.row_len(), padded(out), geometry.taps());
    let piece_len = plan.pixels() * (row_len + out_padded);
    let pieces: Vec<(usize, Strip)> = (0..batch).step_by(plan.images).flat_map(|image| plan.strips().map(move |strip| (image, strip))).collect();

    let mut sums = pool.take(row_len * out_padded);
    let fill = |&(image, strip): &(usize, Strip), values: &mut [f32]| {
        arch.dispatch(FillPiece { plan, under: &under, image, strip, dy, x, values, pool });
    };
    sum_over_pieces(with, &pieces, piece_len, fill, (&mut sums, PANEL * out_padded), |pieces, values, panel, sums| {
        arch.dispatch(Accumulate { plan, pieces, panel, values, sums });
    })?;
    let sums = &sums;
    for_each(parallel, dw.chunks_exact_mut(channels * taps), |output, dw| {
        for channel in 0..channels {
            for tap in 0..taps {
                dw[channel * taps + tap] = sums[plan.place(channel, tap) * out_padded + output];
            }
        }
    })
}

/// The rows of taps and the gradients of one piece.
struct FillPiece<'a> {
    plan: Plan,
    under: &'a [u32],
    image: usize,
    strip: Strip,
    dy: &'a [f32],
    x: &'a [f32],
    values: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for FillPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let FillPiece { plan, under, image, strip, dy, x, values, pool } = self;
        let Geometry { batch, channels, out, out_width, .. } = plan.geometry;
        let (row_len, out_padded, plane, out_plane) = (plan.row_len(), padded(out), plan.geometry.pixels(), plan.geometry.out_pixels());
        let (rows, gradients) = values.split_at_mut(plan.pixels() * row_len);
        let mut pixels = pool.take(plan.input_pixels() * padded(channels));
        let count = strip.rows * out_width;
        for index in 0..plan.images.min(batch - image) {
            let x = &x[(image + index) * channels * plane..][..channels * plane];
            fill_rows(simd, plan, under, strip, x, &mut pixels, &mut rows[index * count * row_len..(index + 1) * count * row_len]);
            let dy = &dy[(image + index) * out * out_plane..][..out * out_plane];
            to_rows(&dy[strip.first * out_width..], out_plane, out, count, &mut gradients[index * count * out_padded..], out_padded);
        }
    }
}

/// Adds the products of all pieces for one panel of places.
struct Accumulate<'a> {
    plan: Plan,
    pieces: &'a [(usize, Strip)],
    panel: usize,
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Accumulate { plan, pieces, panel, values, sums } = self;
        let Geometry { batch, out, out_width, .. } = plan.geometry;
        let (row_len, out_padded) = (plan.row_len(), padded(out));
        for (&(image, strip), values) in pieces.iter().zip(values.chunks_exact(plan.pixels() * (row_len + out_padded))) {
            let (rows, gradients) = values.split_at(plan.pixels() * row_len);
            let pixels = plan.images.min(batch - image) * strip.rows * out_width;
            let shape = Shape { m: PANEL, n: out_padded, k: pixels, a_stride: row_len, c_stride: out_padded };
            add_transposed_times_rows(simd, shape, out_padded, &rows[panel * PANEL..], gradients, sums);
        }
    }
}
