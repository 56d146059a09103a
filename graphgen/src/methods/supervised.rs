//! Supervised fine-tuning of the whole network: encoder, linear classifier, cross-entropy and all gradients, for the
//! semi-supervised evaluation of Caron et al. 2020 (section 4.2, `eval_semisup.py` of the official code).

use super::statistics;
use super::swav::TrainStep;
use crate::autodiff::gradients;
use crate::backbones::resnet::ResNet;
use crate::functions::optimizer::SgdStep;
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::nn::{Layers, Parameter, TrainLayers};
use crate::ops::{Equal, LogSoftmax};
use crate::preset::{Precision, Preset};

/// The classifier's name: its parameters are `fc.weight` [C, F] and `fc.bias` [C], as in torchvision's ResNets.
pub const CLASSIFIER: &str = "fc";

/// What is fine-tuned, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FineTuning {
    /// C.
    pub classes: usize,
    /// B: images of a step.
    pub batch_size: usize,
    /// Side of the crops, px.
    pub crop_px: usize,
    /// SGD's momentum.
    pub momentum: f64,
    /// Learning rate of the classifier over that of the encoder.
    pub classifier_lr_factor: f64,
}

/// The training step: inputs `crops/0` u8 [B,3,S,S], `labels` i64 [B], parameters and running statistics; outputs `loss`
/// (mean cross-entropy in nats), `grad/…`, `next/<running statistic>` and `stats/grad_norm`. It is f32 whatever the preset's
/// precision is; BatchNorm normalises by the batch, as in training.
///
/// # Errors
/// Crops too small for the network.
pub fn fine_tuning_step(preset: &Preset, settings: &FineTuning) -> Result<TrainStep, GraphError> {
    let mut g = Graph::new();
    let mut layers = TrainLayers::new(Precision::F32, preset.train.resolved_target());
    let loss = cross_entropy(&mut g, &mut layers, preset, settings)?;
    let parameters: Vec<ValueId> = layers.parameters.iter().map(|parameter| parameter.input).collect();
    let gradients = gradients(&mut g, loss, &parameters)?;
    let gradients: Vec<ValueId> = gradients.into_iter().map(|gradient| gradient.expect("the loss depends on every parameter")).collect();

    let loss = g.reshape(loss, &[1])?;
    g.output("loss", loss);
    statistics::of_gradients(&mut g, &gradients)?;
    // Backward order, as in the method's own step.
    for (parameter, &gradient) in layers.parameters.iter().zip(&gradients).rev() {
        g.output(&format!("grad/{}", parameter.name), gradient);
    }
    for statistic in &layers.running_statistics {
        g.output(&format!("next/{}", statistic.name), statistic.current);
    }
    Ok(TrainStep { graph: g, parameters: layers.parameters, running_statistics: layers.running_statistics, prototypes: Vec::new() })
}

/// Crops → encoder → classifier → `−mean_b log softmax(logits_b)[label_b]`, of rank 2.
fn cross_entropy(g: &mut Graph, layers: &mut TrainLayers, preset: &Preset, settings: &FineTuning) -> Result<ValueId, GraphError> {
    let (batch, classes) = (settings.batch_size, settings.classes);
    let crops = g.input("crops/0", TensorType::new(DType::U8, vec![batch, 3, settings.crop_px, settings.crop_px]));
    let labels = g.input("labels", TensorType::new(DType::I64, vec![batch]));
    let x = layers.image(g, crops, &preset.data)?;
    let backbone = ResNet::new(&preset.model);
    let features = backbone.forward(g, layers, x)?;
    let logits = layers.linear(g, CLASSIFIER, features, backbone.features(), classes)?;
    g.scoped("loss", |g| {
        let labels = g.reshape(labels, &[batch, 1])?;
        let every_class = g.constant([1, classes], TensorData::I64((0..classes as i64).collect()));
        let is_label = g.apply(Equal, &[labels, every_class])?;
        let one_hot = g.cast(is_label, DType::F32)?;
        let log_probabilities = g.apply(LogSoftmax, &[logits])?;
        let products = g.mul(one_hot, log_probabilities)?;
        let sum = g.reduce_sum(products, &[0, 1], true)?;
        g.scale(sum, -1.0 / batch as f64)
    })
}

/// The optimizer step: SGD with momentum and without decay, the classifier at its own learning rate. Inputs
/// `learning_rate` f32 [1] (the encoder's) and for each parameter itself, `grad/…` and `momentum/…`; outputs `next/…`.
///
/// # Errors
/// None for parameters of a network that was built.
pub fn fine_tuning_optimizer(settings: &FineTuning, parameters: &[Parameter]) -> Result<Graph, GraphError> {
    let mut g = Graph::new();
    let encoder_rate = g.input("learning_rate", TensorType::f32(vec![1]));
    let classifier_rate = g.scale(encoder_rate, settings.classifier_lr_factor)?;
    for parameter in parameters {
        let rate = if is_classifier(&parameter.name) { classifier_rate } else { encoder_rate };
        g.scoped(&parameter.name, |g| {
            let ty = TensorType::f32(parameter.shape.clone());
            let [p, gradient, momentum] = ["", "grad/", "momentum/"].map(|prefix| g.input(&format!("{prefix}{}", parameter.name), ty.clone()));
            let next = g.apply_all(SgdStep { momentum: settings.momentum, weight_decay: 0.0 }, &[p, gradient, momentum, rate])?;
            for (prefix, next) in ["next/", "next/momentum/"].into_iter().zip(next) {
                g.output(&format!("{prefix}{}", parameter.name), next);
            }
            Ok::<_, GraphError>(())
        })?;
    }
    Ok(g)
}

/// Whether a parameter is the classifier's.
pub fn is_classifier(name: &str) -> bool {
    name.split('.').next() == Some(CLASSIFIER)
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;
    use crate::gradcheck::{Inputs, largest_gradient_error, random_inputs};
    use crate::interpreter::evaluate;
    use crate::methods::swav::tests::tiny;

    const SETTINGS: FineTuning = FineTuning { classes: 5, batch_size: 3, crop_px: 16, momentum: 0.9, classifier_lr_factor: 250.0 };

    fn inputs(graph: &Graph) -> Inputs {
        let mut inputs = random_inputs(graph, 5);
        inputs.insert("labels".into(), ArrayD::from_shape_vec(IxDyn(&[3]), vec![4.0, 0.0, 4.0]).expect("three"));
        inputs
    }

    #[test]
    fn all_gradients_are_right() {
        for changes in [
            &[][..],
            &["train.target=native", "model.stem=imagenet"],
            &["model.arch=resnet50", "model.stem=imagenet", "train.precision=mixed-f16", "train.emulate_f16=true"],
        ] {
            let mut g = Graph::new();
            let preset = tiny(changes);
            let mut layers = TrainLayers::new(Precision::F32, preset.train.resolved_target());
            let loss = cross_entropy(&mut g, &mut layers, &preset, &SETTINGS).expect("valid");
            let parameters: Vec<ValueId> = layers.parameters.iter().map(|parameter| parameter.input).collect();
            let inputs = inputs(&g);
            let error = largest_gradient_error(&mut g, loss, &parameters, &inputs).expect("known gradients");
            // Where a pre-activation lies within a finite difference of 0, the difference straddles the kink.
            assert!(error < 1e-5, "{changes:?}: {error:e}");
        }
    }

    #[test]
    fn the_loss_is_the_mean_cross_entropy_and_no_head_is_left() {
        let step = fine_tuning_step(&tiny(&[]), &SETTINGS).expect("valid");
        let names: Vec<&str> = step.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        assert!(names.contains(&"fc.weight") && names.iter().all(|name| !name.starts_with("projection_head") && !name.starts_with("prototypes")), "{names:?}");
        let mut inputs = inputs(&step.graph);
        // The logits are the bias.
        inputs.get_mut("fc.weight").expect("a weight").fill(0.0);
        let bias = inputs["fc.bias"].clone();
        let log_sum = bias.mapv(f64::exp).sum().ln();
        let expected = log_sum - (2.0 * bias[[4]] + bias[[0]]) / 3.0;
        let values = evaluate(&step.graph, &inputs);
        let loss = values.get(step.graph.find_output("loss").expect("an output"))[[0]];
        assert!((loss - expected).abs() < 1e-12, "{loss} {expected}");
        assert!(step.graph.find_output("next/bn1.running_var").is_some());
    }

    #[test]
    fn the_classifier_has_its_own_learning_rate() {
        let step = fine_tuning_step(&tiny(&[]), &SETTINGS).expect("valid");
        let graph = fine_tuning_optimizer(&SETTINGS, &step.parameters).expect("valid");
        let mut inputs = random_inputs(&graph, 2);
        inputs.get_mut("learning_rate").expect("an input").fill(0.02);
        let values = evaluate(&graph, &inputs);
        for (name, rate) in [("conv1.weight", 0.02), ("bn1.bias", 0.02), ("fc.weight", 5.0), ("fc.bias", 5.0)] {
            let next = values.get(graph.find_output(&format!("next/{name}")).expect("an output"));
            let velocity = &inputs[&format!("momentum/{name}")] * 0.9 + &inputs[&format!("grad/{name}")];
            let expected = &inputs[name] - &(velocity * rate);
            assert!((next - &expected).iter().all(|difference| difference.abs() < 1e-12), "{name}");
        }
        assert!(is_classifier("fc.bias") && !is_classifier("fcx.bias") && !is_classifier("layer1.fc.bias"));
    }
}
