//! `swav-rt eval knn`.

use serde_json::json;

use super::classification::{LabelledData, features, open_encoder, per_class_text, scores_json, write_details};
use super::options::{FeatureOptions, at_least_1, number};
use super::output::Output;
use crate::eval::knn::{Knn, Labelled, classify};
use crate::eval::{Bounds, Scores};
use crate::session::environment::environment;

/// Settings that are always printed, so that figures can be set beside published ones.
const STANDARD: [Knn; 4] =
    [Knn { k: 10, temperature: 0.07 }, Knn { k: 20, temperature: 0.07 }, Knn { k: 200, temperature: 0.07 }, Knn { k: 200, temperature: 0.1 }];

/// Classifies test images by their nearest training images in feature space; nothing is trained
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(crate) features: FeatureOptions,
    #[command(flatten)]
    pub(crate) data: LabelledData,
    /// Neighbours of the last line, whose classes are told apart
    #[arg(long, default_value_t = Knn::default().k, value_parser = at_least_1())]
    pub k: usize,
    /// Temperature of the last line
    #[arg(long, default_value_t = Knn::default().temperature, allow_negative_numbers = true, value_parser = number(Bounds::TEMPERATURE))]
    pub temperature: f64,
}

/// Runs the command.
///
/// # Errors
/// Unlabelled images, images and encoders that cannot be read.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let sets = args.data.open()?;
    let mut encoder = open_encoder(&environment()?, &args.features)?;
    let mut labelled = |dataset, what| -> anyhow::Result<Labelled> {
        let features = features(&mut encoder, &args.features, dataset, what, output)?;
        let labels = features.labels_among(dataset, &sets.classes)?;
        Ok(Labelled::new(features.rows, labels))
    };
    let bank = labelled(&sets.train, "training images")?;
    let test = labelled(&sets.test, "test images")?;

    let chosen = Knn { k: args.k, temperature: args.temperature };
    let mut settings: Vec<Knn> = STANDARD.into_iter().filter(|standard| *standard != chosen).collect();
    settings.push(chosen);
    let rankings = classify(&bank, &test, sets.classes.len(), &settings, args.features.inputs.thread_count())?;
    let scores: Vec<Scores> = rankings.iter().map(|rankings| Scores::new(rankings, test.labels(), &sets.classes)).collect();

    let mut lines = format!("{} test images among {} training images of {} classes\n", test.len(), bank.len(), sets.classes.len());
    let mut values = Vec::new();
    for (Knn { k, temperature }, scores) in settings.iter().zip(&scores) {
        let note = if *k > bank.len() { format!(", all {} training images", bank.len()) } else { String::new() };
        lines += &format!("kNN top-1 (k={k}, temperature {temperature}{note}): {:.2} %, top-5 {:.2} %\n", 100.0 * scores.top1(), 100.0 * scores.top5());
        values.push(json!({ "k": k, "temperature": temperature, "top1": scores.top1(), "top5": scores.top5() }));
    }
    let (last, last_rankings) = scores.last().zip(rankings.last()).expect("the chosen setting is there");
    let mut summary = scores_json(last);
    summary["k"] = json!(args.k);
    summary["temperature"] = json!(args.temperature);
    summary["train_images"] = json!(bank.len());
    summary["test_images"] = json!(test.len());
    summary["settings"] = json!(values);
    if let Some(folder) = &args.data.out {
        write_details(folder, last, last_rankings, &sets.test, &summary)?;
    }
    output.result(&summary, || lines + &per_class_text(last, 20))?;
    Ok(())
}
