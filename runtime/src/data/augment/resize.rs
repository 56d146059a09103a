//! Crop and resize: bilinear, antialiased, the horizontal pass first and rounded to 8 bits, as Pillow does.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x4;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions};
use multiversion::multiversion;

use super::crop::Window;
use super::planes;
use crate::data::decode::RgbImage;

/// Resizes parts of images, with buffers that are used again. Within 1/255 of Pillow: the weights have another precision.
#[derive(Debug, Default)]
pub struct Resizer {
    inner: fast_image_resize::Resizer,
    interleaved: Vec<u8>,
}

impl Resizer {
    /// Resizes a window of an image to `width` x `height` px, planar: u8 [3, height, width].
    ///
    /// # Panics
    /// If the window is empty or reaches outside the image, or `out` does not have 3 · width · height bytes.
    pub fn resize(&mut self, image: &RgbImage, window: Window, width: usize, height: usize, out: &mut [u8]) {
        let pixels = width * height;
        assert_eq!(out.len(), 3 * pixels, "planes of {width}x{height} px");
        if self.interleaved.len() < 4 * pixels {
            self.interleaved.resize(4 * pixels, 0);
        }
        let interleaved = &mut self.interleaved[..4 * pixels];

        let source = TypedImageRef::<U8x4>::from_buffer(image.width() as u32, image.height() as u32, image.rgbx()).expect("four bytes a pixel");
        let view = TypedCroppedImage::from_ref(&source, window.x as u32, window.y as u32, window.width as u32, window.height as u32)
            .expect("the window lies inside the image");
        let mut target = TypedImage::<U8x4>::from_buffer(width as u32, height as u32, interleaved).expect("four bytes a pixel");
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
        self.inner.resize_typed(&view, &mut target, &options).expect("the window lies inside the image");

        let [red, green, blue] = planes(out);
        separate(&self.interleaved[..4 * pixels], red, green, blue);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn separate(interleaved: &[u8], red: &mut [u8], green: &mut [u8], blue: &mut [u8]) {
    for (((pixel, red), green), blue) in interleaved.chunks_exact(4).zip(red).zip(green).zip(blue) {
        (*red, *green, *blue) = (pixel[0], pixel[1], pixel[2]);
    }
}
