//! Looks through a data set for what would go wrong in training.

use std::collections::BTreeMap;
use std::path::Path;

use image::ImageFormat;
use sha2::{Digest, Sha256};

use super::dataset::Dataset;
use super::decode::{DecodeOptions, Decoder, RgbImage};
use super::each::for_each_image;
use super::error::DataError;
use crate::machine::thread_count;

/// Lower ends of the histogram's classes of shorter sides, px; the last one is open.
pub const SIDE_CLASSES_PX: [usize; 9] = [1, 32, 64, 128, 256, 512, 1024, 2048, 4096];

/// Images that a thread looks at between two messages of progress.
const IMAGES_OF_A_THREAD: usize = 64;

/// Settings of [`check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Images with a shorter side below this are named as small, px.
    pub min_side_px: usize,
    /// Threads; 0 for one per core.
    pub workers: usize,
    /// How images are decoded.
    pub decode: DecodeOptions,
}

/// What [`check`] found. Every list is in the data set's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Images, broken ones included.
    pub images: usize,
    /// Encoded bytes of all images.
    pub bytes: u64,
    /// What cannot be read or decoded, each with its name and what is wrong.
    pub broken: Vec<String>,
    /// Images with a shorter side below the limit: name, width and height, px.
    pub small: Vec<(String, usize, usize)>,
    /// Images whose format is not the one of their name: name and format. They are used all the same.
    pub misnamed: Vec<(String, &'static str)>,
    /// Names of images with the same bytes, a group each.
    pub duplicates: Vec<Vec<String>>,
    /// Readable images by shorter side, in the classes of [`SIDE_CLASSES_PX`].
    pub sides: [usize; SIDE_CLASSES_PX.len()],
}

struct Look {
    bytes: u64,
    hash: Option<[u8; 32]>,
    format: Option<&'static str>,
    size: Result<(usize, usize), DataError>,
}

/// Reads and decodes every image. `progress` gets the number of images done.
///
/// # Errors
/// Threads that cannot be started. What is wrong with an image stands in the report.
pub fn check(dataset: &Dataset, options: &CheckOptions, mut progress: impl FnMut(usize)) -> Result<CheckReport, DataError> {
    let look = |(encoded, decoder, image): &mut (Vec<u8>, Decoder, RgbImage), index: usize| {
        if let Err(error) = dataset.read_into(index, encoded) {
            return Look { bytes: 0, hash: None, format: None, size: Err(error) };
        }
        let decoded = decoder.decode(encoded, options.decode, image);
        let size = decoded.map(|()| (image.width(), image.height())).map_err(|source| DataError::Image { name: dataset.name(index), source: Box::new(source) });
        Look { bytes: encoded.len() as u64, hash: Some(Sha256::digest(&*encoded).into()), format: other_format(dataset.inner_name(index), encoded), size }
    };
    let mut looks = Vec::with_capacity(dataset.len());
    let run = IMAGES_OF_A_THREAD * thread_count(options.workers);
    for start in (0..dataset.len()).step_by(run) {
        looks.extend(for_each_image(start..(start + run).min(dataset.len()), options.workers, look)?);
        progress(looks.len());
    }

    let mut report = CheckReport { images: dataset.len(), ..CheckReport::default() };
    let mut same: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
    for (index, look) in looks.into_iter().enumerate() {
        report.bytes += look.bytes;
        if let Some(hash) = look.hash {
            same.entry(hash).or_default().push(index);
        }
        match look.size {
            Err(error) => report.broken.push(error.to_string()),
            Ok((width, height)) => {
                let side = width.min(height);
                if side < options.min_side_px {
                    report.small.push((dataset.name(index), width, height));
                }
                report.misnamed.extend(look.format.map(|format| (dataset.name(index), format)));
                let class = SIDE_CLASSES_PX.iter().rposition(|&least| least <= side).unwrap_or(0);
                report.sides[class] += 1;
            }
        }
    }
    let mut groups: Vec<Vec<usize>> = same.into_values().filter(|group| group.len() > 1).collect();
    groups.sort_unstable();
    report.duplicates = groups.iter().map(|group| group.iter().map(|&index| dataset.name(index)).collect()).collect();
    Ok(report)
}

/// The format of the bytes, where the name says another one.
fn other_format(name: &str, bytes: &[u8]) -> Option<&'static str> {
    let actual = image::guess_format(bytes).ok()?;
    let named = ImageFormat::from_path(Path::new(name)).ok()?;
    (actual != named).then(|| actual.extensions_str().first().copied()).flatten()
}
