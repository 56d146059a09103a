//! ResNet v1 (He et al. 2015, arXiv 1512.03385) with the stride in the 3x3 convolution, and torchvision's names.

use crate::ir::{Graph, GraphError, ValueId};
use crate::nn::{ConvSpec, Layers, Then};
use crate::ops::conv::Window;
use crate::preset::{Arch, Model, Stem};

/// The encoder of a preset: normalised x f32 [N,3,H,W], or as the layers take it → pooled features [N, [`features`](Self::features)].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResNet {
    /// Channels of the stem and the first stage.
    width: usize,
    /// Blocks of each stage.
    blocks: [usize; 4],
    /// Bottleneck blocks instead of basic ones.
    bottleneck: bool,
    stem: Stem,
    stem_stride: usize,
}

impl ResNet {
    /// The encoder of a preset.
    pub fn new(model: &Model) -> Self {
        let (blocks, bottleneck) = match model.arch {
            Arch::ResNet10 => ([1, 1, 1, 1], false),
            Arch::ResNet14 => ([1, 1, 1, 1], true),
            Arch::ResNet18 => ([2, 2, 2, 2], false),
            Arch::ResNet26 => ([2, 2, 2, 2], true),
            Arch::ResNet34 => ([3, 4, 6, 3], false),
            Arch::ResNet50 => ([3, 4, 6, 3], true),
        };
        ResNet { width: model.width, blocks, bottleneck, stem: model.stem, stem_stride: model.stem_stride }
    }

    /// F: number of pooled features.
    pub fn features(&self) -> usize {
        self.width * 8 * self.expansion()
    }

    /// Output channels of a block over its inner width.
    fn expansion(&self) -> usize {
        if self.bottleneck { 4 } else { 1 }
    }

    /// Builds the encoder on x.
    ///
    /// # Errors
    /// Inputs smaller than the stem's window, and weights that do not belong to the network.
    pub fn forward(&self, g: &mut Graph, layers: &mut impl Layers, x: ValueId) -> Result<ValueId, GraphError> {
        let mut x = self.stem(g, layers, x)?;
        let mut channels = self.width;
        for (stage, &blocks) in self.blocks.iter().enumerate() {
            let width = self.width << stage;
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = g.scoped(&format!("layer{}.{block}", stage + 1), |g| self.block(g, layers, x, channels, width, stride))?;
                channels = width * self.expansion();
            }
        }
        g.scoped("avgpool", |g| layers.average_pool(g, x))
    }

    fn stem(&self, g: &mut Graph, layers: &mut impl Layers, x: ValueId) -> Result<ValueId, GraphError> {
        let spec = match self.stem {
            Stem::ImageNet => ConvSpec::new(3, self.width, 7, 2),
            Stem::Small => ConvSpec::new(3, self.width, 3, self.stem_stride),
        };
        let x = layers.conv_batch_norm(g, "conv1", "bn1", x, spec, Then::Relu)?;
        match self.stem {
            Stem::ImageNet => g.scoped("maxpool", |g| layers.max_pool(g, x, Window { kernel: 3, stride: 2, padding: 1 })),
            Stem::Small => Ok(x),
        }
    }

    fn block(&self, g: &mut Graph, layers: &mut impl Layers, x: ValueId, channels: usize, width: usize, stride: usize) -> Result<ValueId, GraphError> {
        let out = width * self.expansion();
        let convs: &[ConvSpec] = if self.bottleneck {
            &[ConvSpec::new(channels, width, 1, 1), ConvSpec::new(width, width, 3, stride), ConvSpec::new(width, out, 1, 1)]
        } else {
            &[ConvSpec::new(channels, width, 3, stride), ConvSpec::new(width, out, 3, 1)]
        };
        let shortcut = if stride != 1 || channels != out {
            layers.conv_batch_norm(g, "downsample.0", "downsample.1", x, ConvSpec::new(channels, out, 1, stride), Then::Nothing)?
        } else {
            x
        };
        let mut y = x;
        for (index, &spec) in convs.iter().enumerate() {
            let then = if index + 1 < convs.len() { Then::Relu } else { Then::AddRelu(shortcut) };
            y = layers.conv_batch_norm(g, &format!("conv{}", index + 1), &format!("bn{}", index + 1), y, spec, then)?;
        }
        Ok(y)
    }
}
