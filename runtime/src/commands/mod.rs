//! The subcommands of `swav-rt`, one file each.

pub mod bench_loader;
pub mod bench_sinkhorn;
pub mod bench_step;
mod classification;
pub mod clusters;
pub mod data_check;
pub mod data_pack;
pub mod data_synth;
pub mod doctor;
pub mod embed;
pub mod eval_knn;
pub mod eval_linear;
pub mod eval_semisup;
pub mod export;
mod options;
pub mod output;
pub mod plan;
pub mod report;
mod resume_command;
pub mod shell;
pub mod train;

use clap::{Parser, Subcommand};
pub use options::UsageError;
pub use train::Interrupted;

/// Trains image encoders with SwAV, without Python
#[derive(Debug, Parser)]
#[command(name = "swav-rt", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How results and progress are told.
    #[command(flatten)]
    pub output: output::Output,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train an encoder
    Train(train::Args),
    /// Evaluate an exported encoder
    #[command(subcommand)]
    Eval(Eval),
    /// Write the features of all images of a data set
    Embed(embed::Args),
    /// Write the encoder of a run as encoder.onnx
    Export(export::Args),
    /// Sort images by prototype and show them
    Clusters(clusters::Args),
    /// Write a page about a run
    Report(report::Args),
    /// Propose settings for your images and this machine
    Plan(plan::Args),
    /// Check what training needs
    Doctor(doctor::Args),
    /// Measure speed
    #[command(subcommand)]
    Bench(Bench),
    /// Make, check and pack data sets
    #[command(subcommand)]
    Data(Data),
    /// Write a shell's completion script
    Completions(shell::CompletionsArgs),
    /// Write man pages
    Man(shell::ManArgs),
}

/// `swav-rt eval`.
#[derive(Debug, Subcommand)]
pub enum Eval {
    /// Classify test images by their nearest training images
    Knn(eval_knn::Args),
    /// Classify test images by a linear classifier on frozen features
    Linear(eval_linear::Args),
    /// Classify test images by the whole network, fine-tuned with few labels
    Semisup(eval_semisup::Args),
}

/// `swav-rt bench`.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Images a second of the multi-crop loader
    Loader(bench_loader::Args),
    /// Milliseconds of Sinkhorn-Knopp
    Sinkhorn(bench_sinkhorn::Args),
    /// Milliseconds of a training step
    Step(bench_step::Args),
}

/// `swav-rt data`.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Write a procedural data set
    Synth(data_synth::Args),
    /// Name broken, small and duplicate images
    Check(data_check::Args),
    /// Write tar shards with an index
    Pack(data_pack::Args),
}

/// Runs the chosen subcommand.
///
/// # Errors
/// Whatever keeps it from being done; a [`UsageError`] or a preset error among the causes means wrong usage.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let output = &cli.output;
    match cli.command {
        Command::Train(args) => train::run(args, output),
        Command::Eval(Eval::Knn(args)) => eval_knn::run(args, output),
        Command::Eval(Eval::Linear(args)) => eval_linear::run(args, output),
        Command::Eval(Eval::Semisup(args)) => eval_semisup::run(args, output),
        Command::Embed(args) => embed::run(args, output),
        Command::Export(args) => export::run(args, output),
        Command::Clusters(args) => clusters::run(args, output),
        Command::Report(args) => report::run(args, output),
        Command::Plan(args) => plan::run(args, output),
        Command::Doctor(args) => doctor::run(args, output),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::Bench(Bench::Loader(args)) => bench_loader::run(args, output),
        Command::Bench(Bench::Sinkhorn(args)) => bench_sinkhorn::run(args, output),
        Command::Bench(Bench::Step(args)) => bench_step::run(args, output),
        Command::Data(Data::Synth(args)) => data_synth::run(args, output),
        Command::Data(Data::Check(args)) => data_check::run(args, output),
        Command::Data(Data::Pack(args)) => data_pack::run(args, output),
    }
}
