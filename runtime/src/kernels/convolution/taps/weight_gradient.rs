//! The weight's gradient, tap by tap.
//!
//! A task sums a block of the gradient, small enough for a core's second-level cache, over a part of the batch. For that it
//! copies those panels of x and dy that the block needs, piece by piece.

use pulp::{Simd, WithSimd};

use super::{Geometry, Piece, Plan, Resources, Strip, WEIGHTS_AT_ONCE, WeightLayout};
use crate::kernels::channel_last::{padded, transpose};
use crate::kernels::gemm::{OUTSIDE, PANEL, add_outer_products, panel_rows};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;

/// Elements of a block of sums at most.
const BLOCK_ELEMENTS: usize = 72 * 1024;

/// Panels of a side of a block at most.
const BLOCK_PANELS: usize = 8;

/// Tasks at least, if the batch has as many pieces. Fixed, so that the order of the additions does not depend on the threads.
const TASKS: usize = 16;

/// Sums that a task adds up over the parts of the batch.
const SUMS_AT_ONCE: usize = 4096;

/// Blocks of a weight's gradient: [source block][output block][tap][source][output].
#[derive(Debug, Clone, Copy)]
struct Blocks {
    taps: usize,
    /// Panels of all sources and of a block.
    sources: (usize, usize),
    /// Panels of all outputs and of a block.
    outputs: (usize, usize),
}

impl Blocks {
    fn new(taps: usize, depth: usize, out: usize) -> Blocks {
        let (sources, outputs) = (depth / PANEL, out / PANEL);
        let room = BLOCK_ELEMENTS / (taps * PANEL * PANEL);
        let even = |panels: usize, most: usize| panels.div_ceil(panels.div_ceil(most.clamp(1, BLOCK_PANELS)));
        let of_outputs = even(outputs, (room as f64).sqrt().ceil() as usize);
        Blocks { taps, sources: (sources, even(sources, room / of_outputs)), outputs: (outputs, of_outputs) }
    }

    /// Source blocks, and output blocks.
    fn count(&self) -> (usize, usize) {
        (self.sources.0.div_ceil(self.sources.1), self.outputs.0.div_ceil(self.outputs.1))
    }

    /// Elements of a block.
    fn len(&self) -> usize {
        self.taps * self.sources.1 * self.outputs.1 * PANEL * PANEL
    }

    /// Elements of all blocks.
    fn total(&self) -> usize {
        let (sources, outputs) = self.count();
        sources * outputs * self.len()
    }

    /// Panels of sources and of outputs of a block.
    fn panels(&self, block: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let range = |number: usize, (all, of_block): (usize, usize)| number * of_block..((number + 1) * of_block).min(all);
        let outputs = self.count().1;
        (range(block / outputs, self.sources), range(block % outputs, self.outputs))
    }

    /// Where the sums of a tap and a source, from a panel of outputs on, are among all.
    fn place(&self, tap: usize, source: usize, panel: usize) -> usize {
        let of_block = self.sources.1 * PANEL;
        let block = source / of_block * self.count().1 + panel / self.outputs.1;
        block * self.len() + ((tap * of_block + source % of_block) * self.outputs.1 + panel % self.outputs.1) * PANEL
    }
}

/// dw: the pixels under every tap times the output's gradient, summed over all outputs.
pub(in crate::kernels::convolution) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch, .. } = with;
    let Geometry { channels, out, .. } = geometry;
    let plan = &Plan::forward(geometry);
    let blocks = Blocks::new(plan.taps.taps, plan.sources.depth(), padded(out));
    let pieces: Vec<Piece> = plan.pieces().collect();
    let (source_blocks, output_blocks) = blocks.count();
    let parts = TASKS.div_ceil(source_blocks * output_blocks).min(pieces.len());
    let parts: Vec<&[Piece]> = pieces.chunks(pieces.len().div_ceil(parts.max(1)).max(1)).collect();
    let pairs = &Pair::of_strips(plan);

    // [part][block]
    let mut sums = pool.take(parts.len() * blocks.total());
    for_each(parallel, sums.chunks_exact_mut(blocks.len()), |number, sums| {
        let (part, block) = (number / (source_blocks * output_blocks), number % (source_blocks * output_blocks));
        arch.dispatch(SumBlock { plan, pieces: parts[part], pairs, blocks, block, x, dy, sums, pool });
    })?;
    let (sums, others) = sums.split_at_mut(blocks.total());
    for_each(parallel, sums.chunks_mut(SUMS_AT_ONCE), |number, sums| {
        for part in others.chunks_exact(blocks.total()) {
            for (sum, value) in sums.iter_mut().zip(&part[number * SUMS_AT_ONCE..]) {
                *sum += value;
            }
        }
    })?;
    let (sums, layout) = (&*sums, plan.weights(geometry));
    for_each(parallel, dw.chunks_mut(PANEL * channels * geometry.taps()), |panel, dw| {
        arch.dispatch(UnpackSums { sums, blocks, panel, layout, dw });
    })
}

/// The sums of a block over some pieces.
struct SumBlock<'a> {
    plan: &'a Plan,
    pieces: &'a [Piece<'a>],
    pairs: &'a [Vec<Vec<Pair>>],
    blocks: Blocks,
    block: usize,
    x: &'a [f32],
    dy: &'a [f32],
    sums: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for SumBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let SumBlock { plan, pieces, pairs, blocks, block, x, dy, sums, pool } = self;
        let (source_panels, output_panels) = blocks.panels(block);
        let (source_rows, output_rows) = plan.rows();
        let mut values = pool.take((source_rows * source_panels.len() + output_rows * output_panels.len()) * PANEL);
        let (sources, gradients) = values.split_at_mut(source_rows * source_panels.len() * PANEL);
        let row_len = blocks.outputs.1 * PANEL;
        sums.fill(0.0);
        for piece in pieces {
            fill_sources(plan, *piece, source_panels.start, x, sources, pool);
            fill_gradients(plan, *piece, output_panels.start, dy, gradients);
            let sources = sources.chunks_exact(source_rows * PANEL);
            for (panel, sources) in sources.enumerate() {
                for tap in 0..blocks.taps {
                    let first = (tap * blocks.sources.1 + panel) * PANEL * row_len;
                    for (panel, gradients) in gradients.chunks_exact(output_rows * PANEL).enumerate() {
                        let (sources, gradients, sums) = (panel_rows(sources), panel_rows(gradients), &mut sums[first + panel * PANEL..]);
                        if plan.taps.identity {
                            let pairs = sources.iter().zip(&gradients[..piece.rows()]);
                            add_outer_products(simd, pairs, sums, row_len);
                            continue;
                        }
                        let pairs = &pairs[piece.strip.number][tap];
                        let pairs = pairs[..pairs.len() / plan.images * piece.images].iter();
                        let pairs = pairs.map(|pair| (&sources[pair.source as usize], &gradients[pair.output as usize]));
                        add_outer_products(simd, pairs, sums, row_len);
                    }
                }
            }
        }
    }
}

/// Copies some panels of a piece's sources, from panel `first` on: [panel][row][[`PANEL`]]. A register tile needs a few
/// elements of every row, which then lie side by side.
#[inline(always)]
fn fill_sources(plan: &Plan, piece: Piece, first: usize, x: &[f32], panels: &mut [f32], pool: &ScratchPool) {
    let (sources, seen, panel_rows) = (&plan.sources, &piece.strip.sources, plan.rows().0);
    let depth = sources.depth();
    if sources.is_columns() {
        let mut rows = pool.take(piece.images * seen.len() * depth);
        sources.copy(x, piece, depth, &mut rows);
        return to_panels(rows.chunks_exact(depth), first, panels, panel_rows, 0);
    }
    for (image, map) in sources.images(x, piece).enumerate() {
        to_panels(seen.clone().filter_map(|row| sources.row(map, row)), first, panels, panel_rows, image * seen.len());
    }
}

/// As [`fill_sources`], of the outputs' gradients.
#[inline(always)]
fn fill_gradients(plan: &Plan, piece: Piece, first: usize, dy: &[f32], panels: &mut [f32]) {
    let (outputs, count, panel_rows) = (plan.taps.outputs(), piece.strip.outputs.len(), plan.rows().1);
    for image in 0..piece.images {
        let start = (piece.image + image) * outputs + piece.strip.outputs.start;
        to_panels(dy[start * plan.to..][..count * plan.to].chunks_exact(plan.to), first, panels, panel_rows, image * count);
    }
}

/// Copies panels of rows, from the rows' panel `first` on, to `panels` from their row `place` on.
#[inline(always)]
fn to_panels<'a>(rows: impl Iterator<Item = &'a [f32]>, first: usize, panels: &mut [f32], panel_rows: usize, place: usize) {
    for (number, row) in rows.enumerate() {
        let to = panels.chunks_exact_mut(panel_rows * PANEL);
        for (values, to) in row[first * PANEL..].chunks_exact(PANEL).zip(to) {
            to[(place + number) * PANEL..][..PANEL].copy_from_slice(values);
        }
    }
}

/// Rows of a piece that belong together: a source, and the output whose tap sees it.
#[derive(Clone, Copy)]
struct Pair {
    source: u32,
    output: u32,
}

impl Pair {
    /// Those of every strip and tap, image by image, which all pieces of a strip share; none where row and row belong together.
    fn of_strips(plan: &Plan) -> Vec<Vec<Vec<Pair>>> {
        let taps = if plan.taps.identity { 0 } else { plan.taps.taps };
        plan.strips.iter().map(|strip| (0..taps).map(|tap| Pair::of(plan, strip, tap)).collect()).collect()
    }

    fn of(plan: &Plan, strip: &Strip, tap: usize) -> Vec<Pair> {
        let (seen, count) = (strip.sources.len(), strip.outputs.len());
        let places = (0..plan.images).flat_map(|image| strip.outputs.clone().map(move |output| (image, output)));
        let pairs = places.map(|(image, output)| {
            let (source, output) = (plan.taps.of(output)[tap], image * count + output - strip.outputs.start);
            let source = if source == OUTSIDE { OUTSIDE } else { (image * seen + source as usize - strip.sources.start) as u32 };
            Pair { source, output: output as u32 }
        });
        pairs.filter(|pair| pair.source != OUTSIDE).collect()
    }
}

/// Sums to a panel's weights dw [outputs][channel][tap].
struct UnpackSums<'a> {
    sums: &'a [f32],
    blocks: Blocks,
    panel: usize,
    layout: WeightLayout,
    dw: &'a mut [f32],
}

impl WithSimd for UnpackSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let UnpackSums { sums, blocks, panel, layout: WeightLayout { channels, taps, between_taps }, dw } = self;
        let len = channels * taps;
        if taps == 1 {
            let of_block = blocks.sources.1 * PANEL;
            for first in (0..channels).step_by(of_block) {
                let (sums, count) = (&sums[blocks.place(0, first, panel)..], of_block.min(channels - first));
                transpose(sums, blocks.outputs.1 * PANEL, count, dw.len() / len, &mut dw[first..], len);
            }
            return;
        }
        let outputs = dw.len() / len;
        let mut rows = [[0.0; PANEL]; WEIGHTS_AT_ONCE];
        for first in (0..len).step_by(WEIGHTS_AT_ONCE) {
            let count = WEIGHTS_AT_ONCE.min(len - first);
            for (index, row) in rows.iter_mut().enumerate().take(count) {
                let (channel, tap) = ((first + index) / taps, (first + index) % taps);
                // The taps of few channels are sources, too.
                let (tap_block, source) = if blocks.taps == 1 { (0, tap * between_taps + channel) } else { (tap, channel) };
                row.copy_from_slice(&sums[blocks.place(tap_block, source, panel)..][..PANEL]);
            }
            transpose(rows.as_flattened(), PANEL, count, outputs, &mut dw[first..], len);
        }
    }
}
