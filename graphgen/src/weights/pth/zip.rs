//! The zip container: `NAME/data.pkl`, and every storage as an entry `NAME/data/KEY`, stored without compression.

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Seek, SeekFrom, sink};
use std::ops::Range;

use zip::ZipArchive;

use super::pickle::Pickle;
use super::tensor::Storage;
use super::{PthError, read_span};

pub(super) struct ZipContainer<R> {
    archive: ZipArchive<BufReader<R>>,
    /// The folder of all entries.
    folder: String,
    /// Entries whose checksum has been found right.
    verified: BTreeSet<usize>,
}

impl<R: Read + Seek> ZipContainer<R> {
    /// Opens the container and reads its pickle.
    pub(super) fn open(reader: R) -> Result<(Self, Pickle), PthError> {
        let mut archive = ZipArchive::new(BufReader::new(reader))?;
        let names = archive.file_names_raw().filter_map(|name| str::from_utf8(name).ok());
        let folder = names.filter_map(|name| name.strip_suffix("/data.pkl")).min_by_key(|folder| folder.len()).map(str::to_owned);
        let Some(folder) = folder else {
            return Err(PthError::Content("is a zip archive without data.pkl; expected what torch.save writes".into()));
        };
        if archive.index_for_name_raw(format!("{folder}/constants.pkl").as_bytes()).is_some() {
            return Err(PthError::Content("is a TorchScript program; save its weights instead: torch.save(model.state_dict(), FILE)".into()));
        }
        if let Some(index) = archive.index_for_name_raw(format!("{folder}/byteorder").as_bytes()) {
            let mut order = String::new();
            archive.by_index(index)?.take(16).read_to_string(&mut order)?;
            if order != "little" {
                return Err(PthError::Content(format!("expected byte order little, got {order}; save it on a little-endian machine")));
            }
        }
        let pickle = {
            let entry = archive.by_name(&format!("{folder}/data.pkl"))?;
            let mut entry = BufReader::new(entry);
            let pickle = Pickle::read(&mut entry)?;
            // To the end, where the checksum is compared.
            std::io::copy(&mut entry, &mut sink())?;
            pickle
        };
        Ok((ZipContainer { archive, folder, verified: BTreeSet::new() }, pickle))
    }

    /// Bytes of a storage, whose checksum is compared at its first use.
    pub(super) fn read(&mut self, storage: &Storage, span: Range<u64>) -> Result<Vec<u8>, PthError> {
        let name = format!("{}/data/{}", self.folder, storage.key);
        let missing = || PthError::Content(format!("storage {name} is missing: the file is damaged"));
        let index = self.archive.index_for_name_raw(name.as_bytes()).ok_or_else(missing)?;
        if !self.verified.contains(&index) {
            let mut entry = self.archive.by_index(index)?;
            let found = std::io::copy(&mut entry, &mut sink())?;
            if storage.bytes() != Some(found) {
                let expected = storage.elements;
                return Err(PthError::Content(format!("storage {name} should hold {expected} elements of type {}, it has {found} bytes", storage.element)));
            }
            self.verified.insert(index);
        }
        let mut entry = self.archive.by_index_seek(index)?;
        entry.seek(SeekFrom::Start(span.start))?;
        read_span(entry, span)
    }
}
