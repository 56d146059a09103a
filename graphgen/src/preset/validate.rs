//! Which settings can work together.

use super::arrays::MOST_BYTES;
use super::{Precision, Preset, PresetError, Provider, Stem, Target};

/// Most threads of one kind: more than any computer has cores, few enough to be started.
pub const MOST_WORKERS: usize = 1024;
/// Most micro-batches of a step: each has tensors of its own in the graph that assigns the codes.
const MOST_MICRO_BATCHES: usize = 65_536;
/// Most crops of an image.
const MOST_CROPS: usize = 64;
/// Most passes over the data: steps are counted in 64 bits, whatever the data set's size.
const MOST_EPOCHS: usize = u32::MAX as usize;
/// Largest integer of TOML, in which a run keeps its preset.
pub(super) const LARGEST_INTEGER: u64 = i64::MAX as u64;

impl Preset {
    /// Checks that the settings can work together.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), PresetError> {
        let invalid = |setting, problem: String| Err(PresetError::Invalid { setting, problem });
        let Preset { model, crops, loss, optim, data, train, device: _, guards } = self;

        if model.width == 0 || model.width > 4096 {
            return invalid("model.width", format!("expected 1 to 4096 channels, got {}", model.width));
        }
        if !(1..=2).contains(&model.stem_stride) {
            return invalid("model.stem_stride", format!("expected 1 or 2, got {}", model.stem_stride));
        }
        if model.stem == Stem::ImageNet && model.stem_stride != 2 {
            return invalid("model.stem_stride", "the imagenet stem has stride 2; a 3x3 stem is model.stem = \"small\"".into());
        }
        if model.feat_dim == 0 {
            return invalid("model.feat_dim", "expected at least 1 (the official default is 128), got 0".into());
        }
        let counts = model.nmb_prototypes.counts();
        if counts.is_empty() {
            return invalid("model.nmb_prototypes", "expected a number or a list of at least one number, got an empty list".into());
        }
        if let Some(&count) = counts.iter().find(|&&count| count < 2) {
            return invalid(
                "model.nmb_prototypes",
                format!("expected at least 2 prototypes, got {count}; about 10 times the number of expected classes is a good start"),
            );
        }

        let entries = crops.size_crops.len();
        if entries == 0 {
            return invalid("crops.size_crops", "expected at least one crop size, got an empty list".into());
        }
        for (setting, len) in [
            ("crops.nmb_crops", crops.nmb_crops.len()),
            ("crops.min_scale_crops", crops.min_scale_crops.len()),
            ("crops.max_scale_crops", crops.max_scale_crops.len()),
        ] {
            if len != entries {
                return invalid(setting, format!("expected {entries} entries like crops.size_crops, got {len}"));
            }
        }
        for (&size, &count) in crops.size_crops.iter().zip(&crops.nmb_crops) {
            if !(8..=4096).contains(&size) {
                return invalid("crops.size_crops", format!("expected 8 to 4096 px, got {size}"));
            }
            if count == 0 {
                return invalid("crops.nmb_crops", format!("expected at least one crop of {size} px, got 0; leave the entry out instead"));
            }
            if count > MOST_CROPS {
                return invalid("crops.nmb_crops", format!("expected at most {MOST_CROPS} crops of an image, got {count}"));
            }
        }
        for (&min, &max) in crops.min_scale_crops.iter().zip(&crops.max_scale_crops) {
            if !(min > 0.0 && min <= max && max <= 1.0) {
                return invalid("crops.min_scale_crops", format!("expected 0 < min ≤ max ≤ 1 (shares of the image's area), got {min} and {max}"));
            }
        }
        let total = crops.total();
        if total < 2 {
            return invalid("crops.nmb_crops", format!("the swapped loss needs at least 2 crops of an image, got {total}"));
        }
        if total > MOST_CROPS {
            return invalid("crops.nmb_crops", format!("expected at most {MOST_CROPS} crops of an image, got {total}"));
        }
        if crops.crops_for_assign.is_empty() {
            return invalid("crops.crops_for_assign", "expected at least one crop index, got an empty list".into());
        }
        for (position, &crop) in crops.crops_for_assign.iter().enumerate() {
            if crop >= total {
                return invalid("crops.crops_for_assign", format!("crop {crop} does not exist: there are {total} crops, numbered from 0"));
            }
            if crops.crops_for_assign[..position].contains(&crop) {
                return invalid("crops.crops_for_assign", format!("crop {crop} is listed twice"));
            }
        }
        if !(0.0..=1.25).contains(&crops.jitter) {
            return invalid("crops.jitter", format!("expected a strength from 0 to 1.25, got {}", crops.jitter));
        }
        for (setting, probability) in [("crops.blur", crops.blur), ("crops.grayscale", crops.grayscale)] {
            if !(0.0..=1.0).contains(&probability) {
                return invalid(setting, format!("expected a probability from 0 to 1, got {probability}"));
            }
        }

        if !(loss.temperature > 0.0 && loss.temperature.is_finite()) {
            return invalid("loss.temperature", format!("expected a positive number (the official value is 0.1), got {}", loss.temperature));
        }
        if !(loss.epsilon >= 0.005 && loss.epsilon.is_finite()) {
            return invalid("loss.epsilon", format!("expected at least 0.005 (the official value is 0.05), got {}", loss.epsilon));
        }
        if !(1..=100).contains(&loss.sinkhorn_iterations) {
            return invalid("loss.sinkhorn_iterations", format!("expected 1 to 100 (the official value is 3), got {}", loss.sinkhorn_iterations));
        }

        for (setting, value) in [
            ("optim.base_lr", optim.base_lr),
            ("optim.final_lr", optim.final_lr),
            ("optim.start_warmup", optim.start_warmup),
            ("optim.warmup_epochs", optim.warmup_epochs),
            ("optim.weight_decay", optim.weight_decay),
            ("optim.trust_coefficient", optim.trust_coefficient),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(setting, format!("expected a number of at least 0, got {value}"));
            }
        }
        if !(0.0..1.0).contains(&optim.momentum) {
            return invalid("optim.momentum", format!("expected a number from 0 to below 1, got {}", optim.momentum));
        }

        if !(0.0..=1.0).contains(&data.max_broken_share) {
            return invalid("data.max_broken_share", format!("expected a share from 0 to 1, got {}", data.max_broken_share));
        }
        if data.mean.iter().any(|mean| !(0.0..=1.0).contains(mean)) {
            return invalid("data.mean", format!("expected three numbers from 0 to 1, got {:?}", data.mean));
        }
        if data.std.iter().any(|std| !(*std > 0.0 && std.is_finite())) {
            return invalid("data.std", format!("expected three positive numbers, got {:?}", data.std));
        }

        if train.keep_last == 0 {
            return invalid("train.keep_last", "expected at least 1 checkpoint (2 or more survive a damaged one), got 0".into());
        }
        if let Some((setting, problem)) = guards.problem() {
            return invalid(setting, problem);
        }
        if train.epochs == 0 {
            return invalid("train.epochs", "expected at least 1, got 0".into());
        }
        if train.epochs > MOST_EPOCHS {
            return invalid("train.epochs", format!("expected at most {MOST_EPOCHS}, got {}", train.epochs));
        }
        if train.seed > LARGEST_INTEGER {
            return invalid("train.seed", format!("expected an integer from 0 to {LARGEST_INTEGER}, got {}", train.seed));
        }
        if train.batch_size < 2 {
            return invalid("train.batch_size", format!("BatchNorm and Sinkhorn-Knopp need at least 2 images, got {}", train.batch_size));
        }
        if train.precision == Precision::MixedF16 && train.provider == Provider::Cpu && !train.emulate_f16 {
            let problem = "the cpu provider runs 16-bit graphs in 32 bits: neither faster nor with their rounding. Choose f32, another train.provider, or \
                           train.emulate_f16 = true to round by explicit casts";
            return invalid("train.precision", problem.into());
        }
        if train.precision == Precision::MixedF16
            && let Some(target @ (Target::Cpu | Target::Native | Target::OrtTraining)) = train.target
        {
            let problem = format!("the target {target} has bodies in f32 only; choose f32, or the target portable, cuda or directml");
            return invalid("train.precision", problem);
        }
        if train.precision == Precision::F32 && train.emulate_f16 {
            return invalid("train.emulate_f16", "there are no 16-bit floats in f32 to emulate; choose train.precision = \"mixed-f16\"".into());
        }
        // Each provider runs its own target and the one that all have; the CPU runs all of them, in f32.
        if let (Some(target), Provider::Cuda | Provider::Directml) = (train.target, train.provider)
            && target.to_string() != train.provider.to_string()
            && (target, train.provider) != (Target::Portable, Provider::Cuda)
        {
            let problem = format!("the {} provider does not have the operators of the target {target}; leave train.target out", train.provider);
            return invalid("train.target", problem);
        }
        if train.accumulate == 0 {
            return invalid("train.accumulate", "expected at least 1 micro-batch a step, got 0".into());
        }
        if !train.batch_size.is_multiple_of(train.accumulate) {
            let problem = format!("expected a divisor of train.batch_size = {}, got {}: all micro-batches are of one size", train.batch_size, train.accumulate);
            return invalid("train.accumulate", problem);
        }
        if train.micro_batch_size() < 2 {
            let problem = format!(
                "expected at most half of train.batch_size = {}, got {}: BatchNorm needs at least 2 images in a micro-batch",
                train.batch_size, train.accumulate
            );
            return invalid("train.accumulate", problem);
        }
        if train.accumulate > MOST_MICRO_BATCHES {
            return invalid("train.accumulate", format!("expected at most {MOST_MICRO_BATCHES} micro-batches a step, got {}", train.accumulate));
        }
        if train.workers > MOST_WORKERS {
            return invalid("train.workers", format!("expected at most {MOST_WORKERS} threads, or 0 for one per core, got {}", train.workers));
        }
        if optim.warmup_epochs >= train.epochs as f64 {
            return invalid("optim.warmup_epochs", format!("expected less than train.epochs = {}, got {}", train.epochs, optim.warmup_epochs));
        }
        if loss.queue_length > 0 && loss.queue_length < train.batch_size {
            return invalid(
                "loss.queue_length",
                format!("expected 0 (no queue) or at least train.batch_size = {}, got {}", train.batch_size, loss.queue_length),
            );
        }
        self.check_arrays(MOST_BYTES, "")?;
        if data.limit > 0 && data.limit < train.batch_size {
            return invalid("data.limit", format!("expected 0 (all images) or at least train.batch_size = {}, got {}", train.batch_size, data.limit));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_the_cpu_are_refused_on_devices_and_in_16_bits() {
        let refused = |changes: &[&str]| match Preset::from_toml("", &changes.iter().map(|&change| change.into()).collect::<Vec<String>>()) {
            Err(PresetError::Invalid { setting, problem }) => (setting, problem),
            other => panic!("{changes:?}: {other:?}"),
        };
        for target in ["cpu", "native", "ort-training"] {
            let target = format!("train.target={target}");
            let (setting, problem) = refused(&[&target, "train.precision=mixed-f16", "train.emulate_f16=true"]);
            assert!(setting == "train.precision" && problem.contains("bodies in f32 only"), "{target}: {problem}");
            for provider in ["train.provider=cuda", "train.provider=directml"] {
                let (setting, problem) = refused(&[&target, provider]);
                assert!(setting == "train.target" && problem.contains("leave train.target out"), "{target}: {problem}");
            }
        }
    }

    #[test]
    fn arrays_that_no_machine_holds_are_refused_with_their_size() {
        let load = |changes: &[&str]| Preset::from_toml("", &changes.iter().map(|&change| change.into()).collect::<Vec<String>>());
        for (changes, setting, words) in [
            (&["model.nmb_prototypes=3000000000"][..], "model.nmb_prototypes", "1431 GiB"),
            (&["model.nmb_prototypes=[3000, 9000000000000000000]"], "model.nmb_prototypes", "lower model.nmb_prototypes or model.feat_dim"),
            (&["model.nmb_prototypes=100000000"], "model.nmb_prototypes", "scores"),
            (&["model.hidden_mlp=1000000000000"], "model.hidden_mlp", "lower model.hidden_mlp"),
            (&["model.feat_dim=1000000000"], "model.feat_dim", "lower model.feat_dim"),
            (&["loss.queue_length=9223372036854775807"], "loss.queue_length", "lower loss.queue_length"),
            (&["train.batch_size=1000000000"], "train.batch_size", "lower train.batch_size"),
            (&["train.batch_size=200000000", "crops.size_crops=[8, 8]", "train.accumulate=100000000"], "train.accumulate", "at most 65536"),
            (&["crops.nmb_crops=[9223372036854775807, 9223372036854775807]"], "crops.nmb_crops", "at most 64"),
            (&["train.epochs=9223372036854775807"], "train.epochs", "at most 4294967295"),
        ] {
            match load(changes) {
                Err(PresetError::Invalid { setting: named, problem }) => {
                    assert!(named == setting && problem.contains(words), "{changes:?}: {named}: {problem}")
                }
                other => panic!("{changes:?}: {other:?}"),
            }
        }
        let error = Preset::default().check_arrays(1 << 30, " (this machine's memory)").expect_err("too large").to_string();
        assert!(error.contains("train.batch_size") && error.contains("1824 MiB, expected at most 1024 MiB (this machine's memory)"), "{error}");
        // 64 devices with the official batch each, and heads and queues above the published ones.
        load(&["train.batch_size=262144", "train.accumulate=64", "loss.queue_length=1048576"]).expect("valid");
        load(&["model.nmb_prototypes=[3000, 3000, 100000]", "model.width=320", "model.hidden_mlp=8192", "model.feat_dim=256"]).expect("valid");
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        for (change, setting) in [
            ("model.nmb_prototypes=1", "model.nmb_prototypes"),
            ("crops.nmb_crops=[2]", "crops.nmb_crops"),
            ("crops.nmb_crops=[0,6]", "crops.nmb_crops"),
            ("crops.crops_for_assign=[9]", "crops.crops_for_assign"),
            ("crops.min_scale_crops=[0.5,0.2]", "crops.min_scale_crops"),
            ("loss.epsilon=0", "loss.epsilon"),
            ("loss.queue_length=100", "loss.queue_length"),
            ("train.batch_size=1", "train.batch_size"),
            ("train.precision=mixed-f16", "train.precision"),
            ("train.emulate_f16=true", "train.emulate_f16"),
            ("train.accumulate=0", "train.accumulate"),
            ("train.accumulate=3", "train.accumulate"),
            ("train.accumulate=4096", "train.accumulate"),
            ("optim.warmup_epochs=100", "optim.warmup_epochs"),
            ("train.keep_last=0", "train.keep_last"),
            ("guards.not_finite=warn", "guards.not_finite"),
            ("guards.collapse=skip", "guards.collapse"),
            ("guards.stalled_data=rollback", "guards.stalled_data"),
            ("guards.patience_steps=0", "guards.patience_steps"),
            ("guards.min_feature_std=1.5", "guards.min_feature_std"),
            ("guards.stall_secs=nan", "guards.stall_secs"),
            ("guards.rollback_learning_rate=1", "guards.rollback_learning_rate"),
        ] {
            match Preset::from_toml("", &[change.into()]) {
                Err(PresetError::Invalid { setting: named, .. }) => assert_eq!(named, setting, "{change}"),
                other => panic!("{change}: {other:?}"),
            }
        }
    }
}
