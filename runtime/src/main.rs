//! `swav-rt`: trains, evaluates and exports encoders.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use graphgen::preset::PresetError;
use runtime::commands::{self, Cli, Interrupted, UsageError};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(if cli.output.quiet { "warn" } else { "info" }));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // As a shell has it: 128 and the signal's number.
        Err(error) if error.is::<Interrupted>() => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            let is_usage = error.chain().any(|cause| cause.is::<UsageError>() || cause.is::<PresetError>());
            ExitCode::from(if is_usage { 2 } else { 1 })
        }
    }
}

/// The error and its causes in one line, without those whose text is in the one before already.
fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let (reason, error) = (source.to_string(), runtime::train::TrainError::Io { path: "run/file".into(), source });
        let text = describe(&Err::<(), _>(error).context("training in run").expect_err("an error"));
        assert_eq!(text.matches(&reason).count(), 1, "{text}");
        assert!(text.starts_with("training in run: run/file: ") && text.contains("free some space"), "{text}");
    }
}
