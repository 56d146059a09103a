//! Training: schedule, step, checkpoints, metrics and the run directory that holds them.

pub mod checkpoint;
pub mod engines;
mod error;
mod fit;
mod init;
mod metrics;
mod progress;
mod run;
mod schedule;
mod setup;
mod trainer;
mod training;

pub use error::TrainError;
pub use fit::{GraphSource, Resume, Summary, TrainOptions, open_engine, open_engine_with, train};
pub use init::InitRecord;
pub use metrics::{MetricsLog, StepMetrics};
pub use run::RunDirectory;
pub use schedule::LearningRate;
pub use trainer::{StepReport, Trainer};
