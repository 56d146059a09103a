//! A weights file of any format, told apart by its content.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::pth::PthFile;
use super::safetensors::LazySafetensors;
use super::{ElementType, PthError, WeightTensor, WeightsError};

/// A tensor's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Type of the stored elements.
    pub element: ElementType,
}

/// An open weights file: safetensors, or what PyTorch's `torch.save` wrote (`.pth`, `.pth.tar`, `.pt`; zip and legacy
/// format). Only names and shapes are in memory; the elements of a tensor are read when asked for.
pub struct WeightsFile<R = File> {
    path: PathBuf,
    tensors: BTreeMap<String, TensorInfo>,
    contents: Contents<R>,
}

enum Contents<R> {
    Safetensors(LazySafetensors<R>),
    Pth(Box<PthFile<R>>),
}

impl WeightsFile {
    /// Opens a file. Of a checkpoint, the dictionary under `state_dict` counts if there is one, and the whole otherwise.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged or of another format; a checkpoint that holds anything but tensors and plain
    /// containers.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = File::open(path).map_err(|reason| WeightsError::Io { path: path.into(), reason })?;
        Self::from_reader(path, file)
    }
}

impl<R: Read + Seek> WeightsFile<R> {
    /// Reads a file's description from its bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`open`](WeightsFile::open).
    pub fn from_reader(path: &Path, mut reader: R) -> Result<Self, WeightsError> {
        let io = |reason| WeightsError::Io { path: path.into(), reason };
        let length = reader.seek(SeekFrom::End(0)).map_err(io)?;
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut start = Vec::new();
        reader.by_ref().take(9).read_to_end(&mut start).map_err(io)?;
        reader.seek(SeekFrom::Start(0)).map_err(io)?;

        let pth = |result: Result<PthFile<R>, PthError>| result.map_err(|reason| WeightsError::Pth { path: path.into(), reason });
        let contents = match start.as_slice() {
            // The header's length, below 2^32, then JSON. Asked first: a header of 640 bytes begins as a pickle does.
            [_, _, _, _, 0, 0, 0, 0, b'{'] => {
                let file = LazySafetensors::open(reader, length).map_err(|reason| WeightsError::Safetensors { path: path.into(), reason })?;
                Contents::Safetensors(file)
            }
            [b'P', b'K', 3, 4, ..] => Contents::Pth(Box::new(pth(PthFile::open_zip(reader))?)),
            // A pickle of protocol 2 or newer.
            [0x80, 2..=5, ..] => Contents::Pth(Box::new(pth(PthFile::open_legacy(reader, length))?)),
            _ => return Err(WeightsError::Unknown { path: path.into() }),
        };
        let tensors = match &contents {
            Contents::Safetensors(file) => file.tensors(),
            Contents::Pth(file) => file.tensors(),
        };
        Ok(WeightsFile { path: path.into(), tensors, contents })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// Names in the state dict of a checkpoint that are no tensors.
    pub fn others(&self) -> &[String] {
        match &self.contents {
            Contents::Safetensors(_) => &[],
            Contents::Pth(file) => file.others(),
        }
    }

    /// Reads a tensor and converts it to f32.
    ///
    /// # Errors
    /// No tensor of this name, elements that are no floating-point numbers, damaged bytes.
    pub fn read(&mut self, name: &str) -> Result<WeightTensor, WeightsError> {
        let path = &self.path;
        let Some(TensorInfo { shape, element }) = self.tensors.get(name).cloned() else {
            return Err(WeightsError::Mismatch { path: path.clone(), problem: format!("holds no tensor {name}") });
        };
        let data = if element.is_float() {
            match &mut self.contents {
                Contents::Safetensors(file) => file.read(name).map_err(|reason| WeightsError::Io { path: path.clone(), reason })?,
                Contents::Pth(file) => file.read(name).map_err(|reason| WeightsError::Pth { path: path.clone(), reason })?,
            }
        } else {
            None
        };
        let data = data.ok_or_else(|| WeightsError::Type { path: path.clone(), name: name.into(), element, expected: "F32, F16, BF16 or F64" })?;
        Ok(WeightTensor { shape, data })
    }
}
