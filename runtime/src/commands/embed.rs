//! `swav-rt embed`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use graphgen::weights::write_atomically;

use super::UsageError;
use super::options::{FeatureOptions, image_bar};
use crate::data::Dataset;
use crate::eval::extract;
use crate::export::{npy, safetensors};
use crate::session::environment::environment;
use crate::session::{Encoder, SessionOptions};

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
pub fn run(args: Args) -> anyhow::Result<()> {
    let extension = args.out.extension().unwrap_or_default().to_string_lossy().into_owned();
    if extension != "npy" && extension != "safetensors" {
        return Err(UsageError(format!("--out {}: expected a name ending in .npy or .safetensors", args.out.display())).into());
    }
    let dataset = Arc::new(Dataset::open(&args.data)?);
    let options = SessionOptions { threads: args.features.threads, operators: None, ..SessionOptions::default() };
    let mut encoder = Encoder::open(&environment()?, &args.features.encoder, &options)?;
    let extraction = args.features.extraction(&encoder)?;
    let bar = image_bar(dataset.len());
    let features = extract(&mut encoder, &dataset, &extraction, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();

    let bytes = if extension == "npy" {
        npy(&features.rows)
    } else {
        let name = extraction.representation.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        safetensors(&name, &features.rows)
    };
    let classes = dataset.class_names();
    let names: Vec<String> = (0..dataset.len()).map(|index| dataset.name(index)).collect();
    let labels: Vec<Option<&String>> = features.labels.iter().map(|label| label.map(|label| &classes[label])).collect();
    let listing = serde_json::to_vec_pretty(&serde_json::json!({ "names": names, "classes": labels }))?;
    let beside = args.out.with_extension("json");
    write_atomically(&beside, &listing)?;
    write_atomically(&args.out, &bytes)?;
    println!("{}: f32 [{}, {}], names in {}", args.out.display(), features.rows.nrows(), features.rows.ncols(), beside.display());
    Ok(())
}
