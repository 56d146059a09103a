//! The rows that products tap by tap gather.

use super::super::Geometry;
use super::Piece;
use crate::kernels::channel_last::padded;

/// Elements of a page, 4 KiB, and of a cache line.
const PAGE_ELEMENTS: usize = 1024;
const LINE_ELEMENTS: usize = 16;

/// What the rows are.
enum Kind {
    /// Pixels of the map.
    Pixels(Spacing),
    /// With few channels: the taps of an output side by side, one row for every output.
    Columns(Geometry),
}

/// Which pixel a row is: every `stride`th of every `stride`th line.
#[derive(Clone, Copy)]
struct Spacing {
    stride: usize,
    /// Pixels of a line of the map.
    width: usize,
    /// Rows of a line.
    rows: usize,
}

impl Spacing {
    fn pixel(&self, row: usize) -> usize {
        (row / self.rows * self.width + row % self.rows) * self.stride
    }
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
    /// All pixels of maps in rows of whole panels.
    pub fn pixels(pixels: usize, channels: usize) -> Sources {
        let (depth, spacing) = (padded(channels), Spacing { stride: 1, width: pixels, rows: pixels });
        Sources { kind: Kind::Pixels(spacing), image_len: pixels * depth, rows_of_image: pixels, depth, filled: channels }
    }

    /// The pixels, in rows of whole panels, that the outputs of a 1x1 convolution without padding see.
    pub fn spaced(geometry: Geometry) -> Sources {
        let spacing = Spacing { stride: geometry.stride, width: geometry.width, rows: geometry.out_width };
        Sources { kind: Kind::Pixels(spacing), rows_of_image: geometry.out_pixels(), ..Sources::pixels(geometry.pixels(), geometry.channels) }
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

    /// Distance between rows if a product must not read them where they lie: rows that are not there one after the other, and
    /// rows a multiple of a page long. A register tile reads many rows at once, and those would push each other out of the
    /// first cache.
    pub fn copied_stride(&self) -> Option<usize> {
        match self.kind {
            Kind::Pixels(_) if self.depth.is_multiple_of(PAGE_ELEMENTS) => Some(self.depth + LINE_ELEMENTS),
            Kind::Pixels(Spacing { stride: 1, .. }) => None,
            Kind::Pixels(_) | Kind::Columns(_) => Some(self.depth),
        }
    }

    /// A row that lies in an image's map; `None` for columns.
    #[inline(always)]
    pub fn row<'a>(&self, map: &'a [f32], number: usize) -> Option<&'a [f32]> {
        let Kind::Pixels(spacing) = &self.kind else { return None };
        Some(&map[spacing.pixel(number) * self.depth..][..self.depth])
    }

    /// The maps of a piece's images.
    pub fn of_images<'a>(&self, maps: &'a [f32], piece: Piece) -> &'a [f32] {
        &maps[piece.image * self.image_len..][..piece.images * self.image_len]
    }

    /// As [`of_images`](Self::of_images), image by image.
    #[inline(always)]
    pub fn images<'a>(&self, maps: &'a [f32], piece: Piece) -> std::slice::ChunksExact<'a, f32> {
        self.of_images(maps, piece).chunks_exact(self.image_len)
    }

    /// The rows of a piece's sources, image by image, `stride` elements apart.
    #[inline(always)]
    pub fn copy(&self, maps: &[f32], piece: Piece, stride: usize, rows: &mut [f32]) {
        let range = &piece.strip.sources;
        for (map, rows) in self.images(maps, piece).zip(rows.chunks_exact_mut(range.len() * stride)) {
            for (source, row) in range.clone().zip(rows.chunks_exact_mut(stride)) {
                match &self.kind {
                    Kind::Pixels(spacing) => row[..self.depth].copy_from_slice(&map[spacing.pixel(source) * self.depth..][..self.depth]),
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
