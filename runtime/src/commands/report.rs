//! `swav-rt report`.

use std::path::PathBuf;

use graphgen::weights::write_atomically;
use serde_json::json;

use super::output::Output;
use crate::report::{RunRecord, html};

/// Writes a page about a run, or about several side by side: charts, health, crops, settings
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run directory; may be given several times
    #[arg(long, value_name = "RUN", required = true, num_args = 1..)]
    pub run: Vec<PathBuf>,
    /// HTML file to write [default: report.html in the first run directory]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A directory that is no run's or holds no step, and a file that cannot be written.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let runs = args.run.iter().map(|path| RunRecord::read(path)).collect::<Result<Vec<_>, _>>()?;
    let out = args.out.unwrap_or_else(|| args.run[0].join("report.html"));
    write_atomically(&out, html(&runs).as_bytes())?;
    let steps: usize = runs.iter().map(|run| run.metrics.len()).sum();
    output.result(&json!({ "out": out.to_string_lossy(), "runs": runs.len(), "steps": steps }), || {
        format!("{}: {steps} steps of {} runs", out.display(), runs.len())
    })?;
    Ok(())
}
