//! The subcommands of `swav-rt`, one file each.

pub mod bench_loader;
pub mod bench_step;
pub mod data_check;
pub mod data_pack;
pub mod data_synth;
pub mod embed;
pub mod eval_knn;
pub mod export;
mod options;
mod resume_command;
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
    /// Measure speed
    #[command(subcommand)]
    Bench(Bench),
    /// Make, check and pack data sets
    #[command(subcommand)]
    Data(Data),
}

/// `swav-rt eval`.
#[derive(Debug, Subcommand)]
pub enum Eval {
    /// Classify test images by their nearest training images
    Knn(eval_knn::Args),
}

/// `swav-rt bench`.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Images a second of the multi-crop loader
    Loader(bench_loader::Args),
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
    match cli.command {
        Command::Train(args) => train::run(args),
        Command::Eval(Eval::Knn(args)) => eval_knn::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Export(args) => export::run(args),
        Command::Bench(Bench::Loader(args)) => bench_loader::run(args),
        Command::Bench(Bench::Step(args)) => bench_step::run(args),
        Command::Data(Data::Synth(args)) => data_synth::run(args),
        Command::Data(Data::Check(args)) => data_check::run(args),
        Command::Data(Data::Pack(args)) => data_pack::run(args),
    }
}
