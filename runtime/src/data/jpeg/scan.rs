//! The scan: entropy-coded data to planes of samples, and planes to pixels.

use std::ops::Range;

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::Window;
use super::color::{grey_to_rgbx, upsample_across, upsample_both_ways, ycbcr_to_rgbx};
use super::header::Header;
use super::huffman::{Bits, Kind, PADDING, Table};
use super::idct::{ROW_PLACES, inverse_dct, inverse_dct_of_mean};

/// Position in a block of each coefficient of the zigzag order.
#[rustfmt::skip]
const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Where the inverse DCT takes each coefficient of the zigzag order.
const ORDER: [u8; 64] = {
    let mut order = [0; 64];
    let mut i = 0;
    while i < 64 {
        order[i] = 8 * ROW_PLACES[ZIGZAG[i] as usize / 8] + ZIGZAG[i] % 8;
        i += 1;
    }
    order
};

/// Most blocks of a unit: four of luma, two of chroma.
const MOST_BLOCKS: usize = 6;

/// Units whose coefficients wait for their transform together.
const UNITS_AT_ONCE: usize = 8;

/// The samples of one component, u8 [height, stride], whole blocks.
#[derive(Debug, Default)]
struct Plane {
    samples: Vec<u8>,
    stride: usize,
}

impl Plane {
    fn resize(&mut self, width: usize, height: usize) {
        self.stride = width;
        if self.samples.len() < width * height {
            self.samples.resize(width * height, 0);
        }
    }

    /// The first `width` samples of a row.
    #[inline(always)]
    fn row(&self, y: usize, width: usize) -> &[u8] {
        &self.samples[y * self.stride..][..width]
    }
}

/// Buffers that are used again from image to image.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Entropy-coded data without stuffed bytes, each piece between restart markers followed by zeros.
    data: Vec<u8>,
    pieces: Vec<Range<usize>>,
    dc: [Table; 4],
    ac: [Table; 4],
    planes: [Plane; 3],
    upsampled: [Vec<u8>; 2],
    sums: Vec<u16>,
}

impl Default for Buffers {
    fn default() -> Buffers {
        Buffers {
            data: Vec::new(),
            pieces: Vec::new(),
            dc: std::array::from_fn(|_| Table::new(Kind::Dc)),
            ac: std::array::from_fn(|_| Table::new(Kind::Ac)),
            planes: Default::default(),
            upsampled: Default::default(),
            sums: Vec::new(),
        }
    }
}

/// How the components of a unit lie.
struct Layout {
    /// Blocks of luma of a unit across and down; chroma has one.
    across: usize,
    down: usize,
    units_across: usize,
    units_down: usize,
    /// For each row of units the columns to make pixels of.
    shown: Vec<Range<usize>>,
}

/// The scan's units, decoded with the vector instructions of `simd` switched on. A struct, not a closure: only what is inlined
/// for certain gets them.
struct Units<'a> {
    simd: V3,
    buffers: &'a mut Buffers,
    header: &'a Header<'a>,
    layout: Layout,
    /// Units between restarts.
    interval: usize,
    pixels: &'a mut [[u8; 4]],
}

impl NullaryFnOnce for Units<'_> {
    type Output = Option<()>;

    #[inline(always)]
    fn call(self) -> Option<()> {
        self.buffers.decode_units(self.simd, self.header, &self.layout, self.interval, self.pixels)
    }
}

impl Layout {
    /// For each row of units the columns that windows show, with the neighbours that upsampling takes in; all of them
    /// without windows.
    fn shown_by(&self, windows: Option<&[Window]>) -> Vec<Range<usize>> {
        let Some(windows) = windows else { return vec![0..self.units_across; self.units_down] };
        let mut shown = vec![0..0; self.units_down];
        for &Window { x, y, width, height } in windows {
            // A sample of chroma beyond the edges, in units.
            let units = |start: usize, len: usize, unit: usize, most: usize| start.saturating_sub(2) / unit..(start + len + 2).div_ceil(unit).min(most);
            let across = units(x, width, 8 * self.across, self.units_across);
            for row in &mut shown[units(y, height, 8 * self.down, self.units_down)] {
                *row = if row.start == row.end { across.clone() } else { row.start.min(across.start)..row.end.max(across.end) };
            }
        }
        shown
    }
}

impl Buffers {
    /// Decodes the scan into `pixels`, u8 [H, W, 4], at least where `windows` show them. `None` if anything in the data is not as it should be: `pixels` then
    /// hold nothing useful.
    pub(super) fn decode(&mut self, simd: V3, header: &Header<'_>, windows: Option<&[Window]>, pixels: &mut [[u8; 4]]) -> Option<()> {
        let luma = header.components.first()?;
        let grey = header.components.len() == 1;
        let mut layout = Layout {
            across: luma.across,
            down: luma.down,
            units_across: header.width.div_ceil(8 * luma.across),
            units_down: header.height.div_ceil(8 * luma.down),
            shown: Vec::new(),
        };
        // Narrower chroma is not filtered.
        if !grey && layout.across == 2 && header.width.div_ceil(2) < 3 {
            return None;
        }
        self.unstuff(header.scan)?;
        let units = layout.units_across * layout.units_down;
        let interval = if header.restart_interval == 0 { units } else { header.restart_interval };
        if self.pieces.len() != units.div_ceil(interval) {
            return None;
        }
        for component in &header.components {
            self.dc.get_mut(component.dc_table)?.set((*header.dc.get(component.dc_table)?)?)?;
            self.ac.get_mut(component.ac_table)?.set((*header.ac.get(component.ac_table)?)?)?;
        }
        for (component, plane) in header.components.iter().zip(&mut self.planes) {
            plane.resize(8 * component.across * layout.units_across, 8 * component.down * layout.units_down);
        }
        for row in &mut self.upsampled {
            row.resize(header.width.next_multiple_of(2), 0);
        }
        self.sums.resize(header.width.div_ceil(2), 0);
        layout.shown = layout.shown_by(windows);
        simd.vectorize(Units { simd, buffers: self, header, layout, interval, pixels })
    }

    /// Copies the entropy-coded data up to the end of the image without the zeros that are stuffed behind each 0xff.
    fn unstuff(&mut self, mut scan: &[u8]) -> Option<()> {
        self.data.clear();
        self.pieces.clear();
        let mut start = 0;
        loop {
            let marker = memchr::memchr(0xff, scan)?;
            self.data.extend_from_slice(&scan[..marker]);
            let &code = scan.get(marker + 1)?;
            scan = &scan[marker + 2..];
            match code {
                0 => self.data.push(0xff),
                0xd9 | 0xd0..=0xd7 => {
                    if code != 0xd9 && usize::from(code - 0xd0) != self.pieces.len() % 8 {
                        return None;
                    }
                    self.data.extend_from_slice(&[0; PADDING]);
                    self.pieces.push(start..self.data.len());
                    start = self.data.len();
                    if code == 0xd9 {
                        return Some(());
                    }
                }
                _ => return None,
            }
        }
    }

    #[inline(always)]
    fn decode_units(&mut self, simd: V3, header: &Header<'_>, layout: &Layout, interval: usize, pixels: &mut [[u8; 4]]) -> Option<()> {
        let mut quantization = [[0i16; 64]; 3];
        for (divisors, component) in quantization.iter_mut().zip(&header.components) {
            let zigzag = (*header.quantization.get(component.quantization)?)?;
            for (&place, &divisor) in ORDER.iter().zip(&zigzag) {
                divisors[usize::from(place)] = i16::from(divisor);
            }
        }
        let tables: [(&Table, &Table); 3] = std::array::from_fn(|number| {
            let component = header.components.get(number).unwrap_or(&header.components[0]);
            (&self.dc[component.dc_table], &self.ac[component.ac_table])
        });

        let chroma = if header.components.len() == 1 { 0 } else { 2 };
        let luma = layout.across * layout.down;
        let mut pieces = self.pieces.iter();
        let mut bits = Bits::none();
        let mut means = [0i16; 3];
        let mut until_restart = 0;
        let mut rows_done = 0;
        let per_unit = luma + chroma;
        // Many blocks, then their transforms: a transform right after its block would wait for coefficients just written.
        let mut blocks = [[0i16; 64]; UNITS_AT_ONCE * MOST_BLOCKS];
        let mut lasts = [0u32; UNITS_AT_ONCE * MOST_BLOCKS];
        for (unit_row, columns) in layout.shown.iter().enumerate() {
            for first_unit in (0..layout.units_across).step_by(UNITS_AT_ONCE) {
                let units = UNITS_AT_ONCE.min(layout.units_across - first_unit);
                let made = blocks.chunks_exact_mut(per_unit).zip(lasts.chunks_exact_mut(per_unit)).take(units);
                for (blocks, lasts) in made {
                    if until_restart == 0 {
                        if !bits.at_end() {
                            return None;
                        }
                        bits = Bits::new(&self.data[pieces.next()?.clone()]);
                        means = [0; 3];
                        until_restart = interval;
                    }
                    until_restart -= 1;
                    for (number, (block, last)) in blocks.iter_mut().zip(lasts).enumerate() {
                        let component = (number + 1).saturating_sub(luma);
                        let (dc, ac) = tables[component];
                        *block = [0; 64];
                        *last = bits.block(dc, ac, &ORDER, block)?;
                        means[component] = means[component].wrapping_add(block[0]);
                        block[0] = means[component];
                    }
                }

                let made = blocks.chunks_exact(per_unit).zip(lasts.chunks_exact(per_unit)).take(units);
                for (unit_column, (blocks, lasts)) in (first_unit..).zip(made).filter(|(unit_column, _)| columns.contains(unit_column)) {
                    for (number, (block, &last)) in blocks.iter().zip(lasts).enumerate() {
                        let (component, x, y) = match number.checked_sub(luma) {
                            None => (0, unit_column * layout.across + number % layout.across, unit_row * layout.down + number / layout.across),
                            Some(chroma) => (1 + chroma, unit_column, unit_row),
                        };
                        let plane = &mut self.planes[component];
                        let target = &mut plane.samples[8 * y * plane.stride + 8 * x..][..7 * plane.stride + 8];
                        let rows = target.chunks_mut(plane.stride);
                        if last == 0 {
                            let value = inverse_dct_of_mean(block[0], quantization[component][0]);
                            rows.for_each(|row| row[..8].fill(value));
                        } else {
                            let samples = inverse_dct(simd, block, &quantization[component]);
                            rows.zip(samples).for_each(|(row, samples)| row[..8].copy_from_slice(&samples));
                        }
                    }
                }
            }
            // The last row of pixels needs the chroma below it, where that has half the height.
            let ready = 8 * layout.down * (unit_row + 1) - usize::from(layout.down == 2);
            let ready = if unit_row + 1 == layout.units_down { header.height } else { ready.min(header.height) };
            Self::rows_to_pixels(&self.planes, &mut self.upsampled, &mut self.sums, header, layout, rows_done..ready, pixels);
            rows_done = ready;
        }
        (bits.at_end() && pieces.next().is_none()).then_some(())
    }

    #[inline(always)]
    fn rows_to_pixels(
        planes: &[Plane; 3],
        upsampled: &mut [Vec<u8>; 2],
        sums: &mut [u16],
        header: &Header<'_>,
        layout: &Layout,
        rows: Range<usize>,
        pixels: &mut [[u8; 4]],
    ) {
        let width = header.width;
        let [luma, chroma @ ..] = planes;
        for (y, pixels) in rows.clone().zip(pixels[rows.start * width..].chunks_exact_mut(width)) {
            let units = &layout.shown[y / (8 * layout.down)];
            let columns = 8 * layout.across * units.start..(8 * layout.across * units.end).min(width);
            if columns.is_empty() {
                continue;
            }
            let (luma, pixels) = (&luma.row(y, width)[columns.clone()], &mut pixels[columns.clone()]);
            if header.components.len() == 1 {
                grey_to_rgbx(luma, pixels);
                continue;
            }
            if layout.across == 1 {
                ycbcr_to_rgbx(luma, &chroma[0].row(y, width)[columns.clone()], &chroma[1].row(y, width)[columns], pixels);
                continue;
            }
            let chroma_width = width.div_ceil(2);
            for (plane, row) in chroma.iter().zip(&mut *upsampled) {
                if layout.down == 1 {
                    upsample_across(plane.row(y, chroma_width), row);
                } else {
                    let last = header.height.div_ceil(2) - 1;
                    let (near, far) = (y / 2, if y % 2 == 0 { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(last) });
                    upsample_both_ways(plane.row(near, chroma_width), plane.row(far, chroma_width), sums, row);
                }
            }
            ycbcr_to_rgbx(luma, &upsampled[0][columns.clone()], &upsampled[1][columns], pixels);
        }
    }
}
