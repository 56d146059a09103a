//! Weights of a file for a network: what fits by name and shape is taken, what does not is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::{Read, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::names::{COUNTER, Part, is_trunk, unwrapped};
use super::{Shapes, TensorInfo, Weights, WeightsError, WeightsFile};

/// Tensors that a message lists.
const SHOWN: usize = 8;

/// What a file has for a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// The tensors that fit, by the network's names: the whole backbone, and those parts of the head that fit.
    pub weights: Weights,
    /// What fits and what does not.
    pub report: ImportReport,
}

/// What was taken from a weights file, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// Tensors that were taken.
    pub taken: usize,
    /// Tensors of the network's head that keep their fresh initial values.
    pub fresh: Vec<FreshTensor>,
    /// Tensors of the file that the network has no use for.
    pub unused: Vec<UnusedTensor>,
    /// Names in the state dict that are no tensors.
    pub not_tensors: Vec<String>,
}

/// A tensor that keeps its fresh initial values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshTensor {
    /// The network's name.
    pub name: String,
    /// The network's shape.
    pub expected: Vec<usize>,
    /// The file's shape; `None` if it has no such tensor, equal to `expected` if other tensors of its layer stack do not fit.
    pub found: Option<Vec<usize>>,
}

/// A tensor of a file that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedTensor {
    /// Name in the file.
    pub name: String,
    /// Shape in the file.
    pub shape: Vec<usize>,
}

impl ImportReport {
    /// The report in lines of text.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} tensors taken", self.taken)];
        for FreshTensor { name, expected, found } in &self.fresh {
            lines.push(match found {
                None => format!("{name}: expected {expected:?}, found none; keeps its fresh initial values"),
                Some(found) if found == expected => {
                    format!("{name}: found {found:?} as expected, but the rest of the projection head does not fit; keeps its fresh initial values")
                }
                Some(found) => format!("{name}: expected {expected:?}, found {found:?}; keeps its fresh initial values"),
            });
        }
        lines.extend(self.unused.iter().map(|UnusedTensor { name, shape }| format!("{name}: {shape:?} in the file is not used")));
        lines.extend(self.not_tensors.iter().map(|name| format!("{name}: in the file is no tensor; not used")));
        lines
    }
}

/// Reads from a file what a network can use: safetensors, or PyTorch's `.pth`, `.pth.tar` and `.pt`. Names are PyTorch's,
/// with or without `module.` in front; `num_batches_tracked` is passed over.
///
/// The backbone must fit as a whole. The projection head is taken as a whole or not at all, and so is each head of
/// prototypes; what does not fit is not in the result and stands in the report.
///
/// # Errors
/// A file that cannot be read, and a backbone that does not fit: tensors that are missing, of other shapes, or left over;
/// values that are not finite in tensors that would be taken.
pub fn import(path: &Path, network: &Shapes) -> Result<Import, WeightsError> {
    import_from(&mut WeightsFile::open(path)?, network)
}

pub(super) fn import_from<R: Read + Seek>(file: &mut WeightsFile<R>, network: &Shapes) -> Result<Import, WeightsError> {
    let (chosen, report) = matched(file, network)?;
    let mut weights = Weights::new();
    for (name, stored) in chosen {
        let tensor = file.read(&stored)?;
        if let Some((place, &value)) = tensor.data.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(WeightsError::NotFinite { path: file.path().into(), name: stored, value, place });
        }
        weights.insert(name, tensor);
    }
    Ok(Import { weights, report })
}

/// The network's names with those in the file that they are taken from.
fn matched<R: Read + Seek>(file: &WeightsFile<R>, network: &Shapes) -> Result<(BTreeMap<String, String>, ImportReport), WeightsError> {
    let mismatch = |problem: String| WeightsError::Mismatch { path: file.path().to_owned(), problem };
    let mut found: BTreeMap<&str, (&str, &TensorInfo)> = BTreeMap::new();
    for (stored, info) in file.tensors() {
        let name = unwrapped(stored);
        if let Some((other, _)) = found.insert(name, (stored, info)) {
            return Err(mismatch(format!("holds both {other} and {stored}: expected one tensor for {name}")));
        }
    }
    let shape_of = |name: &str| found.get(name).map(|(_, info)| info.shape.as_slice());
    if !network.keys().any(|name| found.contains_key(name.as_str())) {
        let (expected, found) = (listed(network.keys().map(String::as_str)), listed(found.values().map(|(stored, _)| *stored)));
        return Err(mismatch(format!("no tensor has a name of the network; expected {expected}; found {found}")));
    }

    let fits = |(name, shape): (&String, &Vec<usize>)| shape_of(name) == Some(shape);
    let broken: BTreeSet<Part> = network.iter().filter(|&entry| !fits(entry)).map(|(name, _)| Part::of(name)).collect();
    let left_over = |name: &str| !network.contains_key(name) && is_trunk(name) && !name.ends_with(COUNTER);
    let surplus: Vec<&str> = found.keys().copied().filter(|name| left_over(name)).collect();
    if broken.contains(&Part::Backbone) || !surplus.is_empty() {
        return Err(mismatch(backbone_problem(network, &shape_of, &surplus)));
    }

    let (mut chosen, mut fresh) = (BTreeMap::new(), Vec::new());
    for (name, shape) in network {
        match found.get(name.as_str()) {
            Some((stored, _)) if !broken.contains(&Part::of(name)) => {
                chosen.insert(name.clone(), (*stored).to_owned());
            }
            other => fresh.push(FreshTensor { name: name.clone(), expected: shape.clone(), found: other.map(|(_, info)| info.shape.clone()) }),
        }
    }
    let unused = found.iter().filter(|(name, _)| !network.contains_key(**name) && !name.ends_with(COUNTER));
    let unused = unused.map(|(_, (stored, info))| UnusedTensor { name: (*stored).to_owned(), shape: info.shape.clone() }).collect();
    let report = ImportReport { taken: chosen.len(), fresh, unused, not_tensors: file.others().to_vec() };
    Ok((chosen, report))
}

/// What keeps the backbone from fitting, in one line.
fn backbone_problem<'f>(network: &Shapes, shape_of: &dyn Fn(&str) -> Option<&'f [usize]>, surplus: &[&str]) -> String {
    let mut problems = Vec::new();
    for (name, expected) in network.iter().filter(|(name, _)| Part::of(name) == Part::Backbone) {
        match shape_of(name) {
            Some(found) if found == expected => {}
            Some(found) => problems.push(format!("{name}: expected {expected:?}, found {found:?}")),
            None => problems.push(format!("{name}: expected {expected:?}, found none")),
        }
    }
    problems.extend(surplus.iter().map(|name| format!("{name}: the network has no such tensor")));
    format!("the backbone does not fit ({} tensors): {}. Choose the preset's model.arch, width and stem as the file's", problems.len(), listed(problems))
}

/// The first few of a list, and how many more there are.
fn listed<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    let mut count = 0_usize;
    for item in items {
        count += 1;
        if count <= SHOWN {
            let separator = if count == 1 { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{item}");
        }
    }
    if count > SHOWN {
        let _ = write!(text, ", and {} more", count - SHOWN);
    }
    text
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
