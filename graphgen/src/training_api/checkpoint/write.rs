//! A checkpoint as a flatbuffer.

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, TableFinishedWIPOffset, Vector, WIPOffset};

use super::{CheckpointFiles, FLOAT, GROUP, IDENTIFIER, MOMENTS, OptimizerGroup, TrainingCheckpoint, VERSION};
use crate::weights::{WeightTensor, Weights};

type Table = WIPOffset<TableFinishedWIPOffset>;
type Tables<'b> = WIPOffset<Vector<'b, ForwardsUOffset<TableFinishedWIPOffset>>>;

/// Tensors start at multiples of this in the external data.
const ALIGNMENT: usize = 64;

/// Place of a field in a table's directory.
const fn slot(field: u16) -> u16 {
    4 + 2 * field
}

pub(super) fn files(checkpoint: &TrainingCheckpoint, external: bool) -> CheckpointFiles {
    let mut data = external.then(Vec::new);
    let mut b = FlatBufferBuilder::new();
    // Both lists are written even where they are empty: the training API reads them unasked.
    let parameters = tensors(&mut b, &checkpoint.parameters, data.as_mut());
    let frozen = tensors(&mut b, &checkpoint.frozen, data.as_mut());
    let groups = checkpoint.optimizer.as_ref().map(|group| {
        let group = optimizer_group(&mut b, group);
        tables(&mut b, &[group])
    });

    let table = b.start_table();
    b.push_slot_always(slot(0), parameters);
    b.push_slot_always(slot(1), frozen);
    b.push_slot(slot(3), external, false);
    let module = b.end_table(table);
    let table = b.start_table();
    b.push_slot(slot(0), VERSION, 0);
    b.push_slot_always(slot(1), module);
    if let Some(groups) = groups {
        b.push_slot_always(slot(2), groups);
    }
    let root = b.end_table(table);
    b.finish(root, Some(IDENTIFIER));
    CheckpointFiles { checkpoint: b.finished_data().to_vec(), data }
}

fn tables<'b>(b: &mut FlatBufferBuilder<'b>, items: &[Table]) -> Tables<'b> {
    b.start_vector::<Table>(items.len());
    for &item in items.iter().rev() {
        b.push(item);
    }
    b.end_vector(items.len())
}

fn tensors<'b>(b: &mut FlatBufferBuilder<'b>, weights: &Weights, mut data: Option<&mut Vec<u8>>) -> Tables<'b> {
    let items: Vec<Table> = weights.iter().map(|(name, weight)| tensor(b, name, weight, data.as_deref_mut())).collect();
    tables(b, &items)
}

/// A tensor, with its elements at the end of `data` if there is one.
fn tensor(b: &mut FlatBufferBuilder<'_>, name: &str, weight: &WeightTensor, data: Option<&mut Vec<u8>>) -> Table {
    let bytes: Vec<u8> = weight.data.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dims: Vec<i64> = weight.shape.iter().map(|&dim| dim as i64).collect();
    let (name, dims) = (b.create_string(name), b.create_vector(&dims));
    let place = match data {
        None => Err(b.create_vector(&bytes)),
        Some(data) => {
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
            let offset = data.len() as i64;
            data.extend(bytes);
            Ok(offset)
        }
    };
    let table = b.start_table();
    b.push_slot_always(slot(0), name);
    b.push_slot_always(slot(2), dims);
    b.push_slot(slot(3), FLOAT, 0);
    match place {
        Err(raw) => b.push_slot_always(slot(4), raw),
        Ok(offset) => b.push_slot(slot(6), offset, -1),
    }
    b.end_table(table)
}

fn optimizer_group(b: &mut FlatBufferBuilder<'_>, group: &OptimizerGroup) -> Table {
    let mut states = Vec::new();
    for (parameter, moments) in &group.moments {
        let moments: Vec<Table> = MOMENTS.iter().zip(moments).map(|(name, moment)| tensor(b, name, moment, None)).collect();
        let (name, moments) = (b.create_string(parameter), tables(b, &moments));
        let table = b.start_table();
        b.push_slot_always(slot(0), name);
        b.push_slot_always(slot(1), moments);
        states.push(b.end_table(table));
    }
    let (name, states) = (b.create_string(GROUP), tables(b, &states));
    let table = b.start_table();
    b.push_slot_always(slot(0), name);
    b.push_slot(slot(1), group.step, 0);
    b.push_slot(slot(2), group.learning_rate, 0.0);
    b.push_slot_always(slot(3), states);
    b.end_table(table)
}
