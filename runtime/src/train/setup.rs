//! Before the first step: everything is checked, then the run directory, the engine and its state are made ready.

use std::path::PathBuf;
use std::sync::Arc;

use graphgen::artifacts;
use graphgen::preset::Preset;
use graphgen::weights::{Weights, load_safetensors};
use ort::environment::Environment;

use super::checkpoint::{self, Checkpoint, Later, Versions};
use super::files::Files;
use super::fit::{GraphSource, Resume, TrainOptions};
use super::guards::{Guards, unused_queue};
use super::observer::Observer;
use super::run::differences;
use super::saves::Saves;
use super::training::{Course, Training};
use super::{InitRecord, Interrupt, MetricsLog, Probe, RunDirectory, TrainError, Trainer, engines};
use crate::data::{BrokenPolicy, Dataset, DecodeOptions, Loader, LoaderConfig};
use crate::kernels::KernelSet;
use crate::machine::Machine;
use crate::session::EngineKind;

/// Batches made ahead of those in use.
const BATCHES_AHEAD: usize = 3;

/// A run whose data, directory, checkpoint and initial weights fit together. Nothing has been written yet.
pub(super) struct Setup<'a> {
    options: &'a TrainOptions,
    preset: &'a Preset,
    run: RunDirectory,
    dataset: Arc<Dataset>,
    loader: Loader,
    probe: Option<Probe>,
    fingerprint: String,
    /// Checkpoints that there were before the directory was locked.
    found: Vec<(u64, PathBuf)>,
    /// Where the run goes on; `None` for a new one.
    checkpoint: Option<Checkpoint>,
    /// What a new run starts from, if not from random weights.
    init: Option<(InitRecord, Weights)>,
}

impl<'a> Setup<'a> {
    /// Checks that everything fits together.
    ///
    /// # Errors
    /// Whatever does not.
    pub(super) fn check(options: &'a TrainOptions) -> Result<Setup<'a>, TrainError> {
        let preset = options.source.preset();
        if let GraphSource::Directory { directory, .. } = &options.source {
            artifacts::check_init(directory, &artifacts::open(directory)?)?;
        }
        // An allocation that fails would end the process without a word about the setting.
        let memory = Machine::read().memory_bytes;
        if memory > 0 {
            preset.check_arrays(memory, " (this machine's memory)")?;
        }
        let run = RunDirectory::new(&options.run);
        let dataset = Arc::new(Dataset::open(&options.data)?.subset(preset.data.limit, preset.train.seed));
        let loader = Loader::new(Arc::clone(&dataset), loader_config(preset, &run, options.engine))?;
        run.check(preset)?;
        engines::check(options.engine, preset)?;
        let probe = options.probe.as_ref().map(|probe| Probe::open(probe, preset.train.seed, options.threads)).transpose()?;
        let fingerprint = dataset.fingerprint();
        let found = checkpoint::list(&run.checkpoints())?;
        let checkpoint = find_checkpoint(&run, &options.resume)?;
        if let Some(checkpoint) = &checkpoint {
            check_origin(checkpoint, &run, preset, &fingerprint)?;
        }
        let init = match (&checkpoint, &options.init) {
            (None, Some(file)) => Some(InitRecord::import(file, preset)?),
            (Some(_), Some(file)) => {
                InitRecord::check_origin(file, &run)?;
                None
            }
            (_, None) => None,
        };
        Ok(Setup { options, preset, run, dataset, loader, probe, fingerprint, found, checkpoint, init })
    }

    /// Writes graphs and preset, opens the engine and gives it its state.
    ///
    /// # Errors
    /// Graphs that cannot be built or loaded, another process in the directory, and whatever the file system reports.
    pub(super) fn start(self, environment: &Environment, files: Arc<dyn Files>, interrupt: &Interrupt) -> Result<Training, TrainError> {
        let Setup { options, preset, run, dataset, loader, probe, fingerprint, found, checkpoint, init } = self;
        let steps_per_epoch = loader.batches_per_epoch() as u64;
        let total_steps = steps_per_epoch * preset.train.epochs as u64;
        let first_step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.progress.step);
        let last_step = options.max_steps.unwrap_or(total_steps).min(total_steps).max(first_step);

        let lock = run.lock()?;
        if checkpoint::list(&run.checkpoints())? != found {
            let problem = "another process trained here a moment ago; start again to go on from its checkpoint".into();
            return Err(TrainError::Run { path: run.root().into(), problem });
        }
        let manifest = run.prepare(&options.source)?;
        let mut engine = engines::open(options.engine, environment, &run.graphs(), manifest, options.threads, KernelSet::Native)?;
        match &checkpoint {
            Some(checkpoint) => checkpoint.restore(&mut *engine)?,
            None => {
                let mut weights = load_safetensors(&run.graphs().join(artifacts::INIT_FILE))?;
                let (record, imported) = init.unzip();
                InitRecord::store(record.as_ref(), &run)?;
                weights.extend(imported.unwrap_or_default());
                engine.load_weights(&weights)?;
            }
        }
        let later = if options.resume == Resume::Auto { Later::Damaged } else { Later::Left };
        checkpoint::clean(&*files, &run.checkpoints(), first_step, later)?;
        let observer = Observer::start(environment, options, &run, &dataset, probe, (steps_per_epoch, first_step))?;
        let log = MetricsLog::open(&*files, &run.metrics(), first_step)?;
        tracing::info!(
            "{} images, {steps_per_epoch} steps an epoch, {} epochs; steps {first_step} to {last_step} of {total_steps}",
            dataset.len(),
            preset.train.epochs
        );
        if let Some(warning) = unused_queue(preset, steps_per_epoch, total_steps) {
            tracing::warn!("{warning}");
        }
        let saved = checkpoint.is_some().then_some(first_step);
        let mut trainer = Trainer::new(engine, preset, steps_per_epoch, first_step);
        let guards = Guards::new(preset, checkpoint.map(|checkpoint| checkpoint.progress.guards).unwrap_or_default());
        trainer.set_learning_rate_factor(guards.state().learning_rate_factor);
        let course = Course { steps_per_epoch, last_step, total_steps };
        let saves = Saves::new(files, run.checkpoints(), saved);
        Ok(Training {
            preset: preset.clone(),
            run,
            fingerprint,
            loader,
            trainer,
            guards,
            observer,
            log,
            course,
            saves,
            interrupt: interrupt.clone(),
            last: None,
            _lock: lock,
        })
    }
}

fn loader_config(preset: &Preset, run: &RunDirectory, engine: EngineKind) -> LoaderConfig {
    LoaderConfig {
        crops: preset.crops.clone(),
        batch_size: preset.train.batch_size,
        micro_batches: preset.train.accumulate,
        seed: preset.train.seed,
        workers: preset.train.workers,
        // Large batches of several micro-batches: as many micro-batches, but at least the next batch.
        batches_ahead: BATCHES_AHEAD.div_ceil(preset.train.accumulate),
        batches_held: engines::batches_held(engine, preset),
        decode: DecodeOptions { exif_orientation: preset.data.exif_orientation, ..DecodeOptions::default() },
        broken: BrokenPolicy { max_share: preset.data.max_broken_share, list: Some(run.broken_images()) },
    }
}

fn find_checkpoint(run: &RunDirectory, resume: &Resume) -> Result<Option<Checkpoint>, TrainError> {
    match resume {
        Resume::Auto => Checkpoint::newest(&run.checkpoints()),
        Resume::From(folder) if checkpoint::is_one(folder) => Checkpoint::load(folder).map(Some),
        Resume::From(folder) => {
            let found: Vec<String> = checkpoint::list(&run.checkpoints())?.iter().map(|(_, path)| path.display().to_string()).collect();
            let there = match found.as_slice() {
                [] => format!("{} has none; leave --resume out to start from the beginning", run.root().display()),
                [newest] => format!("{} has {newest}; leave --resume out to go on from it", run.root().display()),
                [newest, .., oldest] => {
                    let count = found.len();
                    format!("{} has {count}, from {newest} to {oldest}; name one, or leave --resume out to go on from the newest", run.root().display())
                }
            };
            Err(TrainError::Checkpoint { path: folder.clone(), problem: format!("expected a checkpoint's folder, found no state.json in it; {there}") })
        }
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
    let path = checkpoint::folder_of(&run.checkpoints(), checkpoint.progress.step);
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
    let (earlier, now) = (&checkpoint.progress.versions, Versions::current());
    if *earlier != now {
        tracing::warn!("the checkpoint is of {earlier:?}, this is {now:?}: the run goes on, but not bit for bit as it would have");
    }
    Ok(())
}
