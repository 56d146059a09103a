//! Time and memory of a preset's step on this machine.

use std::time::{Duration, Instant};

use anyhow::Context;
use graphgen::artifacts;
use graphgen::onnx::{inspect, read_model};
use graphgen::preset::Preset;
use graphgen::weights::load_safetensors;
use ort::environment::Environment;

use crate::train::open_engine;

/// Pixels of all crops of the measured step, about: enough that time grows in proportion to the images, and few enough that
/// a large network is measured in seconds.
const PIXELS: usize = 1 << 18;
/// Fewest and most images of the measured step.
const BATCH: std::ops::RangeInclusive<usize> = 4..=64;
/// Measured steps, after one that is not counted; fewer where one takes long.
const STEPS: usize = 3;
/// A measurement of this length is enough.
const LONG: Duration = Duration::from_secs(4);

/// What a step costs for one image of the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepCost {
    /// Time, s.
    pub secs_per_image: f64,
    /// Memory of activations, bytes, estimated from the graph.
    pub bytes_per_image: u64,
}

/// Runs some steps of a small batch on grey crops.
///
/// # Errors
/// Graphs that cannot be built or run.
pub fn measure(environment: &Environment, preset: &Preset) -> anyhow::Result<StepCost> {
    let mut preset = preset.clone();
    let pixels: usize = preset.crops.groups().iter().map(|group| group.count * group.size_px * group.size_px).sum();
    let batch = (PIXELS / pixels.max(1)).clamp(*BATCH.start(), *BATCH.end());
    preset.train.batch_size = batch;
    preset.train.accumulate = 1;
    preset.loss.queue_length = 0;
    let directory = tempfile::tempdir().context("creating a temporary directory for the graphs")?;
    let graphs = directory.path().join("graphs");
    let manifest = artifacts::export(&preset, &graphs)?;
    let model = std::fs::read(graphs.join(&manifest.train_step.file)).context("reading the step's graph")?;
    let activation_bytes = inspect(&read_model(&model)?).cost.activation_bytes;
    let mut engine = open_engine(environment, &graphs, &manifest, 0)?;
    engine.load_weights(&load_safetensors(&graphs.join(artifacts::INIT_FILE))?)?;
    let crops: Vec<Vec<u8>> = preset.crops.groups().iter().map(|group| vec![128; group.count * batch * 3 * group.size_px * group.size_px]).collect();
    let crops: Vec<&[u8]> = crops.iter().map(Vec::as_slice).collect();
    let mut step = || {
        engine.forward_backward(&crops)?;
        engine.update(0.0, true)
    };
    step()?;
    let began = Instant::now();
    let mut steps = 0;
    while steps < STEPS && (steps == 0 || began.elapsed() < LONG) {
        step()?;
        steps += 1;
    }
    let secs_per_image = began.elapsed().as_secs_f64() / (steps * batch) as f64;
    Ok(StepCost { secs_per_image, bytes_per_image: activation_bytes / batch as u64 })
}
