//! The program under what happens to runs: signals, kills, places that cannot be written, bad settings, stalled data.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use runtime::data::synth::{self, SynthConfig};
use runtime::train::StepMetrics;
use runtime::train::checkpoint::{self, Checkpoint};

/// 40 images in batches of 8: 5 steps an epoch, 40 in all, with a save after every second one.
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
epochs = 8
workers = 2
checkpoint_every_steps = 2
"
);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("temporary directory"));
        fs::write(folder.path("preset.toml"), PRESET).expect("write");
        synth::write(&folder.path("images"), &SynthConfig { images: 40, classes: 4, size_px: 24, seed: 1 }, |_| {}).expect("images");
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `swav-rt train` into `run`.
    fn command(&self, run: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swav-rt"));
        command.args(["train", "--preset", "preset.toml", "--data", "images", "--threads", "1", "--out", run]).args(more);
        command.current_dir(self.0.path()).env("RUST_LOG", "info").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn train(&self, run: &str, more: &[&str]) -> Output {
        self.command(run, more).output().expect("the program starts")
    }

    fn succeeds(&self, run: &str, more: &[&str]) -> Output {
        let output = self.train(run, more);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        output
    }

    fn fails(&self, run: &str, more: &[&str], words: &[&str]) {
        let output = self.train(run, more);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
        assert!(!message.contains("panicked"), "{message}");
    }

    fn steps(&self, run: &str) -> Vec<u64> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str::<StepMetrics>(line).expect("a whole line").step).collect()
    }

    /// The newest checkpoint's files that hold numbers.
    fn parameters(&self, run: &str) -> [Vec<u8>; 3] {
        let newest = checkpoint::list(&self.path(run).join("checkpoints")).expect("list").remove(0).1;
        ["weights", "optimizer", "queue"].map(|name| fs::read(newest.join(format!("{name}.safetensors"))).expect("read"))
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().expect("kill");
    assert!(status.success(), "the program runs");
}

/// Waits until a condition holds; a program that hangs must not hang the tests.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A run long enough to be interrupted.
const LONG: [&str; 2] = ["--set", "train.epochs=100000"];

#[test]
fn sigterm_and_ctrl_c_save_and_print_how_to_go_on() {
    let folder = Folder::new();
    for (name, code) in [("TERM", 0), ("INT", 130)] {
        let child = folder.command(name, &[&LONG[..], &["--set", "train.checkpoint_every_steps=0"]].concat()).spawn().expect("start");
        wait_for("the third step", || folder.steps(name).len() >= 3);
        signal(&child, name);
        let output = child.wait_with_output().expect("the program ends");
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("stopped and saved; go on with\n") && said.contains("train --preset preset.toml"), "{said}");
        // Nothing is lost: the checkpoint is that of the last line.
        let newest = checkpoint::list(&folder.path(name).join("checkpoints")).expect("list").remove(0).0;
        assert_eq!(folder.steps(name), (1..=newest).collect::<Vec<_>>());
        let resume = said.lines().find(|line| line.contains("train --preset")).expect("a command");
        let output = Command::new("sh").args(["-c", &format!("{resume} --max-steps {}", newest + 2)]).current_dir(folder.0.path()).output().expect("sh");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(folder.steps(name), (1..=newest + 2).collect::<Vec<_>>());
    }
}

#[test]
fn sigusr1_saves_and_goes_on() {
    let folder = Folder::new();
    let mut child = folder.command("run", &[&LONG[..], &["--set", "train.checkpoint_every_steps=0"]].concat()).spawn().expect("start");
    wait_for("a step", || !folder.steps("run").is_empty());
    signal(&child, "USR1");
    wait_for("a checkpoint", || !checkpoint::list(&folder.path("run/checkpoints")).expect("list").is_empty());
    let saved = folder.steps("run").len();
    wait_for("more steps", || folder.steps("run").len() > saved + 2);
    child.kill().expect("kill");
    child.wait().expect("ended");
}

#[test]
fn a_second_signal_stops_at_once_and_damages_nothing() {
    let folder = Folder::new();
    // The data hangs: the loader's threads never end by themselves.
    folder.stall();
    let child = folder.command("run", &["--data", "list.txt", "--set", "train.epochs=100000"]).spawn().expect("start");
    wait_for("the preset", || folder.path("run/preset.toml").exists());
    signal(&child, "INT");
    // The second may come before or after the program has stopped by itself; it must end, and with the code of Ctrl-C.
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    Checkpoint::newest(&folder.path("run/checkpoints")).expect("what there is can be read");
}

impl Folder {
    /// A list of the images that ends in a pipe, which blocks whoever reads it.
    fn stall(&self) {
        let status = Command::new("mkfifo").arg(self.path("hangs.png")).status().expect("mkfifo");
        assert!(status.success());
        let mut names: Vec<String> = Vec::new();
        for class in fs::read_dir(self.path("images")).expect("images") {
            for image in fs::read_dir(class.expect("class").path()).expect("class") {
                names.push(image.expect("image").path().display().to_string());
            }
        }
        names.sort();
        names.push(self.path("hangs.png").display().to_string());
        fs::write(self.path("list.txt"), names.join("\n")).expect("write");
    }
}

#[test]
fn data_that_stalls_ends_the_run_if_asked_and_names_the_setting() {
    let folder = Folder::new();
    folder.stall();
    let began = Instant::now();
    let stall = ["--data", "list.txt", "--set", "guards.stalled_data=stop", "--set", "guards.stall_secs=1"];
    folder.fails("run", &stall, &["no batch for 1 s", "guards.stall_secs", "train.workers"]);
    assert!(began.elapsed() < Duration::from_secs(60), "the threads that hang are not waited for");
    // A warning only: the run waits until it is told to stop, and saves.
    let log = folder.path("warned.log");
    let mut command = folder.command("warned", &["--data", "list.txt", "--set", "guards.stall_secs=0.5"]);
    let child = command.stderr(fs::File::create(&log).expect("create")).spawn().expect("start");
    let written = || fs::read_to_string(&log).expect("readable");
    wait_for("the warning", || written().contains("no batch for"));
    signal(&child, "TERM");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(0), "{}", written());
}

#[test]
fn what_is_not_finite_ends_the_run_in_its_step() {
    let folder = Folder::new();
    let too_high = ["--set", "optim.name=sgd", "--set", "optim.base_lr=1e30", "--set", "optim.warmup_epochs=0"];
    folder.fails("run", &too_high, &["step 1: the loss is NaN", "optim.base_lr", "last checkpoint is untouched"]);
    assert_eq!(folder.steps("run"), [1], "the step that is not finite has no line");
    // Skipped steps leave no trace in the parameters: that of the first step stays the last.
    let skip = [&too_high[..], &["--set", "guards.not_finite=skip", "--set", "guards.max_skips=3"]].concat();
    folder.fails("skipped", &skip, &["The step's update is left out", "guards.max_skips"]);
    assert_eq!(folder.steps("skipped").len(), 1 + 3);
    // A rollback starts again from the beginning, with ever lower learning rates.
    let roll_back = [&too_high[..], &["--set", "guards.not_finite=rollback", "--set", "guards.rollback_learning_rate=1e-31"]].concat();
    let output = folder.succeeds("rolled-back", &roll_back);
    assert!(stderr(&output).contains("goes back to step"), "{}", stderr(&output));
    assert_eq!(folder.steps("rolled-back"), (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_collapse_is_seen_within_the_patience_and_names_its_setting() {
    let folder = Folder::new();
    // The loss of this small network begins at twice ln K: its guard is left out.
    let stop = ["--set", "guards.collapse=stop", "--set", "guards.dead_prototypes=stop", "--set", "guards.patience_steps=8", "--set", "guards.max_loss=100"];
    folder.succeeds("healthy", &stop);
    // Epsilon too high: the codes are uniform from the first step on.
    folder.fails("epsilon", &[&stop[..], &["--set", "loss.epsilon=50"]].concat(), &["the codes are uniform", "for 8 steps", "loss.epsilon = 50"]);
    assert_eq!(folder.steps("epsilon").len(), 7);
    // The learning rate too high: the embeddings are one point after the first update.
    let too_high = ["--set", "optim.base_lr=300", "--set", "optim.warmup_epochs=0"];
    folder.fails("rate", &[&stop[..], &too_high].concat(), &["the embeddings have collapsed", "for 8 steps", "optim.base_lr"]);
    assert_eq!(folder.steps("rate").len(), 8);
}

#[test]
fn a_queue_that_the_run_does_not_live_to_see_is_named() {
    let folder = Folder::new();
    let output = folder.succeeds("run", &["--set", "loss.epoch_queue_starts=8", "--max-steps", "1"]);
    assert!(stderr(&output).contains("the queue is dead") && stderr(&output).contains("loss.epoch_queue_starts"), "{}", stderr(&output));
}

#[test]
fn kept_checkpoints_are_those_of_the_preset() {
    let folder = Folder::new();
    folder.succeeds("run", &["--set", "train.keep_last=2", "--set", "train.keep_every=4"]);
    let steps: Vec<u64> = checkpoint::list(&folder.path("run/checkpoints")).expect("list").into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [40, 38, 20]);
}

#[test]
fn checkpoints_that_cannot_be_used_and_lines_that_are_missing_are_told_with_the_way_out() {
    let folder = Folder::new();
    folder.succeeds("run", &["--max-steps", "6"]);
    folder.fails(
        "run",
        &["--resume", "step-00000004"],
        &["checkpoint step-00000004", "run has 3", "run/checkpoints/step-00000006 to run/checkpoints/step-00000004"],
    );

    let metrics = folder.path("run/metrics.jsonl");
    let lines = fs::read_to_string(&metrics).expect("read");
    fs::write(&metrics, lines.lines().filter(|line| !line.contains("\"step\":3,")).map(|line| format!("{line}\n")).collect::<String>()).expect("write");
    let output = folder.succeeds("run", &["--max-steps", "8"]);
    assert!(stderr(&output).contains("metrics.jsonl: 1 of the 6 lines before the checkpoint are missing, the first is that of step 3"), "{}", stderr(&output));
    assert_eq!(folder.steps("run"), [1, 2, 4, 5, 6, 7, 8]);

    let checkpoints = checkpoint::list(&folder.path("run/checkpoints")).expect("list");
    checkpoints.iter().for_each(|(_, path)| fs::write(path.join("weights.safetensors"), "damaged").expect("write"));
    folder.fails("run", &[], &["none of the 3 checkpoints in run/checkpoints can be read", "weights.safetensors is damaged", "from a copy", "another --out"]);
}

#[test]
fn neither_a_home_nor_a_temporary_folder_is_needed() {
    let folder = Folder::new();
    let mut command = folder.command("run", &["--max-steps", "2"]);
    for variable in ["HOME", "USER", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
        command.env_remove(variable);
    }
    let output = command.env("TMPDIR", "/absent").output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    // Even root cannot write there.
    let folder = Folder::new();
    folder.fails("/proc/run", &[], &["/proc/run"]);
    fs::write(folder.path("file"), "").expect("write");
    folder.fails("file/run", &[], &["file/run"]);
}

#[test]
fn two_runs_in_one_directory_are_refused() {
    let folder = Folder::new();
    let mut first = folder.command("run", &LONG).spawn().expect("start");
    wait_for("a step", || !folder.steps("run").is_empty());
    folder.fails("run", &LONG, &["another process trains here", "--out"]);
    first.kill().expect("kill");
    first.wait().expect("ended");
}

#[test]
fn names_that_are_no_text_work_or_are_named() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let odd = std::ffi::OsStr::from_bytes(b"run-\xff");
    let train = ["train", "--preset", "preset.toml", "--threads", "1", "--max-steps", "1"];
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swav-rt"));
        command.args(train).current_dir(folder.0.path());
        command
    };
    fs::rename(folder.path("images"), folder.0.path().join(std::ffi::OsStr::from_bytes(b"images-\xfe"))).expect("rename");
    let data = std::ffi::OsStr::from_bytes(b"images-\xfe");
    let output = command().arg("--data").arg(data).arg("--out").arg(odd).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(folder.0.path().join(odd).join("encoder.onnx").exists());

    let class = fs::read_dir(folder.0.path().join(data)).expect("images").next().expect("a class").expect("a class").path();
    fs::write(class.join(std::ffi::OsStr::from_bytes(b"\xfd.png")), "").expect("write");
    let output = command().arg("--data").arg(data).args(["--out", "other"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("UTF-8") && stderr(&output).contains("rename it"), "{}", stderr(&output));
}

/// Seeds differ from run to run, so that many test runs see many moments; a failure names its own.
fn kill_runs(folder: &Folder, runs: usize, seed: u64) -> (usize, usize) {
    use rand::{RngExt, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    folder.succeeds("whole", &[]);
    let began = Instant::now();
    folder.succeeds("timed", &[]);
    let duration = began.elapsed().as_secs_f64();
    let (expected, steps) = (folder.parameters("whole"), folder.steps("whole"));
    let (mut kills, mut in_a_save) = (0, 0);
    for number in 0..runs {
        let run = format!("run-{number}");
        // Killed once to three times, then left alone.
        let (wanted, mut killed) = (random.random_range(1..=3), 0);
        while killed < wanted {
            let mut child = folder.command(&run, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
            std::thread::sleep(Duration::from_secs_f64(duration * random.random_range(0.0..1.0)));
            child.kill().expect("kill");
            if child.wait().expect("ended").code().is_none() {
                killed += 1;
                in_a_save += usize::from(unfinished_save(&folder.path(&run)));
            } else if killed == 0 {
                // It had ended before.
                fs::remove_dir_all(folder.path(&run)).expect("remove");
            } else {
                break;
            }
        }
        kills += killed;
        folder.succeeds(&run, &[]);
        assert!(folder.parameters(&run) == expected, "run {number} of seed {seed} ends with other parameters");
        assert_eq!(folder.steps(&run), steps, "run {number} of seed {seed}");
        assert_eq!(names(&folder.path(&run)), names(&folder.path("whole")), "run {number} of seed {seed}");
        assert_eq!(names(&folder.path(&run).join("checkpoints")), names(&folder.path("whole/checkpoints")), "run {number} of seed {seed}");
        fs::remove_dir_all(folder.path(&run)).expect("remove");
    }
    (kills, in_a_save)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn unfinished_save(run: &Path) -> bool {
    run.join("checkpoints").exists() && names(&run.join("checkpoints")).iter().any(|name| name.ends_with(".tmp"))
}

#[test]
fn runs_killed_at_any_moment_end_with_the_parameters_of_a_whole_one() {
    // scripts/kill_test.sh asks for a hundred.
    let runs = std::env::var("KILL_RUNS").map_or(4, |runs| runs.parse().expect("KILL_RUNS is a number"));
    let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    let (kills, in_a_save) = kill_runs(&Folder::new(), runs, seed);
    println!("{runs} runs, {kills} kills, {in_a_save} of them during a save (seed {seed}): all parameters are those of the whole run");
}
