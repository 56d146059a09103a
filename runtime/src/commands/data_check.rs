//! `swav-rt data check`: names what would go wrong in training.

use std::path::PathBuf;

use serde_json::json;

use super::options::threads;
use super::output::Output;
use crate::data::check::{CheckOptions, SIDE_CLASSES_PX, check};
use crate::data::{Dataset, DecodeOptions};

/// Reads and decodes every image and names the bad ones; exit status 1 if any is broken
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of class folders, flat folder, .tar, folder of .tar shards or .txt list of paths; may be given several times
    #[arg(long, required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Name images with a shorter side below this, px
    #[arg(long, value_name = "PX", default_value_t = 32)]
    pub min_side: usize,
    /// Most pixels an image may have
    #[arg(long, value_name = "PIXELS", default_value_t = DecodeOptions::default().pixel_limit)]
    pub pixel_limit: usize,
    /// Threads; 0 for one per core
    #[arg(long, value_parser = threads(), default_value_t = 0)]
    pub threads: usize,
}

/// Runs the command.
///
/// # Errors
/// A data set that cannot be opened, and one with broken images.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let (dataset, problems) = Dataset::open_with_problems(&args.data)?;
    let decode = DecodeOptions { pixel_limit: args.pixel_limit, ..DecodeOptions::default() };
    let mut progress = output.progress("images", dataset.len());
    let report = check(&dataset, &CheckOptions { min_side_px: args.min_side, workers: args.threads, decode }, |done| progress.set(done))?;
    drop(progress);
    let broken = problems.len() + report.broken.len();

    let problems: Vec<String> = problems.iter().map(ToString::to_string).chain(report.broken.iter().cloned()).collect();
    let mut text = String::new();
    for problem in &problems {
        text += &format!("broken: {problem}\n");
    }
    for (name, width, height) in &report.small {
        text += &format!("small: {name}: {width}x{height} px\n");
    }
    for (name, format) in &report.misnamed {
        text += &format!("misnamed: {name}: the bytes are {format}\n");
    }
    for group in &report.duplicates {
        text += &format!("duplicates: {}\n", group.join(", "));
    }
    text += "shorter side, px\n";
    let mut sides = Vec::new();
    for (number, (least, count)) in SIDE_CLASSES_PX.iter().zip(report.sides).enumerate() {
        let most = SIDE_CLASSES_PX.get(number + 1).map_or_else(|| "more".into(), |next| format!("{}", next - 1));
        text += &format!("{least:>6} to {most:<6} {count:>10}\n");
        sides.push(json!({ "from_px": least, "images": count }));
    }
    text += &format!(
        "{} images, {:.1} MB, {} classes: {broken} broken, {} small, {} misnamed, {} copies of others",
        report.images,
        report.bytes as f64 / 1e6,
        dataset.class_names().len(),
        report.small.len(),
        report.misnamed.len(),
        report.duplicates.iter().map(|group| group.len() - 1).sum::<usize>()
    );
    let value = json!({
        "images": report.images, "bytes": report.bytes, "classes": dataset.class_names().len(), "broken": problems, "small": report.small,
        "misnamed": report.misnamed, "duplicates": report.duplicates, "short_sides": sides,
    });
    output.result(&value, || text)?;
    anyhow::ensure!(broken == 0, "{broken} of {} images are broken; their names stand above", report.images);
    Ok(())
}
