//! `swav-rt eval knn`.

use std::path::PathBuf;
use std::sync::Arc;

use ort::environment::Environment;

use super::options::{FeatureOptions, image_bar};
use crate::data::Dataset;
use crate::eval::knn::{Knn, Labelled, top1};
use crate::eval::{EvalError, extract};
use crate::session::environment::environment;
use crate::session::{Encoder, SessionOptions};

/// Settings that are always printed, so that figures can be set beside published ones.
const STANDARD: [Knn; 4] =
    [Knn { k: 10, temperature: 0.07 }, Knn { k: 20, temperature: 0.07 }, Knn { k: 200, temperature: 0.07 }, Knn { k: 200, temperature: 0.1 }];

/// Classifies test images by their nearest training images in feature space; nothing is trained
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(crate) features: FeatureOptions,
    /// Labelled images to look among: folder of class folders or .tar; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub train: Vec<PathBuf>,
    /// Labelled images to classify; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub test: Vec<PathBuf>,
    /// Neighbours of the last line
    #[arg(long, default_value_t = Knn::default().k)]
    pub k: usize,
    /// Temperature of the last line
    #[arg(long, default_value_t = Knn::default().temperature)]
    pub temperature: f64,
    /// Use a random subset of this many training images; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub bank: usize,
    /// Classify a random subset of this many test images; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub limit: usize,
    /// Seed of the random subsets
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Runs the command.
///
/// # Errors
/// Unlabelled images, images and encoders that cannot be read.
pub fn run(args: Args) -> anyhow::Result<()> {
    let bank = Arc::new(Dataset::open(&args.train)?.subset(args.bank, args.seed));
    let test = Arc::new(Dataset::open(&args.test)?.subset(args.limit, args.seed));
    // Before minutes of work: a flat folder cannot be evaluated.
    for dataset in [&bank, &test] {
        if let Some(index) = (0..dataset.len()).find(|&index| dataset.label(index).is_none()) {
            return Err(EvalError::Unlabelled { name: dataset.name(index) }.into());
        }
    }
    let environment = environment()?;
    let classes = bank.class_names().to_vec();
    let features = [(&bank, "training"), (&test, "test")].map(|(dataset, name)| labelled(&environment, &args.features, dataset, &classes, name));
    let [bank, test] = features;
    let (bank, test) = (bank?, test?);

    let chosen = Knn { k: args.k, temperature: args.temperature };
    let mut settings: Vec<Knn> = STANDARD.into_iter().filter(|standard| *standard != chosen).collect();
    settings.push(chosen);
    let threads = match args.features.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let accuracies = top1(&bank, &test, classes.len(), &settings, threads)?;
    println!("{} test images among {} training images of {} classes", test.len(), bank.len(), classes.len());
    for (Knn { k, temperature }, accuracy) in settings.iter().zip(accuracies) {
        let note = if *k > bank.len() { format!(", all {} training images", bank.len()) } else { String::new() };
        println!("kNN top-1 (k={k}, temperature {temperature}{note}): {:.2} %", 100.0 * accuracy);
    }
    Ok(())
}

fn labelled(environment: &Environment, options: &FeatureOptions, dataset: &Arc<Dataset>, classes: &[String], name: &str) -> anyhow::Result<Labelled> {
    tracing::info!("features of {} {name} images", dataset.len());
    let session = SessionOptions { threads: options.threads, operators: None, ..SessionOptions::default() };
    let mut encoder = Encoder::open(environment, &options.encoder, &session)?;
    let extraction = options.extraction(&encoder)?;
    let bar = image_bar(dataset.len());
    let features = extract(&mut encoder, dataset, &extraction, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let labels = features.labels_among(dataset, classes)?;
    Ok(Labelled::new(features.rows, labels))
}
