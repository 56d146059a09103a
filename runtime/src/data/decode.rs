//! Encoded bytes to RGB, with the pixels Pillow gives.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};
use libjpeg_turbo_rs::PixelFormat;

use super::augment::crop::Window;
use super::error::DataError;
#[cfg(target_arch = "x86_64")]
use super::jpeg;
use super::orientation::turn;

/// Most pixels an image may have: where Pillow refuses a "decompression bomb".
pub const DEFAULT_PIXEL_LIMIT: usize = 178_956_970;

/// How images are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Most pixels an image may have; larger ones are refused before any memory is taken for them.
    pub pixel_limit: usize,
    /// Whether an image is turned as its EXIF orientation says. Off by default, as torchvision does not do it.
    pub exif_orientation: bool,
}

impl Default for DecodeOptions {
    fn default() -> DecodeOptions {
        DecodeOptions { pixel_limit: DEFAULT_PIXEL_LIMIT, exif_orientation: false }
    }
}

/// A decoded image: u8 [height, width, 4], red, green, blue and one unused byte, which is what decoding and resizing
/// are fastest with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RgbImage {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// An image from interleaved bytes, u8 [height, width, 3].
    ///
    /// # Panics
    /// If `rgb` does not have 3 · width · height bytes.
    pub fn from_rgb(width: usize, height: usize, rgb: &[u8]) -> RgbImage {
        assert_eq!(rgb.len(), 3 * width * height, "an RGB image of {width}x{height} px");
        let mut image = RgbImage::default();
        image.fill(width, height, rgb.chunks_exact(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]));
        image
    }

    /// Width, px.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height, px.
    pub fn height(&self) -> usize {
        self.height
    }

    /// u8 [height, width, 4]; the fourth byte of a pixel means nothing.
    pub fn rgbx(&self) -> &[u8] {
        &self.pixels[..4 * self.width * self.height]
    }

    /// u8 [height, width, 3].
    pub fn to_rgb(&self) -> Vec<u8> {
        self.rgbx().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    }

    /// Makes room for the pixels of an image.
    fn reserve(&mut self, width: usize, height: usize) {
        let len = 4 * width * height;
        if self.pixels.len() < len {
            self.pixels.resize(len, 0);
        }
    }

    pub(super) fn fill(&mut self, width: usize, height: usize, pixels: impl Iterator<Item = [u8; 3]>) {
        (self.width, self.height) = (width, height);
        self.pixels.clear();
        self.pixels.extend(pixels.flat_map(|[r, g, b]| [r, g, b, 255]));
    }
}

/// Decodes an image of any supported format with the default options, as [`Decoder::decode`] does.
///
/// # Errors
/// Bytes that are no complete image, and images with too many pixels.
pub fn decode_rgb(bytes: &[u8]) -> Result<RgbImage, DataError> {
    let mut image = RgbImage::default();
    Decoder::default().decode(bytes, DecodeOptions::default(), &mut image)?;
    Ok(image)
}

/// The parts of an image of some width and height that will be looked at.
type Windows<'a> = &'a mut dyn FnMut(usize, usize) -> Vec<Window>;

/// Decodes images one after another, with buffers that are used again.
#[derive(Debug, Default)]
pub struct Decoder {
    #[cfg(target_arch = "x86_64")]
    jpeg: jpeg::Buffers,
}

impl Decoder {
    /// Decodes an image of any supported format into `image`, whose memory is used again. Grey becomes three equal channels,
    /// CMYK is converted as Pillow does, alpha is dropped and 16-bit samples keep their upper byte. Of an animation the first
    /// frame is taken. JPEGs have libjpeg-turbo's pixels (accurate integer DCT, fancy upsampling).
    ///
    /// # Errors
    /// Bytes that are no complete image, and images with too many pixels; `image` then holds nothing useful.
    pub fn decode(&mut self, bytes: &[u8], options: DecodeOptions, image: &mut RgbImage) -> Result<(), DataError> {
        self.decode_with(bytes, options, None, image)
    }

    /// As [`decode`](Self::decode), but only pixels in the windows are sure to be right, which can be faster. `windows` gives
    /// them for the width and height of an image; it is not always called.
    pub(super) fn decode_windows(&mut self, bytes: &[u8], options: DecodeOptions, windows: Windows<'_>, image: &mut RgbImage) -> Result<(), DataError> {
        // Windows lie in the turned image.
        self.decode_with(bytes, options, (!options.exif_orientation).then_some(windows), image)
    }

    fn decode_with(&mut self, bytes: &[u8], options: DecodeOptions, windows: Option<Windows<'_>>, image: &mut RgbImage) -> Result<(), DataError> {
        // Decoders see hostile bytes: a panic in one of them is an error of the image, not the end of the run. `image` is
        // only bytes and a size that is written last, so that it stays usable; buffers are made anew from image to image.
        let decoded = catch_unwind(AssertUnwindSafe(|| match bytes {
            [0xff, 0xd8, 0xff, ..] if self.decode_usual_jpeg(bytes, options, windows, image)? => Ok(()),
            [0xff, 0xd8, 0xff, ..] => decode_jpeg(bytes, options, image),
            _ => decode_other(bytes, options, image),
        }));
        decoded.unwrap_or_else(|_| Err(DataError::Decode { message: "the decoder panicked".into() }))
    }

    /// Decodes a JPEG of the usual kind; false if it is another one.
    #[cfg(target_arch = "x86_64")]
    fn decode_usual_jpeg(&mut self, bytes: &[u8], options: DecodeOptions, windows: Option<Windows<'_>>, image: &mut RgbImage) -> Result<bool, DataError> {
        let Some(header) = jpeg::parse(bytes) else { return Ok(false) };
        check_pixels(header.width, header.height, options.pixel_limit)?;
        image.reserve(header.width, header.height);
        let pixels = &mut image.pixels.as_chunks_mut().0[..header.width * header.height];
        let windows = windows.map(|windows| windows(header.width, header.height));
        if !jpeg::decode(&header, &mut self.jpeg, windows.as_deref(), pixels) {
            return Ok(false);
        }
        (image.width, image.height) = (header.width, header.height);
        if options.exif_orientation {
            turn_as_exif_says(image, header.exif);
        }
        Ok(true)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn decode_usual_jpeg(&mut self, _: &[u8], _: DecodeOptions, _: Option<Windows<'_>>, _: &mut RgbImage) -> Result<bool, DataError> {
        Ok(false)
    }
}

/// Turns an image by its Exif data; an orientation that cannot be read is none.
fn turn_as_exif_says(image: &mut RgbImage, exif: Option<&[u8]>) {
    if let Some(orientation) = exif.and_then(Orientation::from_exif_chunk) {
        turn(image, orientation);
    }
}

fn check_pixels(width: usize, height: usize, limit: usize) -> Result<(), DataError> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limit => Ok(()),
        _ => Err(DataError::TooManyPixels { width, height, limit }),
    }
}

fn decode_jpeg(bytes: &[u8], options: DecodeOptions, image: &mut RgbImage) -> Result<(), DataError> {
    let error = |error: libjpeg_turbo_rs::JpegError| DataError::Decode { message: format!("JPEG: {error}") };
    let mut decoder = libjpeg_turbo_rs::Decoder::new(bytes).map_err(error)?;
    let (width, height) = (usize::from(decoder.header().width), usize::from(decoder.header().height));
    check_pixels(width, height, options.pixel_limit)?;
    decoder.set_output_format(PixelFormat::Rgbx);
    image.reserve(width, height);
    let info = decoder.decode_image_into(&mut image.pixels).map_err(error)?;
    (image.width, image.height) = (info.width, info.height);
    if options.exif_orientation {
        turn_as_exif_says(image, info.exif_data.as_deref());
    }
    Ok(())
}

fn decode_other(bytes: &[u8], options: DecodeOptions, image: &mut RgbImage) -> Result<(), DataError> {
    let error = |error: image::ImageError| DataError::Decode { message: error.to_string() };
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|source| DataError::Decode { message: source.to_string() })?;
    let mut decoder = reader.into_decoder().map_err(error)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_pixels(width, height, options.pixel_limit)?;
    // An orientation that cannot be read is none, as for JPEG.
    let orientation = if options.exif_orientation { decoder.orientation().ok() } else { None };
    let upper = |sample: u16| (sample >> 8) as u8;
    match DynamicImage::from_decoder(decoder).map_err(error)? {
        DynamicImage::ImageLuma16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| [upper(pixel.0[0]); 3])),
        DynamicImage::ImageLumaA16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| [upper(pixel.0[0]); 3])),
        DynamicImage::ImageRgb16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| pixel.0.map(upper))),
        DynamicImage::ImageRgba16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| [0, 1, 2].map(|c| upper(pixel.0[c])))),
        decoded => image.fill(width, height, decoded.into_rgb8().pixels().map(|pixel| pixel.0)),
    }
    if let Some(orientation) = orientation {
        turn(image, orientation);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgba};

    fn png(image: DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).expect("PNG");
        bytes.into_inner()
    }

    fn limit(pixel_limit: usize) -> DecodeOptions {
        DecodeOptions { pixel_limit, ..DecodeOptions::default() }
    }

    #[test]
    fn a_jpeg_is_turned_only_when_asked_for() {
        // Left half dark, right half bright; orientation 6 turns the left side up.
        let rgb: Vec<u8> = (0..16 * 8).flat_map(|i| [if i % 16 < 8 { 0 } else { 255 }; 3]).collect();
        let mut jpeg = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut jpeg, 95);
        let exif = [&b"Exif\0\0II*\0\x08\0\0\0\x01\0"[..], &[0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0], &[0; 4]].concat();
        encoder.add_app_segment(1, exif).expect("segment");
        encoder.encode(&rgb, 16, 8, jpeg_encoder::ColorType::Rgb).expect("JPEG");
        let decode = |exif_orientation| {
            let mut image = RgbImage::default();
            Decoder::default().decode(&jpeg, DecodeOptions { exif_orientation, ..DecodeOptions::default() }, &mut image).expect("image");
            image
        };
        let plain = decode(false);
        assert_eq!((plain.width(), plain.height()), (16, 8));
        let turned = decode(true);
        assert_eq!((turned.width(), turned.height()), (8, 16));
        let pixels = turned.to_rgb();
        assert!(pixels[0] < 20 && pixels[pixels.len() - 1] > 235, "the left side lies above");
    }

    #[test]
    fn every_kind_of_pixel_becomes_rgb() {
        let pixel = |image: DynamicImage| decode_rgb(&png(image)).expect("image").to_rgb();
        assert_eq!(pixel(DynamicImage::ImageLuma8(image::GrayImage::from_pixel(1, 1, image::Luma([9])))), [9, 9, 9]);
        assert_eq!(pixel(DynamicImage::ImageRgba8(image::RgbaImage::from_pixel(1, 1, Rgba([1, 2, 3, 0])))), [1, 2, 3]);
        let rgb16 = image::ImageBuffer::from_pixel(1, 1, image::Rgb([0x12ffu16, 0x3400, 0x5680]));
        assert_eq!(pixel(DynamicImage::ImageRgb16(rgb16)), [0x12, 0x34, 0x56]);
        let luma16 = image::ImageBuffer::from_pixel(1, 1, image::Luma([0xabcdu16]));
        assert_eq!(pixel(DynamicImage::ImageLuma16(luma16)), [0xab; 3]);
    }

    #[test]
    fn an_image_with_too_many_pixels_is_refused_before_decoding() {
        let bytes = png(DynamicImage::new_rgb8(20, 10));
        let error = Decoder::default().decode(&bytes, limit(199), &mut RgbImage::default()).expect_err("200 pixels");
        assert!(matches!(error, DataError::TooManyPixels { width: 20, height: 10, limit: 199 }), "{error}");
        Decoder::default().decode(&bytes, limit(200), &mut RgbImage::default()).expect("exactly the limit");
    }

    #[test]
    fn bytes_that_are_no_image_are_an_error() {
        for bytes in [&b""[..], b"no image", b"\xff\xd8\xff\xe0 no image", b"\x89PNG\r\n\x1a\n"] {
            assert!(matches!(decode_rgb(bytes), Err(DataError::Decode { .. })), "{bytes:?}");
        }
    }

    #[test]
    fn a_panic_of_a_decoder_is_an_error_of_the_image() {
        // Four components of samplings that libjpeg-turbo-rs 0.9 does not foresee.
        let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/decode/cmyk-of-odd-sampling.jpg")).expect("a file");
        let error = decode_rgb(&bytes).expect_err("the general decoder panics").to_string();
        assert!(error.contains("the decoder panicked"), "{error}");
    }

    #[test]
    fn an_image_can_be_decoded_into_a_larger_ones_memory() {
        let mut image = RgbImage::default();
        Decoder::default().decode(&png(DynamicImage::new_rgb8(20, 10)), limit(1000), &mut image).expect("image");
        Decoder::default().decode(&png(DynamicImage::new_rgb8(3, 2)), limit(1000), &mut image).expect("image");
        assert_eq!((image.width(), image.height(), image.rgbx().len()), (3, 2, 24));
    }
}
