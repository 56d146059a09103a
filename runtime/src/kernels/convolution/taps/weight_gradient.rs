//! The weight's gradient, tap by tap.

use pulp::{Simd, WithSimd};

use super::super::{GROUPS, sum_by_groups, sum_over_pieces};
use super::{Geometry, Piece, Plan, Resources, WeightLayout};
use crate::kernels::channel_last::{padded, transpose};
use crate::kernels::gemm::{OUTSIDE, PANEL, add_outer_products};
use crate::kernels::parallel::{KernelError, for_each};
use crate::kernels::scratch::ScratchPool;

/// Elements of a weight's gradient up to which it fits a core's second-level cache beside a piece.
const FEW_SUMS: usize = 64 * 1024;

/// dw: the pixels under every tap times the output's gradient, summed over all outputs.
pub(in crate::kernels::convolution) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let &Resources { parallel, pool, arch } = with;
    let Geometry { channels, out, .. } = geometry;
    let plan = &Plan::forward(geometry);
    let (depth, out_padded, taps) = (plan.sources.depth(), padded(out), plan.taps.taps);
    let (source_rows, output_rows) = plan.rows();
    let pieces: Vec<Piece> = plan.pieces().collect();
    // Those of a strip's first images, which all pieces of the strip share; none where row and row belong together.
    let pairs: Vec<Vec<Vec<Pair>>> = plan.strips.iter().map(|strip| (0..taps).map(|tap| Pair::of(plan, strip, tap)).collect()).collect();

    // [tap][depth][out]
    let mut sums = pool.take(taps * depth * out_padded);
    let fill = |&piece: &Piece, values: &mut [f32]| arch.dispatch(FillPiece { plan, piece, x, dy, values, pool });
    let piece_len = source_rows * depth + output_rows * out_padded;
    let part_len = PANEL * out_padded;
    let add = |number: usize, values: &[f32], part: usize, sums: &mut [f32]| {
        let piece = pieces[number];
        let (tap, panel) = (part / (depth / PANEL), part % (depth / PANEL));
        let rows = piece.images * piece.strip.outputs.len();
        let pairs = &pairs[number % plan.strips.len()][tap];
        let pairs = if plan.taps.identity { None } else { Some(&pairs[..pairs.len() / plan.images * piece.images]) };
        let (sources, gradients) = values.split_at(source_rows * depth);
        let sources = &sources[panel * source_rows * PANEL..][..source_rows * PANEL];
        arch.dispatch(Accumulate { pairs, rows, sources, gradients, gradients_len: output_rows * PANEL, sums });
    };
    let numbered: Vec<(usize, Piece)> = pieces.iter().copied().enumerate().collect();
    let fill = |(_, piece): &(usize, Piece), values: &mut [f32]| fill(piece, values);
    if sums.len() <= FEW_SUMS && pieces.len() >= GROUPS {
        sum_by_groups(with, &numbered, piece_len, fill, &mut sums, |&(number, _), values, sums| {
            sums.chunks_exact_mut(part_len).enumerate().for_each(|(part, sums)| add(number, values, part, sums));
        })?;
    } else {
        sum_over_pieces(with, &numbered, piece_len, fill, (&mut sums, part_len), |pieces, values, part, sums| {
            pieces.iter().zip(values.chunks_exact(piece_len)).for_each(|(&(number, _), values)| add(number, values, part, sums));
        })?;
    }
    let (sums, layout) = (&sums, plan.weights(geometry));
    for_each(parallel, dw.chunks_mut(PANEL * channels * geometry.taps()), |panel, dw| {
        arch.dispatch(UnpackSums { sums: &sums[panel * PANEL..], out_padded, layout, dw });
    })
}

/// Sums [tap][depth][out] to a panel's weights dw [outputs][channel][tap].
struct UnpackSums<'a> {
    /// From the panel's first output on.
    sums: &'a [f32],
    out_padded: usize,
    layout: WeightLayout,
    dw: &'a mut [f32],
}

impl WithSimd for UnpackSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let UnpackSums { sums, out_padded, layout: WeightLayout { channels, taps, between_taps }, dw } = self;
        let len = channels * taps;
        if taps == 1 {
            return transpose(sums, out_padded, channels, dw.len() / len, dw, len);
        }
        for (output, dw) in dw.chunks_exact_mut(len).enumerate() {
            for (channel, dw) in dw.chunks_exact_mut(taps).enumerate() {
                for (tap, dw) in dw.iter_mut().enumerate() {
                    *dw = sums[(tap * between_taps + channel) * out_padded + output];
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
    fn of(plan: &Plan, strip: &super::Strip, tap: usize) -> Vec<Pair> {
        if plan.taps.identity {
            return Vec::new();
        }
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

/// The rows of one piece by panels: sources [panel][rows][[`PANEL`]], then gradients likewise. A register tile needs a few
/// elements of every row, which then lie side by side.
struct FillPiece<'a> {
    plan: &'a Plan,
    piece: Piece<'a>,
    x: &'a [f32],
    dy: &'a [f32],
    values: &'a mut [f32],
    pool: &'a ScratchPool,
}

impl WithSimd for FillPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let FillPiece { plan, piece, x, dy, values, pool } = self;
        let (sources, Piece { image, images, strip }) = (&plan.sources, piece);
        let (source_rows, output_rows) = plan.rows();
        let (source_panels, gradient_panels) = values.split_at_mut(source_rows * sources.depth());
        let (seen, count) = (strip.sources.len(), strip.outputs.len());
        if sources.is_columns() {
            let mut rows = pool.take(images * seen * sources.depth());
            sources.copy(x, piece, sources.depth(), &mut rows);
            to_panels(&rows, sources.depth(), source_panels, source_rows, 0);
        } else {
            let range = strip.sources.start * sources.depth()..strip.sources.end * sources.depth();
            for (index, map) in sources.of_images(x, piece).chunks_exact(sources.rows_of_image() * sources.depth()).enumerate() {
                to_panels(&map[range.clone()], sources.depth(), source_panels, source_rows, index * seen);
            }
        }
        let outputs = plan.taps.outputs();
        for index in 0..images {
            let start = (image + index) * outputs + strip.outputs.start;
            to_panels(&dy[start * plan.to..][..count * plan.to], plan.to, gradient_panels, output_rows, index * count);
        }
    }
}

/// Copies rows to panels [panel][`panel_rows`][[`PANEL`]], from their row `first` on.
#[inline(always)]
fn to_panels(rows: &[f32], len: usize, panels: &mut [f32], panel_rows: usize, first: usize) {
    for (number, row) in rows.chunks_exact(len).enumerate() {
        let place = (first + number) * PANEL;
        for (panel, values) in row.chunks_exact(PANEL).enumerate() {
            panels[panel * panel_rows * PANEL + place..][..PANEL].copy_from_slice(values);
        }
    }
}

/// Adds the products of a piece for one tap and one panel of its sources.
struct Accumulate<'a> {
    /// None: each of the first `rows` rows with that of its number.
    pairs: Option<&'a [Pair]>,
    rows: usize,
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
        let Accumulate { pairs, rows, sources, gradients, gradients_len, sums } = self;
        let out_padded = sums.len() / PANEL;
        for (panel, gradients) in gradients.chunks_exact(gradients_len).enumerate() {
            let (shape, sums) = ((PANEL, PANEL, out_padded), &mut sums[panel * PANEL..]);
            let Some(pairs) = pairs else {
                let pairs = sources.chunks_exact(PANEL).zip(gradients.chunks_exact(PANEL)).take(rows);
                add_outer_products(simd, shape, pairs, sums);
                continue;
            };
            let pairs = pairs.iter().map(|pair| {
                let (source, output) = (pair.source as usize, pair.output as usize);
                (&sources[source * PANEL..][..PANEL], &gradients[output * PANEL..][..PANEL])
            });
            add_outer_products(simd, shape, pairs, sums);
        }
    }
}
