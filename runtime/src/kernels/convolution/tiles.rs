//! 3x3 convolutions of stride 1 and padding 1 by Winograd's points: transform, 36 products, transform back, on pieces of
//! the batch that fit the cache.

mod weight_gradient;

use pulp::{Simd, WithSimd};

pub(super) use super::winograd::{OUTPUT, POINTS};
use super::winograd::{Points, Strip, TAPS, input_points, output_rows, weight_points};
use super::{Geometry, Resources};
use crate::kernels::channel_last::{interleave_panels, padded};
use crate::kernels::gemm::{PANEL, Shape, rows_times_panels};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;
pub(super) use weight_gradient::weight_gradient;

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

    /// Pixels of the output.
    fn outputs(&self) -> usize {
        self.images * self.strip.output_pixels().1
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
///
/// By pieces, every piece reads all points of the weights; by panels, every panel of weights reads all points of the maps.
/// Where a piece has fewer tiles than a panel has channels, more pass by in the first way; the second writes the points of
/// the maps to memory once and its outputs twice, so it must be twice as many (measured).
fn convolve(
    with: &Resources,
    geometry: Geometry,
    (from, to): (usize, usize),
    x: &[f32],
    weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    addend: Option<&[f32]>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    let weights = Weights { filters: Filters { from: padded(from) }, from, to, weight: &weight };
    let tiles = (TASK_ELEMENTS / (POINTS * (padded(from) + padded(to))) * 2).min(192);
    if 2 * tiles < PANEL {
        convolve_by_panels(with, geometry, weights, x, addend, y)
    } else {
        convolve_by_pieces(with, geometry, Plan::new(geometry.height, geometry.width, tiles.max(24)), weights, x, addend, y)
    }
}

/// All weights are transformed first; a task transforms a piece, multiplies it with them and transforms the products back.
fn convolve_by_pieces<W: Fn(usize, usize, usize) -> f32 + Sync>(
    with: &Resources,
    geometry: Geometry,
    plan: Plan,
    weights: Weights<W>,
    x: &[f32],
    addend: Option<&[f32]>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch, .. } = with;
    let (filters, to) = (weights.filters, padded(weights.to));
    let mut packed = pool.take(filters.panel_len() * to / PANEL);
    for_each(parallel, packed.chunks_exact_mut(filters.panel_len()), |panel, packed| arch.dispatch(Pack { weights, panel, packed }))?;
    let packed = &packed;
    let mut rest = y;
    let parts = plan.pieces(geometry.batch).map(|piece| {
        let (own, behind) = std::mem::take(&mut rest).split_at_mut(piece.outputs() * to);
        rest = behind;
        (piece, own)
    });
    for_each(parallel, parts, |_, (piece, y)| {
        let first = (piece.image * geometry.pixels() + piece.strip.output_pixels().0) * to;
        let addend = addend.map(|addend| &addend[first..first + y.len()]);
        arch.dispatch(Convolve { piece, to, x, filters, packed, addend, y, pool });
    })
}

/// Tiles of a piece of [`convolve_by_panels`]: a multiple of a register tile's rows.
const PANEL_TILES: usize = 48;

/// Elements of the points that a round of [`convolve_by_panels`] works on.
const ROUND_ELEMENTS: usize = 5 * 512 * 1024;

/// The maps are transformed first, as many pieces as the cache holds; a task transforms a panel of weights, multiplies them
/// with it and transforms the products back. The points of the weights never leave the core's own cache.
fn convolve_by_panels<W: Fn(usize, usize, usize) -> f32 + Sync>(
    with: &Resources,
    geometry: Geometry,
    weights: Weights<W>,
    x: &[f32],
    addend: Option<&[f32]>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch, .. } = with;
    let (from, to) = (weights.filters.from, padded(weights.to));
    let plan = Plan::new(geometry.height, geometry.width, PANEL_TILES);
    let layout = Points::by_tiles(from, plan.tiles());
    let pieces: Vec<Piece> = plan.pieces(geometry.batch).collect();
    let round = (ROUND_ELEMENTS / layout.len()).clamp(1, pieces.len().max(1));
    let mut points = pool.take(round * layout.len());
    let mut first = 0;
    for pieces in pieces.chunks(round) {
        for_each(parallel, points.chunks_exact_mut(layout.len()).zip(pieces), |_, (points, &piece)| {
            arch.dispatch(TransformInput { piece, x, layout, points });
        })?;
        let (points, outputs) = (&points[..], pieces.iter().map(Piece::outputs).sum::<usize>());
        let mut panels = pool.take(outputs * to);
        for_each(parallel, panels.chunks_exact_mut(outputs * PANEL), |panel, outputs| {
            arch.dispatch(ConvolvePanel { weights, panel, pieces, layout, points, outputs, pool });
        })?;
        let last = first + outputs * to;
        interleave_panels(with, &panels, addend.map(|addend| &addend[first..last]), to, &mut y[first..last])?;
        first = last;
    }
    Ok(())
}

/// Weights (to, from, tap) of a convolution, and how their points are laid out.
struct Weights<'a, W> {
    filters: Filters,
    from: usize,
    to: usize,
    weight: &'a W,
}

impl<W> Clone for Weights<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Weights<'_, W> {}

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
    weights: Weights<'a, W>,
    panel: usize,
    packed: &'a mut [f32],
}

impl<W: Fn(usize, usize, usize) -> f32> WithSimd for Pack<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Pack { weights: Weights { filters, from, to, weight }, panel, packed } = self;
        let first = panel * PANEL;
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
        let Convolve { piece, to, x, filters, packed, addend, y, pool } = self;
        let (strip, tiles, from) = (piece.strip, piece.tiles(), filters.from);
        let (inputs, outputs) = (Points::by_tiles(from, tiles), Points::by_tiles(to, tiles));
        let mut scratch = pool.take(inputs.len() + outputs.len());
        let (input_values, output_values) = scratch.split_at_mut(inputs.len());

        TransformInput { piece, x, layout: inputs, points: &mut *input_values }.with_simd(simd);
        let shape = Shape { m: tiles, n: PANEL, k: from, a_stride: from, c_stride: to };
        for point in 0..POINTS {
            let values = &input_values[point * inputs.stride..];
            for panel in 0..to / PANEL {
                let products = &mut output_values[point * outputs.stride + panel * PANEL..];
                rows_times_panels(simd, shape, values, filters.point(packed, panel, point), products);
            }
        }
        let (table, len) = (strip.output_table(to / S::F32_LANES), strip.output_pixels().1 * to);
        for (image, y) in y.chunks_exact_mut(len).enumerate() {
            let addend = addend.map(|addend| &addend[image * len..][..len]);
            output_rows(simd, &table, outputs, image * strip.tiles(), output_values, y, addend);
        }
    }
}

/// The points of a piece's inputs.
struct TransformInput<'a> {
    piece: Piece,
    x: &'a [f32],
    layout: Points,
    points: &'a mut [f32],
}

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let TransformInput { piece, x, layout, points } = self;
        let table = piece.strip.input_table(layout.channels / S::F32_LANES);
        for (image, x) in piece.of_images(x, layout.channels).enumerate() {
            input_points(simd, &table, x, layout, image * piece.strip.tiles(), points);
        }
    }
}

/// A panel of the outputs of some pieces, from the points of their inputs.
struct ConvolvePanel<'a, W> {
    weights: Weights<'a, W>,
    panel: usize,
    pieces: &'a [Piece],
    layout: Points,
    points: &'a [f32],
    /// [outputs][[`PANEL`]], piece by piece.
    outputs: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl<W: Fn(usize, usize, usize) -> f32> WithSimd for ConvolvePanel<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ConvolvePanel { weights, panel, pieces, layout, points, outputs, pool } = self;
        let (filters, from) = (weights.filters, weights.filters.from);
        let mut packed = pool.take(filters.panel_len());
        Pack { weights, panel, packed: &mut packed }.with_simd(simd);
        let products_layout = Points::by_tiles(PANEL, layout.len() / POINTS / from);
        let mut products = pool.take(pieces.len() * products_layout.len());
        for point in 0..POINTS {
            let pieces = pieces.iter().zip(points.chunks_exact(layout.len())).zip(products.chunks_exact_mut(products_layout.len()));
            for ((piece, points), products) in pieces {
                let shape = Shape { m: piece.tiles(), n: PANEL, k: from, a_stride: from, c_stride: PANEL };
                let (points, products) = (&points[point * layout.stride..], &mut products[point * products_layout.stride..]);
                rows_times_panels(simd, shape, points, filters.point(&packed, 0, point), products);
            }
        }
        let mut rest = outputs;
        for (piece, products) in pieces.iter().zip(products.chunks_exact(products_layout.len())) {
            let (table, len) = (piece.strip.output_table(PANEL / S::F32_LANES), piece.strip.output_pixels().1 * PANEL);
            let (own, behind) = rest.split_at_mut(piece.images * len);
            for (image, outputs) in own.chunks_exact_mut(len).enumerate() {
                output_rows(simd, &table, products_layout, image * piece.strip.tiles(), products, outputs, None);
            }
            rest = behind;
        }
    }
}
