//! Every operator and function against ONNX Runtime, with the f64 interpreter as the oracle.

mod functions;
mod harness;
mod in_place;
mod native;
mod standard;

use graphgen::ops::Op;
use graphgen::preset::Target;
use runtime::session::environment::Library;

/// What the tests of functions run on, and for.
const LIBRARY: Library = Library::Stock;
const TARGETS: [Target; 4] = [Target::Portable, Target::Cpu, Target::Cuda, Target::Directml];
/// For cases with maps [N,H,W,C]: `native` has the bodies of `cpu` between transposes.
const CHANNELS_LAST_TARGETS: [Target; 2] = [Target::Native, Target::Portable];

/// Which test holds an operator's cases. A new operator does not compile until it stands here: give it a case there.
#[allow(dead_code)]
fn test_of(op: &Op) -> &'static str {
    match op {
        Op::Add(_)
        | Op::Div(_)
        | Op::Exp(_)
        | Op::IntegerDiv(_)
        | Op::Log(_)
        | Op::Max(_)
        | Op::Mul(_)
        | Op::Neg(_)
        | Op::Reciprocal(_)
        | Op::Sqrt(_)
        | Op::Sub(_) => "elementwise_operators_agree",
        Op::Equal(_) | Op::Greater(_) | Op::HardSigmoid(_) | Op::Identity(_) | Op::Relu(_) | Op::Tanh(_) | Op::Where(_) => "elementwise_operators_agree",
        Op::Cast(_) => "casts_agree",
        Op::BatchNormalizationGrad(_) | Op::ConvGrad(_) | Op::MaxPoolGradKernel(_) => "those of functions, for the target ort-training",
        Op::InPlaceAccumulator(_) => "those of the training API's engine: only its library has the operator",
        Op::Conv(_) | Op::ConvTranspose(_) | Op::PlaneConv(_) => "convolutions_agree",
        Op::FusedMatMul(_) | Op::Gemm(_) | Op::MatMul(_) => "matrix_products_agree",
        Op::BatchNormalization(_) | Op::BatchNormalizationTraining(_) | Op::ChannelAffine(_) => "normalizations_agree",
        Op::GlobalAveragePool(_) | Op::MaxPool(_) | Op::ScatterElements(_) => "pooling_agrees",
        Op::ReduceMax(_) | Op::ReduceMean(_) | Op::ReduceSum(_) | Op::ReduceSumSquare(_) => "reductions_agree",
        Op::LogSoftmax(_) | Op::Softmax(_) => "softmaxes_agree",
        Op::Concat(_) | Op::Flatten(_) | Op::Gather(_) | Op::Pad(_) | Op::Reshape(_) | Op::Slice(_) | Op::Transpose(_) => "operators_that_move_elements_agree",
        Op::BatchNormTrain(_) | Op::BatchNormTrainGrad(_) => "batch_norms_agree",
        Op::Convolution(_) | Op::ConvInputGrad(_) | Op::ConvWeightGrad(_) => "convolutions_and_gradients_agree",
        Op::WinogradConvolution(_) | Op::WinogradInputGrad(_) | Op::WinogradPoints(_) | Op::WinogradWeightGrad(_) => "convolutions_by_winograd_agree",
        Op::L2Normalize(_) | Op::ReluGrad(_) => "row_and_activation_functions_agree",
        Op::MaxPoolGrad(_) => "max_pool_gradients_agree",
        Op::NormalizePixels(_) => "pixels_are_normalized",
        Op::MaxPoolTrain(_) | Op::MaxPoolTrainGrad(_) => "max_pools_that_give_taps_agree",
        Op::AdamStep(_) | Op::LarsStep(_) | Op::SgdStep(_) => "optimizer_steps_agree",
        Op::SinkhornKnopp(_) => "sinkhorn_agrees",
    }
}
