//! `swav-rt export`.

use std::path::PathBuf;

use graphgen::artifacts::{EncoderInput, EncoderOptions};
use graphgen::weights::write_atomically;

use crate::export::encoder_of_run;

/// Writes the encoder of a run's newest checkpoint; one state gives the same bytes every time
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run directory that `swav-rt train` wrote
    #[arg(long, value_name = "RUN")]
    pub run: PathBuf,
    /// File to write
    #[arg(long, value_name = "encoder.onnx")]
    pub out: PathBuf,
    /// Element type of the input `image`
    #[arg(long, value_enum, default_value_t)]
    pub input: EncoderInput,
    /// Fixes the input to N images of H x W px
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
/// A directory without checkpoints, a file that cannot be written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let options = EncoderOptions { input: args.input, static_shape: args.static_shape };
    let (bytes, step) = encoder_of_run(&args.run, &options)?;
    write_atomically(&args.out, &bytes)?;
    println!("{}: encoder after {step} steps, {:.1} MB", args.out.display(), bytes.len() as f64 / 1e6);
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
