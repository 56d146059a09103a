//! 3x3 convolutions of stride 1 and padding 1 by Winograd's points: transform, 36 products, transform back, on pieces of
//! the batch that fit the cache.

use pulp::{Simd, WithSimd};

use super::winograd::{OUTPUT, POINTS, Points, Strip, TAPS, gradient_points, input_points, output_rows, weight_gradient as gather, weight_points};
use super::{Geometry, Resources, sum_over_pieces};
use crate::kernels::channel_last::{from_rows, padded, to_rows};
use crate::kernels::gemm::{PANEL, Shape, add_outer_products, rows_times_panels};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;

/// Elements of points that one task works on: what fits a core's second-level cache beside the weights that pass by.
const TASK_ELEMENTS: usize = 80 * 1024;

/// How a batch of maps is cut: pieces of `images` images, each in strips of `rows` rows of tiles.
#[derive(Debug, Clone, Copy)]
struct Plan {
    height: usize,
    width: usize,
    images: usize,
    rows: usize,
}

impl Plan {
    /// Pieces of about `tiles` tiles.
    fn new(height: usize, width: usize, tiles: usize) -> Plan {
        let (down, across) = (height.div_ceil(OUTPUT), width.div_ceil(OUTPUT));
        let whole = down * across;
        if whole > tiles { Plan { height, width, images: 1, rows: (tiles / across).max(1) } } else { Plan { height, width, images: tiles / whole, rows: down } }
    }

    fn strips(&self) -> impl Iterator<Item = Strip> + use<> {
        Strip::all(self.height, self.width, self.rows)
    }

    /// Tiles of a piece at most.
    fn tiles(&self) -> usize {
        self.images * self.rows * self.width.div_ceil(OUTPUT)
    }

    /// Pixels of a strip's inputs and outputs at most, and one more that stands for all outside.
    fn row_pixels(&self) -> (usize, usize) {
        let pixels = |rows: usize| rows.min(self.height) * self.width + 1;
        (pixels(self.rows * OUTPUT + 2), pixels(self.rows * OUTPUT))
    }
}

/// y = x * w.
pub(super) fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let Geometry { channels, out, .. } = geometry;
    convolve(with, geometry, (channels, out), x, |to, from, tap| w[(to * channels + from) * TAPS + tap], y)
}

/// dx = dy * w with the channels exchanged and the taps reversed.
pub(super) fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
    let Geometry { channels, out, .. } = geometry;
    convolve(with, geometry, (out, channels), dy, |to, from, tap| w[(from * channels + to) * TAPS + TAPS - 1 - tap], dx)
}

/// Convolves maps of `from` channels to maps of `to` channels with the weights (to, from, tap).
fn convolve(
    with: &Resources,
    geometry: Geometry,
    (from, to): (usize, usize),
    x: &[f32],
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    y: &mut [f32],
) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let (from_padded, to_padded) = (padded(from), padded(to));
    let filters = Filters { from: from_padded };
    let mut packed = pool.take(filters.panel_len() * to_padded / PANEL);
    for_each(parallel, packed.chunks_exact_mut(filters.panel_len()), |panel, packed| {
        arch.dispatch(Pack { filters, from, to: (panel * PANEL, to), weight: &weight, packed });
    })?;

    let tiles = (TASK_ELEMENTS / (POINTS * (from_padded + to_padded)) * 2).clamp(24, 192);
    let plan = Plan::new(geometry.height, geometry.width, tiles);
    let pixels = geometry.pixels();
    let pieces = x.chunks(plan.images * from * pixels).zip(y.chunks_mut(plan.images * to * pixels));
    let packed = &packed;
    for_each(parallel, pieces, |_, (x, y)| {
        arch.dispatch(Convolve { plan, from, to, x, filters, packed, y, pool });
    })
}

/// Where transformed weights are: `[panel][point][from][PANEL]`.
#[derive(Debug, Clone, Copy)]
struct Filters {
    /// Padded number of input channels.
    from: usize,
}

impl Filters {
    /// Elements between two points; no power of two.
    fn stride(&self) -> usize {
        self.from * PANEL + 16
    }

    fn panel_len(&self) -> usize {
        self.stride() * POINTS
    }

    /// A point's weights in a panel.
    fn point<'a>(&self, packed: &'a [f32], panel: usize, point: usize) -> &'a [f32] {
        &packed[panel * self.panel_len() + point * self.stride()..][..self.from * PANEL]
    }
}

/// Transforms the weights of one panel of output channels.
struct Pack<'a, W> {
    filters: Filters,
    from: usize,
    /// The panel's first output channel, and the number of all.
    to: (usize, usize),
    weight: &'a W,
    packed: &'a mut [f32],
}

impl<W: Fn(usize, usize, usize) -> f32> WithSimd for Pack<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Pack { filters, from, to: (first, to), weight, packed } = self;
        if from < filters.from || first + PANEL > to {
            packed.fill(0.0);
        }
        let mut taps = [0.0; PANEL * TAPS];
        for channel in 0..from {
            for output in 0..PANEL.min(to - first) {
                for tap in 0..TAPS {
                    taps[tap * PANEL + output] = weight(first + output, channel, tap);
                }
            }
            for lane in (0..PANEL).step_by(S::F32_LANES) {
                let place = channel * PANEL + lane;
                weight_points(simd, &taps, PANEL, lane, filters.stride(), place, packed);
            }
        }
    }
}

/// Convolves some images.
struct Convolve<'a> {
    plan: Plan,
    from: usize,
    to: usize,
    x: &'a [f32],
    filters: Filters,
    packed: &'a [f32],
    y: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Convolve { plan, from, to, x, filters, packed, y, pool } = self;
        let (from_padded, to_padded, pixels) = (padded(from), padded(to), plan.height * plan.width);
        let (inputs, outputs) = (Points::new(from_padded, plan.tiles()), Points::new(to_padded, plan.tiles()));
        let (input_pixels, output_pixels) = plan.row_pixels();
        let mut scratch = pool.take(inputs.len() + outputs.len() + input_pixels * from_padded + output_pixels * to_padded);
        let (input_values, rest) = scratch.split_at_mut(inputs.len());
        let (output_values, rest) = rest.split_at_mut(outputs.len());
        let (input_rows, output_rows_) = rest.split_at_mut(input_pixels * from_padded);

        for strip in plan.strips() {
            let (first, count) = strip.input_pixels();
            input_rows[count * from_padded..(count + 1) * from_padded].fill(0.0);
            let (mut tiles, table) = (0, strip.input_table());
            for x in x.chunks_exact(from * pixels) {
                to_rows(&x[first..], pixels, from, count, input_rows, from_padded);
                input_points(simd, &table, input_rows, inputs, tiles, input_values);
                tiles += strip.tiles();
            }
            let shape = Shape { m: tiles, n: PANEL, k: from_padded, a_stride: from_padded, c_stride: to_padded };
            for point in 0..POINTS {
                let values = &input_values[point * inputs.stride..];
                for panel in 0..to_padded / PANEL {
                    let products = &mut output_values[point * outputs.stride + panel * PANEL..];
                    rows_times_panels(simd, shape, values, filters.point(packed, panel, point), products);
                }
            }
            let ((first, count), table) = (strip.output_pixels(), strip.output_table());
            for (image, y) in y.chunks_exact_mut(to * pixels).enumerate() {
                output_rows(simd, &table, outputs, image * strip.tiles(), output_values, output_rows_);
                from_rows(output_rows_, to_padded, to, count, &mut y[first..], pixels);
            }
        }
    }
}

/// dw: the points of x times the points of dy, summed over all tiles, transformed back.
pub(super) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let Geometry { channels, out, height, width, batch, .. } = geometry;
    let (channels_padded, out_padded, pixels) = (padded(channels), padded(out), geometry.pixels());
    let tiles = (TASK_ELEMENTS / (POINTS * (channels_padded + out_padded)) * 2).clamp(64, 192);
    let plan = Plan::new(height, width, tiles);
    let layouts = (Points::new(channels_padded, plan.tiles()), Points::new(out_padded, plan.tiles()));
    let piece_len = layouts.0.len() + layouts.1.len();
    let pieces: Vec<(usize, Strip)> = (0..batch).step_by(plan.images).flat_map(|image| plan.strips().map(move |strip| (image, strip))).collect();

    // [point][channels][out], no power of two apart.
    let point_len = channels_padded * out_padded + 16;
    let mut sums = pool.take(point_len * POINTS);
    let fill = |&(image, strip): &(usize, Strip), values: &mut [f32]| {
        let images = plan.images.min(batch - image);
        let part = |maps, channels: usize| maps_of(maps, image, images, channels * pixels);
        arch.dispatch(Transform { plan, strip, channels, out, x: part(x, channels), dy: part(dy, out), layouts, values, pool });
    };
    sum_over_pieces(with, &pieces, piece_len, fill, (&mut sums, point_len), |pieces, values, point, sums| {
        arch.dispatch(Accumulate { plan, pieces, batch, point, layouts, values, sums });
    })?;
    let sums = &sums;
    for_each(parallel, dw.chunks_mut(PANEL * channels * TAPS), |panel, dw| {
        arch.dispatch(Gather { channels, out_padded, panel, point_len, sums, dw });
    })
}

fn maps_of(maps: &[f32], image: usize, images: usize, len: usize) -> &[f32] {
    &maps[image * len..(image + images) * len]
}

/// The points of x and dy of one piece.
struct Transform<'a> {
    plan: Plan,
    strip: Strip,
    channels: usize,
    out: usize,
    x: &'a [f32],
    dy: &'a [f32],
    layouts: (Points, Points),
    values: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Transform { plan, strip, channels, out, x, dy, layouts, values, pool } = self;
        let (channels_padded, out_padded, pixels) = (padded(channels), padded(out), plan.height * plan.width);
        let (x_values, dy_values) = values.split_at_mut(layouts.0.len());
        let (input_pixels, output_pixels) = plan.row_pixels();
        let mut rows = pool.take((input_pixels * channels_padded).max(output_pixels * out_padded));

        let ((first, count), table) = (strip.input_pixels(), strip.input_table());
        rows[count * channels_padded..(count + 1) * channels_padded].fill(0.0);
        for (image, x) in x.chunks_exact(channels * pixels).enumerate() {
            to_rows(&x[first..], pixels, channels, count, &mut rows, channels_padded);
            input_points(simd, &table, &rows, layouts.0, image * strip.tiles(), x_values);
        }
        let ((first, count), table) = (strip.output_pixels(), strip.output_table());
        rows[count * out_padded..(count + 1) * out_padded].fill(0.0);
        for (image, dy) in dy.chunks_exact(out * pixels).enumerate() {
            to_rows(&dy[first..], pixels, out, count, &mut rows, out_padded);
            gradient_points(simd, &table, &rows, layouts.1, image * strip.tiles(), dy_values);
        }
    }
}

/// Adds the products of all pieces at one point.
struct Accumulate<'a> {
    plan: Plan,
    pieces: &'a [(usize, Strip)],
    batch: usize,
    point: usize,
    layouts: (Points, Points),
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Accumulate { plan, pieces, batch, point, layouts: (x, dy), values, sums } = self;
        for (&(image, strip), values) in pieces.iter().zip(values.chunks_exact(x.len() + dy.len())) {
            let (x_values, dy_values) = values.split_at(x.len());
            let tiles = plan.images.min(batch - image) * strip.tiles();
            let pairs = x_values[point * x.stride..].chunks(x.channels).zip(dy_values[point * dy.stride..].chunks(dy.channels)).take(tiles);
            add_outer_products(simd, (x.channels, dy.channels, dy.channels), pairs, sums);
        }
    }
}

/// Transforms the sums of one panel of output channels back.
struct Gather<'a> {
    channels: usize,
    out_padded: usize,
    panel: usize,
    point_len: usize,
    sums: &'a [f32],
    dw: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gather { channels, out_padded, panel, point_len, sums, dw } = self;
        let mut taps = [0.0; PANEL * TAPS];
        for channel in 0..channels {
            for lane in (0..PANEL).step_by(S::F32_LANES) {
                let place = channel * out_padded + panel * PANEL + lane;
                gather(simd, sums, point_len, place, &mut taps, PANEL, lane);
            }
            for (output, dw) in dw.chunks_exact_mut(channels * TAPS).enumerate() {
                for tap in 0..TAPS {
                    dw[channel * TAPS + tap] = taps[tap * PANEL + output];
                }
            }
        }
    }
}
