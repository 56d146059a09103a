//! The decode path over hostile bytes: no crash, no memory beyond the pixel limit, and of JPEGs the pixels of the general
//! decoder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use libjpeg_turbo_rs::PixelFormat;
use runtime::data::{DecodeOptions, Decoder, RgbImage};

const PIXEL_LIMIT: usize = 1 << 18;

fuzz_target!(|bytes: &[u8]| {
    let mut image = RgbImage::default();
    let options = DecodeOptions { pixel_limit: PIXEL_LIMIT, exif_orientation: false };
    let decoded = Decoder::default().decode(bytes, options, &mut image);
    let turned = DecodeOptions { exif_orientation: true, ..options };
    assert_eq!(Decoder::default().decode(bytes, turned, &mut RgbImage::default()).is_ok(), decoded.is_ok());
    if decoded.is_err() {
        return;
    }
    assert!(image.width() * image.height() <= PIXEL_LIMIT);
    assert_eq!(image.rgbx().len(), 4 * image.width() * image.height());
    if bytes.starts_with(&[0xff, 0xd8, 0xff])
        && let Some(general) = general(bytes)
    {
        assert!(general == image.to_rgb(), "the two JPEG decoders differ");
    }
});

/// The pixels of the general JPEG decoder, u8 [H, W, 3].
fn general(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = libjpeg_turbo_rs::Decoder::new(bytes).ok()?;
    decoder.set_output_format(PixelFormat::Rgb);
    decoder.decode_image().ok().map(|image| image.data)
}
