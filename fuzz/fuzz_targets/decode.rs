//! The decode path over hostile bytes: no crash, and no memory beyond the pixel limit. Panics of the general JPEG decoder are
//! errors of the image there, and no finding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::data::{DecodeOptions, Decoder, RgbImage};

const PIXEL_LIMIT: usize = 1 << 18;

/// Aborts on panics as libFuzzer's own hook does, but for those that the decode path catches by design.
fn watch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if !panic.location().is_some_and(|location| location.file().contains("libjpeg-turbo-rs")) {
            eprintln!("{panic}");
            std::process::abort();
        }
    }));
}

fuzz_target!(init: watch_panics(), |bytes: &[u8]| {
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
});
