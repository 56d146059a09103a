//! From image files to multi-crop batches: data sets, decoding, augmentation, the threaded loader and evaluation batches.
//!
//! Everything random is a pure function of `(seed, epoch, index)`: the batches do not depend on the number of threads,
//! and a stream that starts at `(epoch, batch)` gives what an uninterrupted one would give from there.

pub mod augment;
mod batch;
mod broken;
pub mod check;
mod dataset;
mod decode;
mod each;
mod error;
mod eval_batches;
mod eval_transform;
mod image_folder;
#[cfg(target_arch = "x86_64")]
mod jpeg;
mod loader;
mod multi_crop;
mod new_folder;
mod orientation;
pub mod pack;
mod parquet;
mod path_list;
mod random;
mod ring;
mod schedule;
mod shard_index;
mod stages;
pub mod synth;
mod tar;
mod worker;

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod dataset_tests;
#[cfg(test)]
mod eval_tests;
#[cfg(test)]
mod loader_tests;
#[cfg(test)]
mod pack_tests;
#[cfg(test)]
mod parquet_tests;

pub use batch::Batch;
pub use broken::BrokenPolicy;
pub use dataset::Dataset;
pub use decode::{DEFAULT_PIXEL_LIMIT, DecodeOptions, Decoder, RgbImage, decode_rgb};
pub(crate) use each::for_each_image;
pub use error::DataError;
pub use eval_batches::{EvalBatch, EvalBatches, load_eval_batches};
pub use eval_transform::{EvalImage, EvalTransform};
pub use loader::{BatchStream, Loader, LoaderConfig};
pub use multi_crop::{CropPlan, Jitter, MultiCrop, Scratch};
pub use new_folder::{check_new_folder, fill_new_folder};
pub use random::{Purpose, Random};
pub use stages::StageTimes;
