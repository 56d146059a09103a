//! `swav-rt embed`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use graphgen::weights::write_atomically;

use super::UsageError;
use super::classification::{features, open_encoder};
use super::options::{FeatureOptions, folder_exists};
use super::output::Output;
use crate::data::Dataset;
use crate::export::{npy, safetensors};
use crate::session::environment::environment;

/// Writes a row of features for every image, and a .json beside with the images' names and classes in the same order
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(crate) features: FeatureOptions,
    /// Folder of class folders, flat folder of images or .tar; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// File to write, ending in .npy or .safetensors
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Images and encoders that cannot be read, and files that cannot be written.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let extension = args.out.extension().unwrap_or_default().to_string_lossy().into_owned();
    if extension != "npy" && extension != "safetensors" {
        return Err(UsageError(format!("--out {}: expected a name ending in .npy or .safetensors", args.out.display())).into());
    }
    folder_exists("--out", &args.out)?;
    let dataset = Arc::new(Dataset::open(&args.data)?);
    let mut encoder = open_encoder(&environment()?, &args.features)?;
    let features = features(&mut encoder, &args.features, &dataset, "images", output)?;

    let bytes = if extension == "npy" {
        npy(&features.rows)
    } else {
        let name = args.features.output.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        safetensors(&name, &features.rows)
    };
    let classes = dataset.class_names();
    let names: Vec<String> = (0..dataset.len()).map(|index| dataset.name(index)).collect();
    let labels: Vec<Option<&String>> = features.labels.iter().map(|label| label.map(|label| &classes[label])).collect();
    let listing = serde_json::to_vec_pretty(&serde_json::json!({ "names": names, "classes": labels }))?;
    let beside = args.out.with_extension("json");
    write_atomically(&args.out, &bytes)?;
    if let Err(error) = write_atomically(&beside, &listing) {
        // Beside older names, the features would pass for those of other images. The error that led here is what matters.
        let _ = std::fs::remove_file(&args.out);
        return Err(error.into());
    }
    let (images, width) = features.rows.dim();
    let value = serde_json::json!({ "features": args.out.to_string_lossy(), "names": beside.to_string_lossy(), "shape": [images, width] });
    output.result(&value, || format!("{}: f32 [{images}, {width}], names in {}", args.out.display(), beside.display()))?;
    Ok(())
}
