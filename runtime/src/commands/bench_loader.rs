//! `swav-rt bench loader`: how fast batches come, and where the time goes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use graphgen::preset::Preset;
use multiversion::multiversion;

use super::options::threads;
use super::output::Output;
use crate::data::{BrokenPolicy, Dataset, DecodeOptions, Loader, LoaderConfig, StageTimes};

/// What the measured batches are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Bytes, as the training graphs take them
    U8,
    /// Normalised single precision, as other trainers take it; made by the thread that takes the batches
    F32,
}

/// Measures the loader: milliseconds of each stage and images a second
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of class folders, flat folder of images, .tar, .parquet or folder of such shards; may be given several times
    #[arg(long, required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Preset whose crops are made; without one 2x224 + 6x96
    #[arg(long)]
    pub preset: Option<PathBuf>,
    /// Overrides a setting of the preset
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Loader threads; 0 for one per core
    #[arg(long, value_parser = threads(), default_value_t = 0)]
    pub threads: usize,
    /// What batches are made of
    #[arg(long, value_enum, default_value_t = Format::U8)]
    pub output: Format,
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
    let (seed, workers) = (preset.train.seed, args.threads);
    let config = LoaderConfig { crops: preset.crops, batch_size, micro_batches: 1, seed, workers, batches_ahead: 2, batches_held: 1, decode, broken };
    let groups = config.crops.groups();
    let crops = config.crops.size_crops.iter().zip(&config.crops.nmb_crops).map(|(size, count)| format!("{count}x{size}"));
    let crops = crops.collect::<Vec<_>>().join(" + ");
    let mut stream = Loader::new(dataset, config)?.stream(0, 0);

    // The first batch finds threads without memory and, perhaps, files that are not in the cache.
    stream.next().context("first batch")?;
    let mut times = StageTimes::default();
    let mut substitutes = 0;
    let mut normalised = Vec::new();
    let mut normalise_time = Duration::ZERO;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs_f64(args.seconds) {
        let batch = stream.next()?;
        times += batch.stage_times();
        substitutes += batch.substitutes();
        if args.output == Format::F32 {
            let start = Instant::now();
            for (number, group) in groups.iter().enumerate() {
                normalise(batch.crops(number), group.size_px, &preset.data.mean, &preset.data.std, &mut normalised);
                std::hint::black_box(&normalised);
            }
            normalise_time += start.elapsed();
        }
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
    let normalise = (args.output == Format::F32).then_some(("normalise", normalise_time));
    let stages: Vec<(&str, f64)> = stages.into_iter().chain(normalise).map(|(name, time)| (name, time.as_secs_f64() * 1e3 / count)).collect();
    let encoded = times.encoded_bytes as f64 / count;
    let values: usize = groups.iter().map(|group| group.count * 3 * group.size_px * group.size_px).sum();
    let made = if args.output == Format::F32 { 4 * values } else { values };
    let value = serde_json::json!({
        "crops": crops, "batch": batch_size, "images": images, "substitutes": substitutes, "encoded_bytes_per_image": encoded,
        "made_bytes_per_image": made, "ms_per_image": stages.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
        "images_per_sec": count / elapsed,
    });
    output.result(&value, || {
        let stages: String = stages.iter().map(|(name, time)| format!("{name:<14} {time:>8.3} ms/image\n")).collect();
        format!(
            "crops {crops}, batch {batch_size}, data set of {images} images, {substitutes} substitutes\n{stages}{:<14} {encoded:>8.0} bytes/image\n\
             {:<14} {made:>8} bytes/image\n{:.1} images/s",
            "encoded",
            "made",
            count / elapsed
        )
    })?;
    Ok(())
}

/// Crops, u8 [.., 3, S, S], to (value / 255 − mean) / deviation, f32 of the same shape.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn normalise(crops: &[u8], size_px: usize, mean: &[f64; 3], deviation: &[f64; 3], normalised: &mut Vec<f32>) {
    if normalised.len() < crops.len() {
        normalised.resize(crops.len(), 0.0);
    }
    let plane = size_px * size_px;
    for (number, (from, to)) in crops.chunks_exact(plane).zip(normalised.chunks_exact_mut(plane)).enumerate() {
        let (scale, offset) = (1.0 / (255.0 * deviation[number % 3]), -mean[number % 3] / deviation[number % 3]);
        let (scale, offset) = (scale as f32, offset as f32);
        for (to, &from) in to.iter_mut().zip(from) {
            *to = f32::from(from) * scale + offset;
        }
    }
}
