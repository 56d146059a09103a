//! From a run to what people look at: probe, events, report, clusters, evaluation, plan, doctor, man pages.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const PRESET: &str = "
[model]
arch = 'resnet10'
width = 8
stem = 'small'
hidden_mlp = 16
feat_dim = 8
nmb_prototypes = 6
[crops]
size_crops = [16]
nmb_crops = [2]
min_scale_crops = [0.3]
max_scale_crops = [1.0]
[optim]
name = 'adam'
base_lr = 1e-3
warmup_epochs = 0
freeze_prototypes_niters = 0
[train]
batch_size = 8
epochs = 2
workers = 1
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs the program, which must succeed; what it prints.
    fn run(&self, arguments: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_swav-rt")).args(arguments.split(' ')).current_dir(self.path()).output().expect("the program starts");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments}: {message}");
        if arguments.contains("--quiet") {
            assert_eq!(message, "", "{arguments}");
        }
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs the program, which must fail; its last line of errors.
    fn fails(&self, arguments: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_swav-rt")).args(arguments.split(' ')).current_dir(self.path()).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
    }

    fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{arguments} --json --quiet"))).expect("one JSON value")
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

#[test]
fn a_run_is_probed_reported_sorted_and_evaluated() {
    let folder = Folder(tempfile::tempdir().expect("temporary directory"));
    std::fs::write(folder.path().join("preset.toml"), PRESET).expect("write");
    for (name, images, seed) in [("train", 40, 1), ("test", 12, 2)] {
        folder.run(&format!("data synth --out {name} --images {images} --classes 4 --size 24 --seed {seed}"));
    }
    folder.run("train --preset preset.toml --data train --out run --threads 1 --probe-train train --probe-test test --probe-kind both --tensorboard");

    let steps: Vec<Value> = folder.read("run/metrics.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let probed: Vec<u64> =
        steps.iter().filter(|step| step["probe_knn"].is_f64() && step["probe_linear"].is_f64()).map(|step| step["step"].as_u64().unwrap_or(0)).collect();
    assert_eq!(probed, [5, 10], "after every epoch");
    let environment: Value = serde_json::from_str(&folder.read("run/environment.json")).expect("JSON");
    assert_eq!(environment["data"]["images"], 40);
    assert_eq!(std::fs::read_dir(folder.path().join("run/tensorboard")).expect("folder").count(), 1);

    assert_eq!(folder.json("report --run run")["steps"], 10);
    let page = folder.read("run/report.html");
    assert!(page.contains("<h3>Probe, kNN</h3>") && page.contains("data:image/jpeg;base64,") && page.contains("machine.processor"));

    let clusters = folder.json("clusters --run run --data train --out clusters --neighbours 3 --files link");
    assert_eq!((&clusters["images"], &clusters["prototypes"]), (&40.into(), &6.into()));
    assert_eq!(folder.read("clusters/clusters.csv").lines().count(), 41);
    let summary: Value = serde_json::from_str(&folder.read("clusters/clusters.json")).expect("JSON");
    let sizes = summary["clusters"].as_array().expect("clusters").iter().map(|cluster| cluster["images"].as_u64().unwrap_or(0));
    assert_eq!(sizes.sum::<u64>(), 40);
    let links = std::fs::read_dir(folder.path().join("clusters/images"))
        .expect("folder")
        .map(|entry| std::fs::read_dir(entry.expect("entry").path()).expect("folder").count());
    assert_eq!(links.sum::<usize>(), 40);

    // Members of archives cannot be linked, which is found out after tables and gallery.
    folder.run("data pack --data train --out shards");
    let error = folder.fails("clusters --run run --data shards --out half --files link");
    assert!(error.contains("--files copy"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path().join("half")).expect("folder").count(), 0, "a part would pass for the whole");

    let error = folder.fails("embed --encoder run/graphs/train_step.onnx --data test --out features.npy");
    assert!(error.contains("got a training graph") && error.contains("encoder.onnx") && error.len() < 300, "{error}");

    let sets = "--encoder run/encoder.onnx --train train --test test --threads 1";
    let knn = folder.json(&format!("eval knn {sets} --k 5 --out knn"));
    assert_eq!((&knn["k"], &knn["test_images"], knn["settings"].as_array().map(Vec::len)), (&5.into(), &12.into(), Some(5)));
    assert_eq!(folder.read("knn/predictions.csv").lines().count(), 13);
    assert_eq!(folder.read("knn/confusion.csv").lines().count(), 5);
    for augment in ["", " --augment"] {
        let linear = folder.json(&format!("eval linear {sets} --epochs 3 --out linear{augment}"));
        assert!(linear["best_top1"].as_f64() >= linear["top1"].as_f64() && linear["classes"].as_array().map(Vec::len) == Some(4), "{linear}");
        std::fs::remove_dir_all(folder.path().join("linear")).expect("written");
    }
    std::fs::write(folder.path().join("labels.txt"), labelled_names(&folder.path().join("train"), 3)).expect("write");
    for (labels, count, rate) in [("--share 0.1", 4, 0.01), ("--labels labels.txt", 12, 0.01), ("--share 0.01 --from-scratch", 4, 0.01)] {
        let tuned = folder.json(&format!("eval semisup --run run --train train --test test --threads 1 --epochs 2 --out semisup {labels}"));
        assert_eq!((&tuned["labelled_images"], &tuned["train_images"], &tuned["lr"]), (&count.into(), &40.into(), &rate.into()), "{tuned}");
        assert_eq!(folder.read("semisup/predictions.csv").lines().count(), 13);
    }
    // The same again.
    assert_eq!(folder.json(&format!("eval linear {sets} --epochs 3")), folder.json(&format!("eval linear {sets} --epochs 3")));
}

/// Paths of some images of each class, one a line.
fn labelled_names(data: &Path, of_each: usize) -> String {
    let names = |folder: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
        names.sort();
        names
    };
    let chosen = names(data).into_iter().filter(|path| path.is_dir()).flat_map(|class| names(&class).into_iter().take(of_each));
    chosen.map(|image| format!("{}\n", image.strip_prefix(data).expect("inside").display())).collect()
}

#[test]
fn a_plan_is_a_preset_that_trains_and_the_doctor_finds_nothing_missing() {
    let folder = Folder(tempfile::tempdir().expect("temporary directory"));
    folder.run("data synth --out images --images 40 --classes 4 --size 24");
    let plan = folder.json("plan --data images --no-measure --out preset.toml");
    assert_eq!((&plan["images"], &plan["short_side_px"], &plan["classes"]), (&40.into(), &24.into(), &4.into()));
    assert!(folder.read("preset.toml").starts_with("# Proposed by swav-rt plan for 40 images"));
    folder.run("train --preset preset.toml --data images --out run --max-steps 0 --quiet");

    // A busy machine may be short of memory or slow to write.
    let output =
        Command::new(env!("CARGO_BIN_EXE_swav-rt")).args(["doctor", "--json", "--data", "images", "--out", "new/run"]).current_dir(folder.path()).output();
    let doctor: Value = serde_json::from_slice(&output.expect("the program starts").stdout).expect("one JSON value");
    let names: Vec<&str> = doctor["checks"].as_array().expect("checks").iter().filter_map(|check| check["check"].as_str()).collect();
    assert_eq!(names, ["ONNX Runtime", "providers", "processor", "memory", "write speed", "images"]);
    let speed = doctor["checks"][4]["detail"].as_str().expect("text");
    assert!(speed.starts_with("new/run: ") && speed.contains(" MB/s") && !folder.path().join("new").exists(), "{speed}");
}

#[test]
fn completions_and_man_pages_know_the_commands() {
    let folder = Folder(tempfile::tempdir().expect("temporary directory"));
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(folder.run(&format!("completions {shell}")).contains("clusters"), "{shell}");
    }
    folder.run("man --out man");
    assert!(folder.read("man/swav-rt-eval-linear.1").contains("augment"));
}
