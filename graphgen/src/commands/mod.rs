//! One module a subcommand.

mod check;
mod export;
mod inspect;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write the graphs, initial weights and manifest of a preset.
    Export(export::Args),
    /// Name the nodes of an ONNX file that a provider has no kernel for.
    Check(check::Args),
    /// Show what an ONNX file holds: inputs, outputs, operators, parameters, cost.
    Inspect(inspect::Args),
}

impl Command {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// What failed, in one chain.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Export(args) => export::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Inspect(args) => inspect::run(&args),
        }
    }
}
