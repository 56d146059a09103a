//! Whole runs of a tiny network: what lands in the run directory, going on after a stop, and the native kernel.

use std::fs;
use std::path::{Path, PathBuf};

use graphgen::artifacts::EncoderOptions;
use graphgen::preset::Preset;
use runtime::data::synth::{self, SynthConfig};
use runtime::export::encoder_of_run;
use runtime::kernels::sinkhorn_calls;
use runtime::session::EngineKind;
use runtime::session::environment::environment;
use runtime::train::checkpoint::{self, Checkpoint};
use runtime::train::{GraphSource, Resume, StepMetrics, Summary, TrainError, TrainOptions, train};

/// 40 images in batches of 8: 5 steps an epoch, 10 in all. The queue of two batches starts in the second epoch.
const PRESET: &str = concat!(
    include_str!("presets/tiny.toml"),
    "
[loss]
queue_length = 16
epoch_queue_starts = 1
[optim]
name = 'lars'
base_lr = 0.3
warmup_epochs = 0.4
freeze_prototypes_niters = 3
[train]
batch_size = 8
epochs = 2
workers = 2
checkpoint_every_steps = 2
"
);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("temporary directory"));
        synth::write(&folder.images(), &SynthConfig { images: 40, classes: 4, size_px: 24, seed: 1 }, |_| {}).expect("images");
        folder
    }

    fn images(&self) -> PathBuf {
        self.0.path().join("images")
    }

    fn run(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self, run: &str, overrides: &[&str]) -> TrainOptions {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        let preset = Preset::from_toml(PRESET, &overrides).expect("valid");
        TrainOptions {
            source: GraphSource::Preset(Box::new(preset)),
            data: vec![self.images()],
            run: self.run(run),
            max_steps: None,
            resume: Resume::Auto,
            init: None,
            threads: 1,
            probe: None,
            tensorboard: false,
            engine: EngineKind::Stock,
        }
    }

    fn train(&self, run: &str, overrides: &[&str], max_steps: Option<u64>) -> Summary {
        train_with(&TrainOptions { max_steps, ..self.options(run, overrides) }).expect("the run succeeds")
    }
}

fn train_with(options: &TrainOptions) -> Result<Summary, TrainError> {
    train(&environment().expect("ONNX Runtime is set up"), options)
}

fn metrics(run: &Path) -> Vec<StepMetrics> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// The lines without what depends on the clock.
fn computed(run: &Path) -> Vec<StepMetrics> {
    let timeless = |line: StepMetrics| StepMetrics { images_per_sec: 0.0, data_wait_secs: 0.0, ..line };
    metrics(run).into_iter().map(timeless).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Every file of two runs that does not depend on the clock is the same, byte by byte.
fn assert_equal_runs(a: &Path, b: &Path) {
    assert_eq!(files(&a.join("checkpoints")), files(&b.join("checkpoints")));
    assert_eq!(fs::read(a.join("encoder.onnx")).expect("encoder"), fs::read(b.join("encoder.onnx")).expect("encoder"));
    for checkpoint in files(&a.join("checkpoints")) {
        let (a, b) = (a.join("checkpoints").join(&checkpoint), b.join("checkpoints").join(&checkpoint));
        for file in files(&a) {
            assert!(fs::read(a.join(&file)).expect("read") == fs::read(b.join(&file)).expect("read"), "{checkpoint}/{file} differs");
        }
    }
    assert_eq!(computed(a), computed(b));
}

#[test]
fn a_run_leaves_what_is_promised() {
    let folder = Folder::new();
    let calls = sinkhorn_calls();
    let summary = folder.train("run", &[], None);
    assert_eq!((summary.steps, summary.total_steps), (10, 10));
    // One call a step and assigned crop: a graph that ran the function's body would not count.
    assert!(sinkhorn_calls() >= calls + 20, "the native kernel ran {} times", sinkhorn_calls() - calls);

    let run = folder.run("run");
    assert_eq!(files(&run), [".lock", "checkpoints", "crops.jpg", "encoder.onnx", "environment.json", "graphs", "metrics.jsonl", "preset.toml"]);
    assert_eq!(files(&run.join("checkpoints")), ["step-00000006", "step-00000008", "step-00000010"]);
    let lines = metrics(&run);
    assert_eq!(lines.iter().map(|line| line.step).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert_eq!(lines.iter().map(|line| line.epoch).collect::<Vec<_>>(), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    assert!(lines.iter().all(|line| line.loss.is_finite() && line.loss > 0.0 && line.grad_norm.is_some_and(|norm| norm > 0.0)));
    // Empty in the first epoch, then a batch a step, then full.
    let filled: Vec<i64> = lines.iter().map(|line| line.queue_filled.expect("a queue")).collect();
    assert_eq!(filled, [0, 0, 0, 0, 0, 8, 16, 16, 16, 16]);
}

#[test]
fn a_run_over_micro_batches_has_steps_and_queue_of_the_whole_batch() {
    let folder = Folder::new();
    let calls = sinkhorn_calls();
    let summary = folder.train("run", &["train.accumulate=4"], None);
    assert_eq!((summary.steps, summary.total_steps), (10, 10));
    assert!(sinkhorn_calls() >= calls + 20, "the native kernel ran {} times", sinkhorn_calls() - calls);
    let lines = metrics(&folder.run("run"));
    let filled: Vec<i64> = lines.iter().map(|line| line.queue_filled.expect("a queue")).collect();
    assert_eq!(filled, [0, 0, 0, 0, 0, 8, 16, 16, 16, 16]);
    let known = |line: &StepMetrics| [line.code_entropy, line.live_prototypes, line.feature_std, line.grad_norm].iter().all(Option::is_some);
    assert!(lines.iter().all(|line| line.loss.is_finite() && known(line)));
    let graphs = folder.run("run").join("graphs");
    assert_eq!(files(&graphs), ["assign_step.onnx", "embed_step.onnx", "init.safetensors", "manifest.json", "optimizer.onnx", "train_step.onnx"]);

    // The same graphs from a directory, of which every file is checked.
    let preset = folder.options("other", &["train.accumulate=4"]).source.preset().clone();
    let source = GraphSource::Directory { directory: graphs.clone(), preset: Box::new(preset) };
    let options = TrainOptions { source, max_steps: Some(1), ..folder.options("copied", &[]) };
    train_with(&options).expect("the run succeeds");
    assert_eq!(computed(&folder.run("copied"))[0], computed(&folder.run("run"))[0]);
    let refused = TrainOptions { run: folder.run("refused"), ..options };
    let init = graphs.join("init.safetensors");
    let whole = fs::read(&init).expect("read");
    for bytes in [None, Some(&b"other"[..]), Some(&graphgen::weights::to_safetensors(&Default::default(), &Default::default()))] {
        fs::remove_file(&init).expect("remove");
        bytes.iter().for_each(|bytes| fs::write(&init, bytes).expect("write"));
        let error = train_with(&refused).expect_err("refused").to_string();
        assert!(error.contains("init.safetensors") && error.contains("graphgen export") && !refused.run.exists(), "{error}");
        fs::write(&init, &whole).expect("write");
    }
    fs::write(graphs.join("assign_step.onnx"), b"other").expect("write");
    let error = train_with(&refused).expect_err("refused").to_string();
    assert!(error.contains("assign_step.onnx") && !refused.run.exists(), "{error}");
}

#[test]
fn the_prototypes_stay_while_they_are_frozen() {
    let folder = Folder::new();
    folder.train("start", &[], Some(0));
    folder.train("frozen", &[], Some(3));
    folder.train("free", &[], Some(4));
    let prototypes = |run: &str| {
        let checkpoint = Checkpoint::newest(&folder.run(run).join("checkpoints")).expect("readable").expect("there");
        (checkpoint.weights["prototypes.weight"].data.clone(), checkpoint.weights["conv1.weight"].data.clone())
    };
    let (start, frozen, free) = (prototypes("start"), prototypes("frozen"), prototypes("free"));
    let distance = |a: &[f32], b: &[f32]| {
        // Rows may be normalised in between: compare directions.
        let direction = |data: &[f32]| -> Vec<f32> {
            data.chunks(8).flat_map(|row| row.iter().map(|value| value / row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect::<Vec<_>>()).collect()
        };
        direction(a).iter().zip(direction(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(distance(&start.0, &frozen.0) < 1e-6, "frozen for three steps");
    assert!(distance(&frozen.0, &free.0) > 1e-6, "free in the fourth");
    assert_ne!(start.1, frozen.1, "the encoder trains meanwhile");
}

#[test]
fn going_on_mid_epoch_equals_an_uninterrupted_run() {
    for (optimizer, accumulate) in [("lars", 1), ("adamw", 1), ("lars", 2)] {
        let folder = Folder::new();
        let overrides = [&format!("optim.name={optimizer}")[..], "optim.base_lr=0.01", &format!("train.accumulate={accumulate}")];
        folder.train("whole", &overrides, None);
        // Step 3 is in the middle of the first epoch, 7 in the second, with a queue that is not yet or just full.
        folder.train("parts", &overrides, Some(3));
        folder.train("parts", &overrides, Some(7));
        folder.train("parts", &overrides, None);
        // The stops made checkpoints of their own; the newest is what counts.
        let newest = |run: &str| checkpoint::list(&folder.run(run).join("checkpoints")).expect("list").remove(0).1;
        for file in files(&newest("whole")) {
            assert!(fs::read(newest("whole").join(&file)).expect("read") == fs::read(newest("parts").join(&file)).expect("read"), "{file} differs");
        }
        assert_eq!(computed(&folder.run("whole")), computed(&folder.run("parts")));
    }
}

#[test]
fn a_damaged_newest_checkpoint_costs_its_steps_only() {
    let folder = Folder::new();
    folder.train("whole", &[], None);
    folder.train("damaged", &[], Some(8));
    let run = folder.run("damaged");
    let weights = run.join("checkpoints/step-00000008/weights.safetensors");
    let mut bytes = fs::read(&weights).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("write");
    // What a crash in the middle of a save and of a line leaves.
    fs::create_dir(run.join("checkpoints/.step-00000010.tmp")).expect("create");
    folder.train("damaged", &[], None);
    fs::remove_dir_all(run.join("checkpoints/damaged-step-00000008")).expect("set aside, not removed");
    assert_equal_runs(&folder.run("whole"), &run);
}

#[test]
fn a_run_can_go_on_from_a_named_checkpoint() {
    let folder = Folder::new();
    folder.train("whole", &[], None);
    folder.train("back", &[], None);
    let from = folder.run("back").join("checkpoints/step-00000006");
    train_with(&TrainOptions { resume: Resume::From(from), ..folder.options("back", &[]) }).expect("the run succeeds");
    assert_equal_runs(&folder.run("whole"), &folder.run("back"));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let folder = Folder::new();
    folder.train("run", &[], Some(1));
    let refused = |options: TrainOptions| train_with(&options).expect_err("refused").to_string();

    let error = refused(folder.options("run", &["optim.base_lr=0.5"]));
    assert!(error.contains("optim.base_lr (0.3 there, 0.5 here)"), "{error}");
    let error = refused(TrainOptions { resume: Resume::Never, ..folder.options("run", &[]) });
    assert!(error.contains("--resume never") && error.contains("1 steps"), "{error}");
    synth::write(&folder.run("others"), &SynthConfig { images: 48, classes: 4, size_px: 24, seed: 2 }, |_| {}).expect("images");
    let error = refused(TrainOptions { data: vec![folder.run("others")], ..folder.options("run", &[]) });
    assert!(error.contains("other training images"), "{error}");
    folder.train("run", &["train.workers=1"], Some(2));
}

#[test]
fn an_export_gives_the_same_bytes_every_time_and_those_of_the_run() {
    let folder = Folder::new();
    folder.train("run", &[], Some(2));
    let export = || encoder_of_run(&folder.run("run"), &EncoderOptions::default()).expect("export");
    let (first, steps) = export();
    assert_eq!(steps, 2);
    assert!(first == export().0 && first == fs::read(folder.run("run").join("encoder.onnx")).expect("read"));
}

#[test]
fn initial_weights_come_from_a_file() {
    let folder = Folder::new();
    folder.train("first", &[], Some(2));
    let file = checkpoint::list(&folder.run("first").join("checkpoints")).expect("list").remove(0).1.join("weights.safetensors");
    let options = TrainOptions { init: Some(file.clone()), max_steps: Some(0), ..folder.options("second", &["train.seed=5"]) };
    train_with(&options).expect("the run succeeds");
    let start = folder.run("second").join("checkpoints/step-00000000/weights.safetensors");
    assert_eq!(fs::read(start).expect("read"), fs::read(file).expect("read"));
}
