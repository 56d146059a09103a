//! Convolutions of any window, tap by tap: an output is the sum over its taps of the pixel under the tap times the tap's
//! weights. Pixels are gathered where they lie, so nothing is copied for a tap; outputs with the same taps on the map
//! are multiplied together, so that taps on the padding cost nothing, nor do those between the pixels of a stride.

mod sources;
mod weight_gradient;

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{FEW_CHANNELS, Geometry, Resources};
use crate::kernels::channel_last::{PanelRows, interleave_panels, padded, transpose};
use crate::kernels::gemm::{Gathered, OUTSIDE, PANEL, Shape, gathered_times_panels, rows_times_panels};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;
use sources::Sources;
pub(super) use weight_gradient::weight_gradient;

/// Outputs of a piece, fewest and most: the fewer, the more often the weights pass by.
const PIECE_OUTPUTS: (usize, usize) = (48, 192);

/// Elements of sources and outputs that a piece should have: what fits a core's second-level cache beside the weights
/// that pass by.
const PIECE_ELEMENTS: usize = 128 * 1024;

/// Pieces of a batch from which on the threads share those; of fewer, they share the outputs' channels.
const MANY_PIECES: usize = 8;

/// Images of a piece are a multiple of this, if they are more: outputs at one place of the map then fill whole tiles.
const IMAGES: usize = 12;

/// What the taps of the outputs of one image see.
struct Taps {
    taps: usize,
    /// Outputs of a row of the map.
    width: usize,
    /// Whether every output has one tap, on the source of the same number.
    identity: bool,
    /// [outputs][taps]: the source pixel, or [`OUTSIDE`].
    sources: Vec<u32>,
}

impl Taps {
    /// y's taps see x.
    fn forward(geometry: Geometry) -> Taps {
        let Geometry { stride, padding, height, width, out_height, out_width, .. } = geometry;
        let source = |output: usize, tap: usize, side: usize| (output * stride + tap).checked_sub(padding).filter(|&source| source < side);
        Taps::new(geometry, (out_height, out_width), |(y, x), (i, j)| Some(source(y, i, height)? * width + source(x, j, width)?))
    }

    /// x's taps see those pixels of y whose taps see them.
    fn backward(geometry: Geometry) -> Taps {
        let Geometry { stride, padding, height, width, out_height, out_width, .. } = geometry;
        let source = |output: usize, tap: usize, side: usize| {
            let shifted = (output + padding).checked_sub(tap)?;
            (shifted.is_multiple_of(stride) && shifted / stride < side).then_some(shifted / stride)
        };
        Taps::new(geometry, (height, width), |(y, x), (i, j)| Some(source(y, i, out_height)? * out_width + source(x, j, out_width)?))
    }

    fn new(geometry: Geometry, (height, width): (usize, usize), source: impl Fn((usize, usize), (usize, usize)) -> Option<usize>) -> Taps {
        let side = geometry.kernel;
        if geometry.is_pointwise() {
            return Taps::identity(height * width, width);
        }
        let outputs = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let window = || (0..side).flat_map(|i| (0..side).map(move |j| (i, j)));
        let sources = outputs.flat_map(|output| window().map(move |tap| (output, tap)));
        let sources = sources.map(|(output, tap)| source(output, tap).and_then(|pixel| u32::try_from(pixel).ok()).unwrap_or(OUTSIDE)).collect();
        Taps { taps: geometry.taps(), width, identity: false, sources }
    }

    /// Every output has one tap, on the source of the same number.
    fn identity(outputs: usize, width: usize) -> Taps {
        Taps { taps: 1, width, identity: true, sources: (0..outputs).map(|output| u32::try_from(output).unwrap_or(OUTSIDE)).collect() }
    }

    fn outputs(&self) -> usize {
        self.sources.len() / self.taps
    }

    fn of(&self, output: usize) -> &[u32] {
        &self.sources[output * self.taps..(output + 1) * self.taps]
    }

    /// The same for outputs whose taps are outside in the same places; a bit for each, of more than fit some share one.
    fn outside(&self, output: usize) -> u128 {
        let taps = self.of(output).iter().enumerate();
        taps.filter(|&(_, &source)| source == OUTSIDE).fold(0, |outside, (tap, _)| outside | 1 << (tap % u128::BITS as usize))
    }
}

/// A part of every image's outputs.
struct Strip {
    number: usize,
    outputs: Range<usize>,
    /// What their taps see.
    sources: Range<usize>,
    /// The outputs, those with the same taps together.
    order: Vec<usize>,
}

impl Strip {
    fn new(number: usize, taps: &Taps, outputs: Range<usize>) -> Strip {
        if taps.identity {
            return Strip { number, order: outputs.clone().collect(), sources: outputs.clone(), outputs };
        }
        let seen = || outputs.clone().flat_map(|output| taps.of(output)).filter(|&&source| source != OUTSIDE).map(|&source| source as usize);
        let sources = seen().min().map_or(0..0, |first| first..seen().max().unwrap_or(first) + 1);
        let mut order: Vec<usize> = outputs.clone().collect();
        order.sort_by_cached_key(|&output| taps.outside(output));
        Strip { number, outputs, sources, order }
    }
}

/// A product's taps, and how the batch is cut: pieces of some images' strips.
struct Plan {
    batch: usize,
    taps: Taps,
    sources: Sources,
    /// Elements of a row of outputs.
    to: usize,
    /// Whether some elements of rows or outputs stand for no channel.
    padding: bool,
    images: usize,
    strips: Vec<Strip>,
}

/// A strip of some images.
#[derive(Clone, Copy)]
struct Piece<'a> {
    image: usize,
    images: usize,
    strip: &'a Strip,
}

impl Piece<'_> {
    /// Outputs.
    fn rows(&self) -> usize {
        self.images * self.strip.outputs.len()
    }
}

impl Plan {
    fn new(batch: usize, taps: Taps, sources: Sources, to: usize) -> Plan {
        let (outputs, to, padding) = (taps.outputs(), padded(to), sources.has_padding() || !to.is_multiple_of(PANEL));
        let elements = sources.rows_of_image() * sources.depth() + outputs * to;
        let of_piece = (PIECE_ELEMENTS * outputs / elements.max(1)).clamp(PIECE_OUTPUTS.0, PIECE_OUTPUTS.1);
        let images = (of_piece / outputs.max(1)).min(batch);
        let images = if images > IMAGES { images / IMAGES * IMAGES } else { images.max(1) };
        let whole_rows = (of_piece / taps.width).max(1) * taps.width;
        let len = if images > 1 { outputs } else { whole_rows.min(outputs) };
        let strips = (0..outputs).step_by(len.max(1)).enumerate().map(|(number, first)| Strip::new(number, &taps, first..(first + len).min(outputs))).collect();
        Plan { batch, taps, sources, to, padding, images, strips }
    }

    /// That of y from x.
    fn forward(geometry: Geometry) -> Plan {
        let Geometry { batch, channels, out, .. } = geometry;
        let identity = || Taps::identity(geometry.out_pixels(), geometry.out_width);
        if channels <= FEW_CHANNELS {
            return Plan::new(batch, identity(), Sources::columns(geometry), out);
        }
        if geometry.is_spaced() {
            return Plan::new(batch, identity(), Sources::spaced(geometry), out);
        }
        Plan::new(batch, Taps::forward(geometry), Sources::pixels(geometry.pixels(), channels), out)
    }

    /// That of x's gradient from y's.
    fn backward(geometry: Geometry) -> Plan {
        let Geometry { batch, channels, out, .. } = geometry;
        Plan::new(batch, Taps::backward(geometry), Sources::pixels(geometry.out_pixels(), out), channels)
    }

    /// All pieces; their outputs follow each other.
    fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let first = (0..self.batch).step_by(self.images);
        first.flat_map(move |image| self.strips.iter().map(move |strip| Piece { image, images: self.images.min(self.batch - image), strip }))
    }

    /// Rows of sources of a piece at most, and of outputs.
    fn rows(&self) -> (usize, usize) {
        let most = |len: fn(&Strip) -> usize| self.images * self.strips.iter().map(len).max().unwrap_or(0);
        (most(|strip| strip.sources.len()), most(|strip| strip.outputs.len()))
    }

    /// Multiplies every piece of the batch. `pack` fills a panel of the weights as a product wants them:
    /// [tap][depth][[`PANEL`]], the weights of [`PANEL`] channels of the outputs at a tap and an element of its row; what
    /// stands for no weight is zero before.
    fn run(
        &self,
        with: &Resources,
        maps: &[f32],
        pack: impl Fn(usize, &mut [f32]) + Sync,
        addend: Option<&[f32]>,
        outputs: &mut [f32],
    ) -> Result<(), KernelError> {
        let pieces: Vec<Piece> = self.pieces().collect();
        let pack = |panel: usize, packed: &mut [f32]| {
            if self.padding {
                packed.fill(0.0);
            }
            pack(panel * PANEL, packed);
        };
        // By pieces all weights pass by for each piece, by panels all sources for each panel: the smaller of the two should.
        let weights_outnumber_maps = self.to * self.taps.taps >= self.batch * self.sources.rows_of_image();
        if pieces.len() < MANY_PIECES || weights_outnumber_maps {
            self.run_by_panels(with, maps, &pieces, pack, addend, outputs)
        } else {
            self.run_by_pieces(with, maps, &pieces, pack, addend, outputs)
        }
    }

    /// A task packs a panel of weights, which its core's cache holds, and multiplies all pieces with it.
    fn run_by_panels(
        &self,
        with: &Resources,
        maps: &[f32],
        pieces: &[Piece],
        pack: impl Fn(usize, &mut [f32]) + Sync,
        addend: Option<&[f32]>,
        outputs: &mut [f32],
    ) -> Result<(), KernelError> {
        let &Resources { parallel, pool, arch, .. } = with;
        let panel_len = self.panel_len();
        let mut rows: Vec<Option<PieceRows>> = pieces.iter().map(|_| None).collect();
        for_each(parallel, rows.iter_mut().zip(pieces), |_, (rows, &piece)| *rows = Some(PieceRows::new(self, piece, maps, pool)))?;
        let pieces: Vec<(Piece, PieceRows)> = pieces.iter().copied().zip(rows.into_iter().flatten()).collect();
        let mut panels = pool.take(outputs.len());
        for_each(parallel, panels.chunks_exact_mut(outputs.len() / self.to * PANEL), |panel, products| {
            let mut packed = pool.take(panel_len);
            pack(panel, &mut packed);
            let mut rest = products;
            for (piece, rows) in &pieces {
                let (products, behind) = rest.split_at_mut(piece.rows() * PANEL);
                arch.dispatch(Multiply { plan: self, piece: *piece, rows, packed: &packed, products, pool });
                rest = behind;
            }
        })?;
        interleave_panels(with, &panels, addend, self.to, outputs)
    }

    /// All weights are packed first; a task multiplies a piece with them. Tiles of a product write a few elements of many
    /// rows, the map wants whole rows one after the other: through memory that the cache holds, large maps take three
    /// quarters of the time.
    fn run_by_pieces(
        &self,
        with: &Resources,
        maps: &[f32],
        pieces: &[Piece],
        pack: impl Fn(usize, &mut [f32]) + Sync,
        addend: Option<&[f32]>,
        outputs: &mut [f32],
    ) -> Result<(), KernelError> {
        let &Resources { parallel, pool, arch, .. } = with;
        let mut packed = pool.take(self.panel_len() * self.to / PANEL);
        for_each(parallel, packed.chunks_exact_mut(self.panel_len()), &pack)?;
        let packed = &packed;
        let mut rest = outputs;
        let parts = pieces.iter().map(|&piece| {
            let (own, behind) = std::mem::take(&mut rest).split_at_mut(piece.rows() * self.to);
            rest = behind;
            (piece, own)
        });
        for_each(parallel, parts, |_, (piece, outputs)| {
            let mut products = pool.take(outputs.len());
            let rows = PieceRows::new(self, piece, maps, pool);
            arch.dispatch(Multiply { plan: self, piece, rows: &rows, packed, products: &mut products, pool });
            let addend = addend.map(|addend| &addend[self.first_output(piece)..][..outputs.len()]);
            arch.dispatch(Deliver { products: &products, addend, outputs });
        })
    }

    /// Elements of a panel of weights.
    fn panel_len(&self) -> usize {
        self.taps.taps * self.sources.depth() * PANEL
    }

    /// Where a piece's outputs begin.
    fn first_output(&self, piece: Piece) -> usize {
        (piece.image * self.taps.outputs() + piece.strip.outputs.start) * self.to
    }
}

/// y = x * w.
pub(super) fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let (plan, out, len, arch) = (Plan::forward(geometry), geometry.out, geometry.channels * geometry.taps(), with.arch);
    let layout = plan.weights(geometry);
    let pack = |first: usize, packed: &mut [f32]| arch.dispatch(PackForward { w: &w[first * len..], outputs: (out - first).min(PANEL), layout, packed });
    plan.run(with, x, pack, None, y)
}

/// dx: the sum of y's gradients over the taps that saw the pixel, plus the addend.
pub(super) fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], addend: Option<&[f32]>, dx: &mut [f32]) -> Result<(), KernelError> {
    if geometry.is_spaced() {
        let Geometry { batch, out_height: height, out_width: width, channels, .. } = geometry;
        let mut seen = with.pool.take(batch * geometry.out_pixels() * padded(channels));
        let pointwise = Geometry { height, width, stride: 1, ..geometry };
        input_gradient(with, pointwise, dy, w, None, &mut seen)?;
        return spread(with, geometry, &seen, addend, dx);
    }
    let (plan, channels, taps, arch) = (Plan::backward(geometry), geometry.channels, geometry.taps(), with.arch);
    let depth = plan.sources.depth();
    let pack = |first: usize, packed: &mut [f32]| {
        arch.dispatch(PackBackward { w: &w[first * taps..], len: channels * taps, count: (channels - first).min(PANEL), taps, depth, packed });
    };
    plan.run(with, dy, pack, addend, dx)
}

/// The gradients of the pixels that a 1x1 convolution sees to their places, zeros elsewhere; plus the addend.
fn spread(with: &Resources, geometry: Geometry, seen: &[f32], addend: Option<&[f32]>, dx: &mut [f32]) -> Result<(), KernelError> {
    let Geometry { height, width, stride, out_height, out_width, .. } = geometry;
    let row_len = padded(geometry.channels);
    for_each(with.parallel, dx.chunks_exact_mut(width * row_len), |line, dx| {
        match addend {
            Some(addend) => dx.copy_from_slice(&addend[line * width * row_len..][..width * row_len]),
            None => dx.fill(0.0),
        }
        let (image, y) = (line / height, line % height);
        if !y.is_multiple_of(stride) {
            return;
        }
        let seen = &seen[(image * out_height + y / stride) * out_width * row_len..];
        for (dx, seen) in dx.chunks_exact_mut(row_len).step_by(stride).zip(seen.chunks_exact(row_len)) {
            for (dx, seen) in dx.iter_mut().zip(seen) {
                *dx += seen;
            }
        }
    })
}

/// Where the weights w [outputs][channel][tap] meet the elements of a row: those of a tap and a channel are number
/// `tap · between_taps + channel`.
#[derive(Debug, Clone, Copy)]
struct WeightLayout {
    channels: usize,
    taps: usize,
    between_taps: usize,
}

impl Plan {
    fn weights(&self, geometry: Geometry) -> WeightLayout {
        let between_taps = if self.sources.is_columns() { geometry.channels } else { self.sources.depth() };
        WeightLayout { channels: geometry.channels, taps: geometry.taps(), between_taps }
    }
}

/// Weights of every output of a panel that are transposed together: what stays in the first cache.
const WEIGHTS_AT_ONCE: usize = 64;

/// A panel of weights w [outputs][channel][tap] for y.
struct PackForward<'a> {
    /// From the panel's first output on.
    w: &'a [f32],
    outputs: usize,
    layout: WeightLayout,
    packed: &'a mut [f32],
}

impl WithSimd for PackForward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let PackForward { w, outputs, layout: WeightLayout { channels, taps, between_taps }, packed } = self;
        if taps == 1 {
            return transpose(w, channels, outputs, channels, packed, PANEL);
        }
        let len = channels * taps;
        let mut rows = [[0.0; PANEL]; WEIGHTS_AT_ONCE];
        for first in (0..len).step_by(WEIGHTS_AT_ONCE) {
            let count = WEIGHTS_AT_ONCE.min(len - first);
            transpose(&w[first..], len, outputs, count, rows.as_flattened_mut(), PANEL);
            for (index, row) in rows.iter().enumerate().take(count) {
                let (channel, tap) = ((first + index) / taps, (first + index) % taps);
                packed[(tap * between_taps + channel) * PANEL..][..outputs].copy_from_slice(&row[..outputs]);
            }
        }
    }
}

/// A panel of weights w [outputs][channel][tap] for x's gradient: those of `count` channels.
struct PackBackward<'a> {
    /// From the panel's first channel on.
    w: &'a [f32],
    /// Elements of an output's weights.
    len: usize,
    count: usize,
    taps: usize,
    depth: usize,
    packed: &'a mut [f32],
}

impl WithSimd for PackBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let PackBackward { w, len, count, taps, depth, packed } = self;
        for (output, w) in w.chunks(len).enumerate() {
            let packed = &mut packed[output * PANEL..];
            if taps == 1 {
                packed[..count].copy_from_slice(&w[..count]);
            } else {
                transpose(w, taps, count, taps, packed, depth * PANEL);
            }
        }
    }
}

/// The rows that the products of a piece read: those of the maps, or copies.
struct PieceRows<'a> {
    rows: PanelRows<'a>,
    stride: usize,
    /// The source that is the first row.
    first: usize,
    between_images: usize,
}

impl<'a> PieceRows<'a> {
    fn new(plan: &Plan, piece: Piece, maps: &'a [f32], pool: &'a ScratchPool) -> PieceRows<'a> {
        let (sources, seen) = (&plan.sources, &piece.strip.sources);
        let Some(stride) = sources.copied_stride() else {
            let rows = PanelRows::Given(sources.of_images(maps, piece));
            return PieceRows { rows, stride: sources.depth(), first: 0, between_images: sources.rows_of_image() };
        };
        let mut rows = pool.take(piece.images * seen.len() * stride);
        sources.copy(maps, piece, stride, &mut rows);
        PieceRows { rows: PanelRows::Copied(rows), stride, first: seen.start, between_images: seen.len() }
    }
}

/// The products of a piece with some panels of weights.
struct Multiply<'a> {
    plan: &'a Plan,
    piece: Piece<'a>,
    rows: &'a PieceRows<'a>,
    packed: &'a [f32],
    /// [outputs][panels · [`PANEL`]]
    products: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Multiply { plan, piece, rows: PieceRows { rows, stride, first, between_images }, packed, products, pool } = self;
        let (stride, first, between_images) = (*stride, *first, *between_images);
        let Plan { taps, sources, .. } = plan;
        let Piece { images, strip, .. } = piece;
        let depth = sources.depth();
        let c_stride = products.len() / piece.rows();
        if taps.identity {
            let shape = Shape { m: piece.rows(), n: c_stride, k: depth, a_stride: stride, c_stride };
            // Where several images are in a piece, their rows follow each other.
            return rows_times_panels(simd, shape, &rows[(strip.sources.start - first) * stride..], packed, products);
        }
        let mut zeros = pool.take(depth);
        zeros.fill(0.0);
        let (mut numbers, mut places) = (Vec::with_capacity(piece.rows() * taps.taps), Vec::with_capacity(piece.rows()));
        for (&output, image) in strip.order.iter().flat_map(|output| (0..images).map(move |image| (output, image))) {
            let start = (image * between_images) as u32;
            numbers.extend(taps.of(output).iter().map(|&source| if source == OUTSIDE { OUTSIDE } else { start + source - first as u32 }));
            places.push((image * strip.outputs.len() + output - strip.outputs.start) as u32);
        }
        let gathered = Gathered { rows: &numbers, taps: taps.taps, places: &places, depth, a_stride: stride, zeros: &zeros, c_stride };
        gathered_times_panels(simd, &gathered, rows, packed, products);
    }
}

/// Takes products, plus what is to be added to them, to the map.
struct Deliver<'a> {
    products: &'a [f32],
    addend: Option<&'a [f32]>,
    outputs: &'a mut [f32],
}

impl WithSimd for Deliver<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Deliver { products, addend, outputs } = self;
        let Some(addend) = addend else { return outputs.copy_from_slice(products) };
        let ((products, _), (addend, _), (outputs, _)) = (S::as_simd_f32s(products), S::as_simd_f32s(addend), S::as_mut_simd_f32s(outputs));
        for index in 0..outputs.len() {
            outputs[index] = simd.add_f32s(products[index], addend[index]);
        }
    }
}
