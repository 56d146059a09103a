//! The engine of a run, of whichever kind.

use std::path::Path;

use graphgen::manifest::Manifest;
use graphgen::preset::{Preset, Provider, Target};
use graphgen::training_api;
use ort::environment::Environment;

use super::TrainError;
use super::fit::{has_native_sinkhorn, open_engine_with, session_options};
use crate::kernels::{KernelSet, native_functions};
use crate::session::{Engine, EngineKind, TrainingApiEngine};

/// Whether an engine can follow a preset. Writes nothing.
///
/// # Errors
/// The setting that it cannot follow.
pub fn check(kind: EngineKind, preset: &Preset) -> Result<(), TrainError> {
    match kind {
        EngineKind::Stock if preset.train.resolved_target() == Target::OrtTraining => Err(TrainError::TrainingKernels),
        EngineKind::Stock => Ok(()),
        EngineKind::TrainingApi => Ok(training_api::check(preset)?),
    }
}

/// Batches that a run holds at once: on a device the stock engine copies the next one during a step.
pub fn batches_held(kind: EngineKind, preset: &Preset) -> usize {
    match (kind, preset.train.provider) {
        (EngineKind::TrainingApi, _) | (EngineKind::Stock, Provider::Cpu) => 1,
        (EngineKind::Stock, Provider::Cuda | Provider::Directml) => 2,
    }
}

/// An engine for the graphs in a directory. The training API's artifacts are added to it where they are missing: a run that
/// was begun with the stock engine has none.
///
/// # Errors
/// Settings that the engine cannot follow, and graphs that ONNX Runtime does not accept.
pub fn open(
    kind: EngineKind,
    environment: &Environment,
    directory: &Path,
    manifest: Manifest,
    threads: usize,
    kernels: KernelSet,
) -> Result<Box<dyn Engine>, TrainError> {
    match kind {
        EngineKind::Stock => Ok(Box::new(open_engine_with(environment, directory, &manifest, threads, kernels)?)),
        EngineKind::TrainingApi => {
            let manifest = if manifest.training_api.is_some() { manifest } else { training_api::add(directory)? };
            let options = session_options(&manifest, threads, kernels)?;
            let native = native_functions(kernels.in_graphs_of(manifest.target), has_native_sinkhorn(&manifest));
            Ok(Box::new(TrainingApiEngine::open(environment, directory, &manifest, &options, &native)?))
        }
    }
}
