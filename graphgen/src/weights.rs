//! Named weights on the host, and their `safetensors` files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// What is wrong with a weights file.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Reading or writing failed.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{path}: not a readable safetensors file: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: safetensors::SafeTensorError,
    },
    /// A tensor of another type than f32.
    #[error("{path}: tensor {name} has type {dtype:?}, expected F32")]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
}

/// An f32 tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightTensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements, as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// Weights by PyTorch parameter name, in the order of the names.
pub type Weights = BTreeMap<String, WeightTensor>;

/// The weights as the bytes of a safetensors file; equal weights give equal bytes.
pub fn to_safetensors(weights: &Weights, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let bytes: Vec<(&String, &WeightTensor, Vec<u8>)> =
        weights.iter().map(|(name, tensor)| (name, tensor, tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect())).collect();
    let views = bytes.iter().map(|(name, tensor, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).expect("the shape matches the data by construction"))
    });
    let metadata = (!metadata.is_empty()).then(|| metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect());
    safetensors::serialize(views, metadata).expect("f32 views serialize")
}

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// An unreadable or damaged file, and tensors of another type than f32.
pub fn load_safetensors(path: &Path) -> Result<Weights, WeightsError> {
    let bytes = std::fs::read(path).map_err(|reason| WeightsError::Io { path: path.into(), reason })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|reason| WeightsError::Format { path: path.into(), reason })?;
    let mut weights = Weights::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(WeightsError::Type { path: path.into(), name, dtype: view.dtype() });
        }
        let data = view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("chunks of four"))).collect();
        weights.insert(name, WeightTensor { shape: view.shape().to_vec(), data });
    }
    Ok(weights)
}

/// Writes a file beside its place, syncs it and renames it: `path` holds either its old content or all of the new one.
///
/// # Errors
/// Whatever the file system reports; the temporary file is removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let io = |reason| WeightsError::Io { path: path.into(), reason };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").permissions_like_a_plain_file().tempfile_in(directory).map_err(io)?;
    std::io::Write::write_all(&mut file, bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// Temporary files are private by default; results should have the permissions of any other file.
trait PlainFile {
    fn permissions_like_a_plain_file(&mut self) -> &mut Self;
}

impl PlainFile for tempfile::Builder<'_, '_> {
    fn permissions_like_a_plain_file(&mut self) -> &mut Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // The process's umask still applies.
            self.permissions(std::fs::Permissions::from_mode(0o666));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_survive_a_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("w.safetensors");
        let weights: Weights =
            [("b".to_owned(), WeightTensor { shape: vec![2], data: vec![1.5, -2.0] }), ("a".to_owned(), WeightTensor { shape: vec![], data: vec![3.0] })]
                .into();
        write_atomically(&path, &to_safetensors(&weights, &BTreeMap::new())).expect("write");
        assert_eq!(load_safetensors(&path).expect("read"), weights);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary file stays");
    }
}
