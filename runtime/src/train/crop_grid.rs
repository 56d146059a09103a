//! A picture of the augmented crops that the network gets.

use graphgen::preset::Preset;
use jpeg_encoder::{ColorType, Encoder};

use crate::data::{Batch, EvalTransform, RgbImage};

/// Rows of the grid.
const ROWS: usize = 8;
/// Crops side by side, about.
const COLUMNS: usize = 12;
/// The largest crop is drawn within these sides, px.
const SIDES: std::ops::RangeInclusive<usize> = 64..=112;
/// Space between crops, and between images, px.
const GAPS: (usize, usize) = (4, 16);

/// JPEG bytes.
pub(super) struct CropGrid {
    pub(super) jpeg: Vec<u8>,
    /// Width and height, px.
    pub(super) size: (usize, usize),
}

/// The crops of a batch's first images: all crops of an image side by side, several images in a row if there are few crops.
pub(super) fn crop_grid(preset: &Preset, batch: &Batch) -> Option<CropGrid> {
    let groups = preset.crops.groups();
    let images = preset.train.micro_batch_size();
    let largest = groups.iter().map(|group| group.size_px).max()?;
    let side = |size_px: usize| (size_px * largest.clamp(*SIDES.start(), *SIDES.end())).div_ceil(largest);
    let image_width: usize = groups.iter().map(|group| group.count * (side(group.size_px) + GAPS.0)).sum::<usize>() - GAPS.0;
    let beside = (COLUMNS / preset.crops.total()).clamp(1, images.div_ceil(ROWS));
    let rows = ROWS.min(images);
    let size = (beside * (image_width + GAPS.1) - GAPS.1, rows * (side(largest) + GAPS.0) - GAPS.0);
    let mut rgb = vec![255; 3 * size.0 * size.1];
    for image in 0..(rows * beside).min(images) {
        let mut left = image % beside * (image_width + GAPS.1);
        let top = image / beside * (side(largest) + GAPS.0);
        for (number, group) in groups.iter().enumerate() {
            let bytes = 3 * group.size_px * group.size_px;
            for crop in 0..group.count {
                // Crop-major within the first micro-batch.
                let planar = &batch.crops(number)[(crop * images + image) * bytes..][..bytes];
                draw(&mut rgb, size.0, planar, group.size_px, side(group.size_px), (left, top))?;
                left += side(group.size_px) + GAPS.0;
            }
        }
    }
    let mut jpeg = Vec::new();
    Encoder::new(&mut jpeg, 92).encode(&rgb, size.0.try_into().ok()?, size.1.try_into().ok()?, ColorType::Rgb).ok()?;
    Some(CropGrid { jpeg, size })
}

/// Draws a crop, u8 [3, size, size], into a square of `side` px.
fn draw(rgb: &mut [u8], width: usize, planar: &[u8], size: usize, side: usize, (left, top): (usize, usize)) -> Option<()> {
    let interleaved: Vec<u8> = (0..size * size).flat_map(|pixel| [0, 1, 2].map(|channel| planar[channel * size * size + pixel])).collect();
    let transform = EvalTransform { resize_px: side, crop_px: side, as_is_up_to_px: 0, exif_orientation: false };
    let drawn = transform.apply(&RgbImage::from_rgb(size, size, &interleaved)).ok()?.data;
    for pixel in 0..side * side {
        let place = 3 * ((top + pixel / side) * width + left + pixel % side);
        (0..3).for_each(|channel| rgb[place + channel] = drawn[channel * side * side + pixel]);
    }
    Some(())
}
