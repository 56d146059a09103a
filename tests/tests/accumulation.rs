//! An accumulated step of ONNX Runtime in f32 against PyTorch in f64: `tests/golden/accumulation.py`.

#[path = "golden/formula.rs"]
mod formula;

use std::collections::BTreeMap;
use std::path::Path;

use formula::PROJECTIONS;
use graphgen::artifacts::export;
use graphgen::preset::{Preset, SinkhornKernel, Target};
use graphgen::weights::{WeightTensor, Weights};
use runtime::kernels::sinkhorn_calls;
use runtime::session::environment::environment;
use runtime::session::{Engine, QueueState};
use runtime::train::open_engine;
use serde::Deserialize;

/// Bound of scores, loss and running statistics, relative.
const OUTPUTS: f64 = 1e-5;
/// Bounds of the gradients over the parameters, median and largest: a ReLU that flips moves those of the layers before it.
const GRADIENTS: [f64; 2] = [1e-4, 5e-2];
/// A bias in front of a BatchNorm moves nothing: its gradient is rounding noise.
const NOISE: &str = "grad/projection_head.0.bias";

#[derive(Deserialize)]
struct Golden {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    settings: Vec<String>,
    loss: f64,
    /// Norm and projections of each tensor.
    tensors: BTreeMap<String, [f64; 1 + PROJECTIONS]>,
}

/// Tensors of a step by the names of the golden, and the loss.
struct Outcome {
    loss: f64,
    tensors: BTreeMap<String, Vec<f32>>,
}

/// The crops of all micro-batches, one buffer a group: micro-batch after micro-batch.
fn crops(preset: &Preset) -> Vec<Vec<u8>> {
    let mut micro = preset.clone();
    (micro.train.batch_size, micro.train.accumulate) = (preset.train.micro_batch_size(), 1);
    let mut groups = vec![Vec::new(); preset.crops.groups().len()];
    for index in 0..preset.train.accumulate {
        for (group, crops) in groups.iter_mut().zip(formula::crops(&micro, &format!("rank/{index}/"))) {
            group.extend(crops);
        }
    }
    groups
}

fn step(preset: &Preset, target: Target, sinkhorn: SinkhornKernel) -> Outcome {
    let mut preset = preset.clone();
    (preset.train.target, preset.train.sinkhorn) = (Some(target), sinkhorn);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let graphs = directory.path().join("graphs");
    let manifest = export(&preset, &graphs).expect("exported");
    let mut engine = open_engine(&environment().expect("scripts/setup.sh has set ONNX Runtime up"), &graphs, &manifest, 1).expect("the graphs load");
    let state = manifest.parameters.iter().chain(&manifest.running_statistics);
    let weights: Weights =
        state.map(|spec| (spec.name.clone(), WeightTensor { shape: spec.shape.clone(), data: formula::weight(&spec.name, &spec.shape) })).collect();
    engine.load_weights(&weights).expect("the weights fit");
    if preset.queue_rows() > 0 {
        let shape = vec![preset.crops.crops_for_assign.len(), preset.queue_rows(), preset.model.feat_dim];
        let data = formula::scaled("queue/embeddings", &shape, 0.2, 0.0);
        engine.load_queue(Some(&QueueState { embeddings: WeightTensor { shape, data }, filled: preset.queue_rows() as i64 })).expect("the queue fits");
    }
    engine.request_output("scores").expect("an output");

    let crops = crops(&preset);
    let loss = engine.forward_backward(&crops.iter().map(Vec::as_slice).collect::<Vec<_>>()).expect("a step").loss;
    engine.advance_queue().expect("a copy");
    let mut tensors: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let after = engine.weights().expect("read");
    tensors.extend(manifest.running_statistics.iter().map(|spec| (spec.name.clone(), after[&spec.name].data.clone())));
    for name in manifest.parameters.iter().map(|spec| format!("grad/{}", spec.name)).chain(["scores".to_owned()]) {
        let tensor = engine.output(&name).expect("read").expect("an output");
        tensors.insert(name, tensor.data);
    }
    tensors.extend(engine.queue_state().expect("read").map(|queue| ("queue/embeddings".to_owned(), queue.embeddings.data)));
    Outcome { loss: loss.into(), tensors }
}

#[test]
fn a_step_over_four_micro_batches_is_that_of_pytorch() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/accumulation.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(file).expect("the golden")).expect("JSON");
    assert_eq!(golden.cases.len(), 2);
    for (name, case) in &golden.cases {
        let preset = Preset::from_toml("", &case.settings).expect("a valid preset");
        assert_eq!((preset.train.accumulate, preset.train.micro_batch_size()), (4, 8));
        for (target, sinkhorn) in [(Target::Native, SinkhornKernel::Native), (Target::Portable, SinkhornKernel::Graph)] {
            let before = sinkhorn_calls();
            let outcome = step(&preset, target, sinkhorn);
            let native = if sinkhorn == SinkhornKernel::Native { 2 } else { 0 };
            assert_eq!(sinkhorn_calls() - before, native, "{name} {target:?}: native calls, one for each assigned crop");
            assert_eq!(outcome.tensors.keys().collect::<Vec<_>>(), case.tensors.keys().collect::<Vec<_>>());

            let mut gradients = Vec::new();
            let mut others = Vec::new();
            for (tensor, values) in &outcome.tensors {
                let row = formula::project(tensor, values.iter().map(|&value| f64::from(value)));
                let distance = formula::distance(&row, &case.tensors[tensor]);
                match tensor.strip_prefix("grad/") {
                    Some(_) if tensor == NOISE => {}
                    Some(_) => gradients.push((distance, tensor)),
                    None => others.push((distance, tensor)),
                }
            }
            gradients.sort_by(|a, b| a.0.total_cmp(&b.0));
            others.sort_by(|a, b| a.0.total_cmp(&b.0));
            let loss = (outcome.loss / case.loss - 1.0).abs();
            let (median, (largest, worst)) = (gradients[gradients.len() / 2].0, gradients[gradients.len() - 1]);
            let (other, which) = others[others.len() - 1];
            let errors = format!("loss {loss:.1e}; gradients median {median:.1e}, largest {largest:.1e} ({worst}); others {other:.1e} ({which})");
            println!("{name} {target:?}: {errors}");
            let holds = loss <= OUTPUTS && other <= OUTPUTS && median <= GRADIENTS[0] && largest <= GRADIENTS[1];
            assert!(holds, "{name} {target:?}: {errors}");
        }
    }
}
