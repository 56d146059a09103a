//! Golden files, and how far computed tensors are from them.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use super::formula::{PROJECTIONS, distance, project};

/// Folder of the goldens and of the scripts that write them.
pub fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file)
}

/// Settings as Python holds them: a JSON list of `section.key=value`.
pub fn overrides(list: &Value) -> Vec<String> {
    let texts = list.as_array().expect("a list of settings").iter();
    texts.map(|text| text.as_str().expect("a setting").to_owned()).collect()
}

/// A file of f64 matrices with JSON in its metadata.
pub struct Fixture {
    file: String,
    matrices: BTreeMap<String, Vec<f64>>,
    metadata: BTreeMap<String, String>,
}

impl Fixture {
    pub fn open(file: &str) -> Fixture {
        let bytes = std::fs::read(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a safetensors file");
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let f64s = |bytes: &[u8]| bytes.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect();
        let matrices = tensors.tensors().into_iter().map(|(name, view)| (name, f64s(view.data()))).collect();
        Fixture { file: file.to_owned(), matrices, metadata }
    }

    pub fn metadata(&self, key: &str) -> Value {
        let text = self.metadata.get(key).unwrap_or_else(|| panic!("{}: no metadata {key}", self.file));
        serde_json::from_str(text).expect("JSON")
    }

    /// All values of a matrix, row after row.
    pub fn values(&self, name: &str) -> &[f64] {
        self.matrices.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.file))
    }

    pub fn find(&self, name: &str) -> Option<&[f64]> {
        self.matrices.get(name).map(Vec::as_slice)
    }
}

/// A tensor's norm and projections.
pub struct Projected {
    pub name: String,
    pub row: Vec<f64>,
}

impl Projected {
    pub fn new(name: &str, values: impl IntoIterator<Item = f64>) -> Projected {
        Projected { name: name.to_owned(), row: project(name, values) }
    }
}

/// Relative distances of a set of tensors from a golden.
pub struct Distances {
    pub median: f64,
    pub largest: f64,
    /// The tensor that is farthest away.
    pub worst: String,
}

impl Display for Distances {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "median {:.1e}, largest {:.1e} ({})", self.median, self.largest, self.worst)
    }
}

/// Compares tensors with a golden whose rows are theirs in the order of their names; `exempt` ones are left out.
pub fn distances(mut tensors: Vec<Projected>, golden: &[f64], exempt: impl Fn(&str) -> bool) -> Distances {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(tensors.len() * (1 + PROJECTIONS), golden.len(), "as many tensors as the golden has rows");
    let rows = tensors.into_iter().zip(golden.chunks_exact(1 + PROJECTIONS));
    let mut all: Vec<(f64, String)> =
        rows.filter(|(tensor, _)| !exempt(&tensor.name)).map(|(tensor, golden)| (distance(&tensor.row, golden), tensor.name)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let median = all[all.len() / 2].0;
    let (largest, worst) = all.pop().expect("at least one tensor");
    Distances { median, largest, worst }
}

#[test]
fn distances_are_those_of_the_tensors() {
    let values: Vec<f64> = (0..1000).map(f64::from).collect();
    let golden = project("x", values.iter().copied());
    let moved = Projected::new("x", values.iter().map(|value| value * (1.0 + 1e-3)));
    let found = distances(vec![moved], &golden, |_| false).largest;
    assert!((0.5e-3..2e-3).contains(&found), "{found}");
    assert_eq!(distance(&[1.0, 0.0, 0.0, 0.0, 0.0], &[0.0; 5]), f64::INFINITY);
    assert_eq!(distance(&[f64::NAN; 5], &[1.0; 5]), f64::INFINITY);
}
