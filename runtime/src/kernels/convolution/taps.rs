//! Convolutions of any window, tap by tap: an output is the sum over its taps of the pixel under the tap times the tap's
//! weights. Pixels are gathered where they lie, so nothing is copied for a tap; outputs with the same taps on the map
//! are multiplied together, so that taps on the padding cost nothing, nor do those between the pixels of a stride.

mod weight_gradient;

use std::cmp::Ordering;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Geometry, Resources};
use crate::kernels::channel_last::{from_rows, padded, to_rows};
use crate::kernels::gemm::{Gathered, OUTSIDE, PANEL, gathered_times_panels};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;
pub(super) use weight_gradient::weight_gradient;

/// Outputs of a piece, fewest and most: the fewer, the more often the weights pass by.
const PIECE_OUTPUTS: (usize, usize) = (48, 192);

/// Elements of sources and outputs that a piece should have: what fits a core's second-level cache beside the weights
/// that pass by.
const PIECE_ELEMENTS: usize = 128 * 1024;

/// Pieces of a batch of small maps at least: enough for the threads to share.
const PIECES: usize = 8;

/// Images of a piece are a multiple of this, if they are more: outputs at one place of the map then fill whole tiles.
const IMAGES: usize = 12;

/// Elements of a page, 4 KiB, and of a cache line.
const PAGE_ELEMENTS: usize = 1024;
const LINE_ELEMENTS: usize = 16;

/// Channels up to which the taps of an output are gathered into one row: a row of a single tap would be mostly padding.
const FEW_CHANNELS: usize = 8;

/// What the taps of the outputs of one image see.
struct Taps {
    taps: usize,
    /// Outputs of a row of the map.
    width: usize,
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
        let outputs = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let window = || (0..side).flat_map(|i| (0..side).map(move |j| (i, j)));
        let sources = outputs.flat_map(|output| window().map(move |tap| (output, tap)));
        let sources = sources.map(|(output, tap)| source(output, tap).and_then(|pixel| u32::try_from(pixel).ok()).unwrap_or(OUTSIDE)).collect();
        Taps { taps: geometry.taps(), width, sources }
    }

    /// Every output has one tap, on the source of the same number.
    fn identity(outputs: usize, width: usize) -> Taps {
        Taps { taps: 1, width, sources: (0..outputs).map(|output| u32::try_from(output).unwrap_or(OUTSIDE)).collect() }
    }

    fn outputs(&self) -> usize {
        self.sources.len() / self.taps
    }

    fn of(&self, output: usize) -> &[u32] {
        &self.sources[output * self.taps..(output + 1) * self.taps]
    }

    /// Puts outputs with the same taps outside next to each other.
    fn compare(&self, a: usize, b: usize) -> Ordering {
        let outside = |output: usize| self.of(output).iter().map(|&source| source == OUTSIDE);
        outside(a).cmp(outside(b))
    }
}

/// Maps of `from` channels, whose pixels are the rows that a product gathers.
struct Sources {
    from: usize,
    /// Pixels of a map.
    plane: usize,
    /// With few channels: rows of taps in place of pixels, one for every output.
    columns: Option<Taps>,
}

impl Sources {
    /// Elements of a row.
    fn depth(&self) -> usize {
        padded(self.from * self.columns.as_ref().map_or(1, |columns| columns.taps))
    }

    /// Distance between rows. A register tile reads many rows at once: were they a multiple of a page apart, they would push
    /// each other out of the first cache.
    fn stride(&self) -> usize {
        let depth = self.depth();
        if depth.is_multiple_of(PAGE_ELEMENTS) { depth + LINE_ELEMENTS } else { depth }
    }

    /// Writes the rows `range` of one image.
    #[inline(always)]
    fn fill(&self, map: &[f32], range: Range<usize>, rows: &mut [f32]) {
        let Some(columns) = &self.columns else {
            return to_rows(map.get(range.start..).unwrap_or_default(), self.plane, self.from, range.len(), rows, self.stride());
        };
        let taps = columns.taps;
        for (output, row) in range.zip(rows.chunks_exact_mut(self.stride())) {
            row[self.from * taps..].fill(0.0);
            for (plane, row) in map.chunks_exact(self.plane).zip(row.chunks_exact_mut(taps)) {
                for (value, &pixel) in row.iter_mut().zip(columns.of(output)) {
                    *value = if pixel == OUTSIDE { 0.0 } else { plane[pixel as usize] };
                }
            }
        }
    }

    /// As [`fill`](Self::fill), but one panel of each row's elements, [`PANEL`] apart.
    #[inline(always)]
    fn fill_panel(&self, map: &[f32], range: Range<usize>, panel: usize, rows: &mut [f32]) {
        let first = panel * PANEL;
        let Some(columns) = &self.columns else {
            let map = map.get(first * self.plane + range.start..).unwrap_or_default();
            return to_rows(map, self.plane, (self.from - first).min(PANEL), range.len(), rows, PANEL);
        };
        let taps = columns.taps;
        for (output, row) in range.zip(rows.chunks_exact_mut(PANEL)) {
            let seen = columns.of(output);
            for (value, element) in row.iter_mut().zip(first..) {
                *value = match (element < self.from * taps).then(|| seen[element % taps]) {
                    None | Some(OUTSIDE) => 0.0,
                    Some(pixel) => map[element / taps * self.plane + pixel as usize],
                };
            }
        }
    }
}

/// A part of every image's outputs.
struct Strip {
    outputs: Range<usize>,
    /// What their taps see.
    sources: Range<usize>,
    /// The outputs, from the strip's first, those with the same taps together.
    order: Vec<usize>,
}

impl Strip {
    fn new(taps: &Taps, outputs: Range<usize>) -> Strip {
        let seen = || outputs.clone().flat_map(|output| taps.of(output)).filter(|&&source| source != OUTSIDE).map(|&source| source as usize);
        let sources = seen().min().map_or(0..0, |first| first..seen().max().unwrap_or(first) + 1);
        let mut order: Vec<usize> = outputs.clone().collect();
        order.sort_by(|&a, &b| taps.compare(a, b));
        order.iter_mut().for_each(|output| *output -= outputs.start);
        Strip { outputs, sources, order }
    }

    /// Number of the row that a tap of an output of an image sees, or [`OUTSIDE`].
    fn row(&self, taps: &Taps, image: usize, output: usize, tap: usize) -> u32 {
        match taps.of(self.outputs.start + output)[tap] {
            OUTSIDE => OUTSIDE,
            source => (image * self.sources.len() + source as usize - self.sources.start) as u32,
        }
    }
}

/// A product's taps, and how the batch is cut: pieces of some images' strips.
struct Plan {
    taps: Taps,
    sources: Sources,
    /// Channels of the outputs.
    to: usize,
    images: usize,
    strips: Vec<Strip>,
}

impl Plan {
    fn new(batch: usize, taps: Taps, sources: Sources, to: usize) -> Plan {
        let outputs = taps.outputs();
        let elements = sources.plane * sources.depth() + outputs * padded(to);
        let of_piece = (PIECE_ELEMENTS * outputs / elements.max(1)).clamp(PIECE_OUTPUTS.0, PIECE_OUTPUTS.1);
        let images = (of_piece / outputs.max(1)).min(batch / PIECES);
        let images = if images > IMAGES { images / IMAGES * IMAGES } else { images.max(1) };
        let whole_rows = (of_piece / taps.width).max(1) * taps.width;
        let len = if images > 1 { outputs } else { whole_rows.min(outputs) };
        let strips = (0..outputs).step_by(len.max(1)).map(|first| Strip::new(&taps, first..(first + len).min(outputs))).collect();
        Plan { taps, sources, to, images, strips }
    }

    /// That of y from x.
    fn forward(geometry: Geometry) -> Plan {
        let Geometry { batch, channels, out, .. } = geometry;
        let (taps, plane) = (Taps::forward(geometry), geometry.pixels());
        if channels <= FEW_CHANNELS {
            let identity = Taps::identity(geometry.out_pixels(), geometry.out_width);
            return Plan::new(batch, identity, Sources { from: channels, plane, columns: Some(taps) }, out);
        }
        Plan::new(batch, taps, Sources { from: channels, plane, columns: None }, out)
    }

    /// That of x's gradient from y's.
    fn backward(geometry: Geometry) -> Plan {
        let Geometry { batch, channels, out, .. } = geometry;
        Plan::new(batch, Taps::backward(geometry), Sources { from: out, plane: geometry.out_pixels(), columns: None }, channels)
    }

    /// Rows of sources of a piece at most, with one of zeros, and rows of outputs.
    fn rows(&self) -> (usize, usize) {
        let most = |len: fn(&Strip) -> usize| self.images * self.strips.iter().map(len).max().unwrap_or(0);
        (most(|strip| strip.sources.len()) + 1, most(|strip| strip.outputs.len()))
    }

    /// Multiplies every piece of the batch. `pack` fills a panel of the weights as a product wants them, zeros before:
    /// [tap][depth][[`PANEL`]], the weights of [`PANEL`] channels of the outputs at a tap and an element of its row.
    fn run(&self, with: &Resources, maps: &[f32], pack: impl Fn(usize, &mut [f32]) + Sync, outputs: &mut [f32]) -> Result<(), KernelError> {
        let &Resources { parallel, pool, arch } = with;
        let panel_len = self.taps.taps * self.sources.depth() * PANEL;
        let mut packed = pool.take(panel_len * padded(self.to) / PANEL);
        for_each(parallel, packed.chunks_exact_mut(panel_len), |panel, packed| {
            packed.fill(0.0);
            pack(panel * PANEL, packed);
        })?;
        let packed = &packed;
        let pieces = maps.chunks(self.images * self.sources.from * self.sources.plane).zip(outputs.chunks_mut(self.images * self.to * self.taps.outputs()));
        for_each(parallel, pieces, |_, (maps, outputs)| arch.dispatch(Multiply { plan: self, maps, packed, outputs, pool }))
    }
}

/// y = x * w.
pub(super) fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let (plan, out, len) = (Plan::forward(geometry), geometry.out, geometry.channels * geometry.taps());
    let (taps, depth) = (plan.taps.taps, plan.sources.depth());
    let arch = with.arch;
    let pack =
        |first: usize, packed: &mut [f32]| arch.dispatch(PackForward { w: &w[first * len..], len, outputs: (out - first).min(PANEL), taps, depth, packed });
    plan.run(with, x, pack, y)
}

/// dx: the sum of y's gradients over the taps that saw the pixel.
pub(super) fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
    let (plan, channels, taps) = (Plan::backward(geometry), geometry.channels, geometry.taps());
    let depth = plan.sources.depth();
    let pack = |first: usize, packed: &mut [f32]| {
        let count = (channels - first).min(PANEL);
        for (output, w) in w.chunks_exact(channels * taps).enumerate() {
            for (channel, w) in w[first * taps..][..count * taps].chunks_exact(taps).enumerate() {
                for (tap, &weight) in w.iter().enumerate() {
                    packed[(tap * depth + output) * PANEL + channel] = weight;
                }
            }
        }
    };
    plan.run(with, dy, pack, dx)
}

/// A panel of weights w [outputs][channel][tap] for y.
struct PackForward<'a> {
    /// From the panel's first output on.
    w: &'a [f32],
    /// Weights of an output.
    len: usize,
    outputs: usize,
    taps: usize,
    depth: usize,
    packed: &'a mut [f32],
}

impl WithSimd for PackForward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let PackForward { w, len, outputs, taps, depth, packed } = self;
        if taps == 1 {
            return to_rows(w, len, outputs, len, packed, PANEL);
        }
        for (output, w) in w.chunks_exact(len).take(outputs).enumerate() {
            for (channel, w) in w.chunks_exact(taps).enumerate() {
                for (tap, &weight) in w.iter().enumerate() {
                    packed[(tap * depth + channel) * PANEL + output] = weight;
                }
            }
        }
    }
}

/// The outputs of some images.
struct Multiply<'a> {
    plan: &'a Plan,
    maps: &'a [f32],
    packed: &'a [f32],
    outputs: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Multiply { plan, maps, packed, outputs, pool } = self;
        let Plan { taps, sources, to, .. } = plan;
        let (stride, to_padded, map_len, plane) = (sources.stride(), padded(*to), sources.from * sources.plane, taps.outputs());
        let (source_rows, output_rows) = plan.rows();
        let mut scratch = pool.take(source_rows * stride + output_rows * to_padded);
        let (rows, products) = scratch.split_at_mut(source_rows * stride);
        let images = maps.len() / map_len;
        let (mut numbers, mut places) = (Vec::with_capacity(output_rows * taps.taps), Vec::with_capacity(output_rows));
        for strip in &plan.strips {
            let (count, seen) = (strip.outputs.len(), strip.sources.len());
            for (image, map) in maps.chunks_exact(map_len).enumerate() {
                sources.fill(map, strip.sources.clone(), &mut rows[image * seen * stride..(image + 1) * seen * stride]);
            }
            let zeros = images * seen;
            rows[zeros * stride..(zeros + 1) * stride].fill(0.0);
            numbers.clear();
            places.clear();
            for (&output, image) in strip.order.iter().flat_map(|output| (0..images).map(move |image| (output, image))) {
                numbers.extend((0..taps.taps).map(|tap| strip.row(taps, image, output, tap)));
                places.push((image * count + output) as u32);
            }
            let depth = sources.depth();
            let gathered = Gathered { rows: &numbers, taps: taps.taps, places: &places, depth, a_stride: stride, zeros, c_stride: to_padded };
            gathered_times_panels(simd, &gathered, rows, packed, products);
            for (products, outputs) in products.chunks_exact(count * to_padded).zip(outputs.chunks_exact_mut(to * plane)) {
                from_rows(products, to_padded, *to, count, &mut outputs[strip.outputs.start..], plane);
            }
        }
    }
}
