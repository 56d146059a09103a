//! Whole runs whose file operations fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use graphgen::preset::Preset;
use ort::environment::Environment;

use super::*;

use crate::data::synth::{self, SynthConfig};
use crate::session::EngineKind;
use crate::session::environment::environment;
use crate::train::checkpoint::Checkpoint;
use crate::train::files::faulty::{Faulty, NO_SPACE};
use crate::train::files::{Disk, Files};
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
    let preset = Box::new(Preset::from_toml(PRESET, &[]).expect("valid"));
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

fn weights(run: &Path) -> Checkpoint {
    Checkpoint::newest(&run.join("checkpoints")).expect("readable").expect("there")
}

#[test]
fn whatever_operation_fails_the_run_goes_on_or_ends_with_a_message_and_can_be_resumed() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let folder = folder.path();
    synth::write(&folder.join("images"), &SynthConfig { images: 8, classes: 2, size_px: 16, seed: 1 }, |_| {}).expect("images");
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
