//! safetensors files: a JSON header, then the tensors' bytes.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::{ElementType, SafetensorsWriter, TensorInfo, WeightTensor, Weights, WeightsError};

/// The format's limit of the header's length, bytes.
pub(super) const LARGEST_HEADER: u64 = 100_000_000;

/// The weights as the bytes of a safetensors file; equal weights give equal bytes.
pub fn to_safetensors(weights: &Weights, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    serialize(weights, &BTreeMap::new(), metadata)
}

/// Weights and I64 scalars as the bytes of a safetensors file.
pub(super) fn serialize(weights: &Weights, counters: &BTreeMap<String, i64>, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let shapes = weights.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    let bytes = weights.values().map(|tensor| 4 * tensor.data.len()).sum();
    let written = SafetensorsWriter::with_counters(Vec::with_capacity(bytes), counters, &shapes, metadata).and_then(|mut file| {
        weights.iter().try_for_each(|(name, tensor)| file.write(name, &tensor.data))?;
        file.finish()
    });
    written.expect("memory takes all bytes, and the shapes match the data by construction")
}

/// Reads every tensor of a safetensors file that this project wrote.
///
/// # Errors
/// An unreadable or damaged file, and tensors of another type than f32.
pub fn load_safetensors(path: &Path) -> Result<Weights, WeightsError> {
    let bytes = std::fs::read(path).map_err(|reason| WeightsError::Io { path: path.into(), reason })?;
    from_safetensors(&bytes, path)
}

/// Every tensor in the bytes of a safetensors file that this project wrote; `path` is for messages.
///
/// # Errors
/// Damaged bytes, and tensors of another type than f32.
pub fn from_safetensors(bytes: &[u8], path: &Path) -> Result<Weights, WeightsError> {
    let file = SafeTensors::deserialize(bytes).map_err(|reason| WeightsError::Safetensors { path: path.into(), reason: reason.to_string() })?;
    let mut weights = Weights::new();
    for (name, view) in file.tensors() {
        let element = ElementType::from_safetensors(view.dtype());
        let data = (element == ElementType::F32).then(|| element.decode(view.data())).flatten();
        let data = data.ok_or_else(|| WeightsError::Type { path: path.into(), name: name.clone(), element, expected: "F32" })?;
        weights.insert(name, WeightTensor { shape: view.shape().to_vec(), data });
    }
    Ok(weights)
}

/// An open safetensors file whose tensors are read on demand.
pub(super) struct LazySafetensors<R> {
    reader: R,
    metadata: Metadata,
    /// Where the tensors' bytes begin.
    data_start: u64,
}

impl<R: Read + Seek> LazySafetensors<R> {
    /// Reads the header of a file of `length` bytes.
    pub(super) fn open(mut reader: R, length: u64) -> Result<Self, String> {
        let mut size = [0; 8];
        reader.seek(SeekFrom::Start(0)).and_then(|_| reader.read_exact(&mut size)).map_err(|error| error.to_string())?;
        let size = u64::from_le_bytes(size);
        let data_start = size.checked_add(8).filter(|&start| size <= LARGEST_HEADER && start <= length);
        let data_start = data_start.ok_or_else(|| format!("its header should have {size} bytes, the whole file has {length}"))?;
        let mut header = Vec::new();
        reader.by_ref().take(size).read_to_end(&mut header).map_err(|error| error.to_string())?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| error.to_string())?;
        let expected = u64::try_from(metadata.data_len()).ok().and_then(|data| data.checked_add(data_start));
        if expected != Some(length) {
            return Err(format!("its header describes {} bytes of tensors, the file holds {}", metadata.data_len(), length - data_start));
        }
        Ok(LazySafetensors { reader, metadata, data_start })
    }

    pub(super) fn tensors(&self) -> BTreeMap<String, TensorInfo> {
        let info = |info: &safetensors::tensor::TensorInfo| TensorInfo { shape: info.shape.clone(), element: ElementType::from_safetensors(info.dtype) };
        self.metadata.tensors().into_iter().map(|(name, tensor)| (name, info(tensor))).collect()
    }

    /// The elements of a tensor; `None` for types that are no floating-point numbers.
    pub(super) fn read(&mut self, name: &str) -> std::io::Result<Option<Vec<f32>>> {
        let info = self.metadata.info(name).ok_or(std::io::ErrorKind::NotFound)?;
        let (start, end) = info.data_offsets;
        // The header was checked against the file's length: no more than the file is allocated.
        let mut bytes = vec![0; end - start];
        self.reader.seek(SeekFrom::Start(self.data_start + start as u64))?;
        self.reader.read_exact(&mut bytes)?;
        Ok(ElementType::from_safetensors(info.dtype).decode(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::write_atomically;

    #[test]
    fn weights_survive_a_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("w.safetensors");
        let weights: Weights =
            [("b".to_owned(), WeightTensor { shape: vec![2], data: vec![1.5, -2.0] }), ("a".to_owned(), WeightTensor { shape: vec![], data: vec![3.0] })]
                .into();
        write_atomically(&path, &to_safetensors(&weights, &BTreeMap::new())).expect("write");
        assert_eq!(load_safetensors(&path).expect("read"), weights);
    }

    #[test]
    fn a_file_of_this_project_holds_f32_only() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("w.safetensors");
        let counters = BTreeMap::from([("steps".to_owned(), 3)]);
        write_atomically(&path, &serialize(&Weights::new(), &counters, &BTreeMap::new())).expect("write");
        let error = load_safetensors(&path).expect_err("an integer").to_string();
        assert!(error.contains("tensor steps has type I64, expected F32"), "{error}");
    }
}
