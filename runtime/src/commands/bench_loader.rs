//! `swav-rt bench loader`: how fast batches come, and where the time goes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use graphgen::preset::Preset;

use super::output::Output;
use crate::data::{BrokenPolicy, Dataset, DecodeOptions, Loader, LoaderConfig, StageTimes};

/// Measures the loader: milliseconds of each stage and images a second
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of class folders, flat folder of images or .tar; may be given several times
    #[arg(long, required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Preset whose crops are made; without one 2x224 + 6x96
    #[arg(long)]
    pub preset: Option<PathBuf>,
    /// Overrides a setting of the preset
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Loader threads; 0 for one per core
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// How long to measure, s
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Images of a batch, at most as many as there are
    #[arg(long, default_value_t = 64)]
    pub batch_size: usize,
}

/// Runs the command.
///
/// # Errors
/// A preset or data set that cannot be read, and too many broken images.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let preset = match &args.preset {
        Some(path) => Preset::load(path, &args.set)?,
        None => Preset::from_toml("", &args.set)?,
    };
    anyhow::ensure!(args.seconds > 0.0 && args.seconds <= 86_400.0, "--seconds: expected more than 0 and at most a day, got {}", args.seconds);
    let dataset = Arc::new(Dataset::open(&args.data)?);
    let images = dataset.len();
    let batch_size = args.batch_size.min(images);
    let decode = DecodeOptions { exif_orientation: preset.data.exif_orientation, ..DecodeOptions::default() };
    let broken = BrokenPolicy { max_share: preset.data.max_broken_share, list: None };
    let config =
        LoaderConfig { crops: preset.crops, batch_size, micro_batches: 1, seed: preset.train.seed, workers: args.threads, batches_ahead: 2, decode, broken };
    let crops = config.crops.size_crops.iter().zip(&config.crops.nmb_crops).map(|(size, count)| format!("{count}x{size}"));
    let crops = crops.collect::<Vec<_>>().join(" + ");
    let mut stream = Loader::new(dataset, config)?.stream(0, 0);

    // The first batch finds threads without memory and, perhaps, files that are not in the cache.
    stream.next().context("first batch")?;
    let mut times = StageTimes::default();
    let mut substitutes = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs_f64(args.seconds) {
        let batch = stream.next()?;
        times += batch.stage_times();
        substitutes += batch.substitutes();
    }
    let elapsed = began.elapsed().as_secs_f64();

    let count = times.images as f64;
    let stages = [
        ("read", times.read),
        ("decode", times.decode),
        ("crop + resize", times.resize),
        ("jitter", times.jitter),
        ("blur", times.blur),
        ("other", times.other),
    ];
    let stages = stages.map(|(name, time)| (name, time.as_secs_f64() * 1e3 / count));
    let encoded = times.encoded_bytes as f64 / count;
    let value = serde_json::json!({
        "crops": crops, "batch": batch_size, "images": images, "substitutes": substitutes, "encoded_bytes_per_image": encoded,
        "ms_per_image": stages.iter().copied().collect::<std::collections::BTreeMap<_, _>>(), "images_per_sec": count / elapsed,
    });
    output.result(&value, || {
        let stages: String = stages.iter().map(|(name, time)| format!("{name:<14} {time:>8.3} ms/image\n")).collect();
        format!(
            "crops {crops}, batch {batch_size}, data set of {images} images, {substitutes} substitutes\n{stages}{:<14} {encoded:>8.0} bytes/image\n{:.1} images/s",
            "encoded",
            count / elapsed
        )
    });
    Ok(())
}
