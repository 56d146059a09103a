//! What a data set is like, as far as it matters for settings.

use crate::data::{DataError, Dataset, Decoder, RgbImage, for_each_image};

/// Images whose size is looked at.
const SAMPLE: usize = 200;

/// A data set in figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFacts {
    /// Images.
    pub images: usize,
    /// Class folders; `None` for unlabelled images.
    pub classes: Option<usize>,
    /// Median shorter side, px.
    pub short_side_px: usize,
    /// Images looked at, and how many of them are broken.
    pub sampled: (usize, usize),
}

impl DataFacts {
    /// Looks at a sample of the images, evenly over the set.
    ///
    /// # Errors
    /// A sample of which no image can be read.
    pub fn of(dataset: &Dataset) -> Result<DataFacts, DataError> {
        let count = dataset.len().min(SAMPLE);
        let sides = for_each_image(0..count, 0, |(encoded, decoder, image): &mut (Vec<u8>, Decoder, RgbImage), number| {
            dataset.read_into(number * dataset.len() / count, encoded)?;
            decoder.decode(encoded, Default::default(), image)?;
            Ok(image.width().min(image.height()))
        })?;
        let (good, broken): (Vec<_>, Vec<_>) = sides.into_iter().partition(Result::is_ok);
        let (broken_count, first_error) = (broken.len(), broken.into_iter().find_map(Result::err));
        let mut sides: Vec<usize> = good.into_iter().flatten().collect();
        sides.sort_unstable();
        match (sides.get(sides.len() / 2), first_error) {
            (Some(&short_side_px), _) => {
                let classes = Some(dataset.class_names().len()).filter(|&classes| classes > 1);
                Ok(DataFacts { images: dataset.len(), classes, short_side_px, sampled: (count, broken_count) })
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(DataError::NoPaths),
        }
    }
}
