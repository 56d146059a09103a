//! Evaluation preprocessing: resize and centre crop, or nothing for small images.

use super::augment::crop::Window;
use super::augment::resize::Resizer;
use super::decode::RgbImage;
use super::error::DataError;

/// Resize of the shorter side and centre crop, as torchvision's `Resize` and `CenterCrop` on Pillow images. Images with
/// both sides up to [`as_is_up_to_px`](Self::as_is_up_to_px) are used as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalTransform {
    /// Length of the shorter side after resizing, px.
    pub resize_px: usize,
    /// Side of the crop from the centre, px.
    pub crop_px: usize,
    /// Images with both sides up to this are used as they are, px; 0 to resize every image.
    pub as_is_up_to_px: usize,
    /// Whether images are first turned as their EXIF orientation says, which torchvision does not do. Best as in training.
    pub exif_orientation: bool,
}

impl Default for EvalTransform {
    /// Resize 256, centre crop 224, images up to 64 px as they are, none turned.
    fn default() -> EvalTransform {
        EvalTransform { resize_px: 256, crop_px: 224, as_is_up_to_px: 64, exif_orientation: false }
    }
}

/// A preprocessed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalImage {
    /// Height, px.
    pub height: usize,
    /// Width, px.
    pub width: usize,
    /// u8 [3, height, width].
    pub data: Vec<u8>,
}

impl EvalTransform {
    /// Preprocesses an image.
    ///
    /// # Errors
    /// A crop that is larger than the resized image, or sizes of 0.
    pub fn apply(&self, image: &RgbImage) -> Result<EvalImage, DataError> {
        self.apply_with(image, &mut Resizer::default())
    }

    /// As [`apply`](Self::apply), with buffers that are used again.
    pub(super) fn apply_with(&self, image: &RgbImage, resizer: &mut Resizer) -> Result<EvalImage, DataError> {
        let (width, height) = (image.width(), image.height());
        if width.max(height) <= self.as_is_up_to_px {
            return Ok(EvalImage { height, width, data: planar(image) });
        }
        let EvalTransform { resize_px, crop_px, .. } = *self;
        if crop_px == 0 || crop_px > resize_px {
            return Err(DataError::EvalCrop { crop_px, resize_px });
        }
        // torchvision: int(size · long / short).
        let longer = |long: usize, short: usize| resize_px * long / short;
        let (new_width, new_height) = if width <= height { (resize_px, longer(height, width)) } else { (longer(width, height), resize_px) };
        let mut resized = vec![0; 3 * new_width * new_height];
        resizer.resize(image, Window { x: 0, y: 0, width, height }, new_width, new_height, false, &mut resized);

        let (left, top) = (centre(new_width, crop_px), centre(new_height, crop_px));
        let mut data = Vec::with_capacity(3 * crop_px * crop_px);
        for plane in resized.chunks_exact(new_width * new_height) {
            for row in plane.chunks_exact(new_width).skip(top).take(crop_px) {
                data.extend_from_slice(&row[left..left + crop_px]);
            }
        }
        Ok(EvalImage { height: crop_px, width: crop_px, data })
    }
}

/// Where a crop in the centre begins: torchvision rounds a half to the even neighbour.
fn centre(len: usize, crop: usize) -> usize {
    ((len - crop) as f64 / 2.0).round_ties_even() as usize
}

fn planar(image: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|channel| image.rgbx().iter().skip(channel).step_by(4).copied()).collect()
}
