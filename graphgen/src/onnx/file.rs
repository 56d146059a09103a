//! Models as bytes.

use prost::Message;

use super::proto::ModelProto;

/// Weights beyond this belong into external data; a protobuf message ends at 2 GiB.
const MAX_BYTES: usize = 1_500_000_000;

/// Why bytes and models do not turn into each other.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The model is too large for one file.
    #[error("the model has {bytes} bytes, one ONNX file holds at most {MAX_BYTES} here; external data is not written yet")]
    TooLarge {
        /// Size of the encoded model.
        bytes: usize,
    },
    /// The bytes are no protobuf message.
    #[error("not an ONNX file")]
    NotProtobuf(#[from] prost::DecodeError),
    /// The bytes are a message, but no model.
    #[error("not an ONNX file: it has no {0}")]
    NotModel(&'static str),
}

/// The bytes of a model. Equal models give equal bytes.
///
/// # Errors
/// [`FileError::TooLarge`].
pub fn encode(model: &ModelProto) -> Result<Vec<u8>, FileError> {
    let bytes = model.encoded_len();
    if bytes > MAX_BYTES {
        return Err(FileError::TooLarge { bytes });
    }
    Ok(model.encode_to_vec())
}

/// The model in the bytes of an ONNX file.
///
/// # Errors
/// Bytes that are no ONNX model.
pub fn read_model(bytes: &[u8]) -> Result<ModelProto, FileError> {
    let model = ModelProto::decode(bytes)?;
    if model.graph.is_none() {
        return Err(FileError::NotModel("graph"));
    }
    if model.ir_version.is_none() {
        return Err(FileError::NotModel("IR version"));
    }
    if model.opset_import.is_empty() {
        return Err(FileError::NotModel("operator set"));
    }
    Ok(model)
}
