//! Presets: every setting of a run, in TOML, with the names of the official launch scripts.
//!
//! A preset file is read as a table, laid over the table of its `base`, changed by `--set` overrides, and only then
//! turned into a [`Preset`], which is valid by construction: unknown fields and impossible settings are refused here.

mod arrays;
mod device;
mod guards;
mod read;
mod settings;
mod validate;

use std::path::PathBuf;

pub use device::{ArenaGrowth, ConvolutionSearch, Device};
pub use guards::{GuardAction, Guards};
pub use settings::{
    Arch, BatchNormGroups, CropGroup, Crops, Data, Loss, Model, Optim, OptimizerName, Precision, Preset, Prototypes, Provider, SchedulePer, SinkhornKernel,
    Stem, Target, Train,
};
pub use validate::MOST_WORKERS;

/// What is wrong with a preset.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// The file could not be read.
    #[error("cannot read the preset {path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// Not TOML, an unknown field, or a field of the wrong type.
    #[error("{origin}: {message}")]
    Parse {
        /// The file or override that was parsed.
        origin: String,
        /// What the parser said.
        message: String,
    },
    /// A `base` that has a `base` itself.
    #[error("{path}: the base preset {base} has a base of its own; presets inherit one level only")]
    NestedBase {
        /// The preset.
        path: PathBuf,
        /// Its base.
        base: PathBuf,
    },
    /// An override that is not `section.key=value`.
    #[error("--set {text}: expected section.key=value, for example --set optim.base_lr=0.6")]
    Override {
        /// The override as given.
        text: String,
    },
    /// A setting that cannot work.
    #[error("preset setting {setting}: {problem}")]
    Invalid {
        /// `section.key`.
        setting: &'static str,
        /// What was expected, what came and what to do.
        problem: String,
    },
}
