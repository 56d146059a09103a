//! `swav-rt bench step`: how long a training step takes, without a loader.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use graphgen::artifacts;
use graphgen::manifest::{GraphSpec, Manifest};
use graphgen::onnx::{inspect, read_model};
use graphgen::preset::{Preset, Provider};
use graphgen::weights::load_safetensors;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::UsageError;
use super::options::{at_least_1, threads, with_provider};
use super::output::Output;
use crate::kernels::{KernelSet, measured_peak};
use crate::machine::{peak_memory_bytes, thread_count};
use crate::session::{BatchCrops, ConvolutionShape, ConvolutionTime, Engine, EngineKind, FunctionTime, StepProfile, read_profiles};
use crate::train::{engines, open_profiled_engine};

/// Steps before the measurement: the first ones allocate.
const WARM_UP: usize = 2;
/// Steps that are profiled.
const PROFILED: usize = 3;
/// Functions that a profile lists.
const LISTED: usize = 10;

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
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_1())]
    pub steps: usize,
    /// Threads of one operator; 0 for one per core
    #[arg(long, value_parser = threads(), value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Native kernels, where the target is theirs, or the functions' bodies in standard operators
    #[arg(long, value_enum, default_value_t = KernelSet::Native)]
    pub kernels: KernelSet,
    /// What runs the graphs
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineKind,
    /// Where the graphs run [default: the preset's train.provider]
    #[arg(long, value_enum)]
    pub provider: Option<Provider>,
    /// Also how much is computed, which share of the processor's speed that is, the peak memory, and the ten dearest functions
    #[arg(long)]
    pub profile: bool,
    /// With --profile: also every shape of convolution, and sums of those with one kernel and stride; native kernels only
    #[arg(long, requires = "profile")]
    pub layers: bool,
}

/// Runs the command.
///
/// # Errors
/// A preset that cannot be read, and whatever the engine reports.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    if args.profile && args.engine != EngineKind::Stock {
        return Err(UsageError("--profile: only the stock engine can be profiled; leave --engine out".into()).into());
    }
    let preset = with_provider(&args.preset, &args.set, args.provider)?;
    engines::check(args.engine, &preset)?;
    let environment = args.engine.library().environment()?;
    let directory = tempfile::tempdir().context("creating a temporary directory for the graphs")?;
    let began = Instant::now();
    // Not the directory itself, which exists already.
    let graphs = directory.path().join("graphs");
    let manifest = artifacts::export(&preset, &graphs)?;
    let exported = began.elapsed();
    let mut engine = engines::open(args.engine, &environment, &graphs, manifest.clone(), args.threads, args.kernels)?;
    engine.load_weights(&load_safetensors(&graphs.join(artifacts::INIT_FILE))?)?;
    let loaded = began.elapsed() - exported;

    let crops = random_crops(&preset);
    let mut times = run_steps(&mut *engine, &preset, &crops, args.steps)?;
    times.sort_unstable();
    let (total, forward_backward) = times[times.len() / 2];
    let images_per_sec = preset.train.batch_size as f64 / total.as_secs_f64();
    drop(engine);

    let profile = if args.profile {
        let peak_memory = peak_memory_bytes();
        let profiles = directory.path().join("profiles");
        std::fs::create_dir(&profiles).context("creating a folder for the profiles")?;
        let mut engine = open_profiled_engine(&environment, &graphs, &manifest, args.threads, args.kernels, &profiles)?;
        engine.load_weights(&load_safetensors(&graphs.join(artifacts::INIT_FILE))?)?;
        run_steps(&mut engine, &preset, &crops, PROFILED)?;
        // The profiles are written when the sessions end.
        drop(engine);
        let threads = thread_count(args.threads);
        let StepProfile { functions, convolutions } = read_profiles(&profiles, WARM_UP, PROFILED)?;
        if args.layers && convolutions.is_empty() {
            let problem = "--layers: no convolution of this step is a kernel of its own; expected --kernels native and the target native";
            return Err(UsageError(problem.into()).into());
        }
        Some(Profile {
            flops: flops(&graphs, &manifest)?,
            step: total,
            threads,
            peak_flops: (manifest.preset.train.provider == Provider::Cpu).then(|| measured_peak(threads)),
            peak_memory,
            functions,
            convolutions: args.layers.then_some(convolutions),
        })
    } else {
        None
    };

    let mut value = serde_json::json!({
        "batch": preset.train.batch_size, "export_secs": exported.as_secs_f64(), "load_secs": loaded.as_secs_f64(),
        "forward_backward_ms": milliseconds(forward_backward), "optimizer_ms": milliseconds(total - forward_backward),
        "images_per_sec": images_per_sec, "ms_per_step": milliseconds(total),
    });
    if let Some(profile) = &profile {
        value["profile"] = profile.json();
    }
    output.result(&value, || {
        format!(
            "batch {}, graphs written in {:.1} s, loaded in {:.1} s\n{}forward and backward {:.1} ms, optimizer {:.1} ms\n\
             fastest {:.1} ms, slowest {:.1} ms of {} steps\n{images_per_sec:.1} images/s\n{:.1} ms/step",
            preset.train.batch_size,
            exported.as_secs_f64(),
            loaded.as_secs_f64(),
            profile.iter().map(Profile::text).collect::<String>(),
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

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Random pixels for each group of crops.
fn random_crops(preset: &Preset) -> Vec<Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(preset.train.seed);
    let bytes = preset.crops.groups().into_iter().map(|group| group.count * preset.train.batch_size * 3 * group.size_px * group.size_px);
    bytes
        .map(|bytes| {
            let mut crops = vec![0; bytes];
            random.fill_bytes(&mut crops);
            crops
        })
        .collect()
}

/// Times of whole steps and of their forward and backward passes, after a warm-up.
fn run_steps(engine: &mut dyn Engine, preset: &Preset, crops: &[Vec<u8>], steps: usize) -> anyhow::Result<Vec<(Duration, Duration)>> {
    let groups: Vec<&[u8]> = crops.iter().map(Vec::as_slice).collect();
    let batch = |number: usize| BatchCrops { groups: &groups, number: Some(number as u64) };
    let mut times = Vec::new();
    for step in 0..WARM_UP + steps {
        let began = Instant::now();
        // As in training, where a device gets the next batch meanwhile.
        engine.forward_backward_with_next(batch(step), Some(batch(step + 1)))?;
        let forward_backward = began.elapsed();
        engine.update(preset.optim.base_lr as f32, true)?;
        if step >= WARM_UP {
            times.push((began.elapsed(), forward_backward));
        }
    }
    Ok(times)
}

/// Floating-point operations of a step's convolutions and products.
fn flops(graphs: &Path, manifest: &Manifest) -> anyhow::Result<u64> {
    let of = |graph: &GraphSpec| {
        let file = graphs.join(&graph.file);
        let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        anyhow::Ok(inspect(&read_model(&bytes)?).cost.flops)
    };
    let micro_batches = manifest.preset.train.accumulate as u64;
    let accumulation = manifest
        .accumulation
        .as_ref()
        .map_or(Ok(0), |accumulation| anyhow::Ok(micro_batches * of(&accumulation.embed_step)? + of(&accumulation.assign_step)?))?;
    Ok(micro_batches * of(&manifest.train_step)? + accumulation + of(&manifest.optimizer)?)
}

/// What a step does with its time.
struct Profile {
    flops: u64,
    step: Duration,
    threads: usize,
    /// Of this processor's matrix product; `None` on a device.
    peak_flops: Option<f64>,
    peak_memory: Option<u64>,
    functions: Vec<FunctionTime>,
    /// If they are asked for.
    convolutions: Option<Vec<ConvolutionTime>>,
}

impl Profile {
    /// Operations a second.
    fn speed(&self) -> f64 {
        self.flops as f64 / self.step.as_secs_f64()
    }

    fn all_kernels(&self) -> Duration {
        self.functions.iter().map(|function| function.time).sum()
    }

    fn share(&self, function: &FunctionTime) -> f64 {
        function.time.as_secs_f64() / self.all_kernels().as_secs_f64()
    }

    fn json(&self) -> serde_json::Value {
        let functions = self.functions.iter().take(LISTED).map(|function| {
            serde_json::json!({
                "function": function.name, "kernels": function.kernels, "ms_per_step": milliseconds(function.time), "share": self.share(function),
            })
        });
        let mut value = serde_json::json!({
            "gflop": self.flops as f64 / 1e9, "gflops": self.speed() / 1e9, "peak_gflops": self.peak_flops.map(|peak| peak / 1e9),
            "share_of_peak": self.peak_flops.map(|peak| self.speed() / peak), "peak_memory_bytes": self.peak_memory,
            "kernels_ms": milliseconds(self.all_kernels()), "functions": functions.collect::<Vec<_>>(),
        });
        if let Some(convolutions) = &self.convolutions {
            let layers = convolutions.iter().map(|convolution| {
                let ConvolutionShape { kernel, stride, channels, size, images, .. } = convolution.shape;
                serde_json::json!({
                    "function": convolution.function, "kernel": kernel, "stride": stride, "channels": channels, "input_size": size, "images": images,
                    "kernels": convolution.kernels, "ms_per_step": milliseconds(convolution.time), "gflop": convolution.flops() as f64 / 1e9,
                })
            });
            value["layers"] = layers.collect();
        }
        value
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("{:.1} GFLOP in convolutions and products, {:.1} GFLOP/s", self.flops as f64 / 1e9, self.speed() / 1e9)];
        if let Some(peak) = self.peak_flops {
            let share = 100.0 * self.speed() / peak;
            lines.push(format!("{share:.1} % of the {:.1} GFLOP/s of a matrix product (threads: {})", peak / 1e9, self.threads));
        }
        if let Some(bytes) = self.peak_memory {
            lines.push(format!("peak memory {:.1} MiB", bytes as f64 / f64::from(1 << 20)));
        }
        lines.push(format!("{:<28} {:>10} {:>8} {:>8}", "function", "ms a step", "share", "kernels"));
        for function in self.functions.iter().take(LISTED) {
            let share = 100.0 * self.share(function);
            lines.push(format!("{:<28} {:>10.2} {share:>6.1} % {:>8}", function.name, milliseconds(function.time), function.kernels));
        }
        lines.extend(self.convolutions.as_deref().map(layer_lines).unwrap_or_default());
        lines.into_iter().map(|line| line + "\n").collect()
    }
}

/// A line for every shape of convolution, and one for all of a kernel and a stride.
fn layer_lines(convolutions: &[ConvolutionTime]) -> Vec<String> {
    let line = |layer: String, function: &str, kernels: usize, flops: u64, time: Duration| {
        let (gflop, ms) = (flops as f64 / 1e9, milliseconds(time));
        format!("{layer:<42} {function:<15} {kernels:>8} {gflop:>8.2} {ms:>10.2} {:>8.1}", 1e3 * gflop / ms)
    };
    let mut lines = vec![format!("{:<42} {:<15} {:>8} {:>8} {:>10} {:>8}", "convolution", "function", "kernels", "GFLOP", "ms a step", "GFLOP/s")];
    let mut sums: BTreeMap<(usize, usize, &str), (usize, u64, Duration)> = BTreeMap::new();
    for convolution in convolutions {
        let ConvolutionShape { kernel, stride, channels: [from, to], size: [height, width], images, .. } = convolution.shape;
        let layer = format!("{kernel}x{kernel}, stride {stride}, {from} to {to}, {images} of {height}x{width}");
        let (function, flops) = (convolution.function.as_str(), convolution.flops());
        lines.push(line(layer, function, convolution.kernels, flops, convolution.time));
        let sum = sums.entry((kernel, stride, function)).or_default();
        *sum = (sum.0 + convolution.kernels, sum.1 + flops, sum.2 + convolution.time);
    }
    lines.extend(
        sums.into_iter().map(|((kernel, stride, function), (kernels, flops, time))| {
            line(format!("all {kernel}x{kernel}, stride {stride}"), function, kernels, flops, time)
        }),
    );
    lines
}
