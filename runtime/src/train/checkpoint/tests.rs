use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use graphgen::weights::WeightTensor;

use super::*;
use crate::session::{EngineError, StateTensor, StateTensors};
use crate::train::files::faulty::{BROKEN_DISK, Faulty, NO_SPACE};
use crate::train::files::{entries, unfinished};
use crate::train::guards::Guard;

fn checkpoint(step: u64) -> Checkpoint {
    let tensor = |value: f32| WeightTensor { shape: vec![2], data: vec![value, -value] };
    Checkpoint {
        progress: progress(step),
        weights: Weights::from([("w".to_owned(), tensor(step as f32))]),
        optimizer: OptimizerState { moments: Weights::from([("momentum/w".to_owned(), tensor(0.5))]), step: Some(step as i64) },
        queue: Some(QueueState { embeddings: tensor(3.0), filled: 1 }),
    }
}

fn progress(step: u64) -> Progress {
    let guards = GuardState { learning_rate_factor: 0.3 * 0.3, streaks: [(Guard::UniformCodes, 4)].into(), queue_filled: Some(8), ..GuardState::default() };
    let versions = Versions { program: "0".into(), onnxruntime: "1".into() };
    Progress { step, epoch: step / 10, batch: step % 10, preset: Preset::default(), dataset_fingerprint: "abc".into(), guards, versions }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = entries(directory).expect("list").iter().map(|path| path.file_name().expect("name").display().to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_checkpoint_survives_its_folder() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let folder = checkpoint(12).save(directory.path()).expect("save");
    assert_eq!(folder, directory.path().join("step-00000012"));
    assert_eq!(Checkpoint::load(&folder).expect("load"), checkpoint(12));
    assert_eq!(names(&folder), ["checksums.json", "optimizer.safetensors", "queue.safetensors", "state.json", "weights.safetensors"]);
    let without_queue = Checkpoint { queue: None, ..checkpoint(13) };
    assert_eq!(Checkpoint::load(&without_queue.save(directory.path()).expect("save")).expect("load"), without_queue);
}

/// A tensor that lies elsewhere, and may be read only when those before it are in the file.
struct Elsewhere {
    elements: usize,
    bytes_before: usize,
    written: Arc<AtomicUsize>,
}

impl StateTensor for Elsewhere {
    fn shape(&self) -> Vec<usize> {
        vec![self.elements]
    }

    fn read(&self) -> Result<Cow<'_, [f32]>, EngineError> {
        let written = self.written.load(Ordering::Relaxed);
        assert!(written + save::BUFFER > self.bytes_before, "{written} bytes are written, {} were read", self.bytes_before);
        Ok(Cow::Owned(vec![self.bytes_before as f32; self.elements]))
    }
}

#[test]
fn a_tensor_is_read_when_those_before_it_are_written() {
    const TENSORS: usize = 8;
    const ELEMENTS: usize = 100_000;
    let directory = tempfile::tempdir().expect("temporary directory");
    let files = Faulty::new(usize::MAX, NO_SPACE);
    // Weights, then moments, then the queue, as a save writes them.
    let mut count = 0;
    let mut tensors = |count_of: usize| -> StateTensors<'_> {
        let tensors = (count..count + count_of).map(|index| {
            let tensor = Elsewhere { elements: ELEMENTS, bytes_before: 4 * ELEMENTS * index, written: Arc::clone(&files.bytes) };
            (format!("tensor/{index:02}"), Box::new(tensor) as Box<dyn StateTensor>)
        });
        count += count_of;
        tensors.collect()
    };
    let (weights, moments) = (tensors(TENSORS), tensors(TENSORS));
    let embeddings = tensors(1).into_values().next().expect("one");
    let state = EngineState { weights, moments, step: None, queue: Some(QueueView { embeddings, filled: 1 }) };
    let folder = save(&files, directory.path(), &progress(3), &state).expect("save");
    let loaded = Checkpoint::load(&folder).expect("load");
    for (name, tensor) in loaded.weights.iter().chain(&loaded.optimizer.moments) {
        let index: usize = name.trim_start_matches("tensor/").parse().expect("a number");
        assert_eq!(*tensor, WeightTensor { shape: vec![ELEMENTS], data: vec![(4 * ELEMENTS * index) as f32; ELEMENTS] });
    }
    assert_eq!((loaded.weights.len(), loaded.optimizer.moments.len()), (TENSORS, TENSORS));
}

#[test]
fn the_newest_stay_and_those_that_are_kept_for_good_or_for_a_rollback() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for step in 0..=12 {
        checkpoint(step).save(directory.path()).expect("save");
        prune(&Disk, directory.path(), Retention { last: 2, every_steps: 5, healthy_step: if step > 8 { 8 } else { step } }).expect("prune");
    }
    let expected = ["step-00000005", "step-00000008", "step-00000010", "step-00000011", "step-00000012"];
    assert_eq!(names(directory.path()), expected);
}

/// Changes one byte of a file.
fn damage(file: &Path) {
    let mut bytes = fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).expect("write");
}

#[test]
fn damage_of_any_file_is_found_and_the_checkpoint_before_is_used() {
    for name in [WEIGHTS, OPTIMIZER, QUEUE, STATE, CHECKSUMS] {
        for change in ["byte", "missing", "empty"] {
            let directory = tempfile::tempdir().expect("temporary directory");
            checkpoint(2).save(directory.path()).expect("save");
            let newest = checkpoint(3).save(directory.path()).expect("save");
            let file = newest.join(name);
            match change {
                "byte" => damage(&file),
                "missing" => fs::remove_file(&file).expect("remove"),
                _ => fs::write(&file, "").expect("write"),
            }
            let error = Checkpoint::load(&newest).expect_err("damaged");
            assert!(matches!(error, TrainError::Checkpoint { .. }), "{name} {change}: {error}");
            let found = Checkpoint::newest(directory.path()).expect("readable").expect("there");
            assert_eq!(found.progress.step, 2, "{name} {change}");
            damage(&directory.path().join("step-00000002").join(WEIGHTS));
            let error = Checkpoint::newest(directory.path()).expect_err("none is left").to_string();
            assert!(error.contains("weights.safetensors is damaged"), "{error}");
        }
    }
    assert_eq!(Checkpoint::newest(Path::new("absent")).expect("no checkpoints are no error"), None);
}

#[test]
fn a_newer_format_is_refused_and_not_passed_over() {
    let directory = tempfile::tempdir().expect("temporary directory");
    checkpoint(2).save(directory.path()).expect("save");
    let newest = checkpoint(3).save(directory.path()).expect("save");
    let state = "{\"version\": 7}";
    fs::write(newest.join(STATE), state).expect("write");
    fs::write(newest.join(CHECKSUMS), format!("{{\"{STATE}\": \"{}\"}}", sha256(state.as_bytes()))).expect("write");
    let error = Checkpoint::newest(directory.path()).expect_err("refused").to_string();
    assert!(error.contains("format version 7, this program reads 2") && error.contains("--resume"), "{error}");
    // The format before had no checksums.json.
    fs::remove_file(newest.join(CHECKSUMS)).expect("remove");
    assert!(matches!(Checkpoint::newest(directory.path()), Err(TrainError::CheckpointVersion { found: 7, .. })));
}

#[test]
fn saving_over_a_damaged_checkpoint_replaces_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let folder = checkpoint(4).save(directory.path()).expect("save");
    fs::write(folder.join(WEIGHTS), "damaged").expect("write");
    checkpoint(4).save(directory.path()).expect("save");
    assert_eq!(Checkpoint::load(&folder).expect("load"), checkpoint(4));
    assert_eq!(names(directory.path()), ["step-00000004"]);
}

#[test]
fn leftovers_and_a_left_course_are_cleaned_and_damaged_checkpoints_set_aside() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for step in [1, 2, 3] {
        checkpoint(step).save(directory.path()).expect("save");
    }
    let leftover = unfinished(&directory.path().join("step-00000004"));
    fs::create_dir(&leftover).expect("create");
    fs::write(leftover.join(WEIGHTS), "half").expect("write");
    assert_eq!(list(directory.path()).expect("list").len(), 3, "an unfinished folder is no checkpoint");
    clean(&Disk, directory.path(), 2, Later::Damaged).expect("clean");
    assert_eq!(names(directory.path()), ["damaged-step-00000003", "step-00000001", "step-00000002"]);
    clean(&Disk, directory.path(), 1, Later::Left).expect("clean");
    assert_eq!(names(directory.path()), ["damaged-step-00000003", "step-00000001"]);
}

#[test]
fn whatever_operation_of_a_save_fails_the_checkpoint_before_loads() {
    for error in [NO_SPACE, BROKEN_DISK] {
        let mut failing = 0;
        loop {
            let directory = tempfile::tempdir().expect("temporary directory");
            checkpoint(1).save(directory.path()).expect("save");
            let files = Faulty::new(failing, error);
            let saved = checkpoint(2).save_with(&files, directory.path());
            let newest = Checkpoint::newest(directory.path()).expect("readable").expect("there").progress.step;
            if saved.is_ok() {
                assert_eq!(newest, 2);
                // 2 for the folder, 3 for each of 5 files, one sync, one rename, one sync.
                assert_eq!(failing, 2 + 3 * 5 + 3, "every operation has failed once");
                break;
            }
            // Only the last sync comes after the new name.
            assert_eq!(newest, if failing == 19 { 2 } else { 1 }, "operation {failing}");
            assert_eq!(Checkpoint::load(&directory.path().join("step-00000001")).expect("load"), checkpoint(1));
            assert!(names(directory.path()).iter().all(|name| name.starts_with("step-")), "nothing half done stays");
            checkpoint(2).save(directory.path()).expect("the next attempt succeeds");
            assert_eq!(Checkpoint::newest(directory.path()).expect("readable"), Some(checkpoint(2)));
            failing += 1;
        }
    }
}
