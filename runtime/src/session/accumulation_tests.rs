//! Steps over several micro-batches.

use graphgen::artifacts::{export, initial_weights};
use graphgen::preset::Preset;

use super::*;
use crate::session::environment::environment;

const COUNT: usize = 3;
const BATCH: usize = 4;

/// A small network of `images` a step.
fn preset(images: usize, accumulate: usize, target: &str) -> Preset {
    let overrides = [
        "model.arch=resnet10".to_owned(),
        "model.width=8".into(),
        "model.stem=small".into(),
        "model.hidden_mlp=16".into(),
        "model.feat_dim=8".into(),
        "model.nmb_prototypes=[6, 9]".into(),
        "crops.size_crops=[16, 12]".into(),
        "crops.nmb_crops=[2, 1]".into(),
        format!("train.batch_size={images}"),
        format!("train.accumulate={accumulate}"),
        format!("train.target={target}"),
    ];
    Preset::from_toml("", &overrides).expect("a valid preset")
}

/// The engine of a preset with its initial weights.
fn open(preset: &Preset) -> StockEngine {
    open_by(preset, StockEngine::open)
}

fn open_by(preset: &Preset, open: impl FnOnce(&Environment, &Path, &Manifest, &SessionOptions) -> Result<StockEngine, EngineError>) -> StockEngine {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let graphs = directory.path().join("graphs");
    let manifest = export(preset, &graphs).expect("exported");
    let options = SessionOptions { threads: 1, ..SessionOptions::default() };
    let mut engine = open(&environment().expect("ONNX Runtime is set up"), &graphs, &manifest, &options).expect("open");
    engine.load_weights(&initial_weights(preset).expect("weights")).expect("they fit");
    engine
}

/// Crops of one micro-batch; each `salt` has its own.
fn crops(salt: usize) -> Vec<Vec<u8>> {
    let group = |crops: usize, size: usize| (0..crops * BATCH * 3 * size * size).map(|i| (((i + 7) * (2 * salt + 3) * 2_654_435_761) >> 13) as u8).collect();
    vec![group(2, 16), group(1, 12)]
}

/// Micro-batch after micro-batch.
fn join(micro_batches: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    (0..2).map(|group| micro_batches.iter().flat_map(|crops| crops[group].clone()).collect()).collect()
}

fn slices(crops: &[Vec<u8>]) -> Vec<&[u8]> {
    crops.iter().map(Vec::as_slice).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut a.iter().copied()).max(1e-6)
}

#[test]
fn both_passes_of_a_micro_batch_give_the_same_embeddings() {
    for target in ["cpu", "native", "portable"] {
        let mut engine = open(&preset(COUNT * BATCH, COUNT, target));
        engine.request_output("embeddings").expect("an output");
        let all = join(&[crops(0), crops(1), crops(2)]);
        engine.forward_backward(&slices(&all)).expect("a step");
        for micro in 0..COUNT {
            let accumulation = engine.accumulation.as_mut().expect("several micro-batches");
            accumulation.select(micro, &mut engine.train_step).expect("bound");
            let groups = slices(&all);
            let crops = BatchCrops { groups: &groups, number: None }.micro_batch(micro);
            engine.crops.run(&mut engine.train_step, crops, None).expect("a pass");
            let embedded = engine.accumulation.as_ref().expect("as before").embeddings(micro);
            assert_eq!(engine.output("embeddings").expect("read").expect("requested"), embedded, "{target}: micro-batch {micro}");
        }
    }
}

#[test]
fn equal_micro_batches_are_as_one_of_them() {
    // Sinkhorn-Knopp over copies of the samples gives the samples' own codes.
    for target in ["cpu", "native", "portable"] {
        let mut one = open(&preset(BATCH, 1, target));
        let mut several = open(&preset(COUNT * BATCH, COUNT, target));
        let expected = one.forward_backward(&slices(&crops(5))).expect("a step");
        let got = several.forward_backward(&slices(&join(&[crops(5), crops(5), crops(5)]))).expect("a step");
        assert!((got.loss - expected.loss).abs() < 1e-5, "{target}: {} {}", got.loss, expected.loss);
        assert_eq!(got.stats.keys().collect::<Vec<_>>(), expected.stats.keys().collect::<Vec<_>>());
        for (name, value) in &expected.stats {
            assert!((got.stats[name] - value).abs() < 1e-4 * value, "{target}: {name} {} {value}", got.stats[name]);
        }
        let names: Vec<String> = one.parameters.iter().map(|(name, _)| format!("grad/{name}")).collect();
        for name in names {
            let gradient = |engine: &StockEngine| engine.output(&name).expect("read").expect("a gradient").data;
            // A bias before a BatchNorm has a gradient of rounding noise only.
            if name != "grad/projection_head.0.bias" {
                let distance = distance(&gradient(&one), &gradient(&several));
                assert!(distance < 1e-4, "{target}: {name} {distance:e}");
            }
        }
        // x ← 0.9 x + 0.1 y once for every micro-batch and size of crops: the start's share is 0.9² there, 0.9⁶ here.
        let mean = |engine: &StockEngine| f64::from(engine.weights().expect("read")["bn1.running_mean"].data[0]);
        let ratio = (1.0 - 0.81_f64.powi(COUNT as i32)) / (1.0 - 0.81);
        assert!((mean(&several) / mean(&one) - ratio).abs() < 1e-4, "{target}: {} {}", mean(&several), mean(&one));
    }
}

#[test]
fn a_step_starts_from_no_gradients() {
    let mut engine = open(&preset(COUNT * BATCH, COUNT, "cpu"));
    let all = join(&[crops(0), crops(1), crops(2)]);
    let mut gradient = || {
        engine.forward_backward(&slices(&all)).expect("a step");
        engine.output("grad/conv1.weight").expect("read").expect("a gradient")
    };
    let first = gradient();
    assert!(first.data.iter().any(|&value| value != 0.0));
    assert_eq!(first, gradient());
}

/// The batch of a step, of micro-batches of its own.
fn batch(step: usize) -> Vec<Vec<u8>> {
    join(&[crops(3 * step), crops(3 * step + 1), crops(3 * step + 2)])
}

#[test]
fn copying_ahead_changes_no_bit() {
    let preset = preset(COUNT * BATCH, COUNT, "native");
    let mut host = open(&preset);
    let (mut device, mut ahead) = (open_by(&preset, StockEngine::open_as_on_device), open_by(&preset, StockEngine::open_as_on_device));
    for step in 0..3 {
        let (crops, next_crops) = (batch(step), batch(step + 1));
        let (groups, next_groups) = (slices(&crops), slices(&next_crops));
        let expected = host.forward_backward(&groups).expect("a step");
        let next = BatchCrops { groups: &next_groups, number: Some(step as u64 + 1) };
        let got = ahead.forward_backward_with_next(BatchCrops { groups: &groups, number: Some(step as u64) }, Some(next));
        assert_eq!(got.expect("a step"), expected, "step {step}");
        assert_eq!(device.forward_backward(&groups).expect("a step"), expected, "step {step}, no next batch");
        for engine in [&device, &ahead] {
            assert_eq!(engine.gradients.to_weights().expect("read"), host.gradients.to_weights().expect("read"), "step {step}");
            assert_eq!(engine.statistics.to_weights().expect("read"), host.statistics.to_weights().expect("read"), "step {step}");
        }
        for engine in [&mut host, &mut device, &mut ahead] {
            engine.update(0.1, true).expect("update");
        }
    }
}

#[test]
fn micro_batches_of_a_step_that_was_broken_off_have_no_influence() {
    let preset = preset(COUNT * BATCH, COUNT, "cpu");
    let mut engine = open_by(&preset, StockEngine::open_as_on_device);
    let (broken_off, whole) = (batch(0), batch(1));
    let groups = slices(&broken_off);
    let crops = BatchCrops { groups: &groups, number: None };
    let accumulation = engine.accumulation.as_mut().expect("several micro-batches");
    accumulation.embed(&mut engine.crops, crops.micro_batch(COUNT - 1), crops.micro_batch(0)).expect("a pass");
    let got = engine.forward_backward(&slices(&whole)).expect("a step");
    assert_eq!(got, open(&preset).forward_backward(&slices(&whole)).expect("a step"));
}

#[test]
fn crops_of_the_wrong_size_are_named() {
    let mut engine = open(&preset(COUNT * BATCH, COUNT, "cpu"));
    let error = engine.forward_backward(&slices(&crops(0))).expect_err("one micro-batch only").to_string();
    assert!(error.contains("crops/0: expected 18432 bytes for 3 micro-batches of shape [8, 3, 16, 16], got 6144"), "{error}");
    assert!(engine.request_output("codes").is_err(), "codes are inputs");
}
