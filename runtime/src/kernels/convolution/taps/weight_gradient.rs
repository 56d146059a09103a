//! The weight's gradient, tap by tap.

use pulp::{Simd, WithSimd};

use super::super::{GROUPS, sum_by_groups, sum_over_pieces};
use super::{Geometry, Plan, Resources, Strip};
use crate::kernels::channel_last::{from_rows, padded, to_rows};
use crate::kernels::gemm::{OUTSIDE, PANEL, add_outer_products};
use crate::kernels::parallel::{KernelError, for_each};

/// Elements of a weight's gradient up to which it fits a core's second-level cache beside a piece.
const FEW_SUMS: usize = 64 * 1024;

/// dw: the pixels under every tap times the output's gradient, summed over all outputs.
pub(in crate::kernels::convolution) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
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
    let part_len = PANEL * out_padded;
    let add = |&(image, strip): &(usize, usize), values: &[f32], part: usize, sums: &mut [f32]| {
        let (tap, panel) = (part / (depth / PANEL), part % (depth / PANEL));
        let images = plan.images.min(batch - image);
        let pairs = &pairs[strip * taps + tap];
        let pairs = &pairs[..pairs.len() / plan.images * images];
        let (sources, gradients) = values.split_at(source_rows * depth);
        let sources = &sources[panel * source_rows * PANEL..][..source_rows * PANEL];
        arch.dispatch(Accumulate { pairs, sources, gradients, gradients_len: output_rows * PANEL, sums });
    };
    if sums.len() <= FEW_SUMS && pieces.len() >= GROUPS {
        sum_by_groups(with, &pieces, piece_len, fill, &mut sums, |piece, values, sums| {
            sums.chunks_exact_mut(part_len).enumerate().for_each(|(part, sums)| add(piece, values, part, sums));
        })?;
    } else {
        sum_over_pieces(with, &pieces, piece_len, fill, (&mut sums, part_len), |pieces, values, part, sums| {
            pieces.iter().zip(values.chunks_exact(piece_len)).for_each(|(piece, values)| add(piece, values, part, sums));
        })?;
    }
    let sums = &sums;
    // Few channels have a row of taps.
    let (row_taps, row_channels) = if plan.sources.columns.is_some() { (1, channels * geometry.taps()) } else { (taps, channels) };
    for_each(parallel, dw.chunks_mut(PANEL * channels * geometry.taps()), |panel, dw| {
        arch.dispatch(UnpackSums { sums: &sums[panel * PANEL..], out_padded, depth, taps: row_taps, channels: row_channels, dw });
    })
}

/// Sums [tap][depth][out] to a panel's weights dw [outputs][channel][tap].
struct UnpackSums<'a> {
    /// From the panel's first output on.
    sums: &'a [f32],
    out_padded: usize,
    depth: usize,
    taps: usize,
    channels: usize,
    dw: &'a mut [f32],
}

impl WithSimd for UnpackSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let UnpackSums { sums, out_padded, depth, taps, channels, dw } = self;
        let len = channels * taps;
        if taps == 1 {
            return from_rows(sums, out_padded, dw.len() / len, channels, dw, len);
        }
        for (output, dw) in dw.chunks_exact_mut(len).enumerate() {
            for (channel, dw) in dw.chunks_exact_mut(taps).enumerate() {
                for (tap, dw) in dw.iter_mut().enumerate() {
                    *dw = sums[(tap * depth + channel) * out_padded + output];
                }
            }
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
    /// All of a tap, image by image.
    fn of(plan: &Plan, strip: &Strip, tap: usize) -> Vec<Pair> {
        let places = (0..plan.images).flat_map(|image| (0..strip.outputs.len()).map(move |output| (image, output)));
        let pairs =
            places.map(|(image, output)| Pair { source: strip.row(&plan.taps, image, output, tap), output: (image * strip.outputs.len() + output) as u32 });
        pairs.filter(|pair| pair.source != OUTSIDE).collect()
    }
}

/// The rows of one piece by panels: sources [panel][rows][[`PANEL`]], then gradients likewise. A register tile needs a few
/// elements of every row, which then lie side by side.
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
        let (plane, (source_rows, output_rows)) = (taps.outputs(), plan.rows());
        let (source_panels, gradient_panels) = values.split_at_mut(source_rows * sources.depth());
        let maps = x.chunks_exact(sources.from * sources.plane).zip(dy.chunks_exact(to * plane)).skip(image).take(*images);
        let (seen, count) = (strip.sources.len(), strip.outputs.len());
        for (index, (x, dy)) in maps.enumerate() {
            for (panel, rows) in source_panels.chunks_exact_mut(source_rows * PANEL).enumerate() {
                sources.fill_panel(x, strip.sources.clone(), panel, &mut rows[index * seen * PANEL..(index + 1) * seen * PANEL]);
            }
            for (panel, rows) in gradient_panels.chunks_exact_mut(output_rows * PANEL).enumerate() {
                let first = panel * PANEL;
                to_rows(&dy[first * plane + strip.outputs.start..], plane, (to - first).min(PANEL), count, &mut rows[index * count * PANEL..], PANEL);
            }
        }
    }
}

/// Adds the products of a piece for one tap and one panel of its sources.
struct Accumulate<'a> {
    pairs: &'a [Pair],
    /// The panel of sources, and all panels of gradients of a length.
    sources: &'a [f32],
    gradients: &'a [f32],
    gradients_len: usize,
    /// [[`PANEL`]][panels · [`PANEL`]]
    sums: &'a mut [f32],
}

impl WithSimd for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Accumulate { pairs, sources, gradients, gradients_len, sums } = self;
        let out_padded = sums.len() / PANEL;
        for (panel, gradients) in gradients.chunks_exact(gradients_len).enumerate() {
            let pairs = pairs.iter().map(|pair| {
                let (source, output) = (pair.source as usize, pair.output as usize);
                (&sources[source * PANEL..][..PANEL], &gradients[output * PANEL..][..PANEL])
            });
            add_outer_products(simd, (PANEL, PANEL, out_padded), pairs, &mut sums[panel * PANEL..]);
        }
    }
}
