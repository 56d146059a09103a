use graphgen::weights::WeightTensor;

use super::*;

fn checkpoint(step: u64) -> Checkpoint {
    let tensor = |value: f32| WeightTensor { shape: vec![2], data: vec![value, -value] };
    Checkpoint {
        progress: Progress { step, epoch: step / 10, preset: Preset::default(), dataset_fingerprint: "abc".into() },
        weights: Weights::from([("w".to_owned(), tensor(step as f32))]),
        optimizer: OptimizerState { moments: Weights::from([("momentum/w".to_owned(), tensor(0.5))]), step: Some(step as i64) },
        queue: Some(QueueState { embeddings: tensor(3.0), filled: 1 }),
    }
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
    assert_eq!(names(&folder), ["optimizer.safetensors", "queue.safetensors", "state.json", "weights.safetensors"]);
    let without_queue = Checkpoint { queue: None, ..checkpoint(13) };
    assert_eq!(Checkpoint::load(&without_queue.save(directory.path()).expect("save")).expect("load"), without_queue);
}

#[test]
fn the_newest_three_stay_and_nothing_else_does() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for step in [1, 2, 10, 9] {
        checkpoint(step).save(directory.path()).expect("save");
    }
    assert_eq!(names(directory.path()), ["step-00000002", "step-00000009", "step-00000010"]);
}

#[test]
fn damage_is_found_and_the_checkpoint_before_is_used() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for step in [1, 2, 3] {
        checkpoint(step).save(directory.path()).expect("save");
    }
    let newest = |directory: &Path| Checkpoint::newest(directory).map(|found| found.map(|checkpoint| checkpoint.progress.step));
    assert_eq!(newest(directory.path()).expect("readable"), Some(3));

    let weights = directory.path().join("step-00000003").join(WEIGHTS);
    let mut bytes = fs::read(&weights).expect("read");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&weights, bytes).expect("write");
    let error = Checkpoint::load(&directory.path().join("step-00000003")).expect_err("damaged").to_string();
    assert!(error.contains("weights.safetensors is damaged"), "{error}");
    fs::remove_file(directory.path().join("step-00000002").join(OPTIMIZER)).expect("remove");
    assert_eq!(newest(directory.path()).expect("readable"), Some(1));

    fs::write(directory.path().join("step-00000001").join(STATE), "{\"version\": 7}").expect("write");
    let error = newest(directory.path()).expect_err("none is readable").to_string();
    assert!(error.contains("format version 7"), "{error}");
    assert_eq!(newest(&directory.path().join("absent")).expect("no checkpoints are no error"), None);
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
fn leftovers_and_a_left_course_are_cleaned() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for step in [1, 2, 3] {
        checkpoint(step).save(directory.path()).expect("save");
    }
    let leftover = unfinished(&directory.path().join("step-00000004"));
    fs::create_dir(&leftover).expect("create");
    fs::write(leftover.join(WEIGHTS), "half").expect("write");
    assert_eq!(list(directory.path()).expect("list").len(), 3, "an unfinished folder is no checkpoint");
    clean(directory.path(), 2).expect("clean");
    assert_eq!(names(directory.path()), ["step-00000001", "step-00000002"]);
}
