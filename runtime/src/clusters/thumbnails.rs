//! Sheets of thumbnails: a hundred images in one JPEG, so that 100,000 images are a thousand files.

use std::path::Path;
use std::sync::Mutex;

use jpeg_encoder::{ColorType, Encoder};

use super::ClustersError;
use crate::data::{Dataset, Decoder, EvalTransform, RgbImage, for_each_image};

/// Thumbnails of a row of a sheet.
pub(super) const COLUMNS: usize = 10;
/// Thumbnails of a sheet.
pub(super) const PER_SHEET: usize = COLUMNS * COLUMNS;

const QUALITY: u8 = 82;

/// Writes `NNNN.jpg` into `folder` for each hundred images of `order`: squares of `side_px` from the middle of the images,
/// row by row. `progress` gets the number of images done.
pub(super) fn write_sheets(
    folder: &Path,
    dataset: &Dataset,
    order: &[usize],
    side_px: usize,
    workers: usize,
    progress: impl FnMut(usize) + Send,
) -> Result<(), ClustersError> {
    let progress = Mutex::new((0, progress));
    let sheets: Vec<&[usize]> = order.chunks(PER_SHEET).collect();
    let results = for_each_image(0..sheets.len(), workers, |scratch: &mut (Vec<u8>, Decoder, RgbImage), sheet| {
        write_sheet(&folder.join(format!("{sheet:04}.jpg")), dataset, sheets[sheet], side_px, scratch)?;
        if let Ok(mut progress) = progress.lock() {
            progress.0 += sheets[sheet].len();
            let done = progress.0;
            (progress.1)(done);
        }
        Ok::<_, ClustersError>(())
    })?;
    results.into_iter().collect()
}

fn write_sheet(
    path: &Path,
    dataset: &Dataset,
    images: &[usize],
    side: usize,
    (encoded, decoder, image): &mut (Vec<u8>, Decoder, RgbImage),
) -> Result<(), ClustersError> {
    let transform = EvalTransform { resize_px: side, crop_px: side, as_is_up_to_px: 0, exif_orientation: false };
    let (width, height) = (COLUMNS * side, images.len().div_ceil(COLUMNS) * side);
    let mut rgb = vec![255; 3 * width * height];
    for (place, &index) in images.iter().enumerate() {
        dataset.read_into(index, encoded)?;
        let named = |source| crate::data::DataError::Image { name: dataset.name(index), source: Box::new(source) };
        decoder.decode(encoded, Default::default(), image).map_err(named)?;
        let thumbnail = transform.apply(image).map_err(named)?.data;
        let (left, top) = (place % COLUMNS * side, place / COLUMNS * side);
        for (pixel, index) in (0..side * side).map(|pixel| (pixel, (top + pixel / side) * width + left + pixel % side)) {
            (0..3).for_each(|channel| rgb[3 * index + channel] = thumbnail[channel * side * side + pixel]);
        }
    }
    let encode = |error: jpeg_encoder::EncodingError| ClustersError::Encode { path: path.into(), message: error.to_string() };
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, QUALITY).encode(&rgb, width as u16, height as u16, ColorType::Rgb).map_err(encode)?;
    std::fs::write(path, bytes).map_err(ClustersError::io(path))
}
