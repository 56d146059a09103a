//! `swav-rt export`.

use std::path::PathBuf;

use graphgen::artifacts::{EncoderInput, EncoderOptions};
use graphgen::weights::{Naming, write_atomically};

use super::UsageError;
use super::options::folder_exists;
use super::output::Output;
use crate::export::{ExportedWeights, encoder_of_run, weights_of_run};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// The encoder as an ONNX graph
    #[default]
    Onnx,
    /// The weights for PyTorch
    Safetensors,
}

/// Writes the encoder or the weights of a run's newest checkpoint; one state gives the same bytes every time
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run directory that `swav-rt train` wrote
    #[arg(long, value_name = "RUN")]
    pub run: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// Names in the safetensors file [default: swav]
    #[arg(long, value_enum)]
    pub names: Option<Naming>,
    /// Element type of the encoder's input `image` [default: u8]
    #[arg(long, value_enum)]
    pub input: Option<EncoderInput>,
    /// Fixes the encoder's input to N images of H x W px
    #[arg(long = "static", value_name = "N,H,W", value_parser = parse_shape)]
    pub static_shape: Option<[usize; 3]>,
}

fn parse_shape(text: &str) -> Result<[usize; 3], String> {
    let numbers: Option<Vec<usize>> = text.split(',').map(|part| part.trim().parse().ok().filter(|&number| number > 0)).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(|| "expected three positive numbers, for example 1,224,224".into())
}

/// Runs the command.
///
/// # Errors
/// Options of the other format, a directory without checkpoints, names that the network has not, a file that cannot be
/// written.
pub fn run(args: Args, output: &Output) -> anyhow::Result<()> {
    let size = |bytes: &[u8]| format!("{:.1} MB", bytes.len() as f64 / 1e6);
    folder_exists("--out", &args.out)?;
    match args.format {
        Format::Onnx => {
            if args.names.is_some() {
                return Err(UsageError("--names: an encoder has no names of weights; give --format safetensors as well".into()).into());
            }
            let options = EncoderOptions { input: args.input.unwrap_or_default(), static_shape: args.static_shape };
            let (bytes, step) = encoder_of_run(&args.run, &options)?;
            write_atomically(&args.out, &bytes)?;
            let value = serde_json::json!({ "out": args.out.to_string_lossy(), "steps": step, "bytes": bytes.len() });
            output.result(&value, || format!("{}: encoder after {step} steps, {}", args.out.display(), size(&bytes)))?;
        }
        Format::Safetensors => {
            if args.input.is_some() || args.static_shape.is_some() {
                return Err(UsageError("--input and --static: weights have no input; leave them out, or give --format onnx".into()).into());
            }
            let ExportedWeights { bytes, step, torchvision } = weights_of_run(&args.run, args.names.unwrap_or_default())?;
            write_atomically(&args.out, &bytes)?;
            let mut text = format!("{}: weights after {step} steps, {}\n", args.out.display(), size(&bytes));
            let mut load = Vec::new();
            if let Some(model) = torchvision {
                load.push(format!("model = {}", model.constructor));
                load.extend(model.changes.iter().map(ToString::to_string));
                load.push("model.fc = torch.nn.Identity()".into());
                load.push("model.load_state_dict(safetensors.torch.load_file(FILE))".into());
                text += "load into:\n";
                load.iter().for_each(|line| text += &format!("  {line}\n"));
            }
            output.result(&serde_json::json!({ "out": args.out.to_string_lossy(), "steps": step, "bytes": bytes.len(), "load": load }), || text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_shape_is_three_positive_numbers() {
        assert_eq!(parse_shape("8, 224,224"), Ok([8, 224, 224]));
        for wrong in ["", "1,2", "1,2,3,4", "0,2,3", "a,b,c"] {
            assert!(parse_shape(wrong).is_err(), "{wrong}");
        }
    }
}
