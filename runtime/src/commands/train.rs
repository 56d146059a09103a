//! `swav-rt train`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use graphgen::artifacts;
use graphgen::preset::Preset;

use super::UsageError;
use super::options::{Device, Engine};
use super::resume_command::resume_command;
use crate::session::environment::environment;
use crate::train::{GraphSource, Interrupt, Outcome, Resume, StopSignal, TrainOptions, train_until};

/// Trains an encoder: graphs, checkpoints, metrics.jsonl and encoder.onnx go into the run directory
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct Args {
    /// Preset; its graphs are written into RUN/graphs
    #[arg(long, value_name = "FILE", group = "source")]
    pub preset: Option<PathBuf>,
    /// Graphs that `graphgen export` wrote
    #[arg(long, value_name = "DIR", group = "source", conflicts_with = "set")]
    pub graphs: Option<PathBuf>,
    /// Folder of class folders, flat folder of images or .tar; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Run directory: new, or one of the same preset to go on with
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// Overrides a setting of the preset; may be given several times
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Stop after this many steps of the run; the learning rate follows the whole schedule
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// auto: go on from the newest checkpoint; never: refuse a run directory with checkpoints; or a checkpoint's folder
    #[arg(long, value_name = "auto|never|PATH", default_value = "auto")]
    pub resume: String,
    /// Start from these weights instead of random ones: safetensors, or PyTorch's .pth, .pth.tar or .pt
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Threads of one operator; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// What runs the graphs
    #[arg(long, value_enum, default_value_t = Engine::Stock)]
    pub(crate) engine: Engine,
    /// Where the graphs run
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) provider: Device,
}

/// Runs the command.
///
/// # Errors
/// Whatever keeps the run from starting, before anything is written, or stops it.
pub fn run(args: Args) -> anyhow::Result<()> {
    args.engine.check()?;
    args.provider.check()?;
    let source = match (args.preset, args.graphs) {
        (Some(file), None) => GraphSource::Preset(Box::new(Preset::load(&file, &args.set)?)),
        (None, Some(directory)) => {
            let preset = Box::new(artifacts::open(&directory)?.preset);
            GraphSource::Directory { directory, preset }
        }
        _ => return Err(UsageError("expected either --preset or --graphs".into()).into()),
    };
    let resume = match args.resume.as_str() {
        "auto" => Resume::Auto,
        "never" => Resume::Never,
        path => Resume::From(path.into()),
    };
    let environment = environment()?;
    let run = args.out.clone();
    let options = TrainOptions { source, data: args.data, run: args.out, max_steps: args.max_steps, resume, init: args.init, threads: args.threads };
    let interrupt = Interrupt::of_signals().context("handling signals")?;
    let summary = train_until(&environment, &options, &interrupt).with_context(|| format!("training in {}", run.display()))?;
    match &summary.last {
        Some(last) => println!("step {} of {}: loss {:.4}, {:.3} of ln K", summary.steps, summary.total_steps, last.loss, last.loss_over_ln_k),
        None => println!("step {} of {}: no step taken", summary.steps, summary.total_steps),
    }
    match summary.outcome {
        Outcome::Finished(encoder) => println!("{}", encoder.display()),
        Outcome::Stopped(signal) => {
            let mut out = std::io::stdout().lock();
            out.write_all(&[b"stopped and saved; go on with\n", &resume_command(std::env::args_os())[..], b"\n"].concat())?;
            if signal == StopSignal::Interrupt {
                return Err(Interrupted.into());
            }
        }
    }
    Ok(())
}

/// Ctrl-C ended the command, with everything saved.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
