//! The command line: exit codes, messages, and that bad input writes nothing.

use std::path::Path;
use std::process::{Command, Output};

const PRESET: &str = "[crops]\nsize_crops = [32]\nnmb_crops = [2]\nmin_scale_crops = [0.14]\nmax_scale_crops = [1.0]\n\
                      [train]\nbatch_size = 16\nepochs = 2\n[optim]\nwarmup_epochs = 0\n";

struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with a preset and a small data set.
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("temporary directory"));
        std::fs::write(folder.path().join("preset.toml"), PRESET).expect("write");
        let output = folder.run(&["data", "synth", "--out", "images", "--images", "40", "--classes", "2", "--size", "32"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swav-rt"));
        command.args(arguments).current_dir(self.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    /// Trains into `run` with further arguments, which must fail with this code and leave nothing behind.
    fn refuses(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let mut all = vec!["train", "--preset", "preset.toml", "--data", "images", "--out", "run"];
        all.extend(arguments);
        self.refuses_command(&mut self.command(&all), code, words);
    }

    fn refuses_command(&self, command: &mut Command, code: i32, words: &[&str]) {
        let output = command.output().expect("the program starts");
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(output.stdout.is_empty(), "results only on success");
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
        assert!(!message.contains("panicked"), "{message}");
        assert!(!self.path().join("run").exists(), "a refused run writes nothing");
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_missing_or_wrong_library_is_named_with_the_way_out() {
    let folder = Folder::new();
    let train = ["train", "--preset", "preset.toml", "--data", "images", "--out", "run"];
    std::fs::write(folder.path().join("text.so"), "no library").expect("write");
    for (file, word) in [("/absent/libonnxruntime.so", "/absent/libonnxruntime.so"), ("text.so", "text.so")] {
        folder.refuses_command(folder.command(&train).env("ORT_DYLIB_PATH", file), 1, &[word, "ORT_DYLIB_PATH", "scripts/setup.sh"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_that_is_no_onnx_runtime_is_named() {
    let folder = Folder::new();
    let train = ["train", "--preset", "preset.toml", "--data", "images", "--out", "run"];
    folder.refuses_command(folder.command(&train).env("ORT_DYLIB_PATH", "libc.so.6"), 1, &["libc.so.6", "OrtGetApiBase"]);
}

#[test]
fn settings_that_cannot_work_are_wrong_usage() {
    let folder = Folder::new();
    folder.refuses(&["--set", "base_lr=1"], 2, &["--set base_lr=1", "section.key=value"]);
    folder.refuses(&["--set", "crops.crops_for_assign=[7]"], 2, &["crops.crops_for_assign", "crop 7"]);
    folder.refuses(&["--set", "model.nmb_prototypes=1"], 2, &["model.nmb_prototypes"]);
    folder.refuses(&["--provider", "cuda"], 1, &["--provider cuda", "CUDAExecutionProvider", "scripts/setup.sh --provider cuda"]);
    folder.refuses(&["--provider", "directml"], 1, &["--provider directml", "onnxruntime-directml"]);
    folder.refuses(&["--set", "train.precision=mixed-f16"], 2, &["train.precision", "train.emulate_f16"]);
    folder.refuses(&["--graphs", "graphs"], 2, &["--graphs"]);
}

#[test]
fn numbers_out_of_range_are_wrong_usage() {
    let folder = Folder::new();
    for (command, option, values) in [
        ("eval knn", "--k", &["0"][..]),
        ("eval knn", "--temperature", &["0", "nan", "-1"]),
        ("eval knn", "--batch-size", &["0"]),
        ("eval knn", "--crop", &["0", "18446744073709551615"]),
        ("eval linear", "--epochs", &["0"]),
        ("eval linear", "--step-batch", &["0"]),
        ("eval linear", "--lr", &["nan", "-1", "0", "inf", "fast"]),
        ("eval linear", "--weight-decay", &["-0.1"]),
        ("eval semisup", "--lr", &["nan"]),
        ("eval semisup", "--classifier-lr", &["-1"]),
        ("eval semisup", "--share", &["0", "1.5"]),
        ("clusters", "--duplicates", &["nan"]),
        ("plan", "--hours", &["0"]),
        ("plan", "--memory", &["-4"]),
        ("plan", "--classes-guess", &["0"]),
        ("data pack", "--quality", &["101"]),
        ("data pack", "--max-side", &["8"]),
        ("data synth", "--classes", &["0"]),
        ("data synth", "--images", &["0"]),
        ("data synth", "--size", &["2000"]),
        ("bench step", "--steps", &["0"]),
    ] {
        for value in values {
            let arguments: Vec<&str> = command.split(' ').chain([option, value]).collect();
            folder.refuses_command(&mut folder.command(&arguments), 2, &[&format!("invalid value '{value}' for '{option}")]);
        }
    }
    let words = ["expected a number above 0 and up to 1000000, got NaN"];
    folder.refuses_command(&mut folder.command(&["eval", "linear", "--lr", "nan"]), 2, &words);
}

#[test]
fn an_evaluation_goes_into_no_folder_of_other_files() {
    let folder = Folder::new();
    for command in ["eval knn --encoder encoder.onnx", "eval linear --encoder encoder.onnx", "eval semisup --run absent"] {
        let arguments: Vec<&str> = command.split(' ').chain("--train images --test images --out images".split(' ')).collect();
        folder.refuses_command(&mut folder.command(&arguments), 1, &["--out: images", "not empty"]);
    }
}

#[test]
fn data_that_cannot_be_trained_on_is_refused_before_anything_is_written() {
    let folder = Folder::new();
    folder.refuses(&["--set", "train.batch_size=100"], 1, &["100", "40"]);
    folder.refuses(&["--data", "absent"], 1, &["absent"]);
    // 191 GiB, which some machines have.
    if runtime::machine::Machine::read().memory_bytes < 190 << 30 {
        let words = ["model.nmb_prototypes", "would take 191 GiB", "this machine's memory", "lower model.nmb_prototypes"];
        folder.refuses(&["--set", "model.nmb_prototypes=400000000"], 1, &words);
    }
    folder.refuses(&["--init", "absent.safetensors"], 1, &["absent.safetensors"]);
    folder.refuses(&["--init", "preset.toml"], 1, &["preset.toml: neither a safetensors file nor a PyTorch checkpoint"]);
    folder.refuses(&["--resume", "absent"], 1, &["checkpoint absent", "state.json", "run has none", "leave --resume out"]);
}

#[test]
fn export_options_of_the_other_format_are_wrong_usage() {
    let folder = Folder::new();
    let export = |arguments: &[&str], code: i32, words: &[&str]| {
        let all = [&["export", "--run", "run", "--out", "file"], arguments].concat();
        folder.refuses_command(&mut folder.command(&all), code, words);
        assert!(!folder.path().join("file").exists());
    };
    export(&["--names", "torchvision"], 2, &["--names", "--format safetensors"]);
    export(&["--format", "safetensors", "--input", "f32"], 2, &["--input", "--format onnx"]);
    export(&["--format", "safetensors", "--static", "1,32,32"], 2, &["--static"]);
    export(&["--format", "pth"], 2, &["pth", "safetensors"]);
    export(&["--format", "safetensors"], 1, &["expected checkpoints in run"]);
}

#[test]
fn an_unlabelled_folder_cannot_be_evaluated() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("flat")).expect("create");
    std::fs::write(folder.path().join("flat/one.png"), "not looked at").expect("write");
    let command = ["eval", "knn", "--encoder", "encoder.onnx", "--train", "images", "--test", "flat"];
    folder.refuses_command(&mut folder.command(&command), 1, &["one.png", "class folders"]);
}

#[test]
fn checking_and_packing_data_have_their_exit_codes() {
    let folder = Folder::new();
    let run = |arguments: &[&str], code: i32| {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run(&["data", "check", "--data", "images"], 0).contains("40 images"));
    assert!(run(&["data", "pack", "--data", "images", "--out", "shards"], 0).contains("40 images in 1 shards"));
    assert!(run(&["data", "check", "--data", "shards", "--min-side", "33"], 0).contains("40 small"));
    run(&["data", "pack", "--data", "images", "--out", "shards"], 1);
    run(&["data", "pack", "--data", "images", "--out", "other", "--max-side", "40", "--quality", "0"], 2);
    run(&["data", "pack", "--data", "images", "--out", "other", "--quality", "80"], 2);

    let class = std::fs::read_dir(folder.path().join("images")).expect("folder").next().expect("a class").expect("entry").path();
    std::fs::write(class.join("zzz.jpg"), b"no image").expect("write");
    let report = run(&["data", "check", "--data", "images"], 1);
    assert!(report.contains("zzz.jpg") && report.contains("1 broken"), "{report}");
    run(&["data", "check", "--data", "nowhere"], 1);
}

#[test]
fn help_and_version_are_no_errors() {
    let folder = Folder(tempfile::tempdir().expect("temporary directory"));
    for arguments in [&["--help"][..], &["--version"], &["train", "--help"], &["eval", "knn", "--help"], &["bench", "step", "--help"]] {
        assert_eq!(folder.run(arguments).status.code(), Some(0), "{arguments:?}");
    }
    for arguments in [&[][..], &["trian"], &["train", "--out", "run"], &["export", "--run", "x", "--out", "y", "--static", "1,2"]] {
        assert_eq!(folder.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_data_set_that_cannot_be_finished_is_not_begun() {
    let folder = Folder::new();
    // Files of at most 512 or 1024 bytes, where a full disk would refuse the second half.
    let program = env!("CARGO_BIN_EXE_swav-rt");
    let limited = format!("trap '' XFSZ; ulimit -f 1; exec {program} data synth --out run --images 4 --classes 2 --size 256 --quiet");
    let output = Command::new("sh").args(["-c", &limited]).current_dir(folder.path()).output().expect("sh");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("too large"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(folder.path().join("run")).expect("folder").count(), 0, "a part would pass for a data set");
}

#[test]
fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is() {
    let folder = Folder::new();
    let synth = |out: &str| ["data", "synth", "--out", out, "--images", "2", "--classes", "1", "--size", "16", "--quiet"].map(str::to_owned);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = folder.command(&synth("unread").each_ref().map(String::as_str)).stdout(writer).output().expect("the program starts");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    if let Ok(full) = std::fs::File::options().write(true).open("/dev/full") {
        let output = folder.command(&synth("lost").each_ref().map(String::as_str)).stdout(full).output().expect("the program starts");
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.starts_with("error: printing the result: ") && message.contains("space"), "{message}");
    }
}
