//! The weight's gradient by Winograd's points: those of x times those of dy, summed over all tiles.

use pulp::{Simd, WithSimd};

use super::super::winograd::{Points, TAPS, gradient_points, weight_gradient as gather};
use super::super::{Geometry, Resources};
use super::{POINTS, Piece, Plan, TASK_ELEMENTS, TransformInput};
use crate::kernels::channel_last::padded;
use crate::kernels::gemm::{PANEL, add_outer_products, panel_rows};
use crate::kernels::parallel::{KernelError, for_each};

/// Elements of the points in a round of a weight's gradient, for each thread: its share of the cache that cores share. Rounds
/// four times as long took twice the time (measured on 64 channels).
const THREAD_ELEMENTS: usize = 300 * 1024;

/// Elements of the sums of a panel of x and one of dy: [point][[`PANEL`]][[`PANEL`]]; points no power of two apart.
const BLOCK_POINT: usize = PANEL * PANEL + 16;
const BLOCK: usize = POINTS * BLOCK_POINT;

/// dw: the points of x times the points of dy, summed over all tiles, transformed back.
///
/// In rounds of as many pieces as the cache holds. What fits one round leaves no sums but those of a block at a time, which
/// stay in the core's own cache. The order of the additions, piece by piece, depends on neither rounds nor threads.
pub(in crate::kernels::convolution) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, threads, pool, arch } = with;
    let Geometry { channels, out, height, width, batch, .. } = geometry;
    let (channels_padded, out_padded) = (padded(channels), padded(out));
    let tiles = (TASK_ELEMENTS / (POINTS * (channels_padded + out_padded)) * 2).clamp(64, 192);
    let plan = Plan::new(height, width, tiles);
    let layouts = (Points::by_panels(channels_padded, plan.tiles()), Points::by_panels(out_padded, plan.tiles()));
    let piece_len = layouts.0.len() + layouts.1.len();
    let pieces: Vec<Piece> = plan.pieces(batch).collect();
    // Every round reads and writes the sums, so it should have more points than those.
    let elements = (THREAD_ELEMENTS * threads.max(2)).max(2 * POINTS * channels_padded * out_padded);
    let round = (elements / piece_len).max(threads).clamp(1, pieces.len().max(1));
    let mut values = pool.take(round * piece_len);
    let rows_of_blocks = channels_padded / PANEL * BLOCK;
    let several_rounds = pieces.len() > round;
    let mut sums = pool.take(if several_rounds { out_padded / PANEL * rows_of_blocks } else { 0 });
    sums.fill(0.0);
    let block_of = |panel: usize, channel_panel: usize| Block { channel_panel, panel, channels, layouts };
    for pieces in pieces.chunks(round) {
        for_each(parallel, values.chunks_exact_mut(piece_len).zip(pieces), |_, (values, &piece)| {
            arch.dispatch(Transform { piece, x, dy, layouts, values });
        })?;
        let values = &values[..];
        if several_rounds {
            for_each(parallel, sums.chunks_exact_mut(BLOCK), |number, sums| {
                let block = block_of(number * BLOCK / rows_of_blocks, number * BLOCK % rows_of_blocks / BLOCK);
                arch.dispatch(Accumulate { block, pieces, values, sums });
            })?;
        } else {
            for_each(parallel, dw.chunks_mut(PANEL * channels * TAPS), |panel, dw| {
                let mut sums = pool.take(BLOCK);
                for channel_panel in 0..channels_padded / PANEL {
                    let block = block_of(panel, channel_panel);
                    sums.fill(0.0);
                    arch.dispatch(Accumulate { block, pieces, values, sums: &mut sums });
                    arch.dispatch(Gather { block, sums: &sums, dw: &mut *dw });
                }
            })?;
        }
    }
    if several_rounds {
        let parts = dw.chunks_mut(PANEL * channels * TAPS).zip(sums.chunks_exact(rows_of_blocks));
        for_each(parallel, parts, |panel, (dw, sums)| {
            for (channel_panel, sums) in sums.chunks_exact(BLOCK).enumerate() {
                arch.dispatch(Gather { block: block_of(panel, channel_panel), sums, dw: &mut *dw });
            }
        })?;
    }
    Ok(())
}

/// The part of a weight's gradient between a panel of x's channels and one of dy's.
#[derive(Debug, Clone, Copy)]
struct Block {
    channel_panel: usize,
    panel: usize,
    /// Channels of x.
    channels: usize,
    /// Points of x and dy in a piece.
    layouts: (Points, Points),
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
        let (strip, out) = (piece.strip, layouts.1.channels);
        let (x_values, dy_values) = values.split_at_mut(layouts.0.len());
        TransformInput { piece, x, layout: layouts.0, points: x_values }.with_simd(simd);
        let ((first, count), table) = (strip.output_pixels(), strip.output_table(out / S::F32_LANES));
        for (image, dy) in piece.of_images(dy, out).enumerate() {
            gradient_points(simd, &table, &dy[first * out..][..count * out], layouts.1, image * strip.tiles(), dy_values);
        }
    }
}

/// Adds the products of some pieces to the sums of a block.
struct Accumulate<'a> {
    block: Block,
    pieces: &'a [Piece],
    values: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Accumulate { block: Block { channel_panel, panel, layouts: (x, dy), .. }, pieces, values, sums } = self;
        for (point, sums) in sums.chunks_exact_mut(BLOCK_POINT).enumerate() {
            for (piece, values) in pieces.iter().zip(values.chunks_exact(x.len() + dy.len())) {
                let (x_values, dy_values) = values.split_at(x.len());
                let (x_rows, dy_rows) = (panel_rows(x.panel(x_values, point, channel_panel)), panel_rows(dy.panel(dy_values, point, panel)));
                add_outer_products(simd, x_rows.iter().zip(&dy_rows[..piece.tiles()]), sums, PANEL);
            }
        }
    }
}

/// Transforms the sums of a block back.
struct Gather<'a> {
    block: Block,
    sums: &'a [f32],
    /// Of the panel's output channels.
    dw: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gather { block: Block { channel_panel, channels, .. }, sums, dw } = self;
        let mut taps = [0.0; PANEL * TAPS];
        let first = channel_panel * PANEL;
        for (row, channel) in (first..channels.min(first + PANEL)).enumerate() {
            for lane in (0..PANEL).step_by(S::F32_LANES) {
                gather(simd, sums, BLOCK_POINT, row * PANEL + lane, &mut taps, PANEL, lane);
            }
            for (output, dw) in dw.chunks_exact_mut(channels * TAPS).enumerate() {
                for tap in 0..TAPS {
                    dw[channel * TAPS + tap] = taps[tap * PANEL + output];
                }
            }
        }
    }
}
