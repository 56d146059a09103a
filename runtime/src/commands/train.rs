//! `swav-rt train`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use graphgen::artifacts;
use graphgen::preset::Provider;

use super::UsageError;
use super::options::{check_provider, threads, with_provider};
use super::output::Output;
use super::resume_command::resume_command;
use crate::session::{EngineKind, ProviderOptions};
use crate::train::{GraphSource, Interrupt, Outcome, ProbeKind, ProbeOptions, Resume, StopSignal, TrainOptions, train_until};

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
    #[arg(long, value_parser = threads(), value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Labelled images whose nearest neighbours say every few epochs how good the features are; never trained on
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "probe_test")]
    pub probe_train: Vec<PathBuf>,
    /// Labelled images that the probe classifies
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "probe_train")]
    pub probe_test: Vec<PathBuf>,
    /// Epochs between two probes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub probe_every: u32,
    /// Classifier of the probe
    #[arg(long, value_enum, default_value_t)]
    pub probe_kind: ProbeKind,
    /// Use a random subset of this many images of each probe set; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub probe_limit: usize,
    /// Also write event files for TensorBoard into RUN/tensorboard
    #[arg(long)]
    pub tensorboard: bool,
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
/// Whatever keeps the run from starting, before anything is written, or stops it.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let source = match (args.preset, args.graphs) {
        (Some(file), None) => GraphSource::Preset(Box::new(with_provider(&file, &args.set, args.provider)?)),
        (None, Some(directory)) => {
            let preset = Box::new(artifacts::open(&directory)?.preset);
            check_provider(&preset, args.provider)?;
            GraphSource::Directory { directory, preset }
        }
        _ => return Err(UsageError("expected either --preset or --graphs".into()).into()),
    };
    let resume = match args.resume.as_str() {
        "auto" => Resume::Auto,
        "never" => Resume::Never,
        path => Resume::From(path.into()),
    };
    let probe = (!args.probe_train.is_empty()).then_some(ProbeOptions {
        train: args.probe_train,
        test: args.probe_test,
        every_epochs: args.probe_every as usize,
        kind: args.probe_kind,
        limit: args.probe_limit,
    });
    let environment = args.engine.library().environment()?;
    ProviderOptions::of(source.preset()).check()?;
    let run = args.out.clone();
    let options = TrainOptions {
        source,
        data: args.data,
        run: args.out,
        max_steps: args.max_steps,
        resume,
        init: args.init,
        threads: args.threads,
        probe,
        tensorboard: args.tensorboard,
        engine: args.engine,
    };
    let interrupt = Interrupt::of_signals().context("handling signals")?;
    let summary = train_until(&environment, &options, &interrupt).with_context(|| format!("training in {}", run.display()))?;
    let stopped = match &summary.outcome {
        Outcome::Finished(_) => None,
        Outcome::Stopped(signal) => Some((*signal, resume_command(std::env::args_os()))),
    };
    let encoder = match &summary.outcome {
        Outcome::Finished(encoder) => Some(encoder),
        Outcome::Stopped(_) => None,
    };
    let value = serde_json::json!({
        "steps": summary.steps, "total_steps": summary.total_steps, "last": summary.last,
        "encoder": encoder.map(|encoder| encoder.to_string_lossy()),
        "resume": stopped.as_ref().map(|(_, command)| String::from_utf8_lossy(command)),
    });
    output.result(&value, || {
        let last = match &summary.last {
            Some(last) => format!("loss {:.4}, {:.3} of ln K", last.loss, last.loss_over_ln_k),
            None => "no step taken".into(),
        };
        let end = encoder.map(|encoder| encoder.display().to_string()).unwrap_or_else(|| "stopped and saved; go on with".into());
        format!("step {} of {}: {last}\n{end}", summary.steps, summary.total_steps)
    })?;
    if let Some((signal, command)) = stopped {
        // Paths in it may be no text.
        if !output.is_json() {
            std::io::stdout().lock().write_all(&[&command[..], b"\n"].concat())?;
        }
        if signal == StopSignal::Interrupt {
            return Err(Interrupted.into());
        }
    }
    Ok(())
}

/// Ctrl-C ended the command, with everything saved.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
