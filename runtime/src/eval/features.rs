//! Features of all images of a data set.

use std::sync::Arc;

use ndarray::Array2;

use super::EvalError;
use crate::data::{Dataset, EvalTransform, load_eval_batches};
use crate::session::Encoder;

/// Which output of the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Representation {
    /// Pooled backbone features, before the projection head.
    #[default]
    Features,
    /// Normalised output of the projection head.
    Embedding,
}

/// How [`extract`] works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extraction {
    /// Which output.
    pub representation: Representation,
    /// Resize and crop.
    pub transform: EvalTransform,
    /// Images of a batch; a static encoder uses its own.
    pub batch_size: usize,
    /// Loader threads; 0 for one a core.
    pub workers: usize,
}

impl Default for Extraction {
    fn default() -> Self {
        Extraction { representation: Representation::default(), transform: EvalTransform::default(), batch_size: 64, workers: 0 }
    }
}

/// Features of a data set, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// f32 [N, F].
    pub rows: Array2<f32>,
    /// Class of each image; `None` in flat folders.
    pub labels: Vec<Option<usize>>,
    /// Height and width of the images as the encoder saw them, px.
    pub size_px: [usize; 2],
}

/// Encodes every image; `progress` is called with the number of images done.
///
/// # Errors
/// Images that cannot be read, and whatever the encoder reports.
pub fn extract(encoder: &mut Encoder, dataset: &Arc<Dataset>, options: &Extraction, mut progress: impl FnMut(usize)) -> Result<Features, EvalError> {
    let batch_size = encoder.static_batch().unwrap_or(options.batch_size);
    let mut data = Vec::new();
    let mut labels = Vec::with_capacity(dataset.len());
    let mut size_px = [0, 0];
    for batch in load_eval_batches(Arc::clone(dataset), options.transform, batch_size, options.workers)? {
        let batch = batch?;
        let output = encoder.run(&batch.data, [batch.indices.len(), batch.height, batch.width])?;
        let rows = match options.representation {
            Representation::Features => output.features,
            Representation::Embedding => output.embedding,
        };
        data.extend(rows);
        labels.extend(batch.labels);
        size_px = [batch.height, batch.width];
        progress(labels.len());
    }
    let width = data.len().checked_div(labels.len()).unwrap_or(0);
    let rows = Array2::from_shape_vec((labels.len(), width), data).expect("every image has a row of one width");
    Ok(Features { rows, labels, size_px })
}

impl Features {
    /// The labels, as class indices of `classes`.
    ///
    /// # Errors
    /// An image without a label, and a class that `classes` does not have.
    pub fn labels_among(&self, dataset: &Dataset, classes: &[String]) -> Result<Vec<usize>, EvalError> {
        let labels = self.labels.iter().enumerate().map(|(index, label)| {
            let label = label.ok_or_else(|| EvalError::Unlabelled { name: dataset.name(index) })?;
            let class = &dataset.class_names()[label];
            classes.binary_search(class).map_err(|_| {
                let known = classes.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
                EvalError::UnknownClass { class: class.clone(), known: if classes.len() > 5 { known + ", …" } else { known } }
            })
        });
        labels.collect()
    }
}
