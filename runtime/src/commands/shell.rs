//! `swav-rt completions` and `swav-rt man`: what a shell and `man` need, made from the command line's own description.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::Cli;

/// Writes a completion script to stdout
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Writes man pages, one a command
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder to write, such as ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Runs `completions`.
///
/// # Errors
/// Output that cannot be written.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    // The generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "swav-rt", &mut script);
    std::io::stdout().lock().write_all(&script).context("writing the script")
}

/// Runs `man`.
///
/// # Errors
/// A folder that cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    clap_mangen::generate_to(Cli::command(), &args.out).with_context(|| format!("writing man pages into {}", args.out.display()))?;
    println!("{}", args.out.join("swav-rt.1").display());
    Ok(())
}
