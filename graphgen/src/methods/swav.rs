//! SwAV (Caron et al. 2020, arXiv 2006.09882): multi-crop forward, codes, swapped prediction loss and all gradients.

use super::loss_scaling::{self, LossScale};
use super::{accumulation, statistics};
use crate::autodiff::gradients;
use crate::backbones::resnet::ResNet;
use crate::functions::l2_normalize::L2Normalize;
use crate::functions::sinkhorn::SinkhornKnopp;
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::nn::{Init, Layers, NORM_EPSILON, Parameter, RunningStatistic, TrainLayers};
use crate::ops::{Gemm, Greater, LogSoftmax, Relu, Slice, Where};
use crate::preset::{BatchNormGroups, Model, Precision, Preset};

/// The graph of one training step, with its inputs and outputs named as `docs/architecture.md` says.
#[derive(Debug, Clone)]
pub struct TrainStep {
    /// The graph.
    pub graph: Graph,
    /// Trainable parameters, in order of first use.
    pub parameters: Vec<Parameter>,
    /// Running statistics of the BatchNorms, in order of first use.
    pub running_statistics: Vec<RunningStatistic>,
    /// The normalised prototypes of each head, which the graph goes on with in place of the parameters.
    pub prototypes: Vec<ValueId>,
}

/// Projection head and normalisation: features [N,F] → embeddings [N,D] of length 1.
///
/// # Errors
/// Weights that do not belong to the network.
pub fn project(g: &mut Graph, layers: &mut impl Layers, model: &Model, features: ValueId) -> Result<ValueId, GraphError> {
    let channels = g.shape(features)[1];
    let z = match (model.hidden_mlp, model.projection_batch_norm) {
        (0, _) => layers.linear(g, "projection_head", features, channels, model.feat_dim)?,
        (hidden, batch_norm) => g.scoped("projection_head", |g| {
            let (h, last) = if batch_norm {
                (layers.linear_batch_norm_relu(g, "0", "1", features, channels, hidden)?, "3")
            } else {
                let h = layers.linear(g, "0", features, channels, hidden)?;
                (g.apply(Relu, &[h])?, "2")
            };
            layers.linear(g, last, h, hidden, model.feat_dim)
        })?,
    };
    layers.normalize_rows(g, z)
}

/// Prototypes with rows of length 1: no gradient flows through the normalisation, the normalised rows are the parameter.
///
/// # Errors
/// A value that is no matrix.
pub fn normalize_prototypes(g: &mut Graph, prototypes: ValueId) -> Result<ValueId, GraphError> {
    Ok(g.scoped("prototypes", |g| g.apply_all(L2Normalize { epsilon: NORM_EPSILON }, &[prototypes]))?[0])
}

/// One head of prototypes in the step.
pub(super) struct Head {
    /// `""`, or `/0`, `/1`, … with several heads: the end of output names.
    pub(super) suffix: String,
    /// Normalised prototypes [K,D].
    pub(super) prototypes: ValueId,
    /// Cosine similarities [V·B,K].
    pub(super) scores: ValueId,
    /// Codes of each assigned crop [B,K].
    pub(super) codes: Vec<ValueId>,
}

/// Where the rows of the assigned crops are: for each of `crops` the block of that index, of `batch` rows.
pub(super) struct AssignedRows {
    pub(super) crops: Vec<usize>,
    pub(super) batch: usize,
}

impl AssignedRows {
    /// The rows of one assigned crop.
    fn of(&self, g: &mut Graph, crop: usize, rows: ValueId) -> Result<ValueId, GraphError> {
        g.rows(rows, crop * self.batch, (crop + 1) * self.batch)
    }
}

/// The training step of a preset. With `train.accumulate` above 1 it is that of one micro-batch, whose codes are inputs:
/// see [`accumulation`].
///
/// # Errors
/// Crops too small for the network.
pub fn train_step(preset: &Preset) -> Result<TrainStep, GraphError> {
    let mut g = Graph::new();
    let mut layers = TrainLayers::new(preset.train.precision, preset.train.resolved_target());
    let accumulates = preset.train.accumulate > 1;
    let assigned = AssignedRows { crops: preset.crops.crops_for_assign.clone(), batch: preset.train.micro_batch_size() };

    let crops = crop_inputs(&mut g, preset);
    let embeddings = embed_crops(&mut g, &mut layers, preset, &crops)?;
    let mut heads = score(&mut g, &mut layers, preset, embeddings)?;
    let queue = if accumulates { None } else { Queue::new(&mut g, preset) };
    for head in &mut heads {
        head.codes =
            if accumulates { accumulation::given_codes(&mut g, head, &assigned)? } else { assign_codes(&mut g, preset, head, &assigned, queue.as_ref())? };
    }
    let loss = swapped_loss(&mut g, preset, &heads)?;
    let loss_scale = (preset.train.precision == Precision::MixedF16).then(|| LossScale::input(&mut g));
    let mut parameter_gradients = match loss_scale {
        None => parameter_gradients(&mut g, &layers, &heads, loss)?,
        Some(scale) => {
            let scaled = scale.scale(&mut g, loss)?;
            let gradients = parameter_gradients(&mut g, &layers, &heads, scaled)?;
            scale.unscale(&mut g, &gradients)?
        }
    };
    if accumulates {
        parameter_gradients = accumulation::add_to_mean(&mut g, preset, &layers.parameters, &parameter_gradients)?;
    }

    let loss = g.reshape(loss, &[1])?;
    g.output("loss", loss);
    if !accumulates {
        statistics::of_codes(&mut g, embeddings, &heads)?;
    }
    let grad_norm = statistics::of_gradients(&mut g, &parameter_gradients)?;
    if loss_scale.is_some() {
        loss_scaling::guard(&mut g, grad_norm, &mut layers.running_statistics)?;
    }
    // Backward order: the walk from the outputs then frees activations as the backward pass goes.
    for (parameter, &gradient) in layers.parameters.iter().zip(&parameter_gradients).rev() {
        g.output(&format!("grad/{}", parameter.name), gradient);
    }
    for head in &heads {
        g.output(&format!("scores{}", head.suffix), head.scores);
        if !accumulates {
            let codes = g.concat(&head.codes, 0)?;
            g.output(&format!("codes{}", head.suffix), codes);
        }
    }
    g.output("embeddings", embeddings);
    for statistic in &layers.running_statistics {
        g.output(&format!("next/{}", statistic.name), statistic.current);
    }
    if let Some(queue) = queue {
        queue.advance(&mut g, preset, embeddings, &assigned)?;
    }
    let prototypes = heads.iter().map(|head| head.prototypes).collect();
    Ok(TrainStep { graph: g, parameters: layers.parameters, running_statistics: layers.running_statistics, prototypes })
}

/// Gradients of the loss with all parameters, in their order.
fn parameter_gradients(g: &mut Graph, layers: &TrainLayers, heads: &[Head], loss: ValueId) -> Result<Vec<ValueId>, GraphError> {
    let mut values: Vec<ValueId> = layers.parameters.iter().map(|parameter| parameter.input).collect();
    for (value, prototypes) in values.iter_mut().rev().zip(heads.iter().rev().map(|head| head.prototypes)) {
        *value = prototypes;
    }
    let gradients = gradients(g, loss, &values)?;
    Ok(gradients.into_iter().map(|gradient| gradient.expect("the loss depends on every parameter")).collect())
}

/// The inputs `crops/0`, …: u8 [count·B,3,S,S] for each group of adjacent crops of equal size.
pub(super) fn crop_inputs(g: &mut Graph, preset: &Preset) -> Vec<ValueId> {
    let batch = preset.train.micro_batch_size();
    let shapes = preset.crops.groups().into_iter().map(|group| vec![group.count * batch, 3, group.size_px, group.size_px]);
    shapes.enumerate().map(|(index, shape)| g.input(&format!("crops/{index}"), TensorType::new(DType::U8, shape))).collect()
}

/// Crops u8 → embeddings [V·B,D], crop-major.
pub(super) fn embed_crops(g: &mut Graph, layers: &mut TrainLayers, preset: &Preset, crops: &[ValueId]) -> Result<ValueId, GraphError> {
    let batch = preset.train.micro_batch_size();
    let backbone = ResNet::new(&preset.model);
    let mut features = Vec::new();
    for (&input, group) in crops.iter().zip(preset.crops.groups()) {
        let x = layers.image(g, input, &preset.data)?;
        match preset.model.batch_norm_groups {
            BatchNormGroups::Size => features.push(backbone.forward(g, layers, x)?),
            BatchNormGroups::Crop => {
                for crop in 0..group.count {
                    let x = g.rows(x, crop * batch, (crop + 1) * batch)?;
                    features.push(backbone.forward(g, layers, x)?);
                }
            }
        }
    }
    match preset.model.batch_norm_groups {
        BatchNormGroups::Size => {
            let features = g.concat(&features, 0)?;
            project(g, layers, &preset.model, features)
        }
        BatchNormGroups::Crop => {
            let embeddings = features.into_iter().map(|features| project(g, layers, &preset.model, features)).collect::<Result<Vec<_>, _>>()?;
            g.concat(&embeddings, 0)
        }
    }
}

/// Normalises the prototypes and compares the embeddings with them.
pub(super) fn score(g: &mut Graph, layers: &mut TrainLayers, preset: &Preset, embeddings: ValueId) -> Result<Vec<Head>, GraphError> {
    let names = preset.model.nmb_prototypes.parameter_names();
    let several = names.len() > 1 || matches!(preset.model.nmb_prototypes, crate::preset::Prototypes::Heads(_));
    let mut heads = Vec::new();
    for (index, (name, &count)) in names.iter().zip(preset.model.nmb_prototypes.counts()).enumerate() {
        let dimensions = preset.model.feat_dim;
        let parameter = layers.parameter(g, name, &[count, dimensions], Init::UniformFanIn(dimensions));
        let prototypes = normalize_prototypes(g, parameter)?;
        let scores = similarities(g, embeddings, prototypes)?;
        let suffix = if several { format!("/{index}") } else { String::new() };
        heads.push(Head { suffix, prototypes, scores, codes: Vec::new() });
    }
    Ok(heads)
}

/// Rows times prototypes: [N,D] · [K,D]ᵀ.
fn similarities(g: &mut Graph, rows: ValueId, prototypes: ValueId) -> Result<ValueId, GraphError> {
    g.scoped("prototypes", |g| g.apply(Gemm { trans_a: false, trans_b: true }, &[rows, prototypes]))
}

/// Sinkhorn-Knopp for every assigned crop, with the queue's scores before the batch's.
pub(super) fn assign_codes(g: &mut Graph, preset: &Preset, head: &Head, assigned: &AssignedRows, queue: Option<&Queue>) -> Result<Vec<ValueId>, GraphError> {
    let sinkhorn = SinkhornKnopp { epsilon: preset.loss.epsilon, iterations: preset.loss.sinkhorn_iterations };
    let mut codes = Vec::new();
    for (position, &crop) in assigned.crops.iter().enumerate() {
        let scores = assigned.of(g, crop, head.scores)?;
        let mut inputs = vec![scores];
        if let Some(queue) = queue {
            let rows = queue.rows(g, position)?;
            inputs.extend([similarities(g, rows, head.prototypes)?, queue.filled]);
        }
        codes.push(g.scoped("codes", |g| g.apply(sinkhorn.clone(), &inputs))?);
    }
    Ok(codes)
}

/// For each assigned crop a, the mean over the other V−1 crops v of `mean_b(−Σ_k codes_a · log_softmax(scores_v/τ))`; then
/// the mean over assigned crops and heads. Every crop's target is the sum of the codes it has to predict.
pub(super) fn swapped_loss(g: &mut Graph, preset: &Preset, heads: &[Head]) -> Result<ValueId, GraphError> {
    let (batch, total, assigned) = (preset.train.micro_batch_size(), preset.crops.total(), &preset.crops.crops_for_assign);
    g.scoped("loss", |g| {
        let mut losses = Vec::new();
        for head in heads {
            let (mut targets, mut predicted) = (Vec::new(), Vec::new());
            for crop in 0..total {
                let codes = head.codes.iter().zip(assigned).filter(|&(_, &from)| from != crop).map(|(&codes, _)| codes);
                let target = codes.map(Ok).reduce(|sum: Result<ValueId, GraphError>, codes| g.add(sum?, codes?));
                if let Some(target) = target.transpose()? {
                    targets.push(target);
                    predicted.push(crop);
                }
            }
            let targets = g.concat(&targets, 0)?;
            let scores = if predicted.len() == total {
                head.scores
            } else {
                let rows = predicted.iter().map(|&crop| g.rows(head.scores, crop * batch, (crop + 1) * batch)).collect::<Result<Vec<_>, _>>()?;
                g.concat(&rows, 0)?
            };
            let logits = g.scale(scores, 1.0 / preset.loss.temperature)?;
            let log_probabilities = g.apply(LogSoftmax, &[logits])?;
            let products = g.mul(targets, log_probabilities)?;
            let sum = g.reduce_sum(products, &[0, 1], true)?;
            losses.push(g.scale(sum, -1.0 / (assigned.len() * (total - 1) * batch * heads.len()) as f64)?);
        }
        let first = losses.remove(0);
        losses.into_iter().try_fold(first, |sum, loss| g.add(sum, loss))
    })
}

/// The queue of embeddings: `queue/embeddings` f32 [A,L,D] and `queue/filled` i64 [1].
pub(super) struct Queue {
    embeddings: ValueId,
    filled: ValueId,
    length: usize,
}

impl Queue {
    /// The queue's inputs, if the preset has one.
    pub(super) fn new(g: &mut Graph, preset: &Preset) -> Option<Queue> {
        let length = preset.queue_rows();
        (length > 0).then(|| {
            let shape = vec![preset.crops.crops_for_assign.len(), length, preset.model.feat_dim];
            let embeddings = g.input("queue/embeddings", TensorType::f32(shape));
            let filled = g.input("queue/filled", TensorType::new(DType::I64, vec![1]));
            Queue { embeddings, filled, length }
        })
    }

    /// The rows [L,D] of an assigned crop.
    fn rows(&self, g: &mut Graph, position: usize) -> Result<ValueId, GraphError> {
        let [_, length, dimensions] = *g.shape(self.embeddings) else { unreachable!("rank 3") };
        let rows = g.rows(self.embeddings, position, position + 1)?;
        g.reshape(rows, &[length, dimensions])
    }

    /// Shifts the queue by the batch and puts each assigned crop's embeddings in front.
    pub(super) fn advance(&self, g: &mut Graph, preset: &Preset, embeddings: ValueId, assigned: &AssignedRows) -> Result<(), GraphError> {
        let (dimensions, batch) = (preset.model.feat_dim, assigned.batch);
        let next = g.scoped("queue", |g| {
            let mut crops = Vec::new();
            for (position, &crop) in assigned.crops.iter().enumerate() {
                let new = assigned.of(g, crop, embeddings)?;
                let old = self.rows(g, position)?;
                let rows = if self.length > batch {
                    let kept = g.apply(Slice { axes: vec![0], starts: vec![0], ends: vec![self.length - batch], steps: vec![1] }, &[old])?;
                    g.concat(&[new, kept], 0)?
                } else {
                    new
                };
                crops.push(g.reshape(rows, &[1, self.length, dimensions])?);
            }
            g.concat(&crops, 0)
        })?;
        g.output("next/queue/embeddings", next);
        let added = g.constant([1], TensorData::I64(vec![batch as i64]));
        let length = g.constant([1], TensorData::I64(vec![self.length as i64]));
        let filled = g.add(self.filled, added)?;
        let beyond = g.apply(Greater, &[filled, length])?;
        let filled = g.apply(Where, &[beyond, length, filled])?;
        g.output("next/queue/filled", filled);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gradcheck::{largest_gradient_error, random_inputs};
    use crate::interpreter::evaluate;

    /// A network small enough for f64 finite differences, with every kind of layer.
    pub(in crate::methods) fn tiny(changes: &[&str]) -> Preset {
        let mut overrides: Vec<String> = [
            "model.arch=resnet10",
            "model.width=2",
            "model.stem=small",
            "model.stem_stride=2",
            "model.hidden_mlp=5",
            "model.feat_dim=4",
            "model.nmb_prototypes=6",
            "crops.size_crops=[16, 8]",
            "crops.nmb_crops=[2, 1]",
            "train.batch_size=3",
            "loss.epsilon=0.5",
        ]
        .map(String::from)
        .into();
        overrides.extend(changes.iter().map(|&change| change.to_owned()));
        Preset::from_toml("", &overrides).expect("a valid preset")
    }

    /// Names and map heights of the layers that have a function.
    fn layers_with(preset: &Preset, function: &str) -> Vec<(String, usize)> {
        let graph = train_step(preset).expect("valid").graph;
        let calls = graph.nodes().iter().filter(|node| node.op.name() == function);
        calls.map(|node| (node.scope[node.scope.find("layer").expect("a residual block")..].to_owned(), graph.shape(node.outputs[0])[2])).collect()
    }

    #[test]
    fn targets_of_stock_operators_on_the_cpu_have_winograds_functions_where_they_pay() {
        let preset = |target: &str| tiny(&["model.width=64", "crops.size_crops=[32, 16]", &format!("train.target={target}")]);
        let cpu = preset("cpu");
        // Behind a stem of stride 2: 16, 8, 4 and 2 pixels a side, and half of that.
        let expected = [("layer1.0.conv1", 16), ("layer1.0.conv2", 16), ("layer2.0.conv2", 8), ("layer3.0.conv2", 4)]
            .into_iter()
            .chain([("layer1.0.conv1", 8), ("layer1.0.conv2", 8), ("layer2.0.conv2", 4)])
            .map(|(layer, height)| (layer.to_owned(), height))
            .collect::<Vec<_>>();
        assert_eq!(layers_with(&cpu, "WinogradConvolution"), expected);
        assert_eq!(layers_with(&preset("ort-training"), "WinogradConvolution"), expected);
        let mut in_backward_order = expected.clone();
        in_backward_order.reverse();
        for gradient in ["WinogradInputGrad", "WinogradPoints", "WinogradWeightGrad"] {
            assert_eq!(layers_with(&cpu, gradient).len(), expected.len(), "{gradient}");
        }
        assert_eq!(layers_with(&cpu, "WinogradInputGrad"), in_backward_order);
        for target in ["portable", "native", "cuda", "directml"] {
            assert_eq!(layers_with(&preset(target), "WinogradConvolution"), [], "{target}");
        }
        assert_eq!(layers_with(&tiny(&["model.width=4", "train.target=cpu"]), "WinogradConvolution"), [], "few channels");
    }

    /// Largest error of the gradients of the loss with all parameters. The loss has codes in it, which are constants to the
    /// gradient: they are frozen at their values.
    fn gradient_error(preset: &Preset) -> f64 {
        let mut g = Graph::new();
        let mut layers = TrainLayers::new(Precision::F32, preset.train.resolved_target());
        let crops = crop_inputs(&mut g, preset);
        let embeddings = embed_crops(&mut g, &mut layers, preset, &crops).expect("valid");
        let names = preset.model.nmb_prototypes.parameter_names();
        let mut heads = Vec::new();
        for (index, (name, &count)) in names.iter().zip(preset.model.nmb_prototypes.counts()).enumerate() {
            let prototypes = layers.parameter(&mut g, name, &[count, preset.model.feat_dim], Init::UniformFanIn(4));
            let scores = similarities(&mut g, embeddings, prototypes).expect("valid");
            let codes = preset.crops.crops_for_assign.iter().map(|crop| g.input(&format!("codes/{index}/{crop}"), TensorType::f32(vec![3, count])));
            let codes = codes.collect();
            heads.push(Head { suffix: String::new(), prototypes, scores, codes });
        }
        let loss = swapped_loss(&mut g, preset, &heads).expect("valid");
        let inputs = random_inputs(&g, 5);
        let parameters: Vec<ValueId> = layers.parameters.iter().map(|parameter| parameter.input).collect();
        largest_gradient_error(&mut g, loss, &parameters, &inputs).expect("known gradients")
    }

    #[test]
    fn all_gradients_of_a_whole_network_are_right() {
        for changes in [
            &[][..],
            &["model.batch_norm_groups=crop"],
            &["model.nmb_prototypes=[5, 7]", "crops.crops_for_assign=[0]"],
            &["model.arch=resnet50", "model.stem=imagenet", "crops.size_crops=[17, 16]", "model.hidden_mlp=0"],
            &["train.target=native", "model.batch_norm_groups=crop"],
            &["train.target=native", "model.arch=resnet50", "model.stem=imagenet", "crops.size_crops=[17, 16]"],
        ] {
            let error = gradient_error(&tiny(changes));
            // Where a pre-activation lies within a finite difference of 0, the difference straddles the kink.
            assert!(error < 1e-5, "{changes:?}: {error:e}");
        }
    }

    #[test]
    fn the_loss_is_the_mean_of_swapped_cross_entropies() {
        let preset = tiny(&["crops.crops_for_assign=[0, 2]"]);
        let step = train_step(&preset).expect("valid");
        let values = evaluate(&step.graph, &random_inputs(&step.graph, 3));
        let output = |name: &str| values.get(step.graph.find_output(name).expect("an output"));
        let (scores, codes, batch, tau) = (output("scores"), output("codes"), 3, 0.1);
        let mut loss = 0.0;
        for (position, assigned) in [0, 2].into_iter().enumerate() {
            for crop in (0..3).filter(|&crop| crop != assigned) {
                for row in 0..batch {
                    let logits: Vec<f64> = (0..6).map(|k| scores[[crop * batch + row, k]] / tau).collect();
                    let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                    for (k, logit) in logits.iter().enumerate() {
                        loss -= codes[[position * batch + row, k]] * (logit - log_sum) / (batch * 2 * 2) as f64;
                    }
                }
            }
        }
        assert!((output("loss")[[0]] - loss).abs() < 1e-6, "{} {loss}", output("loss")[[0]]);
    }

    #[test]
    fn codes_of_a_sample_sum_to_one_and_statistics_are_plausible() {
        let preset = tiny(&[]);
        let step = train_step(&preset).expect("valid");
        let values = evaluate(&step.graph, &random_inputs(&step.graph, 3));
        let output = |name: &str| values.get(step.graph.find_output(name).expect("an output"));
        for row in output("codes").rows() {
            assert!((row.sum() - 1.0).abs() < 1e-9);
        }
        let entropy = output("stats/code_entropy")[[0]];
        assert!(entropy > 0.0 && entropy <= 6.0_f64.ln(), "{entropy}");
        assert!((1.0..=6.0).contains(&output("stats/live_prototypes")[[0]]));
        assert!((0.0..=0.5).contains(&output("stats/feature_std")[[0]]));
        let squares: f64 = step.parameters.iter().map(|parameter| output(&format!("grad/{}", parameter.name)).mapv(|x| x * x).sum()).sum();
        assert!((output("stats/grad_norm")[[0]] - squares.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn running_statistics_move_once_for_each_crop_size() {
        let preset = tiny(&[]);
        let step = train_step(&preset).expect("valid");
        let mut inputs = random_inputs(&step.graph, 3);
        // Constant images have variance 0 behind the first convolution only with zero weights.
        inputs.get_mut("conv1.weight").expect("a weight").fill(0.0);
        inputs.get_mut("bn1.running_var").expect("a statistic").fill(1.0);
        let values = evaluate(&step.graph, &inputs);
        let next = values.get(step.graph.find_output("next/bn1.running_var").expect("an output"));
        assert!(next.iter().all(|&variance| (variance - 0.81).abs() < 1e-6), "{next}");
    }

    #[test]
    fn the_queue_shifts_and_takes_part_once_full() {
        let preset = tiny(&["loss.queue_length=7"]);
        let step = train_step(&preset).expect("valid");
        let mut inputs = random_inputs(&step.graph, 3);
        let run = |inputs: &crate::gradcheck::Inputs| {
            let values = evaluate(&step.graph, inputs);
            let output = |name: &str| values.get(step.graph.find_output(name).expect("an output")).clone();
            (output("codes"), output("embeddings"), output("next/queue/embeddings"), output("next/queue/filled")[[0]])
        };
        let (empty, embeddings, next, filled) = run(&inputs);
        assert_eq!((next.shape(), filled), (&[2, 6, 4][..], 3.0));
        for (row, dimension) in (0..3).flat_map(|row| (0..4).map(move |dimension| (row, dimension))) {
            assert_eq!(next[[1, row, dimension]], embeddings[[3 + row, dimension]], "new rows in front");
            assert_eq!(next[[1, 3 + row, dimension]], inputs["queue/embeddings"][[1, row, dimension]], "old rows behind");
        }
        inputs.get_mut("queue/filled").expect("an input").fill(3.0);
        assert_eq!(run(&inputs).0, empty, "a half-filled queue takes no part");
        inputs.get_mut("queue/filled").expect("an input").fill(6.0);
        let (full, _, _, filled) = run(&inputs);
        assert_ne!(full, empty);
        assert_eq!(filled, 6.0);
        let without = train_step(&tiny(&[])).expect("valid");
        let values = evaluate(&without.graph, &inputs);
        assert_eq!(values.get(without.graph.find_output("codes").expect("an output")), &empty, "as without a queue");
    }
}
