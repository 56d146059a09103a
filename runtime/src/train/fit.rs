//! A whole run: from a preset and images to checkpoints and an encoder.

use std::path::PathBuf;
use std::sync::Arc;

use graphgen::manifest::Manifest;
use graphgen::preset::{Preset, Provider, SinkhornKernel};
use ort::environment::Environment;

use super::files::Disk;
use super::setup::Setup;
use super::{Interrupt, ProbeOptions, StepMetrics, StopSignal, TrainError};
use crate::kernels::{KernelSet, native_operators};
use crate::machine::thread_count;
use crate::session::{EngineError, EngineKind, ProviderOptions, SessionOptions, StockEngine};

/// Where the graphs come from.
#[derive(Debug, Clone)]
pub enum GraphSource {
    /// Written from a preset into the run directory.
    Preset(Box<Preset>),
    /// Written earlier by `graphgen export`; copied into the run directory.
    Directory {
        /// The artifact directory.
        directory: PathBuf,
        /// Its manifest's preset.
        preset: Box<Preset>,
    },
}

impl GraphSource {
    /// The resolved preset.
    pub fn preset(&self) -> &Preset {
        match self {
            GraphSource::Preset(preset) | GraphSource::Directory { preset, .. } => preset,
        }
    }
}

/// Whether a run goes on from a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Resume {
    /// From the newest undamaged checkpoint of the run directory, if there is one.
    #[default]
    Auto,
    /// Never; a run directory with checkpoints is refused.
    Never,
    /// From this checkpoint. Later ones in the run directory are removed.
    From(PathBuf),
}

/// What [`train`] needs to know.
pub struct TrainOptions {
    /// Graphs and settings.
    pub source: GraphSource,
    /// Folders or archives of images.
    pub data: Vec<PathBuf>,
    /// Run directory.
    pub run: PathBuf,
    /// Stop after this many steps of the run, earlier ones included; the schedule stays that of the whole run.
    pub max_steps: Option<u64>,
    /// Whether to go on from a checkpoint.
    pub resume: Resume,
    /// Initial weights in place of random ones: safetensors, or PyTorch's `.pth`, `.pth.tar`, `.pt`. A run that goes on
    /// from a checkpoint must have started from the same file.
    pub init: Option<PathBuf>,
    /// Threads of one operator; 0 for one a core.
    pub threads: usize,
    /// Labelled images to probe the features with, if any.
    pub probe: Option<ProbeOptions>,
    /// Whether TensorBoard's event files are written.
    pub tensorboard: bool,
    /// What runs the graphs; the environment is one that [`Library`](crate::session::environment::Library) says it needs.
    pub engine: EngineKind,
}

/// How a run ended, if it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were taken; the encoder is in this file.
    Finished(PathBuf),
    /// The run was asked to stop, and goes on from its checkpoint when it is started again.
    Stopped(StopSignal),
}

/// What a run did.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Steps done, those before resuming included.
    pub steps: u64,
    /// Steps of the whole schedule.
    pub total_steps: u64,
    /// The last step's line, if there was a step.
    pub last: Option<StepMetrics>,
    /// How the run ended.
    pub outcome: Outcome,
}

/// An engine for a preset's graphs, with all native kernels where the target is theirs; `threads` is 0 for one a core.
///
/// # Errors
/// Graphs that ONNX Runtime does not accept.
pub fn open_engine(environment: &Environment, directory: &std::path::Path, manifest: &Manifest, threads: usize) -> Result<StockEngine, EngineError> {
    open_engine_with(environment, directory, manifest, threads, KernelSet::Native)
}

/// [`open_engine`] with a choice of kernels. Sinkhorn-Knopp follows the preset's `train.sinkhorn`, in graphs of every target.
///
/// # Errors
/// Graphs that ONNX Runtime does not accept.
pub fn open_engine_with(
    environment: &Environment,
    directory: &std::path::Path,
    manifest: &Manifest,
    threads: usize,
    kernels: KernelSet,
) -> Result<StockEngine, EngineError> {
    StockEngine::open(environment, directory, manifest, &session_options(manifest, threads, kernels)?)
}

/// [`open_engine_with`] whose sessions write [profiles](SessionOptions::profiles).
///
/// # Errors
/// Graphs that ONNX Runtime does not accept.
pub fn open_profiled_engine(
    environment: &Environment,
    directory: &std::path::Path,
    manifest: &Manifest,
    threads: usize,
    kernels: KernelSet,
    profiles: &std::path::Path,
) -> Result<StockEngine, EngineError> {
    let options = SessionOptions { profiles: Some(profiles.into()), ..session_options(manifest, threads, kernels)? };
    StockEngine::open(environment, directory, manifest, &options)
}

/// What the sessions of a preset's graphs have in common.
pub(super) fn session_options(manifest: &Manifest, threads: usize, kernels: KernelSet) -> Result<SessionOptions, EngineError> {
    let allowed = kernels.in_graphs_of(manifest.target);
    if allowed != kernels && manifest.preset.train.provider == Provider::Cpu {
        tracing::info!("graphs of the target {} run without native kernels; those of the target native, the default, have them", manifest.target);
    }
    let domain = native_operators(allowed, has_native_sinkhorn(manifest), thread_count(threads)).map_err(EngineError::run("registering the native kernels"))?;
    Ok(SessionOptions { threads, operators: domain.map(Arc::new), provider: ProviderOptions::of(&manifest.preset), profiles: None })
}

/// Whether Sinkhorn-Knopp runs as native kernel; the function's body does where the preset wants that.
pub(super) fn has_native_sinkhorn(manifest: &Manifest) -> bool {
    manifest.preset.train.resolved_sinkhorn() == SinkhornKernel::Native
}

/// Trains. Nothing is written before data, run directory and checkpoint have been checked.
///
/// # Errors
/// Whatever stops a run; its checkpoints stay.
pub fn train(environment: &Environment, options: &TrainOptions) -> Result<Summary, TrainError> {
    train_until(environment, options, &Interrupt::default())
}

/// As [`train`], but saves, and stops early, when it is asked to.
///
/// # Errors
/// As [`train`].
pub fn train_until(environment: &Environment, options: &TrainOptions, interrupt: &Interrupt) -> Result<Summary, TrainError> {
    Setup::check(options)?.start(environment, Arc::new(Disk), interrupt)?.run()
}
