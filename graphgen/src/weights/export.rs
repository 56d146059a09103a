//! Trained weights for PyTorch, as a safetensors file.

use std::collections::BTreeMap;

use super::names::{COUNTER, Part};
use super::safetensors::serialize;
use super::{Weights, torchvision_model};
use crate::preset::{BatchNormGroups, Preset};

/// Which tensors are written, and under which names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Naming {
    /// Everything, under the names of the official code
    #[default]
    Swav,
    /// The backbone alone, under torchvision's names
    Torchvision,
}

/// A run's weights as the bytes of a safetensors file, with BatchNorm's `num_batches_tracked` (I64 scalars) as PyTorch's
/// state dicts have it: `steps` times the passes of a step through the layer. Equal weights give equal bytes.
///
/// # Errors
/// A network that torchvision does not have, if its names are asked for.
pub fn export(preset: &Preset, weights: &Weights, steps: u64, naming: Naming) -> Result<Vec<u8>, String> {
    let is_written = |name: &str| naming == Naming::Swav || Part::of(name) == Part::Backbone;
    if naming == Naming::Torchvision {
        torchvision_model(&preset.model)?;
    }
    let written: Weights = weights.iter().filter(|(name, _)| is_written(name)).map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    let mut counters = BTreeMap::new();
    for name in written.keys() {
        if let Some(layer) = name.strip_suffix("running_mean") {
            let updates = steps.saturating_mul(passes(preset, &Part::of(name)));
            counters.insert(format!("{layer}{COUNTER}"), i64::try_from(updates).unwrap_or(i64::MAX));
        }
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(serialize(&written, &counters, &metadata))
}

/// Updates of a BatchNorm's running statistics in one optimizer step.
fn passes(preset: &Preset, part: &Part) -> u64 {
    let passes = match (preset.model.batch_norm_groups, part) {
        (BatchNormGroups::Crop, _) => preset.crops.total(),
        (BatchNormGroups::Size, Part::Backbone) => preset.crops.groups().len(),
        (BatchNormGroups::Size, _) => 1,
    };
    (passes * preset.train.accumulate) as u64
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, SafeTensors};

    use super::*;
    use crate::artifacts::initial_weights;

    fn exported(overrides: &[&str], naming: Naming) -> Result<Vec<u8>, String> {
        let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
        let preset = Preset::from_toml("[model]\narch = 'resnet10'\nnmb_prototypes = 5\n[crops]\nsize_crops = [32, 16]\n", &overrides).expect("valid");
        export(&preset, &initial_weights(&preset).expect("weights"), 7, naming)
    }

    fn counter(bytes: &[u8], layer: &str) -> i64 {
        let file = SafeTensors::deserialize(bytes).expect("readable");
        let tensor = file.tensor(&format!("{layer}.num_batches_tracked")).expect("a counter");
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::I64, &[][..]));
        i64::from_le_bytes(tensor.data().try_into().expect("eight bytes"))
    }

    #[test]
    fn official_names_cover_everything_and_count_the_passes() {
        let bytes = exported(&[], Naming::Swav).expect("written");
        let file = SafeTensors::deserialize(&bytes).expect("readable");
        for name in ["conv1.weight", "layer4.0.downsample.1.running_var", "projection_head.0.weight", "projection_head.1.running_mean", "prototypes.weight"] {
            assert!(file.tensor(name).is_ok(), "{name}");
        }
        // Two crop sizes go through the backbone, once through the head; or all eight crops through both.
        assert_eq!((counter(&bytes, "bn1"), counter(&bytes, "projection_head.1")), (14, 7));
        let bytes = exported(&["model.batch_norm_groups=crop"], Naming::Swav).expect("written");
        assert_eq!((counter(&bytes, "layer1.0.bn2"), counter(&bytes, "projection_head.1")), (56, 56));
    }

    #[test]
    fn torchvision_gets_the_backbone_alone() {
        let bytes = exported(&[], Naming::Torchvision).expect("written");
        let file = SafeTensors::deserialize(&bytes).expect("readable");
        assert!(file.names().iter().all(|name| crate::weights::names::is_trunk(name)), "{:?}", file.names());
        // 12 convolutions (3 of them shortcuts), each with a BatchNorm of 5 tensors.
        assert_eq!(file.len(), 12 * 6);
        assert_eq!(counter(&bytes, "bn1"), 14);
        assert!(exported(&["model.width=32"], Naming::Torchvision).expect_err("no counterpart").contains("width 32"));
    }
}
