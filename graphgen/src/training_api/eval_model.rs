//! What EvalStep runs, with the weights in the training API's hands: `eval_model.onnx`, the encoder, and with several
//! micro-batches `embed_step.onnx`, their embeddings before the codes.
//!
//! The training API gives a model for EvalStep all tensors of the checkpoint by their place: they must be its inputs in the
//! training model's order, used or not.

use std::collections::BTreeMap;

use crate::backbones::resnet::ResNet;
use crate::functions::normalize_pixels::normalize_pixels;
use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::methods::accumulation::embed_step;
use crate::methods::swav::{TrainStep, project};
use crate::nn::EvalLayers;
use crate::onnx::proto::ModelProto;
use crate::onnx::{Dim, ModelOptions, value_info, write_model};
use crate::preset::{Preset, Target};

use super::of_checkpoint;

/// EvalStep's input: u8 [N,3,H,W].
pub(super) const IMAGE: &str = "image";

/// The encoder of `encoder.onnx` over running statistics: `image` u8 [N,3,H,W] of any size → `features`, `embedding`.
///
/// # Errors
/// None for a preset whose training model was built.
pub(super) fn eval_model(preset: &Preset, training: &TrainStep) -> Result<ModelProto, GraphError> {
    let mut g = Graph::new();
    // Any size does: no operator of the graph holds it.
    let image = g.input(IMAGE, TensorType::new(DType::U8, vec![1, 3, 64, 64]));
    let mut weights: BTreeMap<String, ValueId> = BTreeMap::new();
    for &input in training.graph.inputs() {
        let name = training.graph.input_name(input);
        if of_checkpoint(training, name) {
            weights.insert(name.to_owned(), g.input(name, training.graph.ty(input).clone()));
        }
    }
    let mut layers = EvalLayers::new(weights);
    let pixels = g.cast(image, DType::F32)?;
    let x = normalize_pixels(&mut g, pixels, &preset.data)?;
    let features = ResNet::new(&preset.model).forward(&mut g, &mut layers, x)?;
    let embedding = project(&mut g, &mut layers, &preset.model, features)?;
    g.output("features", features);
    g.output("embedding", embedding);

    let mut options = ModelOptions::new(Target::Portable);
    let symbol = |name: &str| Dim::Symbolic(name.to_owned());
    options.symbolic.insert(IMAGE.into(), vec![symbol("N"), Dim::Static(3), symbol("H"), symbol("W")]);
    for (name, value) in [("features", features), ("embedding", embedding)] {
        options.symbolic.insert(name.into(), vec![symbol("N"), Dim::Static(g.shape(value)[1])]);
    }
    write_model(&g, "eval_model", &options)
}

/// [`embed_step`] for EvalStep: crops → embeddings, with the batch's statistics.
///
/// # Errors
/// As [`embed_step`].
pub(super) fn embed_model(preset: &Preset, training: &TrainStep, options: &ModelOptions) -> Result<ModelProto, GraphError> {
    let mut model = write_model(&embed_step(preset)?, "embed_step", options)?;
    let g = &training.graph;
    let checkpoint = g.inputs().iter().map(|&input| (g.input_name(input), g.ty(input))).filter(|(name, _)| of_checkpoint(training, name));
    if let Some(graph) = &mut model.graph {
        graph.input.retain(|input| !input.name.as_deref().is_some_and(|name| of_checkpoint(training, name)));
        graph.input.extend(checkpoint.clone().map(|(name, ty)| value_info(name, ty)));
    }
    Ok(model)
}
