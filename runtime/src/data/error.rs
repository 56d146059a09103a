//! What can go wrong between an image file and a batch.

use std::path::PathBuf;

/// An error of the data side.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A path that does not exist.
    #[error(
        "{path}: no such file or folder; expected a folder of class folders, a flat folder of images, a .tar or .parquet file, a folder of such shards or a .txt list of paths"
    )]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// No path at all.
    #[error("no data given: expected at least one folder, .tar or .parquet")]
    NoPaths,
    /// A file that is not an archive.
    #[error(
        "{path}: expected a folder, an uncompressed .tar, a .parquet or a .txt list of paths, got another kind of file; unpack it, or pass the folder it is in"
    )]
    NotADataset {
        /// The path as given.
        path: PathBuf,
    },
    /// A folder or archive without images.
    #[error("{path}: no images found; expected files ending in {extensions}, in class folders or directly inside", extensions = super::dataset::EXTENSIONS.join(", "))]
    Empty {
        /// The folder or archive.
        path: PathBuf,
    },
    /// Images beside class folders.
    #[error(
        "{path}: {flat} images lie directly in the folder and {nested} in folders inside it; move the first ones into class folders, or pass one of the folders"
    )]
    Mixed {
        /// The folder.
        path: PathBuf,
        /// Images directly in it.
        flat: usize,
        /// Images in its folders.
        nested: usize,
    },
    /// A file or folder that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An archive that cannot be read.
    #[error("{path}: cannot read the archive: {source}")]
    Tar {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A Parquet file that cannot be read or has no images.
    #[error("{path}: cannot read the Parquet file: {message}; files are read uncompressed or with Snappy")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An index that does not belong to its shards.
    #[error("{path}: {message}; write the shards again with `swav-rt data pack`, or remove the index to have the shards scanned")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A folder that leads back to one above it.
    #[error("{path}: the symbolic link leads back to a folder above it; remove the link")]
    LinkLoop {
        /// The link.
        path: PathBuf,
    },
    /// A pipe or device under an image's name.
    #[error("{path}: expected a regular file, got a pipe, socket or device; remove or rename it")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file or folder whose name is no text.
    #[error("{path}: expected a file name in UTF-8, got other bytes; rename it")]
    NotUnicode {
        /// The path.
        path: PathBuf,
    },
    /// Two images that would be one member.
    #[error("{name}: two of the data set's paths have an image of this name; pack them one by one")]
    NameTwice {
        /// Path inside the folders or archives.
        name: String,
    },
    /// A broken image that cannot be packed.
    #[error("{source}; repair or remove it, or leave broken images out with --leave-out-broken (`swav-rt data check` names all)")]
    PackBroken {
        /// What is wrong with it.
        source: Box<DataError>,
    },
    /// Bytes that are no image.
    #[error("cannot decode the image: {message}")]
    Decode {
        /// What the decoder said.
        message: String,
    },
    /// More pixels than allowed.
    #[error("{width}x{height} px are more than the limit of {limit} pixels; scale the image down")]
    TooManyPixels {
        /// Width, px.
        width: usize,
        /// Height, px.
        height: usize,
        /// Most pixels allowed.
        limit: usize,
    },
    /// An error in one image of a data set.
    #[error("image {name}: {source}")]
    Image {
        /// Path or archive member.
        name: String,
        /// What is wrong with it.
        source: Box<DataError>,
    },
    /// Not even one batch.
    #[error("a batch of {batch_size} images cannot be filled from a data set of {images}; lower train.batch_size or add images")]
    BatchTooLarge {
        /// Images of a batch.
        batch_size: usize,
        /// Images of the data set.
        images: usize,
    },
    /// Parts of a batch that would not be of one size.
    #[error("a batch of {batch_size} images cannot be cut into {micro_batches} equal micro-batches; let train.accumulate divide train.batch_size")]
    UnequalMicroBatches {
        /// Images of a batch.
        batch_size: usize,
        /// Micro-batches of a batch.
        micro_batches: usize,
    },
    /// A batch without images.
    #[error("{setting}: expected at least 1, got 0")]
    Zero {
        /// What was 0.
        setting: &'static str,
    },
    /// More broken images than can be passed over.
    #[error(
        "epoch {epoch}: {broken} broken images, more than {percent} % of the {images} images of an epoch; repair or remove them (`swav-rt data check` names all), or raise data.max_broken_share. The first: {names}",
        names = names.join(", ")
    )]
    TooManyBroken {
        /// Epoch, from 0.
        epoch: usize,
        /// Broken images so far.
        broken: usize,
        /// Share of an epoch that is allowed, %.
        percent: f64,
        /// Images of an epoch.
        images: usize,
        /// The first broken ones, each with what is wrong.
        names: Vec<String>,
    },
    /// No readable image to put in a broken one's place.
    #[error("no substitute found for a broken image in {tries} tries; the last: {last}")]
    NoSubstitute {
        /// Images tried.
        tries: usize,
        /// What was wrong with the last.
        last: Box<DataError>,
    },
    /// A transform that cannot work.
    #[error("the evaluation crop of {crop_px} px does not fit into images resized to {resize_px} px; expected crop ≤ resize, both at least 1")]
    EvalCrop {
        /// Side of the crop, px.
        crop_px: usize,
        /// Shorter side after resizing, px.
        resize_px: usize,
    },
    /// Small images, used as they are, of different sizes.
    #[error(
        "image {name} has {got_width}x{got_height} px, the first one {width}x{height} px; images used as they are must have one size: set a resize and a crop size"
    )]
    EvalSizes {
        /// Path or archive member.
        name: String,
        /// Width, px.
        got_width: usize,
        /// Height, px.
        got_height: usize,
        /// Width of the first image, px.
        width: usize,
        /// Height of the first image, px.
        height: usize,
    },
    /// A worker thread that could not be started.
    #[error("cannot start a loader thread: {0}; lower the number of workers")]
    Spawn(std::io::Error),
    /// A worker thread that panicked.
    #[error("a loader thread panicked; its message is above. This is a bug")]
    WorkerPanicked,
    /// A stream that has given an error before.
    #[error("the stream of batches ended with the error before; start a new one")]
    StreamEnded,
    /// An output folder with something in it.
    #[error("{path}: the folder is not empty; choose a new one or remove its contents")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// More classes than there are combinations.
    #[error("synthetic data: expected 1 to {most} classes, got {classes}")]
    SynthClasses {
        /// Classes asked for.
        classes: usize,
        /// Classes there are.
        most: usize,
    },
    /// A size at which the textures cannot be told apart.
    #[error("synthetic data: expected a size of 16 to 1024 px, got {size_px}")]
    SynthSize {
        /// Side asked for, px.
        size_px: usize,
    },
    /// An image that cannot be written as JPEG.
    #[error("{path}: cannot write the JPEG: {message}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        message: String,
    },
}
