//! A checkpoint from a flatbuffer, without trusting it: every place is looked up within the bytes, nothing recurses, and
//! no length is believed before the bytes are there.

use std::collections::BTreeMap;

use super::{CheckpointError, FLOAT, GROUP, IDENTIFIER, MOMENTS, OptimizerGroup, TrainingCheckpoint, VERSION};
use crate::weights::{WeightTensor, Weights};

const ENDS: CheckpointError = CheckpointError::Damaged("it ends too early");

pub(super) fn checkpoint(bytes: &[u8], data: Option<&[u8]>) -> Result<TrainingCheckpoint, CheckpointError> {
    if bytes.get(4..8) != Some(IDENTIFIER.as_bytes()) {
        return Err(CheckpointError::Damaged("it does not have the identifier ODTC"));
    }
    let root = Table::at(bytes, 0)?;
    if root.scalar(0)?.map(i32::from_le_bytes) != Some(VERSION) {
        return Err(CheckpointError::Damaged("it is not of version 2"));
    }
    let module = root.table(1)?.ok_or(CheckpointError::Damaged("it has no parameters"))?;
    let is_external = module.scalar(3)?.map(u8::from_le_bytes) == Some(1);
    let data = match (is_external, data) {
        (false, _) => None,
        (true, Some(data)) => Some(data),
        (true, None) => return Err(CheckpointError::Damaged("its .data file is missing")),
    };
    let optimizer = root.tables(2)?.into_iter().next().map(|group| optimizer_group(&group)).transpose()?;
    Ok(TrainingCheckpoint { parameters: weights(&module, 0, data)?, frozen: weights(&module, 1, data)?, optimizer })
}

fn weights(module: &Table, field: usize, data: Option<&[u8]>) -> Result<Weights, CheckpointError> {
    module.tables(field)?.iter().map(|table| tensor(table, data)).collect()
}

fn tensor(table: &Table, data: Option<&[u8]>) -> Result<(String, WeightTensor), CheckpointError> {
    let name = table.string(0)?;
    let dims = table.bytes(2, 8)?.chunks_exact(8).map(|dim| usize::try_from(i64::from_le_bytes(dim.try_into().expect("8 bytes"))));
    let shape = dims.collect::<Result<Vec<_>, _>>().map_err(|_| CheckpointError::Damaged("a tensor has a negative dimension"))?;
    if table.scalar(3)?.map(i32::from_le_bytes) != Some(FLOAT) {
        return Err(CheckpointError::Damaged("a tensor is not of type f32"));
    }
    let length = shape.iter().try_fold(4usize, |length, &dim| length.checked_mul(dim)).ok_or(ENDS)?;
    let raw = match (data, table.scalar(6)?.map(i64::from_le_bytes)) {
        (Some(data), Some(offset)) => {
            let start = usize::try_from(offset).map_err(|_| CheckpointError::Damaged("a tensor has a negative place"))?;
            data.get(start..start.checked_add(length).ok_or(ENDS)?).ok_or(ENDS)?
        }
        _ => table.bytes(4, 1)?,
    };
    if raw.len() != length {
        return Err(CheckpointError::Damaged("a tensor has not as many elements as its shape says"));
    }
    let values = raw.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().expect("4 bytes")));
    Ok((name, WeightTensor { shape, data: values.collect() }))
}

fn optimizer_group(group: &Table) -> Result<OptimizerGroup, CheckpointError> {
    if group.string(0)? != GROUP {
        return Err(CheckpointError::Damaged("its optimizer group is not group0"));
    }
    let mut moments = BTreeMap::new();
    for state in group.tables(3)? {
        let mut tensors = state.tables(1)?.iter().map(|moment| tensor(moment, None)).collect::<Result<BTreeMap<_, _>, _>>()?;
        let mut take = |name| tensors.remove(name).ok_or(CheckpointError::Damaged("a parameter has not both moments"));
        moments.insert(state.string(0)?, [take(MOMENTS[0])?, take(MOMENTS[1])?]);
    }
    let step = group.scalar(1)?.map_or(0, i64::from_le_bytes);
    Ok(OptimizerGroup { step, learning_rate: group.scalar(2)?.map_or(0.0, f32::from_le_bytes), moments })
}

/// The N bytes at a place.
fn at<const N: usize>(bytes: &[u8], place: usize) -> Result<[u8; N], CheckpointError> {
    let end = place.checked_add(N).ok_or(ENDS)?;
    Ok(bytes.get(place..end).ok_or(ENDS)?.try_into().expect("N bytes"))
}

/// Follows the relative reference at a place.
fn follow(bytes: &[u8], place: usize) -> Result<usize, CheckpointError> {
    place.checked_add(u32::from_le_bytes(at(bytes, place)?) as usize).ok_or(ENDS)
}

/// A table of named fields.
struct Table<'b> {
    bytes: &'b [u8],
    place: usize,
    /// Distances of the fields from `place`, 0 for those that are absent.
    directory: &'b [u8],
}

impl<'b> Table<'b> {
    /// The table that the reference at a place leads to.
    fn at(bytes: &'b [u8], reference: usize) -> Result<Table<'b>, CheckpointError> {
        let place = follow(bytes, reference)?;
        let back = i32::from_le_bytes(at(bytes, place)?);
        let directory = (place as i64).checked_sub(back.into()).and_then(|start| usize::try_from(start).ok()).ok_or(ENDS)?;
        let length = usize::from(u16::from_le_bytes(at(bytes, directory)?));
        let directory = bytes.get(directory..).and_then(|rest| rest.get(..length)).and_then(|directory| directory.get(4..)).ok_or(ENDS)?;
        Ok(Table { bytes, place, directory })
    }

    /// Where a field stands, if the table has it.
    fn field(&self, field: usize) -> Option<usize> {
        let distance = self.directory.get(2 * field..2 * field + 2)?;
        let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
        (distance > 0).then(|| self.place + distance)
    }

    fn scalar<const N: usize>(&self, field: usize) -> Result<Option<[u8; N]>, CheckpointError> {
        self.field(field).map(|place| at(self.bytes, place)).transpose()
    }

    fn table(&self, field: usize) -> Result<Option<Table<'b>>, CheckpointError> {
        self.field(field).map(|place| Table::at(self.bytes, place)).transpose()
    }

    /// The elements of a vector, of `size` bytes each; none if the table does not have it.
    fn bytes(&self, field: usize, size: usize) -> Result<&'b [u8], CheckpointError> {
        let Some(place) = self.field(field) else { return Ok(&[]) };
        let start = follow(self.bytes, place)?;
        let length = (u32::from_le_bytes(at(self.bytes, start)?) as usize).checked_mul(size).ok_or(ENDS)?;
        let start = start + 4;
        self.bytes.get(start..start.checked_add(length).ok_or(ENDS)?).ok_or(ENDS)
    }

    fn string(&self, field: usize) -> Result<String, CheckpointError> {
        String::from_utf8(self.bytes(field, 1)?.to_vec()).map_err(|_| CheckpointError::Damaged("a name is not UTF-8"))
    }

    fn tables(&self, field: usize) -> Result<Vec<Table<'b>>, CheckpointError> {
        let references = self.bytes(field, 4)?;
        let start = self.field(field).map_or(Ok(0), |place| follow(self.bytes, place).map(|start| start + 4))?;
        (0..references.len() / 4).map(|index| Table::at(self.bytes, start + 4 * index)).collect()
    }
}
