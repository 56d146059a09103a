//! `swav-rt bench step`: how long a training step takes, without a loader.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use graphgen::artifacts;
use graphgen::preset::Provider;
use graphgen::weights::load_safetensors;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::UsageError;
use super::options::with_provider;
use super::output::Output;
use crate::kernels::KernelSet;
use crate::session::EngineKind;
use crate::train::engines;

/// Steps before the measurement: the first ones allocate.
const WARM_UP: usize = 2;

/// Measures a training step on random crops
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Preset of the step
    #[arg(long, value_name = "FILE")]
    pub preset: PathBuf,
    /// Overrides a setting of the preset; may be given several times
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Steps to measure
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub steps: usize,
    /// Threads of one operator; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Native kernels, or the functions' bodies in standard operators
    #[arg(long, value_enum, default_value_t = KernelSet::Native)]
    pub kernels: KernelSet,
    /// What runs the graphs
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineKind,
    /// Where the graphs run [default: the preset's train.provider]
    #[arg(long, value_enum)]
    pub provider: Option<Provider>,
}

/// Runs the command.
///
/// # Errors
/// A preset that cannot be read, and whatever the engine reports.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    if args.steps == 0 {
        return Err(UsageError("--steps: expected at least 1, got 0".into()).into());
    }
    let preset = with_provider(&args.preset, &args.set, args.provider)?;
    let environment = args.engine.library().environment()?;
    let directory = tempfile::tempdir().context("creating a temporary directory for the graphs")?;
    let began = Instant::now();
    // Not the directory itself, which exists already.
    let graphs = directory.path().join("graphs");
    let manifest = artifacts::export(&preset, &graphs)?;
    let exported = began.elapsed();
    let mut engine = engines::open(args.engine, &environment, &graphs, manifest, args.threads, args.kernels)?;
    engine.load_weights(&load_safetensors(&graphs.join(artifacts::INIT_FILE))?)?;
    let loaded = began.elapsed() - exported;

    let batch = preset.train.batch_size;
    let mut random = ChaCha8Rng::seed_from_u64(preset.train.seed);
    let crops: Vec<Vec<u8>> = preset.crops.groups().iter().map(|group| vec![0; group.count * batch * 3 * group.size_px * group.size_px]).collect();
    let crops: Vec<Vec<u8>> = crops
        .into_iter()
        .map(|mut bytes| {
            random.fill_bytes(&mut bytes);
            bytes
        })
        .collect();
    let crops: Vec<&[u8]> = crops.iter().map(Vec::as_slice).collect();

    let mut times = Vec::new();
    for step in 0..WARM_UP + args.steps {
        let began = Instant::now();
        engine.forward_backward(&crops)?;
        let forward_backward = began.elapsed();
        engine.update(preset.optim.base_lr as f32, true)?;
        if step >= WARM_UP {
            times.push((began.elapsed(), forward_backward));
        }
    }
    times.sort_unstable();
    let (total, forward_backward) = times[times.len() / 2];
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let images_per_sec = batch as f64 / total.as_secs_f64();
    let value = serde_json::json!({
        "batch": batch, "export_secs": exported.as_secs_f64(), "load_secs": loaded.as_secs_f64(), "forward_backward_ms": milliseconds(forward_backward),
        "optimizer_ms": milliseconds(total - forward_backward), "images_per_sec": images_per_sec, "ms_per_step": milliseconds(total),
    });
    output.result(&value, || {
        format!(
            "batch {batch}, graphs written in {:.1} s, loaded in {:.1} s\nforward and backward {:.1} ms, optimizer {:.1} ms\n\
             fastest {:.1} ms, slowest {:.1} ms of {} steps\n{images_per_sec:.1} images/s\n{:.1} ms/step",
            exported.as_secs_f64(),
            loaded.as_secs_f64(),
            milliseconds(forward_backward),
            milliseconds(total - forward_backward),
            milliseconds(times[0].0),
            milliseconds(times[times.len() - 1].0),
            args.steps,
            milliseconds(total)
        )
    })?;
    Ok(())
}
