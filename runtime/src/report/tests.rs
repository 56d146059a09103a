use std::path::Path;

use super::*;
use crate::train::{StepMetrics, StepReport};

/// A run of 300 steps whose loss is `loss` at the end.
fn write_run(folder: &Path, loss: f32, epsilon: f64) {
    std::fs::create_dir_all(folder).expect("folder");
    std::fs::write(folder.join("preset.toml"), format!("[model]\nnmb_prototypes = 100\n[loss]\nepsilon = {epsilon}\n")).expect("write");
    let lines = (0..300).map(|step| {
        let stats = [("code_entropy", 2.0), ("live_prototypes", 90.0), ("feature_std", 0.08), ("grad_norm", 3.0)];
        let stats = stats.map(|(name, value)| (name.to_owned(), value)).into();
        let report = StepReport { step, epoch: 0, learning_rate: 0.1, loss: 4.6 + (loss - 4.6) * step as f32 / 299.0, stats, overflowed: false, queue: None };
        let mut metrics = StepMetrics::new(&report, 100f64.ln(), 1000.0, 0.0);
        metrics.probe_knn = (step % 100 == 99).then_some(0.5);
        serde_json::to_string(&metrics).expect("JSON") + "\n"
    });
    std::fs::write(folder.join("metrics.jsonl"), lines.collect::<String>()).expect("write");
}

#[test]
fn a_page_shows_two_runs_what_differs_and_which_one_collapsed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad<run>"));
    write_run(&good, 2.5, 0.03);
    write_run(&bad, 4.6, 0.05);
    std::fs::write(good.join("crops.jpg"), b"a picture").expect("write");
    let runs = [&good, &bad].map(|path| RunRecord::read(path).expect("a run"));
    let page = html(&runs);
    for heading in ["Loss", "Loss / ln K", "Probe, kNN", "Code entropy", "Live prototypes", "Feature spread", "Gradient norm", "Learning rate", "Images/s"] {
        assert!(page.contains(&format!("<h3>{heading}</h3>")), "{heading}");
    }
    assert!(page.contains("bad&lt;run&gt;") && !page.contains("bad<run>"));
    assert_eq!((page.matches("the run has collapsed").count(), page.matches("1 differ").count()), (1, 1));
    assert!(page.contains("data:image/jpeg;base64,YSBwaWN0dXJl"), "the crops are inside");
    assert!(!page.contains("http"), "the page loads nothing from elsewhere");
    assert!(!page.contains("Queue, rows") && !page.contains("Probe, linear"), "what no run has is left out");
}

#[test]
fn directories_without_a_run_are_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let error = RunRecord::read(folder.path()).expect_err("no run").to_string();
    assert!(error.contains("preset.toml") && error.contains("swav-rt train"), "{error}");
    write_run(folder.path(), 1.0, 0.05);
    std::fs::write(folder.path().join("metrics.jsonl"), "{\"step\": 1").expect("write");
    assert!(RunRecord::read(folder.path()).expect_err("no step").to_string().contains("no step"));
}
