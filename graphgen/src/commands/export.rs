//! `graphgen export`: a preset → a directory of graphs.

use std::path::PathBuf;

use anyhow::Context;
use graphgen::artifacts;
use graphgen::preset::{Preset, Target};
use graphgen::training_api;
use graphgen::weights::import;

/// Write the graphs of a preset: train_step.onnx, optimizer.onnx, init.safetensors, manifest.json; with train.accumulate above 1 also embed_step.onnx and assign_step.onnx.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Preset file.
    #[arg(long, value_name = "FILE")]
    preset: PathBuf,
    /// Directory to write to: new, empty, or an earlier export.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Formulations of the graph [default: the preset's, or those of its provider].
    #[arg(long, value_enum)]
    target: Option<Target>,
    /// Write the artifacts of ONNX Runtime's training API as well, into the folder training_api.
    #[arg(long)]
    training_api: bool,
    /// Start from these weights: safetensors, or PyTorch's .pth, .pth.tar or .pt.
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Override a setting, for example --set train.batch_size=64.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Invalid presets, and files that cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut preset = Preset::load(&args.preset, &args.overrides)?;
    preset.train.target = args.target.or(preset.train.target);
    let context = || format!("exporting {}", args.preset.display());
    let init = args.init.as_ref().map(|file| anyhow::Ok(import(file, &artifacts::network_shapes(&preset)?)?)).transpose().with_context(context)?;
    if args.training_api {
        training_api::check(&preset).with_context(context)?;
    }
    let manifest = artifacts::export_from(&preset, &args.out, init).with_context(context)?;
    if args.training_api {
        training_api::add(&args.out).with_context(context)?;
    }
    let parameters: usize = manifest.parameters.iter().map(|parameter| parameter.shape.iter().product::<usize>()).sum();
    println!("{}: {} parameters in {} tensors, target {}", args.out.display(), parameters, manifest.parameters.len(), manifest.target);
    if let (Some(file), Some(report)) = (&args.init, &manifest.init) {
        println!("initial weights from {}:", file.display());
        report.lines().iter().for_each(|line| println!("  {line}"));
    }
    Ok(())
}
