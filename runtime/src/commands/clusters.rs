//! `swav-rt clusters`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use graphgen::artifacts::{self, EncoderOptions};
use graphgen::weights::write_atomically;
use ndarray::Array2;
use serde_json::json;

use super::UsageError;
use super::options::{InputOptions, number};
use super::output::Output;
use crate::clusters::{Clusters, GalleryOptions, Placing, csv, json, neighbours, place, write_gallery};
use crate::data::{Dataset, check_new_folder, fill_new_folder};
use crate::eval::{Bounds, Representation, extract};
use crate::export::newest_checkpoint;
use crate::session::environment::environment;
use crate::session::{Encoder, SessionOptions};

/// Sorts images by prototype: clusters.csv, clusters.json and a gallery for the browser, index.html
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run directory, whose newest checkpoint gives encoder and prototypes
    #[arg(long, value_name = "RUN")]
    pub run: PathBuf,
    /// Folder of class folders, flat folder of images or .tar; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Folder to write, empty or absent
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Use a random subset of this many images; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub limit: usize,
    /// Seed of the subset
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Which head of prototypes, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub head: usize,
    /// Nearest images that the gallery shows beside an image, by their embeddings; 0 for none
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub neighbours: usize,
    /// Side of the gallery's thumbnails, px
    #[arg(long, value_name = "PX", default_value_t = 96, value_parser = clap::value_parser!(u16).range(16..=512))]
    pub thumbnail: u16,
    /// Cosine similarity from which two prototypes count as nearly the same
    #[arg(long, value_name = "COSINE", default_value_t = 0.95, allow_negative_numbers = true, value_parser = number(Bounds::COSINE))]
    pub duplicates: f64,
    /// Also put the images into DIR/images/cluster-NNNN
    #[arg(long, value_enum, value_name = "link|copy")]
    pub files: Option<Placing>,
    /// No gallery, only tables
    #[arg(long)]
    pub no_gallery: bool,
    #[command(flatten)]
    pub(crate) inputs: InputOptions,
}

/// Runs the command.
///
/// # Errors
/// A run without checkpoints, images that cannot be read, and files that cannot be written.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let out = &args.out;
    check_new_folder(out)?;
    let checkpoint = newest_checkpoint(&args.run)?;
    let preset = &checkpoint.progress.preset;
    let heads = preset.model.nmb_prototypes.parameter_names();
    let Some(head) = heads.get(args.head) else {
        return Err(UsageError(format!("--head {}: the run has {} heads of prototypes, counted from 0", args.head, heads.len())).into());
    };
    let prototypes = checkpoint.weights.get(head).with_context(|| format!("the checkpoint has no {head}"))?;
    let [count, width] = prototypes.shape[..] else { anyhow::bail!("{head}: expected shape [K, D], got {:?}", prototypes.shape) };
    let prototypes = Array2::from_shape_vec((count, width), prototypes.data.clone()).context("prototypes")?;

    let dataset = Arc::new(Dataset::open(&args.data)?.subset(args.limit, args.seed));
    let environment = environment()?;
    let model = artifacts::encoder(preset, &checkpoint.weights, &EncoderOptions::default())?;
    let mut encoder = Encoder::from_bytes(&environment, &model, &SessionOptions { threads: args.inputs.threads, ..SessionOptions::default() })?;
    let extraction = args.inputs.extraction(&encoder, Representation::Embedding)?;
    let mut progress = output.progress("images", dataset.len());
    let embeddings = extract(&mut encoder, &dataset, &extraction, |done| progress.set(done))?.rows;
    drop((progress, encoder));

    let threads = args.inputs.thread_count();
    let clusters = Clusters::assign(embeddings.view(), &prototypes, args.duplicates as f32, threads)?;
    fill_new_folder(out, || {
        write_atomically(&out.join("clusters.csv"), csv(&clusters, &dataset).as_bytes())?;
        write_atomically(&out.join("clusters.json"), &serde_json::to_vec_pretty(&json(&clusters, &dataset))?)?;
        if !args.no_gallery {
            let near = match args.neighbours {
                0 => Vec::new(),
                count => {
                    let mut progress = output.progress("images compared", dataset.len());
                    neighbours(embeddings.view(), count, threads, |done| progress.set(done))
                }
            };
            let name = std::path::absolute(&args.run).ok().and_then(|run| Some(run.file_name()?.to_string_lossy().into_owned()));
            let title = format!("{}, after {} steps", name.unwrap_or_else(|| "run".into()), checkpoint.progress.step);
            let options = GalleryOptions { title, thumbnail_px: args.thumbnail.into(), workers: args.inputs.workers };
            let mut progress = output.progress("thumbnails", dataset.len());
            write_gallery(out, &dataset, &clusters, &near, &options, |done| progress.set(done))?;
        }
        if let Some(placing) = args.files {
            let mut progress = output.progress("images placed", dataset.len());
            place(&out.join("images"), &clusters, &dataset, placing, |done| progress.set(done))?;
        }
        anyhow::Ok(())
    })?;

    let empty = clusters.empty().count();
    let sizes = (0..clusters.len()).map(|cluster| clusters.images(cluster).len());
    let (largest, size) = sizes.enumerate().max_by_key(|&(cluster, size)| (size, std::cmp::Reverse(cluster))).unwrap_or_default();
    let pairs = clusters.duplicates.len();
    let value = json!({
        "out": out.to_string_lossy(), "images": dataset.len(), "prototypes": clusters.len(), "empty": empty, "near_duplicate_pairs": pairs,
        "largest": { "cluster": largest, "images": size },
    });
    output.result(&value, || {
        let page = if args.no_gallery { "clusters.csv" } else { "index.html" };
        format!(
            "{} images, {} prototypes: {empty} empty, {pairs} pairs nearly the same (cosine from {}); the largest, {largest}, has {size} images\n{}",
            dataset.len(),
            clusters.len(),
            args.duplicates,
            out.join(page).display()
        )
    })?;
    Ok(())
}
