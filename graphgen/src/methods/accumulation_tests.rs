//! The three graphs of an accumulated step against the definition, in double precision.

use std::collections::HashMap;

use ndarray::{ArrayD, Axis, IxDyn, Slice as NdSlice, concatenate};

use super::*;
use crate::autodiff::gradients;
use crate::gradcheck::{Inputs, random_inputs};
use crate::interpreter::{Evaluation, evaluate};
use crate::methods::swav::{normalize_prototypes, swapped_loss, tests::tiny, train_step};
use crate::nn::Init;
use crate::ops::Gemm;

/// Micro-batches of 3 images: a power of two, so that their mean is exact.
const COUNT: usize = 4;
const BATCH: usize = 3;
const LARGEST_ERROR: f64 = 1e-9;

fn output(graph: &Graph, values: &Evaluation, name: &str) -> ArrayD<f64> {
    values.get(graph.find_output(name).unwrap_or_else(|| panic!("no output {name}"))).clone()
}

/// The values of `inputs` that a graph has inputs for.
fn select(graph: &Graph, inputs: &Inputs) -> Inputs {
    graph.inputs().iter().map(|&input| graph.input_name(input)).map(|name| (name.to_owned(), inputs[name].clone())).collect()
}

/// What an accumulated step gives, by name; `micro/<m>/…` for what belongs to a micro-batch.
type Outcome = HashMap<String, ArrayD<f64>>;

/// Runs the graphs as an engine does. `inputs`: parameters, statistics and queue, and `micro/<m>/crops/<group>`.
fn accumulate(preset: &Preset, inputs: &Inputs) -> Outcome {
    let (embed, assign, step) = (embed_step(preset).expect("valid"), assign_step(preset).expect("valid"), train_step(preset).expect("valid"));
    let mut state = inputs.clone();
    let mut outcome = Outcome::new();
    let mut loss = 0.0;
    let load_crops = |state: &mut Inputs, micro: usize| {
        for group in 0..preset.crops.groups().len() {
            state.insert(format!("crops/{group}"), inputs[&format!("micro/{micro}/crops/{group}")].clone());
        }
    };
    for micro in 0..COUNT {
        load_crops(&mut state, micro);
        let values = evaluate(&embed, &select(&embed, &state));
        state.insert(format!("micro/{micro}/embeddings"), output(&embed, &values, "embeddings"));
    }
    let values = evaluate(&assign, &select(&assign, &state));
    for (name, value) in assign.outputs() {
        outcome.insert(name.clone(), values.get(*value).clone());
    }
    for parameter in &step.parameters {
        state.insert(format!("accumulated/{}", parameter.name), ArrayD::from_elem(IxDyn(&parameter.shape), f64::NAN));
    }
    for micro in 0..COUNT {
        load_crops(&mut state, micro);
        for (name, codes) in &outcome {
            if let Some(name) = name.strip_prefix(&format!("micro/{micro}/")) {
                state.insert(name.to_owned(), codes.clone());
            }
        }
        state.insert("first_micro_batch".into(), ArrayD::from_elem(IxDyn(&[1]), f64::from(u8::from(micro == 0))));
        let values = evaluate(&step.graph, &select(&step.graph, &state));
        assert_eq!(
            output(&step.graph, &values, "embeddings"),
            state[&format!("micro/{micro}/embeddings")],
            "both passes of a micro-batch give the same embeddings"
        );
        loss += output(&step.graph, &values, "loss")[[0]] / COUNT as f64;
        for (name, value) in step.graph.outputs() {
            let value = values.get(*value).clone();
            if let Some(parameter) = name.strip_prefix("grad/") {
                state.insert(format!("accumulated/{parameter}"), value.clone());
                outcome.insert(name.clone(), value);
            } else if let Some(statistic) = name.strip_prefix("next/") {
                state.insert(statistic.to_owned(), value.clone());
                outcome.insert(name.clone(), value);
            } else if name.starts_with("stats/") {
                outcome.insert(name.clone(), value);
            }
        }
    }
    outcome.insert("loss".into(), ArrayD::from_elem(IxDyn(&[1]), loss));
    outcome
}

/// Sinkhorn-Knopp as the paper writes it; scores [N,K] → codes [N,K].
fn sinkhorn(scores: &ArrayD<f64>, epsilon: f64, iterations: usize) -> ArrayD<f64> {
    let (samples, prototypes) = (scores.shape()[0] as f64, scores.shape()[1] as f64);
    let mut q = scores.mapv(|score| (score / epsilon).exp());
    q /= q.sum();
    for _ in 0..iterations {
        q = &q / (q.sum_axis(Axis(0)).insert_axis(Axis(0)) * prototypes);
        q = &q / (q.sum_axis(Axis(1)).insert_axis(Axis(1)) * samples);
    }
    q * samples
}

/// Arrays one below the other.
fn join(parts: &[ArrayD<f64>]) -> ArrayD<f64> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    concatenate(Axis(0), &views).expect("equal columns")
}

fn rows(array: &ArrayD<f64>, start: usize, end: usize) -> ArrayD<f64> {
    array.slice_axis(Axis(0), NdSlice::from(start..end)).to_owned()
}

/// The definition: one graph in which every micro-batch goes through the network, and whose loss is the mean of theirs.
fn direct(preset: &Preset, inputs: &Inputs) -> Outcome {
    let mut g = Graph::new();
    let mut layers = TrainLayers::default();
    let (assigned, total) = (&preset.crops.crops_for_assign, preset.crops.total());
    let embeddings: Vec<ValueId> = (0..COUNT)
        .map(|micro| {
            let crops = preset.crops.groups().into_iter().enumerate().map(|(index, group)| {
                let ty = TensorType::new(DType::U8, vec![group.count * BATCH, 3, group.size_px, group.size_px]);
                g.input(&format!("micro/{micro}/crops/{index}"), ty)
            });
            let crops: Vec<ValueId> = crops.collect();
            embed_crops(&mut g, &mut layers, preset, &crops).expect("valid")
        })
        .collect();
    let mut values: Vec<(String, ValueId)> = layers.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.input)).collect();
    let mut heads: Vec<Vec<Head>> = (0..COUNT).map(|_| Vec::new()).collect();
    for (index, (name, &count)) in preset.model.nmb_prototypes.parameter_names().iter().zip(preset.model.nmb_prototypes.counts()).enumerate() {
        let parameter = layers.parameter(&mut g, name, &[count, preset.model.feat_dim], Init::UniformFanIn(4));
        let prototypes = normalize_prototypes(&mut g, parameter).expect("valid");
        values.push((name.clone(), prototypes));
        for (micro, heads) in heads.iter_mut().enumerate() {
            let scores = g.apply(Gemm { trans_a: false, trans_b: true }, &[embeddings[micro], prototypes]).expect("valid");
            let codes = assigned.iter().map(|crop| g.input(&format!("micro/{micro}/{index}/{crop}"), TensorType::f32(vec![BATCH, count])));
            let codes = codes.collect();
            heads.push(Head { suffix: String::new(), prototypes, scores, codes });
        }
    }
    let losses: Vec<ValueId> = heads.iter().map(|heads| swapped_loss(&mut g, preset, heads).expect("valid")).collect();
    let sum = losses.iter().copied().reduce(|sum, loss| g.add(sum, loss).expect("scalars")).expect("losses");
    let loss = g.scale(sum, 1.0 / COUNT as f64).expect("valid");
    let with_respect_to: Vec<ValueId> = values.iter().map(|(_, value)| *value).collect();
    let gradients = gradients(&mut g, loss, &with_respect_to).expect("known");

    let mut state = inputs.clone();
    for &input in g.inputs() {
        state.entry(g.input_name(input).to_owned()).or_insert_with(|| ArrayD::zeros(IxDyn(g.shape(input))));
    }
    let forward = evaluate(&g, &select(&g, &state));
    let mut outcome = Outcome::new();
    let gather = |values: &[ValueId], crop: usize| {
        let parts: Vec<ArrayD<f64>> = values.iter().map(|&value| rows(forward.get(value), crop * BATCH, (crop + 1) * BATCH)).collect();
        join(&parts)
    };
    let mut queues = Vec::new();
    for (position, &crop) in assigned.iter().enumerate() {
        for index in 0..heads[0].len() {
            let scores: Vec<ValueId> = heads.iter().map(|heads| heads[index].scores).collect();
            let mut all = gather(&scores, crop);
            let mut before = 0;
            if let Some(queue) = inputs.get("queue/embeddings").filter(|queue| inputs["queue/filled"][[0]] == queue.shape()[1] as f64) {
                let prototypes = forward.get(heads[0][index].prototypes).clone().into_dimensionality::<ndarray::Ix2>().expect("a matrix");
                let queue = queue.index_axis(Axis(0), position).to_owned().into_dimensionality::<ndarray::Ix2>().expect("a matrix");
                before = queue.shape()[0];
                all = join(&[queue.dot(&prototypes.t()).into_dyn(), all]);
            }
            let codes = sinkhorn(&all, preset.loss.epsilon, preset.loss.sinkhorn_iterations);
            for micro in 0..COUNT {
                state.insert(format!("micro/{micro}/{index}/{crop}"), rows(&codes, before + micro * BATCH, before + (micro + 1) * BATCH));
            }
        }
        if let Some(queue) = inputs.get("queue/embeddings") {
            let (new, old) = (gather(&embeddings, crop), queue.index_axis(Axis(0), position).to_owned());
            let kept = rows(&old, 0, old.shape()[0] - COUNT * BATCH);
            queues.push(join(&[new, kept]).insert_axis(Axis(0)));
        }
    }
    if !queues.is_empty() {
        outcome.insert("next/queue/embeddings".into(), join(&queues));
    }
    let values_at_codes = evaluate(&g, &select(&g, &state));
    let mut squares = 0.0;
    for ((name, _), gradient) in values.iter().zip(gradients) {
        let gradient = values_at_codes.get(gradient.expect("reached")).clone();
        squares += gradient.mapv(|x| x * x).sum();
        outcome.insert(format!("grad/{name}"), gradient);
    }
    outcome.insert("stats/grad_norm".into(), ArrayD::from_elem(IxDyn(&[1]), squares.sqrt()));
    for statistic in &layers.running_statistics {
        outcome.insert(format!("next/{}", statistic.name), values_at_codes.get(statistic.current).clone());
    }
    outcome.insert("loss".into(), values_at_codes.get(loss).clone().into_shape_with_order(IxDyn(&[1])).expect("one number"));
    let rows_of_all: Vec<ArrayD<f64>> = (0..total).map(|crop| gather(&embeddings, crop)).collect();
    let all = join(&rows_of_all);
    outcome.insert("stats/feature_std".into(), ArrayD::from_elem(IxDyn(&[1]), all.std_axis(Axis(0), 0.0).mean().expect("dimensions")));
    outcome
}

/// Random parameters, statistics, queue and crops of every micro-batch.
fn inputs(preset: &Preset) -> Inputs {
    let mut inputs = random_inputs(&train_step(preset).expect("valid").graph, 3);
    inputs.extend(random_inputs(&assign_step(preset).expect("valid"), 4).into_iter().filter(|(name, _)| name.starts_with("queue/")));
    for micro in 0..COUNT {
        for (name, crops) in random_inputs(&embed_step(preset).expect("valid"), 10 + micro as u64) {
            if name.starts_with("crops/") {
                inputs.insert(format!("micro/{micro}/{name}"), crops);
            }
        }
    }
    inputs
}

fn accumulating(changes: &[&str]) -> Preset {
    let mut all = vec!["train.batch_size=12", "train.accumulate=4"];
    all.extend(changes);
    tiny(&all)
}

#[test]
fn an_accumulated_step_is_the_definition_of_one() {
    for (changes, filled) in [
        (&[][..], 0.0),
        (&["loss.queue_length=30"][..], 12.0),
        (&["loss.queue_length=30"], 24.0),
        (&["model.batch_norm_groups=crop", "crops.crops_for_assign=[2, 0]"], 0.0),
        (&["model.nmb_prototypes=[5, 7]", "crops.crops_for_assign=[1]", "loss.queue_length=12"], 12.0),
        // The definition stays channels-first.
        (&["train.target=native", "model.stem=imagenet"], 0.0),
    ] {
        let preset = accumulating(changes);
        let mut inputs = inputs(&preset);
        if let Some(count) = inputs.get_mut("queue/filled") {
            count.fill(filled);
        }
        let (got, expected) = (accumulate(&preset, &inputs), direct(&preset, &inputs));
        for (name, expected) in &expected {
            let got = got.get(name).unwrap_or_else(|| panic!("{changes:?}: no {name}"));
            assert_eq!(got.shape(), expected.shape(), "{changes:?}: {name}");
            let scale = expected.iter().fold(1.0_f64, |scale, x| scale.max(x.abs()));
            let error = (got - expected).iter().fold(0.0_f64, |largest, x| largest.max(x.abs())) / scale;
            assert!(error <= LARGEST_ERROR, "{changes:?}: {name} is off by {error:e}");
        }
        assert!(expected.contains_key("grad/conv1.weight") && expected.contains_key("next/bn1.running_var"));
    }
}

#[test]
fn codes_are_balanced_over_the_whole_effective_batch() {
    let preset = accumulating(&["loss.sinkhorn_iterations=20"]);
    let outcome = accumulate(&preset, &inputs(&preset));
    let (assigned, prototypes) = (2, 6);
    let masses: Vec<ArrayD<f64>> = (0..COUNT)
        .map(|micro| {
            let codes = &outcome[&format!("micro/{micro}/codes")];
            assert_eq!(codes.shape(), [assigned * BATCH, prototypes]);
            codes.sum_axis(Axis(0))
        })
        .collect();
    let imbalance = |mass: &ArrayD<f64>| {
        let even = mass.sum() / prototypes as f64;
        mass.iter().fold(0.0_f64, |largest, x| largest.max((x / even - 1.0).abs()))
    };
    let all = masses.iter().fold(ArrayD::zeros(IxDyn(&[prototypes])), |sum, mass| sum + mass);
    assert!(imbalance(&all) < 1e-6, "{all}");
    assert!(masses.iter().all(|mass| imbalance(mass) > 1e-3), "no micro-batch need be balanced: {masses:?}");
    let entropy = outcome["stats/code_entropy"][[0]];
    assert!(entropy > 0.0 && entropy <= 6.0_f64.ln(), "{entropy}");
    assert!((1.0..=6.0).contains(&outcome["stats/live_prototypes"][[0]]));
}

#[test]
fn a_queue_fills_by_the_whole_effective_batch() {
    let preset = accumulating(&["loss.queue_length=30"]);
    assert_eq!(preset.queue_rows(), 24, "floored to whole effective batches");
    let outcome = accumulate(&preset, &inputs(&preset));
    assert_eq!(outcome["next/queue/filled"][[0]], 12.0);
    assert_eq!(outcome["next/queue/embeddings"].shape(), [2, 24, 4]);
}

#[test]
fn the_forward_pass_has_no_running_statistics_and_one_micro_batch_takes_no_codes() {
    let preset = accumulating(&[]);
    let graph = embed_step(&preset).expect("valid");
    assert!(graph.inputs().iter().all(|&input| !graph.input_name(input).contains("running")));
    let step = train_step(&preset).expect("valid").graph;
    assert!(step.find_input("codes").is_some() && step.find_output("codes").is_none());
    let whole = train_step(&tiny(&[])).expect("valid").graph;
    assert!(whole.find_input("codes").is_none() && whole.find_input("first_micro_batch").is_none());
}
