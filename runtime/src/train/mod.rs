//! Training: schedule, step, checkpoints, metrics and the run directory that holds them.

pub mod checkpoint;
mod crop_grid;
pub mod engines;
mod error;
mod files;
mod fit;
mod guards;
mod init;
mod interrupt;
mod metrics;
mod observer;
mod probe;
mod progress;
mod run;
mod saves;
mod schedule;
mod setup;
mod tensorboard;
mod trainer;
mod training;

pub use error::TrainError;
pub use fit::{GraphSource, Outcome, Resume, Summary, TrainOptions, open_engine, open_engine_with, open_profiled_engine, train, train_until};
pub use guards::{Guard, GuardState};
pub use init::InitRecord;
pub use interrupt::{Interrupt, StopSignal};
pub use metrics::{MetricsLog, StepMetrics};
pub use probe::{Probe, ProbeKind, ProbeOptions, ProbeScores};
pub use run::RunDirectory;
pub use schedule::LearningRate;
pub use tensorboard::EventFile;
pub use trainer::{StepReport, Trainer};
