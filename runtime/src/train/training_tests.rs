//! Whole runs: with file operations that fail, and with the next batch copied ahead.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use graphgen::preset::Preset;
use graphgen::weights::Weights;
use ort::environment::Environment;

use super::*;

use crate::data::synth::{self, SynthConfig};
use crate::kernels::KernelSet;
use crate::session::environment::environment;
use crate::session::{Engine, EngineError, EngineKind, EngineState, LossScaling, OptimizerState, QueueState, StepOutput, StockEngine};
use crate::train::checkpoint::Checkpoint;
use crate::train::files::faulty::{Faulty, NO_SPACE};
use crate::train::files::{Disk, Files};
use crate::train::fit::session_options;
use crate::train::setup::Setup;
use crate::train::{GraphSource, Resume, TrainOptions};

/// 8 images in batches of 4: 2 steps an epoch, 4 in all, and a checkpoint after the second.
const PRESET: &str = "
[model]
arch = 'resnet10'
width = 8
stem = 'small'
hidden_mlp = 8
feat_dim = 4
nmb_prototypes = 6
[crops]
size_crops = [12]
nmb_crops = [2]
min_scale_crops = [0.3]
max_scale_crops = [1.0]
[loss]
queue_length = 8
epoch_queue_starts = 1
[optim]
base_lr = 0.1
warmup_epochs = 0
freeze_prototypes_niters = 0
[train]
batch_size = 4
epochs = 2
workers = 1
";

fn options(folder: &Path, run: &str) -> TrainOptions {
    options_with(folder, run, &[])
}

fn options_with(folder: &Path, run: &str, overrides: &[String]) -> TrainOptions {
    let preset = Box::new(Preset::from_toml(PRESET, overrides).expect("valid"));
    let (data, run) = (vec![folder.join("images")], folder.join(run));
    TrainOptions {
        source: GraphSource::Preset(preset),
        data,
        run,
        max_steps: None,
        resume: Resume::Auto,
        init: None,
        threads: 1,
        probe: None,
        tensorboard: false,
        engine: EngineKind::Stock,
    }
}

fn run(environment: &Environment, options: &TrainOptions, files: Arc<dyn Files>) -> Result<Summary, TrainError> {
    Setup::check(options)?.start(environment, files, &Interrupt::default())?.run()
}

fn folder_with_images() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("temporary directory");
    synth::write(&folder.path().join("images"), &SynthConfig { images: 8, classes: 2, size_px: 16, seed: 1 }, |_| {}).expect("images");
    folder
}

fn weights(run: &Path) -> Checkpoint {
    Checkpoint::newest(&run.join("checkpoints")).expect("readable").expect("there")
}

#[test]
fn whatever_operation_fails_the_run_goes_on_or_ends_with_a_message_and_can_be_resumed() {
    let folder = folder_with_images();
    let folder = folder.path();
    let environment = environment().expect("ONNX Runtime is set up");
    let whole = options(folder, "whole");
    let counting = Arc::new(Faulty::new(usize::MAX, NO_SPACE));
    run(&environment, &whole, counting.clone()).expect("the run succeeds");
    let operations = counting.done.load(Ordering::Relaxed);
    // Two saves of more than 20 operations each, four lines and the encoder.
    assert!(operations > 50, "{operations}");

    let mut outcomes = (0, 0);
    for failing in 0..operations {
        let options = options(folder, &format!("run-{failing}"));
        // The graphs need not be written each time.
        std::fs::create_dir(&options.run).and_then(|()| std::fs::create_dir(options.run.join("graphs"))).expect("create");
        for entry in std::fs::read_dir(whole.run.join("graphs")).expect("graphs") {
            let entry = entry.expect("entry");
            std::fs::copy(entry.path(), options.run.join("graphs").join(entry.file_name())).expect("copy");
        }
        match run(&environment, &options, Arc::new(Faulty::new(failing, NO_SPACE))) {
            Ok(_) => outcomes.0 += 1,
            Err(error) => {
                outcomes.1 += 1;
                let message = error.to_string();
                assert!(message.contains("No space left") && message.contains("free some space"), "operation {failing}: {message}");
            }
        }
        // The same command again, on a sound disk.
        run(&environment, &options, Arc::new(Disk)).unwrap_or_else(|error| panic!("operation {failing}: {error}"));
        let (expected, got) = (weights(&whole.run), weights(&options.run));
        assert!(expected.weights == got.weights && expected.optimizer == got.optimizer && expected.queue == got.queue, "operation {failing}");
        let lines = std::fs::read_to_string(options.run.join("metrics.jsonl")).expect("metrics");
        let steps: Vec<u64> = lines.lines().map(|line| serde_json::from_str::<StepMetrics>(line).expect("whole").step).collect();
        assert_eq!(steps, [1, 2, 3, 4], "operation {failing}");
        std::fs::remove_dir_all(&options.run).expect("remove");
    }
    // A save that fails is tried again before the run ends. Opening the log, its last sync and the encoder are not.
    assert!(outcomes.0 > 40 && outcomes.1 >= 6, "{outcomes:?}");
}

/// Numbers of the batches that an engine was given, each with that of the next one.
type Batches = Vec<(u64, Option<u64>)>;

/// The stock engine as on a device. It notes its batches.
struct Watched {
    engine: StockEngine,
    copies_ahead: bool,
    /// The pass whose loss is not finite, from 0.
    fails: Option<usize>,
    batches: Arc<Mutex<Batches>>,
}

impl Engine for Watched {
    fn forward_backward(&mut self, _: &[&[u8]]) -> Result<StepOutput, EngineError> {
        unreachable!("a run numbers its batches")
    }

    fn copies_ahead(&self) -> bool {
        if self.copies_ahead {
            // Whether a batch is ready must not depend on how fast the loader is.
            std::thread::sleep(Duration::from_millis(500));
        }
        self.copies_ahead
    }

    fn forward_backward_with_next(&mut self, batch: BatchCrops<'_>, next: Option<BatchCrops<'_>>) -> Result<StepOutput, EngineError> {
        let mut output = self.engine.forward_backward_with_next(batch, next)?;
        let mut batches = self.batches.lock().expect("no panic");
        if self.fails == Some(batches.len()) {
            output.loss = f32::NAN;
        }
        batches.push((batch.number.expect("numbered"), next.map(|next| next.number.expect("numbered"))));
        Ok(output)
    }

    fn advance_queue(&mut self) -> Result<(), EngineError> {
        self.engine.advance_queue()
    }

    fn update(&mut self, learning_rate: f32, train_prototypes: bool) -> Result<(), EngineError> {
        self.engine.update(learning_rate, train_prototypes)
    }

    fn queue_filled(&self) -> Option<(i64, usize)> {
        self.engine.queue_filled()
    }

    fn weights(&self) -> Result<Weights, EngineError> {
        self.engine.weights()
    }

    fn load_weights(&mut self, weights: &Weights) -> Result<(), EngineError> {
        self.engine.load_weights(weights)
    }

    fn running_statistics(&self) -> Result<Weights, EngineError> {
        self.engine.running_statistics()
    }

    fn load_running_statistics(&mut self, statistics: &Weights) -> Result<(), EngineError> {
        self.engine.load_running_statistics(statistics)
    }

    fn state(&self) -> Result<EngineState<'_>, EngineError> {
        self.engine.state()
    }

    fn load_optimizer_state(&mut self, state: &OptimizerState, _: u64) -> Result<(), EngineError> {
        self.engine.load_optimizer_state(state)
    }

    fn loss_scaling(&self) -> Result<Option<LossScaling>, EngineError> {
        self.engine.loss_scaling()
    }

    fn load_queue(&mut self, state: Option<&QueueState>) -> Result<(), EngineError> {
        self.engine.load_queue(state)
    }
}

/// A whole run as on a device: its lines without times, its last checkpoint, and its batches.
fn run_as_on_device(environment: &Environment, options: &TrainOptions, copies_ahead: bool, fails: Option<usize>) -> (Vec<StepMetrics>, Checkpoint, Batches) {
    let mut training = Setup::check(options).and_then(|setup| setup.start(environment, Arc::new(Disk), &Interrupt::default())).expect("ready");
    let manifest = artifacts::open(&training.run.graphs()).expect("graphs");
    let session = session_options(&manifest, 1, KernelSet::Native).expect("kernels");
    let mut engine = StockEngine::open_as_on_device(environment, &training.run.graphs(), &manifest, &session).expect("open");
    engine.load_weights(&training.trainer.engine().weights().expect("read")).expect("they fit");
    let batches = Arc::<Mutex<Batches>>::default();
    let watched = Watched { engine, copies_ahead, fails, batches: Arc::clone(&batches) };
    training.trainer = Trainer::new(Box::new(watched), &training.preset, training.course.steps_per_epoch, 0);
    training.run().expect("the run succeeds");
    let lines = std::fs::read_to_string(options.run.join("metrics.jsonl")).expect("metrics");
    let timeless = |line| StepMetrics { images_per_sec: 0.0, data_wait_secs: 0.0, ..serde_json::from_str(line).expect("whole") };
    let batches = std::mem::take(&mut *batches.lock().expect("no panic"));
    (lines.lines().map(timeless).collect(), weights(&options.run), batches)
}

#[test]
fn a_batch_that_is_ready_is_copied_ahead_and_the_run_is_the_same() {
    let folder = folder_with_images();
    let environment = environment().expect("ONNX Runtime is set up");
    for accumulate in [1, 2] {
        let options = |run: &str| options_with(folder.path(), &format!("{run}-{accumulate}"), &[format!("train.accumulate={accumulate}")]);
        let (lines, checkpoint, batches) = run_as_on_device(&environment, &options("ahead"), true, None);
        assert_eq!(batches, [(0, Some(1)), (1, Some(2)), (2, Some(3)), (3, None)], "none after the last step");
        let (expected, plain, batches) = run_as_on_device(&environment, &options("plain"), false, None);
        assert_eq!(batches, [(0, None), (1, None), (2, None), (3, None)]);
        assert!(lines.len() == 4 && lines == expected, "{lines:?} {expected:?}");
        assert!(checkpoint.weights == plain.weights && checkpoint.optimizer == plain.optimizer && checkpoint.queue == plain.queue);
    }
}

#[test]
fn a_run_that_goes_back_gives_up_the_batch_that_was_copied_ahead() {
    let folder = folder_with_images();
    let environment = environment().expect("ONNX Runtime is set up");
    let options = |run: &str| options_with(folder.path(), run, &["guards.not_finite=rollback".into()]);
    let (lines, checkpoint, batches) = run_as_on_device(&environment, &options("ahead"), true, Some(2));
    // Batch 3 was ahead of the step that failed: its images come again as batch 5.
    assert_eq!(batches, [(0, Some(1)), (1, Some(2)), (2, Some(3)), (4, Some(5)), (5, None)]);
    let (expected, plain, _) = run_as_on_device(&environment, &options("plain"), false, Some(2));
    assert!(lines.len() == 4 && lines == expected, "{lines:?} {expected:?}");
    assert!(checkpoint.weights == plain.weights && checkpoint.optimizer == plain.optimizer && checkpoint.queue == plain.queue);
}
