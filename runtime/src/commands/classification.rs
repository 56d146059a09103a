//! What the evaluations share: labelled images in, scores out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use graphgen::weights::write_atomically;
use ort::environment::Environment;
use serde_json::json;

use super::options::FeatureOptions;
use super::output::Output;
use crate::data::{Dataset, check_new_folder};
use crate::eval::{EvalError, Extraction, Features, Rankings, Scores, confusion_csv, confusion_png, csv_field, extract, per_class_csv};
use crate::session::{Encoder, SessionOptions};

/// The file by which a folder is known to hold an evaluation.
const SCORES: &str = "scores.json";

/// Labelled images, and where the details go.
#[derive(Debug, clap::Args)]
pub struct LabelledData {
    /// Labelled images to learn from: folder of class folders or .tar; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub train: Vec<PathBuf>,
    /// Labelled images to classify; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub test: Vec<PathBuf>,
    /// Use a random subset of this many training images; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub bank: usize,
    /// Classify a random subset of this many test images; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub limit: usize,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder for scores.json, per-class.csv, predictions.csv, confusion.csv and confusion.png: new, empty, or an earlier evaluation's
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Training and test images, all with labels.
pub(crate) struct LabelledSets {
    pub(crate) train: Arc<Dataset>,
    pub(crate) test: Arc<Dataset>,
    /// Classes of the training images.
    pub(crate) classes: Vec<String>,
}

impl LabelledData {
    /// Opens both sets; a flat folder and an `--out` with files of others are found out before minutes of work.
    pub(crate) fn open(&self) -> anyhow::Result<LabelledSets> {
        self.open_choosing(Ok)
    }

    /// As [`open`](Self::open), with those of the training images that `choose` keeps.
    pub(crate) fn open_choosing(&self, choose: impl FnOnce(Dataset) -> anyhow::Result<Dataset>) -> anyhow::Result<LabelledSets> {
        // An earlier evaluation is replaced, other files are not mixed with ours.
        if let Some(out) = self.out.as_ref().filter(|out| !out.join(SCORES).is_file()) {
            check_new_folder(out).context("--out")?;
        }
        let train = Arc::new(choose(Dataset::open(&self.train)?.subset(self.bank, self.seed))?);
        let test = Arc::new(Dataset::open(&self.test)?.subset(self.limit, self.seed));
        for dataset in [&train, &test] {
            if let Some(index) = (0..dataset.len()).find(|&index| dataset.label(index).is_none()) {
                return Err(EvalError::Unlabelled { name: dataset.name(index) }.into());
            }
        }
        let classes = train.class_names().to_vec();
        Ok(LabelledSets { train, test, classes })
    }
}

/// An encoder with the command's options.
pub(crate) fn open_encoder(environment: &Environment, options: &FeatureOptions) -> anyhow::Result<Encoder> {
    let session = SessionOptions { threads: options.inputs.threads, ..SessionOptions::default() };
    Ok(Encoder::open(environment, &options.encoder, &session)?)
}

/// Features of a data set, with progress.
pub(crate) fn features(encoder: &mut Encoder, options: &FeatureOptions, dataset: &Arc<Dataset>, what: &str, output: &Output) -> anyhow::Result<Features> {
    let extraction = options.extraction(encoder)?;
    extracted(encoder, &extraction, dataset, what, output)
}

/// As [`features`], with resolved options.
pub(crate) fn extracted(encoder: &mut Encoder, extraction: &Extraction, dataset: &Arc<Dataset>, what: &str, output: &Output) -> anyhow::Result<Features> {
    let mut progress = output.progress(what, dataset.len());
    Ok(extract(encoder, dataset, extraction, |done| progress.set(done))?)
}

/// Writes the files of `--out`.
pub(crate) fn write_details(folder: &Path, scores: &Scores, rankings: &Rankings, test: &Dataset, summary: &serde_json::Value) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut predictions = String::from("image,class,predicted\n");
    for (index, ranking) in rankings.iter().enumerate() {
        let truth = test.label(index).map_or("", |label| &test.class_names()[label]);
        predictions += &format!("{},{},{}\n", csv_field(&test.name(index)), csv_field(truth), csv_field(&scores.classes[ranking[0]]));
    }
    let files = [
        (SCORES, serde_json::to_vec_pretty(summary)?),
        ("per-class.csv", per_class_csv(scores).into_bytes()),
        ("predictions.csv", predictions.into_bytes()),
        ("confusion.csv", confusion_csv(scores).into_bytes()),
        ("confusion.png", confusion_png(scores)),
    ];
    for (name, bytes) in files {
        write_atomically(&folder.join(name), &bytes)?;
    }
    Ok(())
}

/// Accuracies as JSON, shares from 0 to 1.
pub(crate) fn scores_json(scores: &Scores) -> serde_json::Value {
    let classes = scores.classes.iter().enumerate().map(|(index, name)| {
        let class = scores.class(index);
        json!({ "class": name, "images": class.images, "top1": class.top1, "top5": class.top5 })
    });
    json!({ "top1": scores.top1(), "top5": scores.top5(), "mean_class_top1": scores.mean_class_top1(), "classes": classes.collect::<Vec<_>>() })
}

/// The accuracy of each class, worst first, at most `most` of them, as lines of text.
pub(crate) fn per_class_text(scores: &Scores, most: usize) -> String {
    let mut classes: Vec<(f64, usize)> = (0..scores.classes.len()).filter_map(|class| Some((scores.class(class).top1?, class))).collect();
    classes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let width = classes.iter().take(most).map(|&(_, class)| scores.classes[class].chars().count()).max().unwrap_or(0);
    let mut text = if classes.len() > most { format!("the {most} hardest of {} classes\n", classes.len()) } else { String::new() };
    for &(top1, class) in classes.iter().take(most) {
        let row = scores.confusion.row(class);
        let mistaken =
            row.iter().enumerate().filter(|&(other, &count)| other != class && count > 0).max_by_key(|&(other, &count)| (count, std::cmp::Reverse(other)));
        let note = mistaken.map_or(String::new(), |(other, count)| format!("   taken for {} {count} times of {}", scores.classes[other], row.sum()));
        text += &format!("  {:<width$} {:>6.2} %{note}\n", scores.classes[class], 100.0 * top1);
    }
    text
}
