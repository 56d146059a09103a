//! How large the arrays are that a preset asks for.

use super::{Preset, PresetError};
use crate::backbones::resnet::ResNet;

/// Most bytes of one array, 256 GiB: more than the memory of a device and of most machines, far more than a published setting asks
/// for. What a machine holds is asked where the preset runs.
pub(super) const MOST_BYTES: u64 = 256 << 30;

impl Preset {
    /// Checks that none of the larger arrays that a run holds outside of its graphs has more than `most_bytes`; `whose` says in the
    /// message what that limit is. Sizes and counts of crops are valid already.
    ///
    /// # Errors
    /// The first setting that asks for more, and what to do about it.
    pub fn check_arrays(&self, most_bytes: u64, whose: &str) -> Result<(), PresetError> {
        let Preset { model, crops, loss, train, .. } = self;
        let (features, hidden, dim) = (ResNet::new(model).features(), model.hidden_mlp, model.feat_dim);
        let counts = model.nmb_prototypes.counts();
        let prototypes = counts.iter().fold(0, |sum: usize, &count| sum.saturating_add(count));
        let most = counts.iter().copied().max().unwrap_or(0);
        let pixels: usize = crops.size_crops.iter().zip(&crops.nmb_crops).map(|(size, count)| count * size * size).sum();
        let assigned = crops.crops_for_assign.len();
        let (crop_count, rows) = (crops.total(), loss.queue_length.saturating_add(train.batch_size));
        let (first, width) = if hidden == 0 { ("model.feat_dim", dim) } else { ("model.hidden_mlp", hidden) };
        let (f32s, u8s) = (4_u128, 1);
        let arrays: [(&'static str, &str, u128, &[usize], &str); 7] = [
            (first, "the projection head's first weight", f32s, &[width, features], first),
            ("model.feat_dim", "the projection head's last weight", f32s, &[dim, hidden], "model.feat_dim or model.hidden_mlp"),
            ("model.nmb_prototypes", "the prototypes", f32s, &[prototypes, dim], "model.nmb_prototypes or model.feat_dim"),
            ("train.batch_size", "the crops of a batch", u8s, &[train.batch_size, 3, pixels], "train.batch_size, the crops or their sizes"),
            ("loss.queue_length", "the queue", f32s, &[assigned, loss.queue_length, dim], "loss.queue_length or model.feat_dim"),
            ("model.nmb_prototypes", "the scores of a batch", f32s, &[crop_count, train.micro_batch_size(), most], "model.nmb_prototypes or train.batch_size"),
            ("loss.queue_length", "the scores of batch and queue", f32s, &[rows, most], "loss.queue_length or model.nmb_prototypes"),
        ];
        for (setting, array, element, shape, remedy) in arrays {
            let bytes = shape.iter().fold(element, |bytes: u128, &dimension| bytes.saturating_mul(dimension as u128));
            if bytes > most_bytes.into() {
                let (size, most) = (size(bytes), size(most_bytes.into()));
                let problem = format!("{array} {shape:?} would take {size}, expected at most {most}{whose}; lower {remedy}");
                return Err(PresetError::Invalid { setting, problem });
            }
        }
        Ok(())
    }
}

/// Bytes for people, rounded up.
fn size(bytes: u128) -> String {
    const GIB: u128 = 1 << 30;
    if bytes < 10 * GIB { format!("{} MiB", bytes.div_ceil(1 << 20)) } else { format!("{} GiB", bytes.div_ceil(GIB)) }
}
