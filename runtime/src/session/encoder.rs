//! Forward-only session of an exported encoder.

use std::path::{Path, PathBuf};

use ndarray::Array2;
use ort::environment::Environment;
use ort::session::Session;
use ort::value::{TensorElementType, TensorRef, Value, ValueType};

use super::{EngineError, SessionOptions};

/// Names that a message lists.
const SHOWN: usize = 8;

/// What an encoder makes of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderOutput {
    /// f32 [N, F]: pooled backbone features.
    pub features: Array2<f32>,
    /// f32 [N, D]: normalised output of the projection head.
    pub embedding: Array2<f32>,
}

/// `encoder.onnx`: input `image` u8 or f32 [N, 3, H, W], outputs `features` and `embedding`.
pub struct Encoder {
    file: PathBuf,
    session: Session,
    /// The input's dimensions, −1 where symbolic.
    shape: [i64; 4],
    float: bool,
}

impl Encoder {
    /// Loads an encoder.
    ///
    /// # Errors
    /// Files that are no graphs, and graphs with other inputs or outputs.
    pub fn open(environment: &Environment, file: &Path, options: &SessionOptions) -> Result<Encoder, EngineError> {
        Encoder::of(options.open(environment, file)?, file)
    }

    /// As [`open`](Self::open), from the bytes of the file, weights inside.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(environment: &Environment, model: &[u8], options: &SessionOptions) -> Result<Encoder, EngineError> {
        let file = Path::new("the run's encoder");
        let session = options.open_bytes(environment, model).map_err(|source| EngineError::Graph { file: file.into(), source })?;
        Encoder::of(session, file)
    }

    /// Checks a session's inputs and outputs; `file` is for messages.
    fn of(session: Session, file: &Path) -> Result<Encoder, EngineError> {
        let contract = |problem: String| EngineError::Contract { graph: file.display().to_string(), problem };
        // Those of `graphgen export`, with hundreds of inputs and outputs.
        let is_of_training = |name: &str| ["crops/", "grad/", "micro/"].iter().any(|prefix| name.starts_with(prefix));
        if session.inputs().iter().any(|input| is_of_training(input.name())) {
            let problem =
                "expected an encoder, got a training graph; give the run's encoder.onnx, or write one with swav-rt export --run RUN --out encoder.onnx";
            return Err(contract(problem.into()));
        }
        for name in ["features", "embedding"] {
            if !session.outputs().iter().any(|output| output.name() == name) {
                let names: Vec<&str> = session.outputs().iter().map(|output| output.name()).take(SHOWN).collect();
                let problem =
                    format!("expected an output {name}, found {}, such as {names:?}: is this an encoder that swav-rt export wrote?", session.outputs().len());
                return Err(contract(problem));
            }
        }
        let (shape, float) = match session.inputs() {
            [input] if input.name() == "image" => match input.dtype() {
                ValueType::Tensor { ty: ty @ (TensorElementType::Uint8 | TensorElementType::Float32), shape, .. } => {
                    let dimensions = <[i64; 4]>::try_from(&shape[..]);
                    (dimensions.map_err(|_| contract(format!("expected image [N, 3, H, W], got {shape:?}")))?, *ty == TensorElementType::Float32)
                }
                other => return Err(contract(format!("expected image as u8 or f32, got {other}"))),
            },
            inputs => {
                let names: Vec<&str> = inputs.iter().map(|input| input.name()).take(SHOWN).collect();
                return Err(contract(format!("expected one input image, found {}, such as {names:?}", inputs.len())));
            }
        };
        Ok(Encoder { file: file.into(), session, shape, float })
    }

    /// The batch size that the graph was exported with; `None` for any.
    pub fn static_batch(&self) -> Option<usize> {
        usize::try_from(self.shape[0]).ok()
    }

    /// Height and width that the graph was exported with, px; `None` for any.
    pub fn static_size(&self) -> Option<(usize, usize)> {
        Some((usize::try_from(self.shape[2]).ok()?, usize::try_from(self.shape[3]).ok()?))
    }

    /// Encodes `images`: u8 [count, 3, height, width].
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports, and shapes that a static graph does not take.
    pub fn run(&mut self, images: &[u8], [count, height, width]: [usize; 3]) -> Result<EncoderOutput, EngineError> {
        let expected = count * 3 * height * width;
        if images.len() != expected {
            let problem = format!("expected {expected} bytes for {count} images of {height}x{width} px, got {}", images.len());
            return Err(EngineError::State { name: "image".into(), problem });
        }
        // A static batch is filled up with black images, whose rows are dropped.
        let batch = self.static_batch().unwrap_or(count).max(count);
        let mut bytes = std::borrow::Cow::Borrowed(images);
        if batch > count {
            bytes.to_mut().resize(batch * 3 * height * width, 0);
        }
        let activity = || EngineError::run(format!("running {} on {batch} images of {height}x{width} px", self.file.display()));
        let shape = [batch, 3, height, width];
        let floats: Vec<f32>;
        let outputs = if self.float {
            floats = bytes.iter().map(|&byte| f32::from(byte)).collect();
            let image = TensorRef::from_array_view((shape, floats.as_slice())).map_err(activity())?;
            self.session.run(ort::inputs!["image" => image])
        } else {
            let image = TensorRef::from_array_view((shape, bytes.as_ref())).map_err(activity())?;
            self.session.run(ort::inputs!["image" => image])
        }
        .map_err(activity())?;
        let rows = |name: &str| matrix(&outputs[name], count).map_err(activity());
        Ok(EncoderOutput { features: rows("features")?, embedding: rows("embedding")? })
    }
}

/// The first `count` rows of an output.
fn matrix(value: &Value, count: usize) -> ort::Result<Array2<f32>> {
    let (shape, data) = value.try_extract_tensor::<f32>()?;
    let width = shape.last().copied().and_then(|width| usize::try_from(width).ok()).unwrap_or(0);
    let rows = data.get(..count * width).ok_or_else(|| ort::Error::new(format!("expected {count} rows, got shape {shape:?}")))?;
    Array2::from_shape_vec((count, width), rows.to_vec()).map_err(|error| ort::Error::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::session::environment::environment;

    fn open(model: &str) -> Result<Encoder, EngineError> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(model);
        Encoder::open(&environment().expect("ONNX Runtime is set up"), &file, &SessionOptions { threads: 1, ..SessionOptions::default() })
    }

    /// Two images of 2x2 px, whose channels have the means 1, 2, 3 and 10, 20, 30.
    fn images() -> Vec<u8> {
        [1, 2, 3, 10, 20, 30].into_iter().flat_map(|mean| [mean - 1, mean + 1, mean, mean]).collect()
    }

    #[test]
    fn a_dynamic_and_a_static_float_encoder_give_the_same_rows() {
        for (model, batch, size) in [("tiny_encoder.onnx", None, None), ("tiny_encoder_static.onnx", Some(4), Some((2, 2)))] {
            let mut encoder = open(model).expect("open");
            assert_eq!((encoder.static_batch(), encoder.static_size()), (batch, size));
            let output = encoder.run(&images(), [2, 2, 2]).expect("run");
            assert_eq!(output.features, array![[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]);
            assert_eq!(output.embedding, -output.features);
        }
    }

    #[test]
    fn wrong_sizes_and_other_graphs_are_named() {
        let error = open("sinkhorn.onnx").err().expect("no encoder").to_string();
        assert!(error.contains("sinkhorn.onnx") && error.contains("features"), "{error}");
        let error = open("tiny_encoder.onnx").expect("open").run(&[0; 5], [1, 2, 2]).expect_err("size").to_string();
        assert!(error.contains("expected 12 bytes"), "{error}");
        assert!(open("tiny_encoder_static.onnx").expect("open").run(&[0; 27], [1, 3, 3]).is_err());
    }
}
