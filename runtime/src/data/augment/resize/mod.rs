//! Crop and resize: bilinear, antialiased, the horizontal pass first and rounded to 8 bits, as Pillow does.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
mod taps;
#[cfg(test)]
mod tests;

use super::crop::Window;
use super::planes;
use crate::data::decode::RgbImage;
use taps::Taps;

/// Samples that the vector code takes in at once, along rows and along columns.
const ACROSS: usize = 4;
const DOWN: usize = 2;

/// Resizes parts of images, with buffers that are used again. Within 1/255 of Pillow: its weights have 22 bits, these have 14.
#[derive(Debug, Default)]
pub struct Resizer {
    across: Taps,
    down: Taps,
    /// The window's rows in the new width, u8 [window height, width, 4].
    rows: Vec<[u8; 4]>,
}

/// A window's rows to make narrower or wider.
struct Source<'a> {
    pixels: &'a [[u8; 4]],
    /// Pixels of a row of the image.
    stride: usize,
    /// The window's upper edge.
    top: usize,
}

impl Source<'_> {
    /// A row of the window, in the width of the image.
    #[inline(always)]
    fn row(&self, y: usize) -> &[[u8; 4]] {
        &self.pixels[(self.top + y) * self.stride..][..self.stride]
    }
}

impl Resizer {
    /// Resizes a window of an image to `width` x `height` px, mirrored from left to right if `flip` says so. Planar:
    /// u8 [3, height, width].
    ///
    /// # Panics
    /// If the window is empty or reaches outside the image, or `out` does not have 3 · width · height bytes.
    pub fn resize(&mut self, image: &RgbImage, window: Window, width: usize, height: usize, flip: bool, out: &mut [u8]) {
        assert_eq!(out.len(), 3 * width * height, "planes of {width}x{height} px");
        assert!(window.width > 0 && window.height > 0, "an empty window");
        assert!(window.x + window.width <= image.width() && window.y + window.height <= image.height(), "{window:?} reaches outside the image");
        self.across.set(window.width, width, window.x, image.width(), ACROSS);
        if flip {
            self.across.reverse();
        }
        self.down.set(window.height, height, 0, window.height, DOWN);
        if self.rows.len() < window.height * width {
            self.rows.resize(window.height * width, [0; 4]);
        }
        let source = Source { pixels: image.rgbx().as_chunks().0, stride: image.width(), top: window.y };
        let rows = &mut self.rows[..window.height * width];
        #[cfg(target_arch = "x86_64")]
        if avx2::resize(&source, &self.across, &self.down, rows, planes(out)) {
            return;
        }
        portable::resize(&source, &self.across, &self.down, rows, planes(out));
    }
}
