//! Options that several subcommands share.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use graphgen::preset::{MOST_WORKERS, Preset, PresetError, Provider};

use crate::data::EvalTransform;
use crate::eval::{Bounds, Extraction, Representation};
use crate::machine::thread_count;
use crate::session::Encoder;

/// The command line asks for something that there is not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A number of threads, 0 for one per core; at most as many as a preset may ask for.
pub(crate) fn threads() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=MOST_WORKERS as u64)
}

/// A count of at least 1.
pub(crate) fn at_least_1() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// A side of an image, px.
fn side() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=65_535)
}

/// A number within bounds.
pub(crate) fn number(bounds: Bounds) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |text| text.parse().map_err(|_| "expected a number".to_owned()).and_then(|value| bounds.check(value))
}

/// A preset's settings with `--provider` over them.
pub(crate) fn with_provider(file: &Path, overrides: &[String], provider: Option<Provider>) -> Result<Preset, PresetError> {
    let provider = provider.map(|provider| format!("train.provider={provider}"));
    Preset::load(file, &overrides.iter().cloned().chain(provider).collect::<Vec<_>>())
}

/// Checks, before any work is done, that a file can be written where `option` says.
///
/// # Errors
/// A folder that does not exist.
pub(crate) fn folder_exists(option: &str, out: &Path) -> Result<(), UsageError> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() { Ok(()) } else { Err(UsageError(format!("{option} {}: there is no folder {}; create it first", out.display(), folder.display()))) }
}

/// The graphs of a directory are for one provider.
pub(crate) fn check_provider(preset: &Preset, provider: Option<Provider>) -> Result<(), UsageError> {
    match provider {
        Some(asked) if asked != preset.train.provider => Err(UsageError(format!(
            "--provider {asked}: the graphs were written for the {} provider; write them with graphgen export --set train.provider={asked}",
            preset.train.provider
        ))),
        _ => Ok(()),
    }
}

/// Which features of images, by which encoder.
#[derive(Debug, Args)]
pub(crate) struct FeatureOptions {
    /// Exported encoder
    #[arg(long, value_name = "FILE")]
    pub(crate) encoder: PathBuf,
    /// Which output of the encoder
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: Representation,
    #[command(flatten)]
    pub(crate) inputs: InputOptions,
}

impl FeatureOptions {
    /// Resolves the options for an encoder: one of a fixed size decides the crop.
    pub(crate) fn extraction(&self, encoder: &Encoder) -> Result<Extraction, UsageError> {
        self.inputs.extraction(encoder, self.output)
    }
}

/// How images become an encoder's input.
#[derive(Debug, Args)]
pub(crate) struct InputOptions {
    /// Shorter side of the resized image, px; images up to 64 px are used as they are unless this or --crop is given
    #[arg(long, value_name = "PX", value_parser = side())]
    resize: Option<usize>,
    /// Side of the crop from the centre, px [default: 224, of images resized to 256]
    #[arg(long, value_name = "PX", value_parser = side())]
    crop: Option<usize>,
    /// Turn images as their EXIF orientation says, as data.exif_orientation does in training
    #[arg(long)]
    exif_orientation: bool,
    /// Images of a batch
    #[arg(long, default_value_t = 64, value_parser = at_least_1())]
    batch_size: usize,
    /// Threads of one operator; 0 for one per core
    #[arg(long, value_parser = threads(), default_value_t = 0)]
    pub(crate) threads: usize,
    /// Loader threads; 0 for one per core
    #[arg(long, value_parser = threads(), default_value_t = 0)]
    pub(crate) workers: usize,
}

impl InputOptions {
    /// Threads for work outside the encoder.
    pub(crate) fn thread_count(&self) -> usize {
        thread_count(self.threads)
    }

    /// Resolves the options for an encoder: one of a fixed size decides the crop.
    pub(crate) fn extraction(&self, encoder: &Encoder, representation: Representation) -> Result<Extraction, UsageError> {
        // The official 256 to 224, for any size.
        let resize_for = |crop: usize| crop * 8 / 7;
        let standard = EvalTransform { exif_orientation: self.exif_orientation, ..EvalTransform::default() };
        let transform = match (self.resize, self.crop, encoder.static_size()) {
            (None, None, None) => standard,
            (None, None, Some((height, width))) if height != width => {
                return Err(UsageError(format!("the encoder takes images of {height}x{width} px only; evaluation needs a square one")));
            }
            (None, None, Some((size, _))) => {
                let as_is = if size <= standard.as_is_up_to_px { standard.as_is_up_to_px } else { 0 };
                EvalTransform { resize_px: resize_for(size), crop_px: size, as_is_up_to_px: as_is, ..standard }
            }
            (Some(resize), None, _) => EvalTransform { resize_px: resize, crop_px: resize, as_is_up_to_px: 0, ..standard },
            (None, Some(crop), _) => EvalTransform { resize_px: resize_for(crop), crop_px: crop, as_is_up_to_px: 0, ..standard },
            (Some(resize), Some(crop), _) => EvalTransform { resize_px: resize, crop_px: crop, as_is_up_to_px: 0, ..standard },
        };
        Ok(Extraction { representation, transform, batch_size: self.batch_size, workers: self.workers })
    }
}
