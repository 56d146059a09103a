//! The legacy container (PyTorch before 1.6, the official SwAV files among them): pickles one after another – magic
//! number, protocol version, system, the object, the keys of the storages – then each storage as its number of elements
//! (i64) and the elements. Everything is little-endian.

use std::collections::HashMap;
use std::io::{BufRead, Seek, SeekFrom};
use std::ops::Range;

use super::pickle::{Pickle, Value};
use super::tensor::Storage;
use super::{PthError, read_span};

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

pub(super) struct LegacyContainer<R> {
    reader: R,
    /// Where the elements of each storage begin.
    positions: HashMap<String, u64>,
}

impl<R: BufRead + Seek> LegacyContainer<R> {
    /// Reads the pickles and finds the storages, whose elements are passed over.
    pub(super) fn open(mut reader: R, length: u64) -> Result<(Self, Pickle), PthError> {
        for (what, expected) in [("magic number", MAGIC), ("protocol version", PROTOCOL)] {
            let pickle = Pickle::read(&mut reader)?;
            if !matches!(pickle.root(), Value::Int(number) if *number == expected) {
                return Err(PthError::Content(format!("is a pickle, but not of torch.save: expected the {what} {expected:#x} in front")));
            }
        }
        let _system = Pickle::read(&mut reader)?;
        let object = Pickle::read(&mut reader)?;
        let keys = Pickle::read(&mut reader)?;
        let Value::List(keys_in_order) = keys.root() else {
            return Err(PthError::Content("expected the list of its storages, got another object: the file is damaged".into()));
        };
        let mut positions = HashMap::new();
        let mut position = reader.stream_position()?;
        for &key in keys_in_order {
            let storage = match keys.get(key) {
                Value::Text(key) => object.storages.get(key),
                _ => None,
            };
            let storage = storage.ok_or_else(|| PthError::Content("its list of storages names one that no tensor has: the file is damaged".into()))?;
            let mut elements = [0; 8];
            reader.read_exact(&mut elements)?;
            let elements = u64::from_le_bytes(elements);
            if elements != storage.elements {
                let (key, expected) = (&storage.key, storage.elements);
                return Err(PthError::Content(format!("storage {key} should have {expected} elements, it has {elements}: the file is damaged")));
            }
            positions.insert(storage.key.clone(), position + 8);
            let end = storage.bytes().and_then(|bytes| bytes.checked_add(position + 8)).filter(|&end| end <= length);
            position = end.ok_or_else(|| PthError::Content("ends in the middle of a storage: the file is damaged or incomplete".into()))?;
            reader.seek(SeekFrom::Start(position))?;
        }
        Ok((LegacyContainer { reader, positions }, object))
    }

    /// Bytes of a storage.
    pub(super) fn read(&mut self, storage: &Storage, span: Range<u64>) -> Result<Vec<u8>, PthError> {
        let position = self.positions.get(&storage.key);
        let position = position.ok_or_else(|| PthError::Content(format!("storage {} is missing: the file is damaged", storage.key)))?;
        self.reader.seek(SeekFrom::Start(position + span.start))?;
        read_span(&mut self.reader, span)
    }
}
