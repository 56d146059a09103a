//! `swav-rt bench sinkhorn`: how long codes take.

use std::time::Instant;

use serde_json::json;

use super::options::threads;
use super::output::Output;
use crate::kernels::sinkhorn::{Sinkhorn, sinkhorn_knopp};
use crate::machine::thread_count;

/// Calls before those that are measured.
const WARM_UP: usize = 2;

/// Measures Sinkhorn-Knopp on random scores: median milliseconds
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Samples whose codes are found together: images of a batch, and of the queue
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Prototypes
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..))]
    pub prototypes: u32,
    /// Entropic regularisation
    #[arg(long, default_value_t = 0.05)]
    pub epsilon: f64,
    /// Row and column scalings
    #[arg(long, default_value_t = 3)]
    pub iterations: usize,
    /// Threads; 0 for one per core
    #[arg(long, value_parser = threads(), default_value_t = 0)]
    pub threads: usize,
    /// Calls that are measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub calls: u32,
}

/// Runs the command.
///
/// # Errors
/// Settings out of range.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let (samples, prototypes) = (args.samples as usize, args.prototypes as usize);
    let threads = thread_count(args.threads);
    // Cosines, as embeddings and prototypes of length 1 give them.
    let scores: Vec<f32> = (0..samples * prototypes).map(|index| ((index as f64 * 0.618_033_988_749_895).fract() * 2.0 - 1.0) as f32).collect();
    let mut codes = vec![0.0; scores.len()];
    let settings = Sinkhorn { epsilon: args.epsilon, iterations: args.iterations, threads };
    let mut times = Vec::with_capacity(args.calls as usize);
    for call in 0..WARM_UP + args.calls as usize {
        let began = Instant::now();
        sinkhorn_knopp(settings, prototypes, &[], &scores, &mut codes)?;
        if call >= WARM_UP {
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let value = json!({ "samples": samples, "prototypes": prototypes, "iterations": args.iterations, "threads": threads, "ms": median });
    output.result(&value, || format!("{samples} samples, {prototypes} prototypes, {} iterations, {threads} threads\n{median:.2} ms", args.iterations))
}
