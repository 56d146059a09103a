//! Files of PyTorch's `torch.save`.

mod legacy;
mod pickle;
mod tensor;
mod zip;

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};
use std::sync::Arc;

use super::TensorInfo;
use legacy::LegacyContainer;
pub use pickle::PickleError;
use pickle::{Pickle, Value};
use tensor::Tensor;
use zip::ZipContainer;

/// Longest name of a tensor, bytes.
const LONGEST_NAME: usize = 1024;
/// Names that a message lists.
const NAMES_SHOWN: usize = 8;

/// What is wrong with a PyTorch checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum PthError {
    /// The file system failed, or the file ends too early.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The zip container is damaged.
    #[error("its zip container is damaged or of an unknown kind: {0}")]
    Zip(#[from] ::zip::result::ZipError),
    /// The pickle is damaged or refused.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// Not what `torch.save` writes, or nothing with weights in it.
    #[error("{0}")]
    Content(String),
}

type Tensors = BTreeMap<String, Arc<Tensor>>;

/// An open checkpoint: the tensors of its state dict, read on demand.
pub(super) struct PthFile<R> {
    container: Container<R>,
    tensors: Tensors,
    others: Vec<String>,
}

enum Container<R> {
    Zip(ZipContainer<R>),
    Legacy(LegacyContainer<BufReader<R>>),
}

impl<R: Read + Seek> PthFile<R> {
    /// Opens a file of the zip format (PyTorch 1.6 and later).
    pub(super) fn open_zip(reader: R) -> Result<Self, PthError> {
        let (container, pickle) = ZipContainer::open(reader)?;
        Self::new(Container::Zip(container), &pickle)
    }

    /// Opens a file of `length` bytes of the legacy format (up to PyTorch 1.5).
    pub(super) fn open_legacy(reader: R, length: u64) -> Result<Self, PthError> {
        let (container, pickle) = LegacyContainer::open(BufReader::new(reader), length)?;
        Self::new(Container::Legacy(container), &pickle)
    }

    fn new(container: Container<R>, pickle: &Pickle) -> Result<Self, PthError> {
        let (tensors, others) = state_dict(pickle)?;
        Ok(PthFile { container, tensors, others })
    }

    pub(super) fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let info = |tensor: &Arc<Tensor>| TensorInfo { shape: tensor.shape.clone(), element: tensor.storage.element };
        self.tensors.iter().map(|(name, tensor)| (name.clone(), info(tensor))).collect()
    }

    /// Names in the state dict that are no tensors.
    pub(super) fn others(&self) -> &[String] {
        &self.others
    }

    /// The elements of a tensor; `None` for types that are no floating-point numbers.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<Vec<f32>>, PthError> {
        let tensor = self.tensors.get(name).ok_or_else(|| PthError::Content(format!("holds no tensor {name}")))?;
        let bytes = match &mut self.container {
            Container::Zip(zip) => zip.read(&tensor.storage, tensor.byte_span())?,
            Container::Legacy(legacy) => legacy.read(&tensor.storage, tensor.byte_span())?,
        };
        let Some(span) = tensor.storage.element.decode(&bytes) else { return Ok(None) };
        tensor.gather(span).map(Some).map_err(|problem| PthError::Content(format!("tensor {name}: {problem}")))
    }
}

/// The tensors of the dictionary under `state_dict`, or of the whole, and the names of what is no tensor.
fn state_dict(pickle: &Pickle) -> Result<(Tensors, Vec<String>), PthError> {
    let Some(root) = pickle.entries(pickle.root()) else {
        return Err(PthError::Content("expected a state dict, or a dictionary with state_dict, got another object".into()));
    };
    let is_state_dict = |key| matches!(pickle.get(key), Value::Text(key) if key == "state_dict");
    let inner = root.iter().rev().find(|&&(key, _)| is_state_dict(key)).and_then(|&(_, value)| pickle.entries(pickle.get(value)));

    let (mut tensors, mut others) = (BTreeMap::new(), Vec::new());
    for (key, value) in inner.unwrap_or(root) {
        let Value::Text(name) = pickle.get(key) else {
            others.push("a key that is no text".to_owned());
            continue;
        };
        if name.len() > LONGEST_NAME {
            return Err(PthError::Content(format!("a tensor's name has {} bytes, expected at most {LONGEST_NAME}", name.len())));
        }
        match pickle.get(value) {
            Value::Tensor(tensor) => {
                tensors.insert(name.clone(), Arc::clone(tensor));
            }
            _ => others.push(name.clone()),
        }
    }
    if tensors.is_empty() {
        let shown: Vec<&str> = others.iter().take(NAMES_SHOWN).map(String::as_str).collect();
        let found = if shown.is_empty() { "an empty dictionary".to_owned() } else { shown.join(", ") };
        return Err(PthError::Content(format!("expected the tensors of a state dict at the top or under state_dict, found {found}")));
    }
    Ok((tensors, others))
}

/// The bytes of a span at which the reader stands; memory grows with what is there.
fn read_span(reader: impl Read, span: std::ops::Range<u64>) -> Result<Vec<u8>, PthError> {
    let length = span.end - span.start;
    let mut bytes = Vec::new();
    reader.take(length).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
