//! `swav-rt doctor`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use graphgen::preset::Provider;
use ort::ep::{CPU, CUDA, DirectML, ExecutionProvider};
use serde_json::json;

use super::output::Output;
use crate::data::Dataset;
use crate::machine::Machine;
use crate::plan::DataFacts;
use crate::session::ProviderOptions;
use crate::session::environment::environment;

/// Bytes of the file whose writing is measured.
const WRITTEN: usize = 64 << 20;
/// Memory below which even small presets are tight, bytes.
const LITTLE_MEMORY: u64 = 2_000_000_000;
/// Below this, MB/s, checkpoints take longer than steps.
const SLOW_MB_PER_SEC: f64 = 20.0;

/// Checks what training needs, a line each: ok, or the way out; exit status 1 if anything is missing
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images to look at; may be given several times
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Folder that runs will be in, there or not yet, whose disk's write speed is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
}

/// One line of the report.
struct Check {
    name: &'static str,
    /// What is there, or what is wrong with the way out.
    outcome: Result<String, String>,
}

/// Runs the command.
///
/// # Errors
/// Anything that training needs and that is not there.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let machine = Machine::read();
    let mut checks = vec![library()];
    if checks[0].outcome.is_ok() {
        checks.push(providers());
    }
    checks.extend([processor(&machine), memory(&machine)]);
    checks.push(Check { name: "write speed", outcome: write_speed(&args.out) });
    if !args.data.is_empty() {
        checks.push(Check { name: "images", outcome: images(&args.data) });
    }
    let lines: Vec<_> = checks
        .iter()
        .map(|Check { name, outcome }| json!({ "check": name, "ok": outcome.is_ok(), "detail": outcome.as_ref().unwrap_or_else(|problem| problem) }))
        .collect();
    output.result(&json!({ "checks": lines }), || {
        let line = |Check { name, outcome }: &Check| match outcome {
            Ok(detail) => format!("ok       {name:<14} {detail}\n"),
            Err(problem) => format!("PROBLEM  {name:<14} {problem}\n"),
        };
        checks.iter().map(line).collect()
    })?;
    let problems = checks.iter().filter(|check| check.outcome.is_err()).count();
    anyhow::ensure!(problems == 0, "{problems} of {} checks found a problem; the way out stands beside each", checks.len());
    Ok(())
}

fn library() -> Check {
    let outcome = environment().map(|_| ort::info().to_owned()).map_err(|error| error.to_string());
    Check { name: "ONNX Runtime", outcome }
}

fn providers() -> Check {
    let mut found = vec![Provider::Cpu];
    found.extend(CUDA::is_available().unwrap_or(false).then_some(Provider::Cuda));
    found.extend(DirectML::is_available().unwrap_or(false).then_some(Provider::Directml));
    let described = found.into_iter().map(|provider| ProviderOptions { provider, ..ProviderOptions::default() }.describe());
    let outcome = match CPU::is_available() {
        Ok(true) => Ok(described.collect::<Vec<_>>().join("; ")),
        Ok(false) => Err("the library has no CPU provider; scripts/setup.sh fetches one that has".into()),
        Err(error) => Err(error.to_string()),
    };
    Check { name: "providers", outcome }
}

fn processor(machine: &Machine) -> Check {
    let vectors = vector_instructions();
    let detail = format!("{}, {} cores, {vectors}", machine.processor, machine.cores);
    Check { name: "processor", outcome: Ok(detail) }
}

#[cfg(target_arch = "x86_64")]
fn vector_instructions() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "AVX2 and FMA"
    } else {
        "no AVX2: several times slower than processors that have it"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_instructions() -> &'static str {
    std::env::consts::ARCH
}

fn memory(machine: &Machine) -> Check {
    let detail = format!("{:.1} of {:.1} GB free", machine.available_bytes as f64 / 1e9, machine.memory_bytes as f64 / 1e9);
    let outcome = match machine.available_bytes {
        ..LITTLE_MEMORY => Err(format!("{detail}: close other programs, or train with a smaller train.batch_size or more train.accumulate")),
        _ => Ok(detail),
    };
    Check { name: "memory", outcome }
}

fn write_speed(folder: &Path) -> Result<String, String> {
    let way_out = "choose a folder that you may write to, with --out";
    // A run's folder is created when it starts, on the disk of the nearest folder above it that is there.
    let there = folder.ancestors().find(|above| above.exists()).filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(there).map_err(|error| format!("{}: {error}; {way_out}", folder.display()))?;
    let bytes = vec![0x5a; WRITTEN];
    let began = Instant::now();
    let written = file.write_all(&bytes).and_then(|()| file.as_file().sync_all());
    written.map_err(|error| format!("{}: {error}; {way_out}, or make space", folder.display()))?;
    let speed = WRITTEN as f64 / 1e6 / began.elapsed().as_secs_f64();
    match speed {
        ..SLOW_MB_PER_SEC => Err(format!("{}: {speed:.0} MB/s; runs on a faster disk, or train.checkpoint_every_epochs higher", folder.display())),
        _ => Ok(format!("{}: {speed:.0} MB/s", folder.display())),
    }
}

fn images(paths: &[PathBuf]) -> Result<String, String> {
    let began = Instant::now();
    let dataset = Dataset::open(paths).map_err(|error| error.to_string())?;
    let opened = began.elapsed();
    let began = Instant::now();
    let facts = DataFacts::of(&dataset).map_err(|error| format!("{error}; swav-rt data check --data PATH names what is wrong with each image"))?;
    let (sampled, broken) = facts.sampled;
    let rate = sampled as f64 / began.elapsed().as_secs_f64();
    let classes = facts.classes.map_or("no class folders".into(), |classes| format!("{classes} classes"));
    let detail =
        format!("{} images found in {:.1} s, {classes}, about {} px, decoded at {rate:.0} images/s", facts.images, opened.as_secs_f64(), facts.short_side_px);
    match broken {
        0 => Ok(detail),
        _ => Err(format!("{detail}; {broken} of {sampled} looked at are broken: swav-rt data check --data PATH names them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_the_way_out() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        assert!(write_speed(&file.path().join("run")).expect_err("in a file").contains("--out"));
        assert!(images(&["/absent/folder".into()]).expect_err("absent").contains("/absent/folder"));
        let machine = Machine { available_bytes: 1_000_000_000, ..Machine::read() };
        assert!(memory(&machine).outcome.expect_err("little").contains("train.batch_size"));
        assert!(memory(&Machine { available_bytes: 8_000_000_000, ..machine }).outcome.is_ok());
    }
}
