//! Linear classification on frozen features: multinomial logistic regression by SGD.
//!
//! The protocol of SwAV's `eval_linear.py`: SGD with momentum, one cosine step an epoch down to 0, weights from
//! N(0, 0.01²), bias 0, weight decay on both. The backbone does not change, so that features can be computed once
//! ([`train_on_features`]) or, as in the official evaluation, from newly augmented images every epoch
//! ([`train_on_images`](super::augmented::train_on_images)).

use ndarray::{Array1, Array2, ArrayView2, Axis};

use super::scores::rank;
use super::{Bounds, EvalError, Rankings};
use crate::data::{Purpose, Random};

/// Settings of the classifier's training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Linear {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// Learning rate of the first epoch.
    pub lr: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Coupled L2 decay.
    pub weight_decay: f64,
    /// Seed of initial weights, order and augmentation.
    pub seed: u64,
}

impl Default for Linear {
    /// The official settings, for a batch of 256.
    fn default() -> Self {
        Linear { epochs: 100, batch_size: 256, lr: 0.3, momentum: 0.9, weight_decay: 1e-6, seed: 31 }
    }
}

impl Linear {
    /// Learning rate of an epoch: half a cosine from `lr` to 0, which the last epoch does not reach.
    pub fn lr_at(&self, epoch: usize) -> f64 {
        0.5 * self.lr * (1.0 + (std::f64::consts::PI * epoch as f64 / self.epochs as f64).cos())
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Values that cannot work, by the option's name.
    pub fn validate(&self) -> Result<(), EvalError> {
        let at_least_1 = |setting, value: usize| match value {
            0 => Err(EvalError::Setting { setting, problem: "expected at least 1, got 0".into() }),
            _ => Ok(()),
        };
        at_least_1("--epochs", self.epochs)?;
        at_least_1("--step-batch", self.batch_size)?;
        Bounds::POSITIVE.require("--lr", self.lr)?;
        Bounds::DECAY.require("--weight-decay", self.weight_decay)
    }
}

/// A linear layer and softmax, with the momentum of its training.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// f32 [C, F]
    weight: Array2<f32>,
    /// f32 [C]
    bias: Array1<f32>,
    weight_momentum: Array2<f32>,
    bias_momentum: Array1<f32>,
}

impl Classifier {
    /// Initial weights for `features` inputs and `classes` outputs.
    pub fn new(features: usize, classes: usize, seed: u64) -> Classifier {
        let mut random = Random::new(seed, Purpose::Classifier, 0, 0);
        let weight = Array2::from_shape_simple_fn((classes, features), || (0.01 * random.normal()) as f32);
        Classifier::from_parameters(weight, Array1::zeros(classes))
    }

    /// A trained classifier: weight f32 [C, F], bias f32 `[C]`.
    pub fn from_parameters(weight: Array2<f32>, bias: Array1<f32>) -> Classifier {
        Classifier { weight_momentum: Array2::zeros(weight.dim()), bias_momentum: Array1::zeros(bias.len()), weight, bias }
    }

    /// f32 [N, C] for rows f32 [N, F].
    fn logits(&self, rows: ArrayView2<f32>) -> Array2<f32> {
        rows.dot(&self.weight.t()) + &self.bias
    }

    /// One step on rows f32 [B, F] and their classes; gives the mean cross-entropy before it, nats.
    ///
    /// # Panics
    /// If there are not as many labels as rows, or none.
    pub fn step(&mut self, rows: ArrayView2<f32>, labels: &[usize], lr: f64, settings: &Linear) -> f64 {
        assert!(rows.nrows() == labels.len() && !labels.is_empty(), "one label a row");
        let mut logits = self.logits(rows);
        let mut loss = 0.0;
        // In place: the gradient of the loss by the logits, (softmax − one-hot) / B.
        for (mut row, &label) in logits.axis_iter_mut(Axis(0)).zip(labels) {
            let most = row.fold(f32::NEG_INFINITY, |most, &value| most.max(value));
            let correct = row[label] - most;
            row.mapv_inplace(|value| (value - most).exp());
            let sum = row.sum();
            loss += f64::from(sum.ln() - correct);
            row[label] -= sum;
            let scale = 1.0 / (sum * labels.len() as f32);
            row.mapv_inplace(|value| value * scale);
        }
        let weight_gradient = logits.t().dot(&rows);
        let bias_gradient = logits.sum_axis(Axis(0));
        let (lr, momentum, decay) = (lr as f32, settings.momentum as f32, settings.weight_decay as f32);
        let update = |parameter: &mut f32, buffer: &mut f32, gradient: &f32| {
            *buffer = momentum * *buffer + gradient + decay * *parameter;
            *parameter -= lr * *buffer;
        };
        ndarray::Zip::from(&mut self.weight).and(&mut self.weight_momentum).and(&weight_gradient).for_each(update);
        ndarray::Zip::from(&mut self.bias).and(&mut self.bias_momentum).and(&bias_gradient).for_each(update);
        loss / labels.len() as f64
    }

    /// The most likely classes of rows f32 [N, F].
    pub fn classify(&self, rows: ArrayView2<f32>) -> Rankings {
        self.logits(rows).axis_iter(Axis(0)).map(|row| rank(row.iter().map(|&value| f64::from(value)))).collect()
    }
}

/// Fails where a loss is no number any more.
pub(super) fn check_loss(loss: f64, settings: &Linear, epoch: usize) -> Result<(), EvalError> {
    if loss.is_finite() {
        return Ok(());
    }
    let problem =
        format!("expected a rate at which the classifier learns, but with {} the loss is {loss} in epoch {}; lower it tenfold", settings.lr, epoch + 1);
    Err(EvalError::Setting { setting: "--lr", problem })
}

/// Trains on features f32 [N, F]; `after_epoch` gets the epoch (from 0), its mean loss and the classifier after it.
///
/// # Errors
/// No features, settings that cannot work, and a loss that is not finite.
///
/// # Panics
/// If there are not as many labels as rows, or a label is not below `classes`.
pub fn train_on_features(
    rows: ArrayView2<f32>,
    labels: &[usize],
    classes: usize,
    settings: &Linear,
    mut after_epoch: impl FnMut(usize, f64, &Classifier),
) -> Result<Classifier, EvalError> {
    settings.validate()?;
    if labels.is_empty() {
        return Err(EvalError::Setting { setting: "--train", problem: "expected labelled images, got none".into() });
    }
    let mut classifier = Classifier::new(rows.ncols(), classes, settings.seed);
    let mut order: Vec<usize> = (0..labels.len()).collect();
    for epoch in 0..settings.epochs {
        Random::new(settings.seed, Purpose::Shuffle, epoch as u64, 0).shuffle(&mut order);
        let mut sum = 0.0;
        for batch in order.chunks(settings.batch_size) {
            let batch_labels: Vec<usize> = batch.iter().map(|&index| labels[index]).collect();
            let loss = classifier.step(rows.select(Axis(0), batch).view(), &batch_labels, settings.lr_at(epoch), settings);
            sum += loss * batch.len() as f64;
        }
        let loss = sum / labels.len() as f64;
        check_loss(loss, settings, epoch)?;
        after_epoch(epoch, loss, &classifier);
    }
    Ok(classifier)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn settings() -> Linear {
        Linear { epochs: 30, batch_size: 4, lr: 0.5, ..Linear::default() }
    }

    /// Three well separated groups in the plane.
    fn groups() -> (Array2<f32>, Vec<usize>) {
        let centres = [[3.0, 0.0], [-3.0, 1.0], [0.0, -3.0]];
        let rows = Array2::from_shape_fn((30, 2), |(i, j)| centres[i % 3][j] + ((i * 7 + j * 5) % 11) as f32 / 11.0 - 0.5);
        (rows, (0..30).map(|i| i % 3).collect())
    }

    #[test]
    fn separable_groups_are_told_apart_and_the_same_seed_gives_the_same_classifier() {
        let (rows, labels) = groups();
        let mut losses = Vec::new();
        let classifier = train_on_features(rows.view(), &labels, 3, &settings(), |_, loss, _| losses.push(loss)).expect("valid");
        let found: Vec<usize> = classifier.classify(rows.view()).into_iter().map(|ranking| ranking[0]).collect();
        assert_eq!(found, labels);
        assert!(losses.len() == 30 && losses[29] < losses[0] / 4.0, "{losses:?}");
        let again = train_on_features(rows.view(), &labels, 3, &settings(), |_, _, _| {}).expect("valid");
        assert_eq!(again.weight, classifier.weight);
    }

    #[test]
    fn a_step_is_that_of_torch() {
        // PyTorch 2: CrossEntropyLoss and SGD(lr=0.5, momentum=0.9, weight_decay=0.1), two steps from these weights.
        //   layer = torch.nn.Linear(2, 2); layer.weight.data = tensor([[.1, .2], [.3, -.1]]); layer.bias.data = tensor([0., .5])
        //   x = tensor([[1., 2.], [0., -1.]]); y = tensor([0, 1])
        let mut classifier = Classifier::new(2, 2, 0);
        classifier.weight = array![[0.1, 0.2], [0.3, -0.1]];
        classifier.bias = array![0.0, 0.5];
        let settings = Linear { momentum: 0.9, weight_decay: 0.1, ..Linear::default() };
        let rows = array![[1.0, 2.0], [0.0, -1.0]];
        let losses = [0; 2].map(|_| classifier.step(rows.view(), &[0, 1], 0.5, &settings));
        for (loss, expected) in losses.into_iter().zip(TORCH_LOSSES) {
            assert!((loss - expected).abs() < 1e-6, "{losses:?}");
        }
        for (value, expected) in classifier.weight.iter().chain(&classifier.bias).zip(TORCH_PARAMETERS) {
            assert!((value - expected).abs() < 1e-6, "{:?} {:?}", classifier.weight, classifier.bias);
        }
    }

    const TORCH_LOSSES: [f64; 2] = [0.557_748_68, 0.206_123_83];
    const TORCH_PARAMETERS: [f32; 6] = [0.369_341_2, 0.934_255_2, -0.026_341_2, -0.848_505_1, 0.088_018_5, 0.340_731_5];

    #[test]
    fn the_learning_rate_falls_along_a_cosine() {
        let settings = Linear { epochs: 4, lr: 1.0, ..Linear::default() };
        let rates: Vec<f64> = (0..4).map(|epoch| settings.lr_at(epoch)).collect();
        for (rate, expected) in rates.iter().zip([1.0, 0.853_553_4, 0.5, 0.146_446_6]) {
            assert!((rate - expected).abs() < 1e-6, "{rates:?}");
        }
    }

    #[test]
    fn a_rate_at_which_the_loss_overflows_is_named() {
        let (rows, labels) = groups();
        let settings = Linear { lr: 1e6, weight_decay: 1.0, ..settings() };
        let error = train_on_features((rows * 1e20).view(), &labels, 3, &settings, |_, _, _| {}).expect_err("overflow").to_string();
        assert!(error.contains("--lr") && error.contains("lower it"), "{error}");
        let error = train_on_features(Array2::zeros((1, 1)).view(), &[0], 1, &Linear { epochs: 0, ..settings }, |_, _, _| {}).expect_err("none").to_string();
        assert!(error.contains("--epochs"), "{error}");
    }
}
