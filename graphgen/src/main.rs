//! `graphgen`: writes training graphs and looks into ONNX files.
#![forbid(unsafe_code)]

mod commands;

use std::process::ExitCode;

use clap::Parser;

/// Writes self-supervised training steps as ONNX graphs.
#[derive(Debug, Parser)]
#[command(name = "graphgen", version, after_help = "Exit status: 0 done, 1 failed, 2 usage.")]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    // clap ends the process with status 2 on wrong usage.
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
