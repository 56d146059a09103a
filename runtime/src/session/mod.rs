//! ONNX Runtime: the library, sessions and the state they share.

mod accumulation;
mod assignment;
mod bound;
mod crops;
mod encoder;
mod engine;
mod engine_state;
pub mod environment;
mod nvidia;
mod options;
mod placement;
mod profile;
mod provider;
mod queue;
mod state;
mod stock;
mod training_api;

pub use crops::BatchCrops;
pub use encoder::{Encoder, EncoderOutput};
pub use engine::{Engine, EngineKind};
pub(crate) use engine_state::state_of;
pub use engine_state::{EngineState, QueueView, StateTensor, StateTensors};
pub use options::SessionOptions;
#[cfg(test)]
pub(crate) use options::creating;
pub use placement::{PlacedNode, Placement};
pub use profile::{ConvolutionShape, ConvolutionTime, FunctionTime, ProfileError, StepProfile, read_profiles};
pub use provider::{ProviderError, ProviderOptions};
pub use state::{EngineError, OptimizerState, QueueState};
pub use stock::{LossScaling, StepOutput, StockEngine};
pub use training_api::TrainingApiEngine;
