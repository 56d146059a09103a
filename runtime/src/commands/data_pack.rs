//! `swav-rt data pack`: writes a data set as tar shards with an index.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;

use super::options::threads;
use super::output::Output;
use crate::data::pack::{PackOptions, Reencode, pack};
use crate::data::{Dataset, DecodeOptions};

/// Writes all images into tar shards with an index, byte by byte or scaled down
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of class folders, flat folder, .tar, folder of .tar shards or .txt list of paths; may be given several times
    #[arg(long, required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Folder to write, new or empty
    #[arg(long)]
    pub out: PathBuf,
    /// Begin a new shard after this many megabytes
    #[arg(long, value_name = "MB", default_value_t = 1000)]
    pub shard_megabytes: u64,
    /// Scale images down to this longer side and write them as JPEG, px; smaller JPEGs keep their bytes
    #[arg(long, value_name = "PX", value_parser = RangedU64ValueParser::<usize>::new().range(16..=65_535))]
    pub max_side: Option<usize>,
    /// Quality of those JPEGs, 1 to 100
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100), requires = "max_side")]
    pub quality: u8,
    /// Turn images as their EXIF orientation says before they are written
    #[arg(long, requires = "max_side")]
    pub exif_orientation: bool,
    /// Leave broken images out and name them instead of stopping
    #[arg(long)]
    pub leave_out_broken: bool,
    /// Threads; 0 for one per core
    #[arg(long, value_parser = threads(), default_value_t = 0)]
    pub threads: usize,
}

/// Runs the command.
///
/// # Errors
/// A data set that cannot be opened, broken images, and files that cannot be written.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let dataset = Dataset::open(&args.data)?;
    let decode = DecodeOptions { exif_orientation: args.exif_orientation, ..DecodeOptions::default() };
    let options = PackOptions {
        shard_bytes: args.shard_megabytes.saturating_mul(1_000_000),
        reencode: args.max_side.map(|max_side_px| Reencode { max_side_px, quality: args.quality, decode }),
        leave_out_broken: args.leave_out_broken,
        workers: args.threads,
    };
    let mut progress = output.progress("images", dataset.len());
    let packed = pack(&dataset, &args.out, &options, |done| progress.set(done))?;
    drop(progress);
    for image in &packed.left_out {
        tracing::warn!("left out: {image}");
    }
    let value = serde_json::json!({
        "out": args.out.to_string_lossy(), "images": packed.images, "shards": packed.shards, "bytes": packed.bytes, "left_out": packed.left_out,
    });
    output.result(&value, || {
        let (images, shards, left_out) = (packed.images, packed.shards, packed.left_out.len());
        format!("{}: {images} images in {shards} shards, {:.1} MB, {left_out} left out", args.out.display(), packed.bytes as f64 / 1e6)
    })?;
    Ok(())
}
