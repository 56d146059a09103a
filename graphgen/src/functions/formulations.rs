//! What each target chooses: the one place where a target decides over the layout of maps and the bodies of functions.
//!
//! A body asks for its own field and never for the target, so that a new target is one more arm of
//! [`Target::formulations`], and a new way to write a function one more variant and its body.

use crate::ir::DType;
use crate::ops::layout::Layout;
use crate::preset::Target;

/// One choice for every function that has more than one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Formulations {
    /// Maps of the training graphs.
    pub(crate) layout: Layout,
    /// Statistics and normalisation.
    pub(crate) batch_norm: BatchNormForm,
    /// Its gradient.
    pub(crate) batch_norm_grad: BatchNormGradForm,
    /// The mask of a ReLU's gradient.
    pub(crate) relu_mask: ReluMask,
    /// Convolutions.
    pub(crate) convolution: ConvolutionForm,
    /// Whether training graphs have [`winograd`](super::winograd)'s functions for the convolutions for which they pay.
    pub(crate) winograd: bool,
    /// Weight gradients of convolutions.
    pub(crate) weight_gradient: WeightGradientForm,
    /// The gradient of max pooling.
    pub(crate) max_pool_grad: MaxPoolGradForm,
    /// The L2 norms of LARS.
    pub(crate) norm: NormForm,
    /// Element type of Sinkhorn-Knopp's logarithms: f64, or f32 where there is no other.
    pub(crate) sinkhorn: DType,
    /// Whether bodies may use operators of `com.microsoft`.
    pub(crate) microsoft: bool,
}

/// How BatchNorm over the batch's statistics is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchNormForm {
    /// Mean and variance as reductions in f32: the kernel in training mode does not exist on CUDA and DirectML.
    Reductions,
    /// The training mode of BatchNormalization.
    TrainingMode,
}

/// How the gradient of BatchNorm is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchNormGradForm {
    /// Reductions and elementwise operators in f32.
    Reductions,
    /// A BatchNormalization in inference mode and a convolution of single channels, each one pass over memory.
    AffineMaps,
    /// The training build's BatchNormalizationGrad.
    Kernel,
}

/// How a gradient passes where a ReLU's output is positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReluMask {
    /// Greater and Where.
    Select,
    /// A steep HardSigmoid as a factor.
    HardSigmoid,
}

/// How convolutions and their input gradients are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConvolutionForm {
    /// Conv and ConvTranspose.
    Plain,
    /// What the CPU provider runs fastest: matrix products for outputs of a handful of pixels, and gradients of stride 1
    /// as convolutions with the flipped weight.
    Cpu,
    /// As `Cpu`, with input gradients of strided 1x1 convolutions multiplied at the size of the output and spread.
    CpuStrided,
    /// 1x1 convolutions of stride 1 as products of the weight with every image's map; Conv and ConvTranspose otherwise.
    PointwiseProducts,
}

/// How weight gradients of convolutions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WeightGradientForm {
    /// One product over batch and pixels with the taps side by side.
    OneGemm,
    /// The fastest on the CPU provider, by shape.
    Cpu,
    /// As `Cpu`, with the taps gathered by constant kernels.
    CpuByKernels,
    /// One product over batch and pixels for each tap: no copy of the input for all taps at once.
    GemmPerTap,
    /// The training build's ConvGrad.
    Kernel,
}

impl ConvolutionForm {
    /// Whether it is one of the CPU provider's.
    pub(crate) fn is_cpu(self) -> bool {
        matches!(self, ConvolutionForm::Cpu | ConvolutionForm::CpuStrided)
    }
}

/// How the L2 norms of LARS are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormForm {
    /// Squares, summed up.
    Squares,
    /// Every row times itself: no squares are written.
    Products,
}

/// How the gradient of max pooling is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MaxPoolGradForm {
    /// ScatterElements with addition.
    ScatterAdd,
    /// For every tap the gradients whose maximum it was: neither scatter nor MaxUnpool.
    Phases,
    /// The training build's MaxPoolGrad.
    Kernel,
}

impl Target {
    /// The bodies of this target.
    pub(crate) fn formulations(self) -> Formulations {
        let portable = Formulations {
            layout: Layout::ChannelsFirst,
            batch_norm: BatchNormForm::Reductions,
            batch_norm_grad: BatchNormGradForm::Reductions,
            relu_mask: ReluMask::Select,
            convolution: ConvolutionForm::Plain,
            winograd: false,
            weight_gradient: WeightGradientForm::OneGemm,
            max_pool_grad: MaxPoolGradForm::Phases,
            norm: NormForm::Squares,
            sinkhorn: DType::F64,
            microsoft: false,
        };
        let cpu = Formulations {
            layout: Layout::ChannelsFirst,
            batch_norm: BatchNormForm::TrainingMode,
            batch_norm_grad: BatchNormGradForm::AffineMaps,
            relu_mask: ReluMask::HardSigmoid,
            convolution: ConvolutionForm::Cpu,
            winograd: false,
            weight_gradient: WeightGradientForm::Cpu,
            max_pool_grad: MaxPoolGradForm::ScatterAdd,
            norm: NormForm::Products,
            sinkhorn: DType::F64,
            microsoft: true,
        };
        match self {
            Target::Portable => portable,
            // Graphs for stock operators alone; those of the other two have kernels for what these forms replace, the training build
            // for weight gradients.
            Target::Cpu => Formulations { winograd: true, convolution: ConvolutionForm::CpuStrided, weight_gradient: WeightGradientForm::CpuByKernels, ..cpu },
            Target::Native => Formulations { layout: Layout::ChannelsLast, ..cpu },
            // Measured in 1.19.2 against the forms of `cpu`: ReluGrad and ConvGrad for input gradients are slower,
            // BatchNormInternal is the kernel of the training mode, and Winograd beats ConvGrad where it pays.
            Target::OrtTraining => Formulations {
                winograd: true,
                batch_norm_grad: BatchNormGradForm::Kernel,
                weight_gradient: WeightGradientForm::Kernel,
                max_pool_grad: MaxPoolGradForm::Kernel,
                ..cpu
            },
            Target::Cuda => {
                Formulations { convolution: ConvolutionForm::PointwiseProducts, weight_gradient: WeightGradientForm::GemmPerTap, microsoft: true, ..portable }
            }
            Target::Directml => Formulations { weight_gradient: WeightGradientForm::GemmPerTap, sinkhorn: DType::F32, microsoft: true, ..portable },
        }
    }
}
