//! Weights from PyTorch into graphs and runs, and back out.

use std::path::{Path, PathBuf};

use graphgen::artifacts::{self, INIT_FILE, initial_weights};
use graphgen::preset::Preset;
use graphgen::weights::{ImportReport, Naming, WeightsFile, import, load_safetensors};
use runtime::data::synth::{self, SynthConfig};
use runtime::export::weights_of_run;
use runtime::session::EngineKind;
use runtime::session::environment::environment;
use runtime::train::checkpoint::{self, Checkpoint};
use runtime::train::{GraphSource, InitRecord, Resume, TrainError, TrainOptions, train};

/// The network of `tests/golden/weights/official.*.pth.tar`, but with other prototypes than the file's 5.
const PRESET: &str = "
[model]
arch = 'resnet10'
width = 1
stem = 'small'
hidden_mlp = 4
feat_dim = 3
nmb_prototypes = 6
[crops]
size_crops = [16, 12]
nmb_crops = [2, 1]
min_scale_crops = [0.3, 0.1]
max_scale_crops = [1.0, 0.4]
[optim]
base_lr = 0.3
warmup_epochs = 0.5
[train]
batch_size = 8
epochs = 2
workers = 1
";

fn preset() -> Preset {
    Preset::from_toml(PRESET, &[]).expect("valid")
}

fn official(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/weights/official.{format}.pth.tar"))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("temporary directory"));
        synth::write(&folder.path("images"), &SynthConfig { images: 24, classes: 2, size_px: 20, seed: 1 }, |_| {}).expect("images");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn options(&self, run: &str, init: Option<PathBuf>, max_steps: u64) -> TrainOptions {
        TrainOptions {
            source: GraphSource::Preset(Box::new(preset())),
            data: vec![self.path("images")],
            run: self.path(run),
            max_steps: Some(max_steps),
            resume: Resume::Auto,
            init,
            threads: 1,
            probe: None,
            tensorboard: false,
            engine: EngineKind::Stock,
        }
    }

    fn train(&self, run: &str, init: Option<PathBuf>, max_steps: u64) -> Result<(), TrainError> {
        train(&environment().expect("ONNX Runtime is set up"), &self.options(run, init, max_steps)).map(|_| ())
    }

    fn refused(&self, run: &str, init: PathBuf) -> String {
        self.train(run, Some(init), 1).expect_err("refused").to_string()
    }

    fn newest(&self, run: &str) -> Checkpoint {
        Checkpoint::newest(&self.path(run).join("checkpoints")).expect("readable").expect("there")
    }

    fn record(&self, run: &str) -> InitRecord {
        serde_json::from_slice(&std::fs::read(self.path(run).join("init.json")).expect("a record")).expect("valid")
    }
}

#[test]
fn exported_graphs_start_from_the_file_bit_by_bit_and_say_so() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let (preset, shapes) = (preset(), artifacts::network_shapes(&preset()).expect("a network"));
    for format in ["zip", "legacy"] {
        let imported = import(&official(format), &shapes).expect("fits");
        let out = folder.path().join(format);
        let manifest = artifacts::export_from(&preset, &out, Some(imported)).expect("written");
        let (written, mut stored) = (load_safetensors(&out.join(INIT_FILE)).expect("readable"), WeightsFile::open(&official(format)).expect("readable"));
        let fresh = initial_weights(&preset).expect("weights");
        for (name, tensor) in &written {
            let expected = if name == "prototypes.weight" { fresh[name].clone() } else { stored.read(&format!("module.{name}")).expect("read") };
            assert_eq!(*tensor, expected, "{name}");
        }
        assert_eq!(written.len(), shapes.len());
        let report = manifest.init.clone().expect("a report");
        assert_eq!((report.taken, report.fresh.len(), &*report.fresh[0].name), (shapes.len() - 1, 1, "prototypes.weight"));
        assert_eq!(artifacts::open(&out).expect("readable"), manifest);
    }
    let manifest = artifacts::export(&preset, &folder.path().join("fresh")).expect("written");
    assert_eq!(manifest.init, None);
}

#[test]
fn a_run_starts_from_a_checkpoint_of_pytorch_and_its_weights_go_into_another() {
    let folder = Folder::new();
    folder.train("start", Some(official("legacy")), 0).expect("a run");
    let imported = import(&official("zip"), &artifacts::network_shapes(&preset()).expect("a network")).expect("fits");
    let mut expected = initial_weights(&preset()).expect("weights");
    expected.extend(imported.weights);
    assert_eq!(folder.newest("start").weights, expected);
    assert_eq!(folder.record("start").report, imported.report);

    folder.train("run", Some(official("legacy")), 4).expect("a run");
    let trained = folder.newest("run").weights;
    assert_ne!(trained, expected);

    let exported = weights_of_run(&folder.path("run"), Naming::Swav).expect("written");
    assert_eq!((exported.step, &exported.torchvision), (4, &None));
    assert_eq!(exported, weights_of_run(&folder.path("run"), Naming::Swav).expect("written"), "the same bytes every time");
    std::fs::write(folder.path("out.safetensors"), &exported.bytes).expect("write");
    folder.train("again", Some(folder.path("out.safetensors")), 0).expect("a run");
    assert_eq!(folder.newest("again").weights, trained);
    assert_eq!(folder.record("again").report, ImportReport { taken: trained.len(), fresh: vec![], unused: vec![], not_tensors: vec![] });

    let error = weights_of_run(&folder.path("run"), Naming::Torchvision).expect_err("width 1").to_string();
    assert!(error.contains("torchvision has no ResNet of width 1"), "{error}");
}

#[test]
fn going_on_with_init_needs_the_file_that_the_run_started_from() {
    let folder = Folder::new();
    folder.train("whole", Some(official("zip")), 3).expect("a run");
    folder.train("run", Some(official("zip")), 1).expect("a run");
    // The same command again goes on, and so does one without --init.
    folder.train("run", Some(official("zip")), 2).expect("the same file");
    folder.train("run", None, 3).expect("no file");
    assert_eq!(folder.newest("run").weights, folder.newest("whole").weights);

    let error = folder.refused("run", official("legacy"));
    assert!(error.contains("official.zip.pth.tar (another file, or other bytes)") && error.contains("leave --init out"), "{error}");
    folder.train("random", None, 1).expect("a run");
    let error = folder.refused("random", official("zip"));
    assert!(error.contains("started from random weights"), "{error}");
}

#[test]
fn a_start_without_init_forgets_an_interrupted_one_with_it() {
    let folder = Folder::new();
    folder.train("run", Some(official("zip")), 0).expect("a run");
    // As if it had been stopped before its first checkpoint.
    for (_, checkpoint) in checkpoint::list(&folder.path("run").join("checkpoints")).expect("list") {
        std::fs::remove_dir_all(checkpoint).expect("remove");
    }
    folder.train("run", None, 0).expect("a run");
    assert_eq!(folder.newest("run").weights, initial_weights(&preset()).expect("weights"));
    assert!(!folder.path("run").join("init.json").exists());
}

#[test]
fn a_file_that_does_not_fit_leaves_no_run_behind() {
    let folder = Folder::new();
    let namespace = official("zip").with_file_name("namespace.pt");
    assert!(folder.refused("run", namespace).contains("argparse.Namespace"));
    let kinds = official("zip").with_file_name("kinds.zip.pt");
    assert!(folder.refused("run", kinds).contains("no tensor has a name of the network"));
    assert!(!folder.path("run").exists());
}
