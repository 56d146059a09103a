//! Time and memory of a preset's step on this machine.

use std::time::Instant;

use anyhow::Context;
use graphgen::artifacts;
use graphgen::onnx::{inspect, read_model};
use graphgen::preset::Preset;
use graphgen::weights::load_safetensors;
use ort::environment::Environment;

use crate::train::open_engine;

/// Images of the measured step: enough that time grows in proportion to the images.
const BATCH: usize = 8;
/// Measured steps, after one that is not counted.
const STEPS: usize = 2;

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
    preset.train.batch_size = BATCH;
    preset.train.accumulate = 1;
    preset.loss.queue_length = 0;
    let directory = tempfile::tempdir().context("creating a temporary directory for the graphs")?;
    let graphs = directory.path().join("graphs");
    let manifest = artifacts::export(&preset, &graphs)?;
    let model = std::fs::read(graphs.join(&manifest.train_step.file)).context("reading the step's graph")?;
    let activation_bytes = inspect(&read_model(&model)?).cost.activation_bytes;
    let mut engine = open_engine(environment, &graphs, &manifest, 0)?;
    engine.load_weights(&load_safetensors(&graphs.join(artifacts::INIT_FILE))?)?;
    let crops: Vec<Vec<u8>> = preset.crops.groups().iter().map(|group| vec![128; group.count * BATCH * 3 * group.size_px * group.size_px]).collect();
    let crops: Vec<&[u8]> = crops.iter().map(Vec::as_slice).collect();
    let mut began = Instant::now();
    for step in 0..=STEPS {
        engine.forward_backward(&crops)?;
        engine.update(0.0, true)?;
        if step == 0 {
            began = Instant::now();
        }
    }
    let secs_per_image = began.elapsed().as_secs_f64() / (STEPS * BATCH) as f64;
    Ok(StepCost { secs_per_image, bytes_per_image: activation_bytes / BATCH as u64 })
}
