//! `graphgen check`: whether a provider takes every node of an ONNX file.

use std::path::PathBuf;

use anyhow::{Context, bail};
use graphgen::check::{ExecutionProvider, check};
use graphgen::onnx::read_model;

/// Name every node of an ONNX file that a provider of ONNX Runtime has no kernel for, and say why; exit 1 if there is one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// ONNX file.
    file: PathBuf,
    /// Provider.
    #[arg(long, value_enum)]
    ep: ExecutionProvider,
    /// Function that the runtime replaces by a native kernel of the host, for example SinkhornKnopp; may be given several times.
    #[arg(long, value_name = "FUNCTION")]
    native: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read or is no ONNX model, and one with nodes that the provider does not take.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let context = || format!("reading {}", args.file.display());
    let bytes = std::fs::read(&args.file).with_context(context)?;
    let report = check(&read_model(&bytes).with_context(context)?, args.ep, &args.native);
    for refusal in &report.refusals {
        println!("{} ({}): {}", refusal.node, refusal.operator, refusal.reason);
    }
    if report.untyped > 0 {
        println!("the file does not say all element types of {} nodes; they were judged by what it says", report.untyped);
    }
    if report.native > 0 {
        println!("{} calls are left to native kernels: {}", report.native, args.native.join(", "));
    }
    if !report.refusals.is_empty() {
        bail!("{}: the {} provider does not take {} of {} nodes", args.file.display(), args.ep, report.refusals.len(), report.nodes);
    }
    println!("{}: the {} provider takes all {} nodes", args.file.display(), args.ep, report.nodes);
    Ok(())
}
