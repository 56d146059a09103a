//! A whole run: from a preset and images to checkpoints and an encoder.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use graphgen::artifacts::{self, EncoderOptions};
use graphgen::manifest::Manifest;
use graphgen::preset::{Preset, Provider, SinkhornKernel};
use graphgen::weights::{load_safetensors, write_atomically};
use ort::environment::Environment;

use super::checkpoint::{self, Checkpoint};
use super::progress::Progress;
use super::run::differences;
use super::{InitRecord, MetricsLog, RunDirectory, StepMetrics, TrainError, Trainer};
use crate::data::{BrokenPolicy, Dataset, DecodeOptions, Loader, LoaderConfig};
use crate::kernels::{KernelSet, native_operators};
use crate::session::{EngineError, ProviderOptions, SessionOptions, StockEngine};

/// Batches made ahead of the one in use.
const BATCHES_AHEAD: usize = 3;

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
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Steps done, those before resuming included.
    pub steps: u64,
    /// Steps of the whole schedule.
    pub total_steps: u64,
    /// The last step's line, if there was a step.
    pub last: Option<StepMetrics>,
    /// The encoder's file.
    pub encoder: PathBuf,
}

/// An engine for a preset's graphs, with all native kernels; `threads` is 0 for one a core.
///
/// # Errors
/// Graphs that ONNX Runtime does not accept.
pub fn open_engine(environment: &Environment, directory: &std::path::Path, manifest: &Manifest, threads: usize) -> Result<StockEngine, EngineError> {
    open_engine_with(environment, directory, manifest, threads, KernelSet::Native)
}

/// [`open_engine`] with a choice of kernels. Sinkhorn-Knopp follows the preset's `train.sinkhorn`.
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
    let sinkhorn = match manifest.preset.train.resolved_sinkhorn() {
        SinkhornKernel::Graph | SinkhornKernel::Auto => None,
        SinkhornKernel::Native if threads == 0 => Some(std::thread::available_parallelism().map_or(1, usize::from)),
        SinkhornKernel::Native => Some(threads),
    };
    // The other native kernels are the CPU's.
    let kernels = if manifest.preset.train.provider == Provider::Cpu { kernels } else { KernelSet::Functions };
    let domain = native_operators(kernels, sinkhorn).map_err(EngineError::run("registering the native kernels"))?;
    let operators = domain.map(Arc::new);
    StockEngine::open(environment, directory, manifest, &SessionOptions { threads, operators, provider: ProviderOptions::of(&manifest.preset) })
}

/// Trains. Nothing is written before data, run directory and checkpoint have been checked.
///
/// # Errors
/// Whatever stops a run; its checkpoints stay.
pub fn train(environment: &Environment, options: &TrainOptions) -> Result<Summary, TrainError> {
    let preset = options.source.preset();
    let run = RunDirectory::new(&options.run);
    let dataset = Arc::new(Dataset::open(&options.data)?.subset(preset.data.limit, preset.train.seed));
    let config = LoaderConfig {
        crops: preset.crops.clone(),
        batch_size: preset.train.batch_size,
        micro_batches: preset.train.accumulate,
        seed: preset.train.seed,
        workers: preset.train.workers,
        // Large batches of several micro-batches: as many micro-batches, but at least the next batch.
        batches_ahead: BATCHES_AHEAD.div_ceil(preset.train.accumulate),
        decode: DecodeOptions { exif_orientation: preset.data.exif_orientation, ..DecodeOptions::default() },
        broken: BrokenPolicy { max_share: preset.data.max_broken_share, list: Some(run.broken_images()) },
    };
    let loader = Loader::new(Arc::clone(&dataset), config)?;
    run.check(preset)?;
    let fingerprint = dataset.fingerprint();
    let start = find_checkpoint(&run, &options.resume)?;
    if let Some(checkpoint) = &start {
        check_origin(checkpoint, &run, preset, &fingerprint)?;
    }
    let init = match (&start, &options.init) {
        (None, Some(file)) => Some(InitRecord::import(file, preset)?),
        (Some(_), Some(file)) => {
            InitRecord::check_origin(file, &run)?;
            None
        }
        (_, None) => None,
    };

    let steps_per_epoch = loader.batches_per_epoch() as u64;
    let total_steps = steps_per_epoch * preset.train.epochs as u64;
    let first_step = start.as_ref().map_or(0, |checkpoint| checkpoint.progress.step);
    let last_step = options.max_steps.unwrap_or(total_steps).min(total_steps).max(first_step);

    let manifest = run.prepare(&options.source)?;
    let _lock = run.lock()?;
    let mut engine = open_engine(environment, &run.graphs(), &manifest, options.threads)?;
    match &start {
        Some(checkpoint) => checkpoint.restore(&mut engine)?,
        None => {
            let mut weights = load_safetensors(&run.graphs().join(artifacts::INIT_FILE))?;
            let (record, imported) = init.unzip();
            InitRecord::store(record.as_ref(), &run)?;
            weights.extend(imported.unwrap_or_default());
            engine.load_weights(&weights)?;
        }
    }
    checkpoint::clean(&run.checkpoints(), first_step)?;
    let mut log = MetricsLog::open(&run.metrics(), first_step)?;
    tracing::info!(
        "{} images, {steps_per_epoch} steps an epoch, {} epochs; steps {first_step} to {last_step} of {total_steps}",
        dataset.len(),
        preset.train.epochs
    );

    let mut trainer = Trainer::new(engine, preset, steps_per_epoch, first_step);
    let save = |trainer: &Trainer| {
        let step = trainer.steps_done();
        let progress = checkpoint::Progress { step, epoch: step / steps_per_epoch, preset: preset.clone(), dataset_fingerprint: fingerprint.clone() };
        Checkpoint::of(trainer.engine(), progress)?.save(&run.checkpoints())
    };
    let heads = preset.model.nmb_prototypes.counts();
    let ln_k = heads.iter().map(|&count| (count as f64).ln()).sum::<f64>() / heads.len() as f64;

    let mut last = None;
    let mut saved = start.is_some().then_some(first_step);
    if first_step < last_step {
        let mut stream = loader.stream((first_step / steps_per_epoch) as usize, (first_step % steps_per_epoch) as usize);
        let mut progress = Progress::new(first_step, last_step, preset.train.epochs);
        let groups = preset.crops.groups().len();
        let mut ended = Instant::now();
        while trainer.steps_done() < last_step {
            let batch = stream.next()?;
            let crops: Vec<&[u8]> = (0..groups).map(|group| batch.crops(group)).collect();
            let report = trainer.step(&crops)?;
            let now = Instant::now();
            let seconds = now.duration_since(std::mem::replace(&mut ended, now)).as_secs_f64();
            let metrics = StepMetrics::new(&report, ln_k, preset.train.batch_size as f64 / seconds, batch.waited().as_secs_f64());
            log.write(&metrics)?;
            progress.step(&metrics);
            last = Some(metrics);
            if is_due(preset, steps_per_epoch, trainer.steps_done()) {
                save(&trainer)?;
                saved = Some(trainer.steps_done());
            }
        }
        progress.finish();
    }
    if saved != Some(trainer.steps_done()) {
        save(&trainer)?;
    }
    let encoder = artifacts::encoder(preset, &trainer.engine().weights()?, &EncoderOptions::default())?;
    write_atomically(&run.encoder(), &encoder)?;
    Ok(Summary { steps: trainer.steps_done(), total_steps, last, encoder: run.encoder() })
}

fn is_due(preset: &Preset, steps_per_epoch: u64, step: u64) -> bool {
    let every = |interval: u64| interval > 0 && step.is_multiple_of(interval);
    every(preset.train.checkpoint_every_steps) || every(preset.train.checkpoint_every_epochs as u64 * steps_per_epoch)
}

fn find_checkpoint(run: &RunDirectory, resume: &Resume) -> Result<Option<Checkpoint>, TrainError> {
    match resume {
        Resume::Auto => Checkpoint::newest(&run.checkpoints()),
        Resume::From(folder) => Checkpoint::load(folder).map(Some),
        Resume::Never => match checkpoint::list(&run.checkpoints())?.first() {
            None => Ok(None),
            Some((step, _)) => Err(TrainError::Run {
                path: run.root().into(),
                problem: format!("holds a run of {step} steps, which --resume never would overwrite; choose another --out, or --resume auto to go on"),
            }),
        },
    }
}

fn check_origin(checkpoint: &Checkpoint, run: &RunDirectory, preset: &Preset, fingerprint: &str) -> Result<(), TrainError> {
    let path = run.checkpoints().join(format!("step-{:08}", checkpoint.progress.step));
    let differences = differences(&checkpoint.progress.preset, preset);
    if !differences.is_empty() {
        let problem = format!("belongs to a run with other settings: {}; give the same ones, or --resume never and another --out", differences.join(", "));
        return Err(TrainError::Checkpoint { path, problem });
    }
    if checkpoint.progress.dataset_fingerprint != fingerprint {
        let problem = "was made with other training images (names or sizes differ); give the same --data, or another --out for a new run, with --init \
                       for these weights";
        return Err(TrainError::Checkpoint { path, problem: problem.into() });
    }
    Ok(())
}
