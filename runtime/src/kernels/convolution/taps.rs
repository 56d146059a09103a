//! Convolutions of any window, tap by tap: an output is the sum over its taps of the pixel under the tap times the tap's
//! weights. Pixels are gathered where they lie, so nothing is copied for a tap; outputs with the same taps on the map
//! are multiplied together, so that taps on the padding cost nothing, nor do those between the pixels of a stride.

use std::cmp::Ordering;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::{Geometry, Resources, sum_over_pieces};
use crate::kernels::channel_last::{from_rows, padded, to_rows};
use crate::kernels::gemm::{Gathered, OUTSIDE, PANEL, add_outer_products, gathered_times_panels};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;

/// Outputs of a piece, fewest and most: the fewer, the more often the weights pass by.
const PIECE_OUTPUTS: (usize, usize) = (48, 192);

/// Elements of sources and outputs that a piece should have: what fits a core's second-level cache beside the weights
/// that pass by.
const PIECE_ELEMENTS: usize = 128 * 1024;

/// Pieces of a batch of small maps at least: enough for the threads to share.
const PIECES: usize = 8;

/// Images of a piece are a multiple of this, if they are more: outputs at one place of the map then fill whole tiles.
const IMAGES: usize = 12;

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

    /// Writes the rows `range` of one image.
    #[inline(always)]
    fn fill(&self, map: &[f32], range: Range<usize>, rows: &mut [f32]) {
        let Some(columns) = &self.columns else {
            return to_rows(map.get(range.start..).unwrap_or_default(), self.plane, self.from, range.len(), rows, self.depth());
        };
        let taps = columns.taps;
        for (output, row) in range.zip(rows.chunks_exact_mut(self.depth())) {
            row[self.from * taps..].fill(0.0);
            for (plane, row) in map.chunks_exact(self.plane).zip(row.chunks_exact_mut(taps)) {
                for (value, &pixel) in row.iter_mut().zip(columns.of(output)) {
                    *value = if pixel == OUTSIDE { 0.0 } else { plane[pixel as usize] };
                }
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

    /// Weights as a product wants them: [panel][tap][depth][[`PANEL`]], from the weight of an output's channel at a tap
    /// and an element of its row.
    fn pack(&self, with: &Resources, packed: &mut [f32], weight: impl Fn(usize, usize, usize) -> f32 + Sync) -> Result<(), KernelError> {
        let depth = self.sources.depth();
        let elements = self.sources.from * self.sources.columns.as_ref().map_or(1, |columns| columns.taps);
        for_each(with.parallel, packed.chunks_exact_mut(self.taps.taps * depth * PANEL), |panel, packed| {
            packed.fill(0.0);
            let outputs = panel * PANEL..(panel * PANEL + PANEL).min(self.to);
            for (tap, packed) in packed.chunks_exact_mut(depth * PANEL).enumerate() {
                for (element, packed) in packed.chunks_exact_mut(PANEL).enumerate().take(elements) {
                    for (output, packed) in outputs.clone().zip(packed) {
                        *packed = weight(output, tap, element);
                    }
                }
            }
        })
    }

    /// Multiplies every piece of the batch.
    fn run(&self, with: &Resources, maps: &[f32], weight: impl Fn(usize, usize, usize) -> f32 + Sync, outputs: &mut [f32]) -> Result<(), KernelError> {
        let &Resources { parallel, pool, arch } = with;
        let mut packed = pool.take(self.taps.taps * self.sources.depth() * padded(self.to));
        self.pack(with, &mut packed, weight)?;
        let packed = &packed;
        let pieces = maps.chunks(self.images * self.sources.from * self.sources.plane).zip(outputs.chunks_mut(self.images * self.to * self.taps.outputs()));
        for_each(parallel, pieces, |_, (maps, outputs)| arch.dispatch(Multiply { plan: self, maps, packed, outputs, pool }))
    }
}

/// y = x * w.
pub(super) fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let (plan, channels, taps) = (Plan::forward(geometry), geometry.channels, geometry.taps());
    if plan.sources.columns.is_some() {
        return plan.run(with, x, |output, _, element| w[output * channels * taps + element], y);
    }
    plan.run(with, x, |output, tap, channel| w[(output * channels + channel) * taps + tap], y)
}

/// dx: the sum of y's gradients over the taps that saw the pixel.
pub(super) fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
    let (channels, taps) = (geometry.channels, geometry.taps());
    Plan::backward(geometry).run(with, dy, |channel, tap, output| w[(output * channels + channel) * taps + tap], dx)
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
        let (depth, to_padded, map_len, plane) = (sources.depth(), padded(*to), sources.from * sources.plane, taps.outputs());
        let (source_rows, output_rows) = plan.rows();
        let mut scratch = pool.take(source_rows * depth + output_rows * to_padded);
        let (rows, products) = scratch.split_at_mut(source_rows * depth);
        let images = maps.len() / map_len;
        let (mut numbers, mut places) = (Vec::with_capacity(output_rows * taps.taps), Vec::with_capacity(output_rows));
        for strip in &plan.strips {
            let (count, seen) = (strip.outputs.len(), strip.sources.len());
            for (image, map) in maps.chunks_exact(map_len).enumerate() {
                sources.fill(map, strip.sources.clone(), &mut rows[image * seen * depth..(image + 1) * seen * depth]);
            }
            let zeros = images * seen;
            rows[zeros * depth..(zeros + 1) * depth].fill(0.0);
            numbers.clear();
            places.clear();
            for (&output, image) in strip.order.iter().flat_map(|output| (0..images).map(move |image| (output, image))) {
                numbers.extend((0..taps.taps).map(|tap| strip.row(taps, image, output, tap)));
                places.push((image * count + output) as u32);
            }
            let gathered = Gathered { rows: &numbers, taps: taps.taps, places: &places, depth, zeros, c_stride: to_padded };
            gathered_times_panels(simd, &gathered, rows, packed, products);
            for (products, outputs) in products.chunks_exact(count * to_padded).zip(outputs.chunks_exact_mut(to * plane)) {
                from_rows(products, to_padded, *to, count, &mut outputs[strip.outputs.start..], plane);
            }
        }
    }
}

/// dw: the pixels under every tap times the output's gradient, summed over all outputs.
pub(super) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let Geometry { batch, channels, out, .. } = geometry;
    let plan = &Plan::forward(geometry);
    let (depth, out_padded, taps) = (plan.sources.depth(), padded(out), plan.taps.taps);
    let (source_rows, output_rows) = plan.rows();
    let pieces: Vec<(usize, usize)> = (0..batch).step_by(plan.images).flat_map(|image| (0..plan.strips.len()).map(move |strip| (image, strip))).collect();
    let pairs: Vec<Vec<Pair>> = plan.strips.iter().flat_map(|strip| (0..taps).map(move |tap| Pair::of(plan, strip, tap))).collect();
    let pairs = &pairs;

    // [tap][depth][out]
    let mut sums = pool.take(taps * depth * out_padded);
    let fill = |&(image, strip): &(usize, usize), values: &mut [f32]| {
        arch.dispatch(FillPiece { plan, strip: &plan.strips[strip], image, x, dy, values });
    };
    let piece_len = source_rows * depth + output_rows * out_padded;
    sum_over_pieces(with, &pieces, piece_len, fill, (&mut sums, PANEL * out_padded), |pieces, values, part, sums| {
        let (tap, first) = (part / (depth / PANEL), part % (depth / PANEL) * PANEL);
        for (&(image, strip), values) in pieces.iter().zip(values.chunks_exact(piece_len)) {
            let images = plan.images.min(batch - image);
            let pairs = &pairs[strip * taps + tap];
            let pairs = &pairs[..pairs.len() / plan.images * images];
            arch.dispatch(Accumulate { pairs, values: values.split_at(source_rows * depth), depth, first, out_padded, sums: &mut *sums });
        }
    })?;
    let sums = &sums;
    let few = plan.sources.columns.is_some();
    for_each(parallel, dw.chunks_exact_mut(channels * geometry.taps()), |output, dw| {
        for (place, dw) in dw.iter_mut().enumerate() {
            let row = if few { place } else { place % taps * depth + place / taps };
            *dw = sums[row * out_padded + output];
        }
    })
}

/// Rows of a piece that belong together: a source, and the output whose tap sees it.
#[derive(Clone, Copy)]
struct Pair {
    source: u32,
    output: u32,
}

impl Pair {
    /// All of a tap, image by image.
    fn of(plan: &Plan, strip: &Strip, tap: usize) -> Vec<Pair> {
        let places = (0..plan.images).flat_map(|image| (0..strip.outputs.len()).map(move |output| (image, output)));
        let pairs =
            places.map(|(image, output)| Pair { source: strip.row(&plan.taps, image, output, tap), output: (image * strip.outputs.len() + output) as u32 });
        pairs.filter(|pair| pair.source != OUTSIDE).collect()
    }
}

/// The rows of one piece: sources, then gradients.
struct FillPiece<'a> {
    plan: &'a Plan,
    strip: &'a Strip,
    /// The piece's first image.
    image: usize,
    x: &'a [f32],
    dy: &'a [f32],
    values: &'a mut [f32],
}

impl WithSimd for FillPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let FillPiece { plan, strip, image, x, dy, values } = self;
        let Plan { taps, sources, to, images, .. } = plan;
        let (depth, out_padded, plane) = (sources.depth(), padded(*to), taps.outputs());
        let (rows, gradients) = values.split_at_mut(plan.rows().0 * depth);
        let maps = x.chunks_exact(sources.from * sources.plane).zip(dy.chunks_exact(to * plane)).skip(image).take(*images);
        let (seen, count) = (strip.sources.len(), strip.outputs.len());
        for (index, (x, dy)) in maps.enumerate() {
            sources.fill(x, strip.sources.clone(), &mut rows[index * seen * depth..(index + 1) * seen * depth]);
            to_rows(&dy[strip.outputs.start..], plane, *to, count, &mut gradients[index * count * out_padded..], out_padded);
        }
    }
}

/// Adds the products of a piece for one tap and one panel of its rows.
struct Accumulate<'a> {
    pairs: &'a [Pair],
    /// Rows of sources, and of gradients.
    values: (&'a [f32], &'a [f32]),
    depth: usize,
    /// The panel's first element.
    first: usize,
    out_padded: usize,
    sums: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Accumulate { pairs, values: (rows, gradients), depth, first, out_padded, sums } = self;
        let pairs = pairs.iter().map(|pair| {
            let (source, output) = (pair.source as usize, pair.output as usize);
            (&rows[source * depth + first..][..PANEL], &gradients[output * out_padded..][..out_padded])
        });
        add_outer_products(simd, (PANEL, out_padded, out_padded), pairs, sums);
    }
}
