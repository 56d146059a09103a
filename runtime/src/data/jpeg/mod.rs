//! A fast way through the JPEGs that data sets are made of: baseline, one scan, grey or YCbCr, on processors with AVX2.
//!
//! The pixels are libjpeg-turbo's, bit for bit. Whatever is unusual or broken is left to the general decoder, which also
//! decides what is an error: nothing is guessed here.

mod color;
mod header;
mod huffman;
mod idct;
mod scan;

use pulp::x86::V3;

use super::augment::crop::Window;

pub(super) use header::{Header, parse};
pub(super) use scan::Buffers;

/// Decodes the JPEG of a header into `pixels`, u8 [H, W, 4] of its size, the fourth byte 255; with `windows` only pixels that
/// they show are sure to be right. False if it has to be left to the general decoder; `pixels` then hold nothing useful.
///
/// # Panics
/// If `pixels` does not have width · height of them.
pub(super) fn decode(header: &Header<'_>, buffers: &mut Buffers, windows: Option<&[Window]>, pixels: &mut [[u8; 4]]) -> bool {
    assert_eq!(pixels.len(), header.width * header.height, "pixels of {}x{}", header.width, header.height);
    V3::try_new().is_some_and(|simd| buffers.decode(simd, header, windows, pixels).is_some())
}

#[cfg(test)]
mod tests;
