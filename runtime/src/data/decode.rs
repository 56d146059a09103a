//! Encoded bytes to RGB, with the pixels Pillow gives.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, ImageDecoder, ImageReader};
use libjpeg_turbo_rs::{Decoder, PixelFormat};

use super::error::DataError;

/// Most pixels an image may have: where Pillow refuses a "decompression bomb".
pub const DEFAULT_PIXEL_LIMIT: usize = 178_956_970;

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

    fn fill(&mut self, width: usize, height: usize, pixels: impl Iterator<Item = [u8; 3]>) {
        (self.width, self.height) = (width, height);
        self.pixels.clear();
        self.pixels.extend(pixels.flat_map(|[r, g, b]| [r, g, b, 255]));
    }
}

/// Decodes an image of any supported format, up to [`DEFAULT_PIXEL_LIMIT`] pixels. Grey becomes three equal channels,
/// CMYK is converted as Pillow does, alpha is dropped and 16-bit samples keep their upper byte. JPEGs have
/// libjpeg-turbo's pixels (accurate integer DCT, fancy upsampling).
///
/// # Errors
/// Bytes that are no complete image, and images with too many pixels.
pub fn decode_rgb(bytes: &[u8]) -> Result<RgbImage, DataError> {
    let mut image = RgbImage::default();
    decode_rgb_into(bytes, DEFAULT_PIXEL_LIMIT, &mut image)?;
    Ok(image)
}

/// As [`decode_rgb`], into an image whose memory is used again, with a limit on the number of pixels.
///
/// # Errors
/// As [`decode_rgb`]; `image` then holds nothing useful.
pub fn decode_rgb_into(bytes: &[u8], pixel_limit: usize, image: &mut RgbImage) -> Result<(), DataError> {
    // Decoders see hostile bytes: a panic in one of them is an error of the image, not the end of the run. `image` is
    // only bytes and a size that is written last, so that it stays usable.
    let decoded = catch_unwind(AssertUnwindSafe(|| match bytes {
        [0xff, 0xd8, 0xff, ..] => decode_jpeg(bytes, pixel_limit, image),
        _ => decode_other(bytes, pixel_limit, image),
    }));
    decoded.unwrap_or_else(|_| Err(DataError::Decode { message: "the decoder panicked".into() }))
}

fn check_pixels(width: usize, height: usize, limit: usize) -> Result<(), DataError> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limit => Ok(()),
        _ => Err(DataError::TooManyPixels { width, height, limit }),
    }
}

fn decode_jpeg(bytes: &[u8], pixel_limit: usize, image: &mut RgbImage) -> Result<(), DataError> {
    let error = |error: libjpeg_turbo_rs::JpegError| DataError::Decode { message: format!("JPEG: {error}") };
    let mut decoder = Decoder::new(bytes).map_err(error)?;
    let (width, height) = (usize::from(decoder.header().width), usize::from(decoder.header().height));
    check_pixels(width, height, pixel_limit)?;
    decoder.set_output_format(PixelFormat::Rgbx);
    let len = 4 * width * height;
    if image.pixels.len() < len {
        image.pixels.resize(len, 0);
    }
    let info = decoder.decode_image_into(&mut image.pixels).map_err(error)?;
    (image.width, image.height) = (info.width, info.height);
    Ok(())
}

fn decode_other(bytes: &[u8], pixel_limit: usize, image: &mut RgbImage) -> Result<(), DataError> {
    let error = |error: image::ImageError| DataError::Decode { message: error.to_string() };
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|source| DataError::Decode { message: source.to_string() })?;
    let decoder = reader.into_decoder().map_err(error)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    check_pixels(width, height, pixel_limit)?;
    let upper = |sample: u16| (sample >> 8) as u8;
    match DynamicImage::from_decoder(decoder).map_err(error)? {
        DynamicImage::ImageLuma16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| [upper(pixel.0[0]); 3])),
        DynamicImage::ImageLumaA16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| [upper(pixel.0[0]); 3])),
        DynamicImage::ImageRgb16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| pixel.0.map(upper))),
        DynamicImage::ImageRgba16(decoded) => image.fill(width, height, decoded.pixels().map(|pixel| [0, 1, 2].map(|c| upper(pixel.0[c])))),
        decoded => image.fill(width, height, decoded.into_rgb8().pixels().map(|pixel| pixel.0)),
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
        let error = decode_rgb_into(&bytes, 199, &mut RgbImage::default()).expect_err("200 pixels");
        assert!(matches!(error, DataError::TooManyPixels { width: 20, height: 10, limit: 199 }), "{error}");
        decode_rgb_into(&bytes, 200, &mut RgbImage::default()).expect("exactly the limit");
    }

    #[test]
    fn bytes_that_are_no_image_are_an_error() {
        for bytes in [&b""[..], b"no image", b"\xff\xd8\xff\xe0 no image", b"\x89PNG\r\n\x1a\n"] {
            assert!(matches!(decode_rgb(bytes), Err(DataError::Decode { .. })), "{bytes:?}");
        }
    }

    #[test]
    fn an_image_can_be_decoded_into_a_larger_ones_memory() {
        let mut image = RgbImage::default();
        decode_rgb_into(&png(DynamicImage::new_rgb8(20, 10)), 1000, &mut image).expect("image");
        decode_rgb_into(&png(DynamicImage::new_rgb8(3, 2)), 1000, &mut image).expect("image");
        assert_eq!((image.width(), image.height(), image.rgbx().len()), (3, 2, 24));
    }
}
