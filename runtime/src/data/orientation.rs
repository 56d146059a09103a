//! EXIF orientation: images as they were held, not as the sensor read them.

use image::metadata::Orientation;

use super::decode::RgbImage;

/// Turns and mirrors an image as its orientation says.
pub(super) fn turn(image: &mut RgbImage, orientation: Orientation) {
    let (width, height) = (image.width(), image.height());
    // Where the pixel at (x, y) of the result comes from.
    let source: fn(usize, usize, usize, usize) -> (usize, usize) = match orientation {
        Orientation::NoTransforms => return,
        Orientation::FlipHorizontal => |x, y, right, _| (right - x, y),
        Orientation::Rotate180 => |x, y, right, bottom| (right - x, bottom - y),
        Orientation::FlipVertical => |x, y, _, bottom| (x, bottom - y),
        Orientation::Rotate90FlipH => |x, y, _, _| (y, x),
        Orientation::Rotate90 => |x, y, _, bottom| (y, bottom - x),
        Orientation::Rotate270FlipH => |x, y, right, bottom| (right - y, bottom - x),
        Orientation::Rotate270 => |x, y, right, _| (right - y, x),
    };
    let swapped = orientation.to_exif() >= 5;
    let (new_width, new_height) = if swapped { (height, width) } else { (width, height) };
    let original = image.rgbx().to_vec();
    let places = (0..new_height).flat_map(|y| (0..new_width).map(move |x| (x, y)));
    image.fill(
        new_width,
        new_height,
        places.map(|(x, y)| {
            let (x, y) = source(x, y, width - 1, height - 1);
            let pixel = &original[4 * (y * width + x)..];
            [pixel[0], pixel[1], pixel[2]]
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_orientation_gives_what_the_image_crate_gives() {
        let rgb: Vec<u8> = (0..3 * 5 * 3).collect();
        for number in 1..=8 {
            let orientation = Orientation::from_exif(number).expect("one of eight");
            let mut expected = image::DynamicImage::from(image::RgbImage::from_raw(5, 3, rgb.clone()).expect("5x3"));
            expected.apply_orientation(orientation);
            let mut image = RgbImage::from_rgb(5, 3, &rgb);
            turn(&mut image, orientation);
            assert_eq!((image.width(), image.height()), (expected.width() as usize, expected.height() as usize), "{number}");
            assert_eq!(image.to_rgb(), expected.into_rgb8().into_raw(), "{number}");
        }
    }
}
