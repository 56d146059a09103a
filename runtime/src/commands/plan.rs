//! `swav-rt plan`.

use std::path::PathBuf;

use anyhow::Context;
use graphgen::weights::write_atomically;
use serde_json::json;

use super::options::{at_least_1, folder_exists, number};
use super::output::Output;
use crate::data::Dataset;
use crate::eval::Bounds;
use crate::machine::Machine;
use crate::plan::{DataFacts, Proposal, Reason, StepCost, measure, networks, propose};
use crate::session::environment::environment;

/// Share of the free memory that a step may take.
const MEMORY_SHARE: f64 = 0.7;
/// Fewest images of a micro-batch: BatchNorm needs some.
const LEAST_MICRO_BATCH: usize = 8;

/// Proposes settings for your images and this machine, with a reason for each, and writes a preset
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of class folders, flat folder of images or .tar; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Preset to write [default: only show it]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Memory that training may use, GB [default: 70 % of what is free]
    #[arg(long, value_name = "GB", allow_negative_numbers = true, value_parser = number(Bounds::POSITIVE))]
    pub memory: Option<f64>,
    /// How many kinds of images you expect; without it the class folders count
    #[arg(long, value_name = "N", value_parser = at_least_1())]
    pub classes_guess: Option<usize>,
    /// How long training may take, h: the best network that is done by then is proposed
    #[arg(long, value_name = "H", default_value_t = 24.0, allow_negative_numbers = true, value_parser = number(Bounds::POSITIVE))]
    pub hours: f64,
    /// Measure nothing: the best network for the images, whatever it takes
    #[arg(long)]
    pub no_measure: bool,
}

/// Runs the command.
///
/// # Errors
/// Images that cannot be read, steps that cannot be run, a file that cannot be written.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let hours = args.hours;
    if let Some(out) = &args.out {
        folder_exists("--out", out)?;
    }
    let machine = Machine::read();
    let memory = match args.memory {
        Some(gigabytes) => gigabytes * 1e9,
        None => machine.available_bytes as f64 * MEMORY_SHARE,
    };
    let dataset = Dataset::open(&args.data)?;
    let facts = DataFacts::of(&dataset)?;
    if facts.images < 16 {
        anyhow::bail!("{} images: expected at least 16, the smallest batch; thousands teach something", facts.images);
    }
    let candidates = networks(&facts);
    let mut rejected = Vec::new();
    let mut chosen: Option<(Proposal, Option<StepCost>)> = None;
    for (number, network) in candidates.iter().enumerate() {
        let proposal = propose(&facts, args.classes_guess, network);
        if args.no_measure {
            chosen = Some((proposal, None));
            break;
        }
        tracing::info!("measuring a step of {}", network.0);
        let cost = measure(&environment()?, &proposal.preset).with_context(|| format!("measuring {}", network.0))?;
        let needed = training_hours(&proposal, &facts, cost);
        let fits = needed <= hours && cost.bytes_per_image as f64 * LEAST_MICRO_BATCH as f64 <= memory;
        if fits || number + 1 == candidates.len() {
            chosen = Some((proposal, Some(cost)));
            break;
        }
        rejected.push(format!("{} would take {}", network.0, duration(needed)));
    }
    let (mut proposal, cost) = chosen.context("a network for every data set")?;
    if !rejected.is_empty() {
        proposal.reasons[0].why += &format!("; {}, --hours allows {}", rejected.join(", "), duration(hours));
    }
    let mut expected = None;
    if let Some(cost) = cost {
        fit_memory(&mut proposal, cost, memory);
        fit_time(&mut proposal, &facts, cost, hours);
        expected = Some(training_hours(&proposal, &facts, cost));
    }
    proposal.preset.validate()?;

    let mut text = format!("{} images of about {} px, ", facts.images, facts.short_side_px);
    text += &facts.classes.map_or("no class folders".into(), |classes| format!("{classes} classes"));
    text += &format!("; {}, {} cores, {:.1} GB for training\n\n", machine.processor, machine.cores, memory / 1e9);
    for Reason { setting, value, why } in &proposal.reasons {
        text += &format!("{setting:<22} {value}\n{:<22}   {why}\n", "");
    }
    if let (Some(hours), Some(cost)) = (expected, cost) {
        text += &format!(
            "{:<22} about {}\n{:<22}   a step was measured: {:.1} ms and {:.1} MB an image\n",
            "expected time",
            duration(hours),
            "",
            1e3 * cost.secs_per_image,
            cost.bytes_per_image as f64 / 1e6
        );
    }
    proposal.advice.iter().for_each(|advice| text += &format!("\nnote: {advice}"));
    if let Some(out) = &args.out {
        let comments: String = proposal.reasons.iter().map(|Reason { setting, value, why }| format!("# {setting} = {value}: {why}\n")).collect();
        let header = format!("# Proposed by swav-rt plan for {} images of about {} px.\n#\n{comments}\n", facts.images, facts.short_side_px);
        write_atomically(out, (header + &proposal.preset.to_toml()).as_bytes())?;
        let data: Vec<String> = args.data.iter().map(|path| path.display().to_string()).collect();
        let init = if proposal.warm_start { " --init WEIGHTS" } else { "" };
        text += &format!("\n\nswav-rt train --preset {} --data {} --out runs/mine{init}", out.display(), data.join(" "));
    }
    let value = json!({
        "images": facts.images, "short_side_px": facts.short_side_px, "classes": facts.classes, "expected_hours": expected,
        "reasons": proposal.reasons, "advice": proposal.advice, "preset": proposal.preset, "out": args.out.as_ref().map(|out| out.to_string_lossy()),
    });
    output.result(&value, || text)?;
    Ok(())
}

fn training_hours(proposal: &Proposal, facts: &DataFacts, cost: StepCost) -> f64 {
    (proposal.preset.train.epochs * facts.images) as f64 * cost.secs_per_image / 3600.0
}

/// Micro-batches where the whole batch does not fit.
fn fit_memory(proposal: &mut Proposal, cost: StepCost, memory: f64) {
    let train = &mut proposal.preset.train;
    let fits = |accumulate: usize| (train.batch_size / accumulate) as f64 * cost.bytes_per_image as f64 <= memory;
    let mut accumulate = 1;
    while !fits(accumulate) && train.batch_size / accumulate >= 2 * LEAST_MICRO_BATCH {
        accumulate *= 2;
    }
    if accumulate > 1 {
        let why = format!(
            "a batch of {} takes {:.1} GB, {:.1} GB are there; codes are computed over all of it",
            train.batch_size,
            train.batch_size as f64 * cost.bytes_per_image as f64 / 1e9,
            memory / 1e9
        );
        train.accumulate = accumulate;
        proposal.reasons.push(Reason { setting: "train.accumulate".into(), value: accumulate.to_string(), why });
    }
}

/// Fewer epochs where even the cheapest network takes too long.
fn fit_time(proposal: &mut Proposal, facts: &DataFacts, cost: StepCost, hours: f64) {
    let needed = training_hours(proposal, facts, cost);
    if needed <= hours {
        return;
    }
    let before = proposal.preset.train.epochs;
    let epochs = ((before as f64 * hours / needed) as usize).max(1);
    let preset = &mut proposal.preset;
    preset.train.epochs = epochs;
    preset.train.checkpoint_every_epochs = (epochs / 20).max(1);
    preset.optim.warmup_epochs = preset.optim.warmup_epochs.min(epochs as f64 / 10.0);
    preset.loss.epoch_queue_starts = preset.loss.epoch_queue_starts.min(epochs / 5);
    if let Some(reason) = proposal.reasons.iter_mut().find(|reason| reason.setting == "train.epochs") {
        reason.value = epochs.to_string();
        reason.why = format!("{before} would be better but take {}; --hours allows {}", duration(needed), duration(hours));
    }
}

/// Hours for people.
fn duration(hours: f64) -> String {
    match hours {
        48.0.. => format!("{:.1} days", hours / 24.0),
        1.0.. => format!("{hours:.1} h"),
        _ => format!("{:.0} min", (60.0 * hours).max(1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(images: usize) -> (Proposal, DataFacts) {
        let facts = DataFacts { images, classes: Some(10), short_side_px: 32, sampled: (100, 0) };
        (propose(&facts, None, &networks(&facts)[0]), facts)
    }

    #[test]
    fn a_batch_that_does_not_fit_is_cut_but_not_below_eight_images() {
        let cost = StepCost { secs_per_image: 0.01, bytes_per_image: 10_000_000 };
        let cut = |memory| {
            let (mut proposal, _) = proposal(50_000);
            fit_memory(&mut proposal, cost, memory);
            proposal.preset.validate().expect("valid");
            proposal.preset.train.accumulate
        };
        // 256 images of 10 MB.
        assert_eq!([3e9, 2e9, 0.7e9, 1.0].map(cut), [1, 2, 4, 32]);
    }

    #[test]
    fn epochs_shrink_to_the_time_there_is() {
        let (mut proposal, facts) = proposal(50_000);
        let cost = StepCost { secs_per_image: 0.036, bytes_per_image: 1 };
        fit_time(&mut proposal, &facts, cost, 1000.0);
        assert_eq!(proposal.preset.train.epochs, 200);
        fit_time(&mut proposal, &facts, cost, 10.0);
        assert_eq!(proposal.preset.train.epochs, 20);
        assert!((training_hours(&proposal, &facts, cost) - 10.0).abs() < 1e-9);
        fit_time(&mut proposal, &facts, cost, 0.001);
        assert_eq!(proposal.preset.train.epochs, 1);
        proposal.preset.validate().expect("valid");
    }
}
