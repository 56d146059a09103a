//! `swav-rt data synth`: writes a procedural data set.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;

use super::options::at_least_1;
use super::output::Output;
use crate::data::synth::{self, MOST_CLASSES, SynthConfig};

/// Writes a data set of textured shapes as JPEG files in class folders
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write, new or empty
    #[arg(long)]
    pub out: PathBuf,
    /// Number of images, spread evenly over the classes
    #[arg(long, value_parser = at_least_1())]
    pub images: usize,
    /// Number of classes
    #[arg(long, default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MOST_CLASSES as u64))]
    pub classes: usize,
    /// Side of an image, px
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(16..=1024))]
    pub size: usize,
    /// Another seed gives other images of the same classes: one for training, one for testing
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Runs the command.
///
/// # Errors
/// A folder that is not empty, impossible settings, and files that cannot be written.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let config = SynthConfig { images: args.images, classes: args.classes, size_px: args.size, seed: args.seed };
    let mut progress = output.progress("images", args.images);
    synth::write(&args.out, &config, |done| progress.set(done))?;
    drop(progress);
    let classes = args.classes.min(args.images);
    let value = serde_json::json!({ "out": args.out.to_string_lossy(), "images": args.images, "size_px": args.size, "classes": classes });
    output.result(&value, || format!("{}: {} images of {} px in {classes} classes", args.out.display(), args.images, args.size))?;
    Ok(())
}
