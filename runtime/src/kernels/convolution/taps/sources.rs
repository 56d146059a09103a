//! The rows that products tap by tap gather.

use super::super::Geometry;
use super::Piece;
use crate::kernels::channel_last::padded;

/// Elements of a page, 4 KiB, and of a cache line.
const PAGE_ELEMENTS: usize = 1024;
const LINE_ELEMENTS: usize = 16;

/// What the rows are.
enum Kind {
    /// The pixels of the map.
    Pixels,
    /// With few channels: the taps of an output side by side, one row for every output.
    Columns(Geometry),
}

/// The rows of every image.
pub(super) struct Sources {
    kind: Kind,
    /// Elements of an image's map.
    image_len: usize,
    rows_of_image: usize,
    depth: usize,
    /// Elements of a row that stand for something.
    filled: usize,
}

impl Sources {
    /// The pixels of maps in rows of whole panels.
    pub fn pixels(pixels: usize, channels: usize) -> Sources {
        let depth = padded(channels);
        Sources { kind: Kind::Pixels, image_len: pixels * depth, rows_of_image: pixels, depth, filled: channels }
    }

    /// A row of all taps, channels innermost, for every output of a convolution of few channels.
    pub fn columns(geometry: Geometry) -> Sources {
        let filled = geometry.channels * geometry.taps();
        let image_len = geometry.pixels() * geometry.channels;
        Sources { kind: Kind::Columns(geometry), image_len, rows_of_image: geometry.out_pixels(), depth: padded(filled), filled }
    }

    pub fn has_padding(&self) -> bool {
        self.filled < self.depth
    }

    pub fn is_columns(&self) -> bool {
        matches!(self.kind, Kind::Columns(_))
    }

    pub fn rows_of_image(&self) -> usize {
        self.rows_of_image
    }

    /// Elements of a row.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Distance between rows if a product must not read them where they lie: rows that are not there, and rows a multiple of
    /// a page long. A register tile reads many rows at once, and those would push each other out of the first cache.
    pub fn copied_stride(&self) -> Option<usize> {
        match self.kind {
            Kind::Pixels if self.depth.is_multiple_of(PAGE_ELEMENTS) => Some(self.depth + LINE_ELEMENTS),
            Kind::Pixels => None,
            Kind::Columns(_) => Some(self.depth),
        }
    }

    /// The maps of a piece's images.
    pub fn of_images<'a>(&self, maps: &'a [f32], piece: Piece) -> &'a [f32] {
        &maps[piece.image * self.image_len..][..piece.images * self.image_len]
    }

    /// The rows of a piece's sources, image by image, `stride` elements apart.
    #[inline(always)]
    pub fn copy(&self, maps: &[f32], piece: Piece, stride: usize, rows: &mut [f32]) {
        let range = &piece.strip.sources;
        for (map, rows) in self.of_images(maps, piece).chunks_exact(self.image_len).zip(rows.chunks_exact_mut(range.len() * stride)) {
            for (source, row) in range.clone().zip(rows.chunks_exact_mut(stride)) {
                match &self.kind {
                    Kind::Pixels => row[..self.depth].copy_from_slice(&map[source * self.depth..][..self.depth]),
                    Kind::Columns(geometry) => fill_column(geometry, map, source, row),
                }
            }
        }
    }
}

/// The pixels under all taps of an output, zeros elsewhere: of each row of taps those on the map lie side by side.
#[inline(always)]
fn fill_column(geometry: &Geometry, map: &[f32], output: usize, row: &mut [f32]) {
    let &Geometry { channels, height, width, out_width, kernel, stride, padding, .. } = geometry;
    row.fill(0.0);
    let (top, left) = (output / out_width * stride, output % out_width * stride);
    let taps = padding.saturating_sub(left)..(width + padding).saturating_sub(left).min(kernel);
    if taps.is_empty() {
        return;
    }
    for tap_row in 0..kernel {
        let Some(y) = (top + tap_row).checked_sub(padding).filter(|&y| y < height) else { continue };
        let pixels = &map[(y * width + left + taps.start - padding) * channels..][..taps.len() * channels];
        row[(tap_row * kernel + taps.start) * channels..][..pixels.len()].copy_from_slice(pixels);
    }
}
