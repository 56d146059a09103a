//! Channels-last maps as rows of whole panels, and matrices transposed.

use std::ops::Deref;

use super::Resources;
use super::gemm::PANEL;
use super::parallel::{KernelError, for_each};
use super::scratch::Scratch;

/// Elements that make copying a task worth handing to another thread.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Sides of the blocks that are transposed in registers.
const BLOCK: usize = 8;

/// Elements of a row: the channels, padded so that every loop over them is made of whole vectors.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(PANEL)
}

/// A map [pixels][channels] as rows of [`padded`] elements, zeros behind the channels: the map itself where they fill whole
/// panels, as in every network of a width of 32 or more.
pub(super) enum PanelRows<'a> {
    Given(&'a [f32]),
    Copied(Scratch<'a>),
}

impl<'a> PanelRows<'a> {
    pub fn new(with: &Resources<'a>, map: &'a [f32], channels: usize) -> Result<PanelRows<'a>, KernelError> {
        let stride = padded(channels);
        if stride == channels {
            return Ok(PanelRows::Given(map));
        }
        let mut rows = with.pool.take(map.len() / channels * stride);
        let at_once = (TASK_ELEMENTS / stride).max(1);
        for_each(with.parallel, rows.chunks_mut(at_once * stride).zip(map.chunks(at_once * channels)), |_, (rows, map)| {
            for (row, pixel) in rows.chunks_exact_mut(stride).zip(map.chunks_exact(channels)) {
                row[..channels].copy_from_slice(pixel);
                row[channels..].fill(0.0);
            }
        })?;
        Ok(PanelRows::Copied(rows))
    }
}

impl Deref for PanelRows<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            PanelRows::Given(map) => map,
            PanelRows::Copied(rows) => rows,
        }
    }
}

/// Lets `fill` fill a map [pixels][channels] as rows of [`padded`] elements. `addend`: a map of the same shape, handed on
/// likewise.
pub(super) fn fill_panel_rows(
    with: &Resources,
    map: &mut [f32],
    channels: usize,
    addend: Option<&[f32]>,
    fill: impl FnOnce(&mut [f32], Option<&[f32]>) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let stride = padded(channels);
    if stride == channels {
        return fill(map, addend);
    }
    let addend = addend.map(|addend| PanelRows::new(with, addend, channels)).transpose()?;
    let mut rows = with.pool.take(map.len() / channels * stride);
    fill(&mut rows, addend.as_deref())?;
    let at_once = (TASK_ELEMENTS / stride).max(1);
    for_each(with.parallel, map.chunks_mut(at_once * channels).zip(rows.chunks(at_once * stride)), |_, (map, rows)| {
        for (pixel, row) in map.chunks_exact_mut(channels).zip(rows.chunks_exact(stride)) {
            pixel.copy_from_slice(&row[..channels]);
        }
    })
}

/// Panels of a map, one after the other, to its pixels: `panels[panel][pixel][PANEL]` → `map[pixel][row_len]`, plus the addend.
pub(super) fn interleave_panels(with: &Resources, panels: &[f32], addend: Option<&[f32]>, row_len: usize, map: &mut [f32]) -> Result<(), KernelError> {
    let (panel_len, at_once) = (map.len() / row_len * PANEL, (TASK_ELEMENTS / row_len).max(1));
    for_each(with.parallel, map.chunks_mut(at_once * row_len), |number, map| {
        for (pixel, row) in map.chunks_exact_mut(row_len).enumerate() {
            let pixel = number * at_once + pixel;
            for (values, panel) in row.chunks_exact_mut(PANEL).zip(panels.chunks_exact(panel_len)) {
                values.copy_from_slice(&panel[pixel * PANEL..][..PANEL]);
            }
            if let Some(addend) = addend {
                for (value, addend) in row.iter_mut().zip(&addend[pixel * row_len..]) {
                    *value += addend;
                }
            }
        }
    })
}

/// `to[j][i] = from[i][j]` for i < `height`, j < `width`; rows are `from_stride` and `to_stride` elements apart.
#[inline(always)]
pub(super) fn transpose(from: &[f32], from_stride: usize, height: usize, width: usize, to: &mut [f32], to_stride: usize) {
    if height.min(width) < BLOCK {
        for (i, j) in (0..height).flat_map(|i| (0..width).map(move |j| (i, j))) {
            to[j * to_stride + i] = from[i * from_stride + j];
        }
        return;
    }
    // At the ends a block covers some of the one before again.
    for j in (0..width).step_by(BLOCK) {
        let j = j.min(width - BLOCK);
        for i in (0..height).step_by(BLOCK) {
            let i = i.min(height - BLOCK);
            transpose_block(&from[i * from_stride + j..], from_stride, &mut to[j * to_stride + i..], to_stride);
        }
    }
}

/// `to[j][i] = from[i][j]` for i, j < [`BLOCK`].
#[inline(always)]
fn transpose_block(from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
    let mut block = [[0.0; BLOCK]; BLOCK];
    for (row, values) in block.iter_mut().enumerate() {
        values.copy_from_slice(&from[row * from_stride..][..BLOCK]);
    }
    for (row, values) in transposed(block).iter().enumerate() {
        to[row * to_stride..][..BLOCK].copy_from_slice(values);
    }
}

type Row = [f32; BLOCK];

/// The block with rows and columns exchanged.
#[inline(always)]
fn transposed(block: [Row; BLOCK]) -> [Row; BLOCK] {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return transposed_by_shuffles(simd, block);
    }
    std::array::from_fn(|row| std::array::from_fn(|column| block[column][row]))
}

/// Compilers do not find the shuffles by themselves; without them, copying costs as much as multiplying.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transposed_by_shuffles(simd: pulp::x86::V3, block: [Row; BLOCK]) -> [Row; BLOCK] {
    let rows: [core::arch::x86_64::__m256; BLOCK] = pulp::cast(block);
    let avx = simd.avx;
    // Pairs of rows, interleaved: columns 0, 1, 4, 5 and 2, 3, 6, 7.
    let pairs: [_; BLOCK] = std::array::from_fn(|index| {
        let (first, second) = (rows[index / 2 * 2], rows[index / 2 * 2 + 1]);
        if index % 2 == 0 { avx._mm256_unpacklo_ps(first, second) } else { avx._mm256_unpackhi_ps(first, second) }
    });
    // Four rows of columns c and c + 4.
    let fours: [_; BLOCK] = std::array::from_fn(|index| {
        let half = index / 4 * 4;
        let (first, second) = (pairs[half + index % 4 / 2], pairs[half + 2 + index % 4 / 2]);
        if index % 2 == 0 { avx._mm256_shuffle_ps::<0b01_00_01_00>(first, second) } else { avx._mm256_shuffle_ps::<0b11_10_11_10>(first, second) }
    });
    let columns: [_; BLOCK] = std::array::from_fn(|index| {
        let (first, second) = (fours[index % 4], fours[4 + index % 4]);
        if index < 4 { avx._mm256_permute2f128_ps::<0x20>(first, second) } else { avx._mm256_permute2f128_ps::<0x31>(first, second) }
    });
    pulp::cast(columns)
}
