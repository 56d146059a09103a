//! Names of weights: what wrappers add to them, which part of the network they belong to, and torchvision's networks.

use crate::preset::{Arch, Model, Stem};

/// What PyTorch's DataParallel and DistributedDataParallel put in front of every name.
const WRAPPER: &str = "module.";

/// End of the names of BatchNorm's counters, which are no part of the graphs.
pub(super) const COUNTER: &str = "num_batches_tracked";

/// The name without a wrapper's prefix.
pub(super) fn unwrapped(name: &str) -> &str {
    name.strip_prefix(WRAPPER).unwrap_or(name)
}

/// Parts of the network that are taken from a file as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The ResNet.
    Backbone,
    /// `projection_head` with all its layers.
    ProjectionHead,
    /// One head of prototypes, by the name of its weight.
    Prototypes(String),
}

impl Part {
    /// The part that a parameter of the network belongs to.
    pub(super) fn of(name: &str) -> Part {
        if name.starts_with("projection_head.") {
            Part::ProjectionHead
        } else if name.starts_with("prototypes.") {
            Part::Prototypes(name.to_owned())
        } else {
            Part::Backbone
        }
    }
}

/// Whether a name is one that a ResNet's trunk has, of whatever depth: `conv1`, `bn1`, `layer1`, …
pub(super) fn is_trunk(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    first == "conv1" || first == "bn1" || first.strip_prefix("layer").is_some_and(|stage| stage.parse::<u32>().is_ok())
}

/// The torchvision network that has the backbone's tensors under the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchvisionModel {
    /// Python expression that builds it.
    pub constructor: &'static str,
    /// Python statements that change it (`model`) into the preset's backbone.
    pub changes: Vec<String>,
}

/// torchvision's counterpart of a preset's backbone.
///
/// # Errors
/// Widths other than 64, which torchvision's ResNets cannot have.
pub fn torchvision_model(model: &Model) -> Result<TorchvisionModel, String> {
    if model.width != 64 {
        let width = model.width;
        return Err(format!("torchvision has no ResNet of width {width} (its wide ResNets differ), only of width 64; use --names swav"));
    }
    let constructor = match model.arch {
        Arch::ResNet10 => "torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])",
        Arch::ResNet14 => "torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])",
        Arch::ResNet18 => "torchvision.models.resnet18()",
        Arch::ResNet26 => "torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 2, 2, 2])",
        Arch::ResNet34 => "torchvision.models.resnet34()",
        Arch::ResNet50 => "torchvision.models.resnet50()",
    };
    let changes = match model.stem {
        Stem::ImageNet => Vec::new(),
        Stem::Small => {
            let stride = model.stem_stride;
            vec![format!("model.conv1 = torch.nn.Conv2d(3, 64, 3, {stride}, 1, bias=False)"), "model.maxpool = torch.nn.Identity()".to_owned()]
        }
    };
    Ok(TorchvisionModel { constructor, changes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrapper_is_taken_off() {
        assert_eq!(unwrapped("module.conv1.weight"), "conv1.weight");
        assert_eq!(unwrapped("conv1.weight"), "conv1.weight");
        assert_eq!(unwrapped("layer1.module.weight"), "layer1.module.weight");
    }

    #[test]
    fn trunk_names_are_those_of_any_resnet() {
        for name in ["conv1.weight", "bn1.bias", "layer1.2.conv1.weight", "layer4.0.downsample.1.running_var"] {
            assert!(is_trunk(name), "{name}");
        }
        for name in ["fc.weight", "projection_head.0.weight", "prototypes.weight", "layers.0.weight", "conv10.weight"] {
            assert!(!is_trunk(name), "{name}");
        }
    }

    #[test]
    fn only_width_64_has_a_counterpart_in_torchvision() {
        let standard = Model::default();
        assert_eq!(torchvision_model(&standard).expect("ResNet-50").changes, [""; 0]);
        let small = Model { arch: Arch::ResNet18, stem: Stem::Small, stem_stride: 1, ..standard.clone() };
        let small = torchvision_model(&small).expect("ResNet-18 with another stem");
        assert!(small.constructor.contains("resnet18") && small.changes[0].contains("Conv2d(3, 64, 3, 1, 1"), "{small:?}");
        let wide = torchvision_model(&Model { width: 128, ..standard }).expect_err("w2");
        assert!(wide.contains("width 128"), "{wide}");
    }
}
