//! 3x3 convolutions of stride 1 and padding 1 by Winograd's points: transform, 36 products, transform back, on pieces of
//! the batch that fit the cache.

use pulp::{Simd, WithSimd};

pub(super) use super::winograd::{OUTPUT, POINTS};
use super::winograd::{Points, Strip, TAPS, gradient_points, input_points, output_rows, weight_gradient as gather, weight_points};
use super::{Geometry, Resources};
use crate::kernels::channel_last::padded;
use crate::kernels::gemm::{PANEL, Shape, add_outer_products, rows_times_panels};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;

/// Elements of points that one task works on: what fits a core's second-level cache beside the weights that pass by.
const TASK_ELEMENTS: usize = 120 * 1024;

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

    /// Strips of some images of a batch, whose outputs follow each other: first image, images, strip.
    fn pieces(self, batch: usize) -> impl Iterator<Item = Piece> {
        let first = (0..batch).step_by(self.images);
        first.flat_map(move |image| self.strips().map(move |strip| Piece { image, images: self.images.min(batch - image), strip }))
    }
}

/// A strip of some images.
#[derive(Debug, Clone, Copy)]
struct Piece {
    image: usize,
    images: usize,
    strip: Strip,
}

impl Piece {
    fn tiles(&self) -> usize {
        self.images * self.strip.tiles()
    }

    /// The maps of the piece's images.
    fn of_images<'a>(&self, maps: &'a [f32], channels: usize) -> std::slice::ChunksExact<'a, f32> {
        let len = self.strip.height * self.strip.width * channels;
        maps[self.image * len..][..self.images * len].chunks_exact(len)
    }
}

/// y = x * w.
pub(super) fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let Geometry { channels, out, .. } = geometry;
    convolve(with, geometry, (channels, out), x, |to, from, tap| w[(to * channels + from) * TAPS + tap], None, y)
}

/// dx = dy * w with the channels exchanged and the taps reversed, plus the addend.
pub(super) fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], addend: Option<&[f32]>, dx: &mut [f32]) -> Result<(), KernelError> {
    let Geometry { channels, out, .. } = geometry;
    convolve(with, geometry, (out, channels), dy, |to, from, tap| w[(from * channels + to) * TAPS + TAPS - 1 - tap], addend, dx)
}

/// Convolves maps of `from` channels to maps of `to` channels with the weights (to, from, tap).
fn convolve(
    with: &Resources,
    geometry: Geometry,
    (from, to): (usize, usize),
    x: &[f32],
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    addend: Option<&[f32]>,
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
    let packed = &packed;
    let mut rest = y;
    let parts = plan.pieces(geometry.batch).map(|piece| {
        let (own, behind) = std::mem::take(&mut rest).split_at_mut(piece.images * piece.strip.output_pixels().1 * to_padded);
        rest = behind;
        (piece, own)
    });
    for_each(parallel, parts, |_, (piece, y)| {
        let first = (piece.image * geometry.pixels() + piece.strip.output_pixels().0) * to_padded;
        let addend = addend.map(|addend| &addend[first..first + y.len()]);
        arch.dispatch(Convolve { piece, from: from_padded, to: to_padded, x, filters, packed, addend, y, pool });
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

/// The outputs of a piece.
struct Convolve<'a> {
    piece: Piece,
    from: usize,
    to: usize,
    x: &'a [f32],
    filters: Filters,
    packed: &'a [f32],
    /// Of the piece, like `y`.
    addend: Option<&'a [f32]>,
    y: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Convolve { piece, from, to, x, filters, packed, addend, y, pool } = self;
        let (strip, tiles) = (piece.strip, piece.tiles());
        let (inputs, outputs) = (Points::new(from, tiles), Points::new(to, tiles));
        let mut scratch = pool.take(inputs.len() + outputs.len());
        let (input_values, output_values) = scratch.split_at_mut(inputs.len());

        let table = strip.input_table(from);
        for (image, x) in piece.of_images(x, from).enumerate() {
            input_points(simd, &table, x, inputs, image * strip.tiles(), input_values);
        }
        let shape = Shape { m: tiles, n: PANEL, k: from, a_stride: from, c_stride: to };
        for point in 0..POINTS {
            let values = &input_values[point * inputs.stride..];
            for panel in 0..to / PANEL {
                let products = &mut output_values[point * outputs.stride + panel * PANEL..];
                rows_times_panels(simd, shape, values, filters.point(packed, panel, point), products);
            }
        }
        let (table, len) = (strip.output_table(to), strip.output_pixels().1 * to);
        for (image, y) in y.chunks_exact_mut(len).enumerate() {
            let addend = addend.map(|addend| &addend[image * len..][..len]);
            output_rows(simd, &table, outputs, image * strip.tiles(), output_values, y, addend);
        }
    }
}

/// dw: the points of x times the points of dy, summed over all tiles, transformed back.
pub(super) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let Geometry { channels, out, height, width, batch, .. } = geometry;
    let (channels_padded, out_padded) = (padded(channels), padded(out));
    let tiles = (TASK_ELEMENTS / (POINTS * (channels_padded + out_padded)) * 2).clamp(64, 192);
    let plan = Plan::new(height, width, tiles);
    let layouts = (Points::new(channels_padded, plan.tiles()), Points::new(out_padded, plan.tiles()));
    let piece_len = layouts.0.len() + layouts.1.len();
    let pieces: Vec<Piece> = plan.pieces(batch).collect();

    // [point][channels][out], no power of two apart.
    let point_len = channels_padded * out_padded + 16;
    let mut sums = pool.take(point_len * POINTS);
    let fill = |&piece: &Piece, values: &mut [f32]| arch.dispatch(Transform { piece, x, dy, layouts, values });
    sum_over_pieces(with, &pieces, piece_len, fill, (&mut sums, point_len), |pieces, values, point, sums| {
        arch.dispatch(Accumulate { pieces, point, layouts, values, sums });
    })?;
    let sums = &sums;
    for_each(parallel, dw.chunks_mut(PANEL * channels * TAPS), |panel, dw| {
        arch.dispatch(Gather { channels, out_padded, panel, point_len, sums, dw });
    })
}

/// Elements of the pieces between two rounds of [`sum_over_pieces`].
const ROUND_ELEMENTS: usize = 2 * 1024 * 1024;

/// Sums over pieces of the batch, in rounds of as many as the cache holds: every piece is written to `piece_len` elements by
/// `fill`, then `add` adds those of the round to each part, of `part_len` elements, of `sums`. The order of the additions
/// does not depend on the threads.
fn sum_over_pieces<P: Sync>(
    with: &Resources,
    pieces: &[P],
    piece_len: usize,
    fill: impl Fn(&P, &mut [f32]) + Sync,
    (sums, part_len): (&mut [f32], usize),
    add: impl Fn(&[P], &[f32], usize, &mut [f32]) + Sync,
) -> Result<(), KernelError> {
    sums.fill(0.0);
    let round = (ROUND_ELEMENTS / piece_len).clamp(1, pieces.len().max(1));
    let mut values = with.pool.take(round * piece_len);
    for pieces in pieces.chunks(round) {
        for_each(with.parallel, values.chunks_exact_mut(piece_len).zip(pieces), |_, (values, piece)| fill(piece, values))?;
        let values = &values;
        for_each(with.parallel, sums.chunks_exact_mut(part_len), |part, sums| add(pieces, values, part, sums))?;
    }
    Ok(())
}

/// The points of x and dy of one piece.
struct Transform<'a> {
    piece: Piece,
    x: &'a [f32],
    dy: &'a [f32],
    layouts: (Points, Points),
    values: &'a mut [f32],
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Transform { piece, x, dy, layouts, values } = self;
        let (strip, (channels, out)) = (piece.strip, (layouts.0.channels, layouts.1.channels));
        let (x_values, dy_values) = values.split_at_mut(layouts.0.len());
        let table = strip.input_table(channels);
        for (image, x) in piece.of_images(x, channels).enumerate() {
            input_points(simd, &table, x, layouts.0, image * strip.tiles(), x_values);
        }
        let ((first, count), table) = (strip.output_pixels(), strip.output_table(out));
        for (image, dy) in piece.of_images(dy, out).enumerate() {
            gradient_points(simd, &table, &dy[first * out..][..count * out], layouts.1, image * strip.tiles(), dy_values);
        }
    }
}

/// Adds the products of all pieces at one point.
struct Accumulate<'a> {
    pieces: &'a [Piece],
    point: usize,
    layouts: (Points, Points),
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Accumulate { pieces, point, layouts: (x, dy), values, sums } = self;
        for (piece, values) in pieces.iter().zip(values.chunks_exact(x.len() + dy.len())) {
            let (x_values, dy_values) = values.split_at(x.len());
            let pairs = x_values[point * x.stride..].chunks(x.channels).zip(dy_values[point * dy.stride..].chunks(dy.channels)).take(piece.tiles());
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
