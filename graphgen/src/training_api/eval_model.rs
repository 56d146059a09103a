//! `eval_model.onnx`: the encoder with its weights in the training API's hands.

use std::collections::BTreeMap;

use crate::backbones::resnet::ResNet;
use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::methods::swav::{TrainStep, normalize_pixels, project};
use crate::nn::EvalLayers;
use crate::onnx::{Dim, ModelOptions};
use crate::preset::{Preset, Target};

/// EvalStep's input: u8 [N,3,H,W].
pub(super) const IMAGE: &str = "image";

/// The encoder of `encoder.onnx` over running statistics: `image` u8 [N,3,H,W] of any size → `features`, `embedding`. All
/// tensors of the training model's checkpoint are inputs, in the order they have there, as the training API wants it.
///
/// # Errors
/// None for a preset whose training model was built.
pub(super) fn eval_model(preset: &Preset, training: &TrainStep) -> Result<(Graph, ModelOptions), GraphError> {
    let mut g = Graph::new();
    // Any size does: no operator of the graph holds it.
    let image = g.input(IMAGE, TensorType::new(DType::U8, vec![1, 3, 64, 64]));
    let mut weights: BTreeMap<String, ValueId> = BTreeMap::new();
    let of_checkpoint = |name: &str| {
        training.parameters.iter().any(|parameter| parameter.name == name) || training.running_statistics.iter().any(|statistic| statistic.name == name)
    };
    for &input in training.graph.inputs() {
        let name = training.graph.input_name(input);
        if of_checkpoint(name) {
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
    Ok((g, options))
}
