//! Settings for a data set, each with its reason.

use graphgen::preset::{Arch, Crops, Loss, Model, Optim, OptimizerName, Preset, Prototypes, Stem, Train};

use super::DataFacts;

/// Up to this shorter side, px, images are small: no stride in the stem, two crops of one size.
const SMALL_PX: usize = 80;
/// Fewer images than this cannot carry a large number of prototypes, nor a network of their own.
const FEW: usize = 20_000;

/// A setting and why it has its value.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// `section.key`, or what it is about.
    pub setting: String,
    /// The value.
    pub value: String,
    /// Why.
    pub why: String,
}

/// Whether published weights are the better start: few photos, for a network that such weights fit.
fn starts_warm(facts: &DataFacts, model: &Model) -> bool {
    facts.images < FEW && model.stem == Stem::ImageNet && model.width == 64
}

/// A preset with its reasons.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Valid settings.
    pub preset: Preset,
    /// In the order of the preset.
    pub reasons: Vec<Reason>,
    /// Whether the preset is meant for `--init` with published weights.
    pub warm_start: bool,
    /// What to do beyond the preset.
    pub advice: Vec<String>,
}

/// Networks with their crops, the best first; the last one is the cheapest.
pub fn networks(facts: &DataFacts) -> Vec<(&'static str, Model, Crops)> {
    let small = facts.short_side_px <= SMALL_PX;
    let resnet18 = Model { arch: Arch::ResNet18, hidden_mlp: 512, ..Model::default() };
    if small {
        let size_px = (facts.short_side_px / 8 * 8).clamp(16, 64);
        let crops = Crops {
            size_crops: vec![size_px],
            nmb_crops: vec![2],
            min_scale_crops: vec![0.2],
            max_scale_crops: vec![1.0],
            jitter: 0.5,
            blur: 0.0,
            ..Crops::default()
        };
        let stem = |stride| Model { stem: Stem::Small, stem_stride: stride, ..resnet18.clone() };
        let narrow = Model { arch: Arch::ResNet10, width: 32, hidden_mlp: 256, feat_dim: 64, ..stem(2) };
        return vec![
            ("ResNet-18 with a 3x3 stem of stride 1", stem(1), crops.clone()),
            ("ResNet-18 with a 3x3 stem of stride 2", stem(2), crops.clone()),
            ("ResNet-10 of width 32 with a 3x3 stem of stride 2", narrow, crops),
        ];
    }
    let jitter = if facts.images < FEW { 0.5 } else { 1.0 };
    let crops = |sizes: [usize; 2], counts: [usize; 2]| Crops { size_crops: sizes.to_vec(), nmb_crops: counts.to_vec(), jitter, ..Crops::default() };
    let narrow = Model { arch: Arch::ResNet10, width: 32, hidden_mlp: 256, feat_dim: 64, ..Model::default() };
    let mut networks = vec![
        ("ResNet-50 on 2x224 + 6x96 px", Model::default(), crops([224, 96], [2, 6])),
        ("ResNet-18 on 2x160 + 4x96 px", resnet18.clone(), crops([160, 96], [2, 4])),
        ("ResNet-18 on 2x96 + 4x64 px", resnet18, crops([96, 64], [2, 4])),
        ("ResNet-10 of width 32 on 2x64 + 2x48 px", narrow, crops([64, 48], [2, 2])),
    ];
    if facts.images < FEW {
        // No published weights fit the narrow one.
        networks.pop();
    }
    networks
}

/// Settings for one of the [`networks`].
pub fn propose(facts: &DataFacts, classes_guess: Option<usize>, network: &(&'static str, Model, Crops)) -> Proposal {
    let images = facts.images;
    let (name, model, crops) = network;
    let mut reasons = Vec::new();
    let mut reason = |setting: &str, value: String, why: String| reasons.push(Reason { setting: setting.into(), value, why });
    reason("model, crops", (*name).into(), format!("the images' median shorter side is {} px", facts.short_side_px));

    let batch_size = if images >= FEW { 256 } else { power_of_two_below(images / 8).clamp(16, 128) };
    let why = match batch_size {
        256 => "the official single-machine batch".into(),
        _ => format!("at least about 8 steps an epoch of {images} images, and enough images for BatchNorm and the codes"),
    };
    reason("train.batch_size", batch_size.to_string(), why);

    let (classes, origin) = match (classes_guess, facts.classes) {
        (Some(guess), _) => (guess.max(1), "your guess".to_owned()),
        (None, Some(classes)) => (classes, format!("{classes} class folders")),
        (None, None) => ((images / 100).clamp(4, 300), "a guess from the number of images; --classes-guess gives a better one".into()),
    };
    // Every prototype needs images of its own, and a small batch can fill no more prototypes than it has images.
    let most = (images / 10).max(8).min(if images < FEW { batch_size } else { 3000 });
    let prototypes = (10 * classes).clamp(8, most);
    let why = match prototypes == 10 * classes {
        true => format!("ten times the expected classes ({classes}: {origin})"),
        false => format!(
            "{classes} expected classes ({origin}) would ask for {}, but {images} images in batches of {batch_size} carry no more than {most}",
            10 * classes
        ),
    };
    reason("model.nmb_prototypes", prototypes.to_string(), why);

    let warm_start = starts_warm(facts, model);
    let from_scratch = match images {
        1_000_000.. => 100,
        10_000.. => 200,
        1_000.. => 400,
        _ => 500,
    };
    let epochs = if warm_start { from_scratch / 10 } else { from_scratch };
    let steps = format!("{} steps", epochs * (images / batch_size));
    let why = if warm_start { format!("{steps}, a tenth of what random weights need ({from_scratch}): this preset is for --init") } else { steps };
    reason("train.epochs", epochs.to_string(), why);

    let (mut queue_length, mut epoch_queue_starts) = (0, Loss::default().epoch_queue_starts);
    let rows = (prototypes * 5 / 4).next_multiple_of(batch_size);
    if prototypes > batch_size && rows <= images / 4 {
        (queue_length, epoch_queue_starts) = (rows, (epochs * 3 / 40).max(1));
        let why =
            format!("{prototypes} prototypes cannot be filled evenly by {batch_size} images; from epoch {epoch_queue_starts}, when features have settled");
        reason("loss.queue_length", rows.to_string(), why);
    } else {
        reason("loss.queue_length", "0".into(), format!("a batch of {batch_size} images fills {prototypes} prototypes"));
    }
    let epsilon = if images < FEW || prototypes < 1000 { 0.03 } else { 0.05 };
    let why = if epsilon < 0.05 { "with few images or prototypes, codes of 0.05 stay nearly uniform and the loss at ln K" } else { "the official value" };
    reason("loss.epsilon", epsilon.to_string(), why.into());

    let official = images >= 100_000 && facts.short_side_px > SMALL_PX;
    let optim = if official {
        let base_lr = 0.6 * batch_size as f64 / 256.0;
        reason("optim", format!("LARS, {base_lr}"), "the official setting for a batch of 256, in proportion to the batch".into());
        Optim { base_lr, final_lr: base_lr / 1000.0, warmup_epochs: 0.0, freeze_prototypes_niters: (images / batch_size) as u64, ..Optim::default() }
    } else {
        let base_lr = 1e-3 * (batch_size as f64 / 128.0).max(0.5) * if warm_start { 0.3 } else { 1.0 };
        let why = "robust on small sets and small batches; lightly's setting for CIFAR-10";
        reason("optim", format!("Adam, {base_lr}"), if warm_start { format!("{why}, a third of it for a warm start") } else { why.into() });
        // About a hundred steps of warm-up.
        let warmup_epochs = (100.0 / (images as f64 / batch_size as f64).floor().max(1.0)).min(epochs as f64 / 10.0);
        Optim { name: OptimizerName::Adam, base_lr, warmup_epochs, freeze_prototypes_niters: 0, ..Optim::default() }
    };
    let preset = Preset {
        model: Model { nmb_prototypes: Prototypes::One(prototypes), ..model.clone() },
        crops: crops.clone(),
        loss: Loss { epsilon, queue_length, epoch_queue_starts, ..Loss::default() },
        optim,
        train: Train { epochs, batch_size, checkpoint_every_epochs: (epochs / 20).max(1), ..Train::default() },
        ..Preset::default()
    };
    Proposal { advice: advice(facts, &preset, warm_start), preset, reasons, warm_start }
}

fn advice(facts: &DataFacts, preset: &Preset, warm_start: bool) -> Vec<String> {
    let mut advice = Vec::new();
    if warm_start {
        let weights = match preset.model.arch {
            Arch::ResNet50 => "the official SwAV weights or torchvision's resnet50",
            _ => "torchvision's resnet18",
        };
        advice.push(format!(
            "{} images are few for a network of its own: start from published weights, {weights}, with --init; without them take ten times the epochs",
            facts.images
        ));
    } else if facts.images < FEW {
        advice.push(format!("{} images are few: the number of prototypes is kept small; more unlabelled images of the same kind help most", facts.images));
    }
    if facts.images < 1000 {
        advice.push("do not expect features for new kinds of images from so few; compare with a published encoder by swav-rt eval knn".into());
    }
    let (sampled, broken) = facts.sampled;
    if broken > 0 {
        advice.push(format!("{broken} of {sampled} images looked at are broken: swav-rt data check names them all"));
    }
    advice
}

/// The largest power of two that is at most `number`, at least 1.
fn power_of_two_below(number: usize) -> usize {
    number.checked_ilog2().map_or(1, |power| 1 << power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(images: usize, short_side_px: usize, classes: Option<usize>) -> DataFacts {
        DataFacts { images, classes, short_side_px, sampled: (200.min(images), 0) }
    }

    #[test]
    fn every_proposal_is_valid_and_has_steps() {
        for images in [16, 100, 1_300, 19_999, 50_000, 1_300_000] {
            for side in [20, 32, 64, 100, 400] {
                for guess in [None, Some(1), Some(10), Some(1000)] {
                    let facts = facts(images, side, None);
                    for network in networks(&facts) {
                        let Proposal { preset, reasons, .. } = propose(&facts, guess, &network);
                        preset.validate().unwrap_or_else(|error| panic!("{images} images of {side} px, {guess:?}: {error}"));
                        assert!(preset.train.batch_size <= images && preset.loss.queue_length <= images / 4);
                        assert!(reasons.iter().all(|reason| !reason.why.is_empty()));
                    }
                }
            }
        }
    }

    #[test]
    fn small_sets_get_few_prototypes_or_a_warm_start_and_large_ones_the_official_ratios() {
        let proposal = |images, side, classes| {
            let facts = facts(images, side, classes);
            let network = networks(&facts).remove(0);
            propose(&facts, None, &network)
        };
        let tiny = proposal(100, 32, Some(10));
        assert_eq!((tiny.preset.model.nmb_prototypes.clone(), tiny.preset.train.batch_size), (Prototypes::One(10), 16));
        let some = proposal(1_300, 400, Some(13));
        assert_eq!(some.preset.model.nmb_prototypes, Prototypes::One(128));
        assert!(some.advice[0].contains("--init") && some.preset.loss.queue_length == 0, "{:?}", some.advice);
        assert_eq!((some.warm_start, some.preset.train.epochs, tiny.warm_start), (true, 40, false));
        let cifar = proposal(50_000, 32, Some(10));
        assert_eq!((cifar.preset.model.nmb_prototypes.clone(), cifar.preset.loss.queue_length, cifar.advice.len()), (Prototypes::One(100), 0, 0));
        let photos = proposal(1_281_167, 400, Some(1000));
        assert_eq!((photos.preset.model.nmb_prototypes.clone(), photos.preset.loss.queue_length), (Prototypes::One(3000), 3840));
        assert_eq!((photos.preset.loss.epsilon, photos.preset.optim.base_lr), (0.05, 0.6));
    }
}
