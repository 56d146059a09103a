//! The index of a folder of shards: where every image lies, so that opening the folder reads one file.
//!
//! `index.jsonl` is JSON lines: a header with the shards and their sizes, then for each image
//! `[shard, offset, length, name, class or null]`.

use std::io::{BufRead, BufReader};
use std::path::Path;

use graphgen::weights::{WeightsError, write_atomically};
use serde::{Deserialize, Serialize};

use super::dataset::{Found, Place};
use super::error::DataError;

/// Name of the index in a folder of shards.
pub(super) const INDEX_FILE: &str = "index.jsonl";
const FORMAT: &str = "swav-shards";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    shards: Vec<Shard>,
}

/// A shard and its size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Shard {
    /// File name in the index's folder.
    pub(super) file: String,
    pub(super) bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Line(usize, u64, u64, String, Option<String>);

/// Writes the index of a folder, in one step.
pub(super) fn write(folder: &Path, shards: &[Shard], images: &[(usize, Found)]) -> Result<(), DataError> {
    let path = folder.join(INDEX_FILE);
    let io = |source| DataError::Io { path: path.clone(), source };
    let header = Header { format: FORMAT.into(), version: VERSION, shards: shards.to_vec() };
    let mut text = serde_json::to_string(&header).map_err(|error| io(error.into()))?;
    for (shard, Found { name, class, place }) in images {
        let Some(Place::Bytes { offset, len }) = *place else { continue };
        text.push('\n');
        text += &serde_json::to_string(&Line(*shard, offset, len, name.clone(), class.clone())).map_err(|error| io(error.into()))?;
    }
    text.push('\n');
    write_atomically(&path, text.as_bytes()).map_err(|error| match error {
        WeightsError::Io { reason, .. } => io(reason),
        other => io(std::io::Error::other(other)),
    })
}

/// Reads the index of a folder: its shards with the images of each.
pub(super) fn read(folder: &Path) -> Result<Vec<(Shard, Vec<Found>)>, DataError> {
    let path = folder.join(INDEX_FILE);
    let io = |source| DataError::Io { path: path.clone(), source };
    let wrong = |message: String| DataError::Index { path: path.clone(), message };
    let mut lines = BufReader::new(std::fs::File::open(&path).map_err(io)?).lines();
    let first = lines.next().transpose().map_err(io)?.unwrap_or_default();
    let header: Header = serde_json::from_str(&first).map_err(|error| wrong(format!("line 1: {error}")))?;
    if header.format != FORMAT || header.version != VERSION {
        return Err(wrong(format!("expected {FORMAT} version {VERSION}, got {} version {}", header.format, header.version)));
    }
    let mut shards = Vec::new();
    for shard in header.shards {
        if Path::new(&shard.file).file_name().is_none_or(|name| name != shard.file.as_str()) {
            return Err(wrong(format!("expected file names of shards without folders, got {}", shard.file)));
        }
        let bytes = std::fs::metadata(folder.join(&shard.file)).map_err(|error| wrong(format!("shard {}: {error}", shard.file)))?.len();
        if bytes != shard.bytes {
            return Err(wrong(format!("shard {}: expected {} bytes, the file has {bytes}", shard.file, shard.bytes)));
        }
        shards.push((shard, Vec::new()));
    }
    for (number, line) in lines.enumerate() {
        let line = line.map_err(io)?;
        let Line(shard, offset, len, name, class) = serde_json::from_str(&line).map_err(|error| wrong(format!("line {}: {error}", number + 2)))?;
        let inside = |bytes: u64| offset.checked_add(len).is_some_and(|end| end <= bytes);
        match shards.get_mut(shard) {
            Some((shard, images)) if inside(shard.bytes) => images.push(Found { name, class, place: Some(Place::Bytes { offset, len }) }),
            _ => return Err(wrong(format!("line {}: {name} lies outside of its shard", number + 2))),
        }
    }
    Ok(shards)
}
