//! The tables in `graphgen/kernels`, which `scripts/kernel_tables.py` writes.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde::Deserialize;

use super::ExecutionProvider;

const OPERATORS: &str = include_str!("../../kernels/operators.tsv");
const CPU: &str = include_str!("../../kernels/cpu.tsv");
const CUDA: &str = include_str!("../../kernels/cuda.tsv");
const DIRECTML: &str = include_str!("../../kernels/directml.tsv");
const ORT_TRAINING: &str = include_str!("../../kernels/ort-training.tsv");
const LIMITS: &str = include_str!("../../kernels/limits.toml");

/// A tensor of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Input(usize),
    Output(usize),
}

/// Element types that a kernel takes for one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Constraint {
    pub(super) place: Place,
    pub(super) types: Vec<&'static str>,
}

/// An attribute that may have certain values only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttributeLimit {
    providers: Vec<String>,
    operator: String,
    pub(super) attribute: String,
    pub(super) values: Vec<String>,
    pub(super) reason: String,
}

/// Inputs that must be constants, by operator.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConstantLimit {
    providers: Vec<String>,
    inputs: HashMap<String, Vec<usize>>,
    reason: String,
}

/// An element type that is computed as another.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Converted {
    providers: Vec<String>,
    from: String,
    to: String,
    #[serde(rename = "reason")]
    _reason: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    attribute: Vec<AttributeLimit>,
    constant: Vec<ConstantLimit>,
    converted: Vec<Converted>,
}

/// All that is known of a provider.
pub(super) struct Tables {
    provider: ExecutionProvider,
    /// By operator, then by since version.
    kernels: HashMap<&'static str, HashMap<i64, Vec<Constraint>>>,
    since: &'static HashMap<&'static str, Vec<i64>>,
    limits: &'static Limits,
}

impl Tables {
    pub(super) fn of(provider: ExecutionProvider) -> Tables {
        let table = match provider {
            ExecutionProvider::Cpu => CPU,
            ExecutionProvider::Cuda | ExecutionProvider::CudaNhwc => CUDA,
            ExecutionProvider::Directml => DIRECTML,
            ExecutionProvider::OrtTraining => ORT_TRAINING,
        };
        let mut kernels: HashMap<_, HashMap<_, Vec<_>>> = HashMap::new();
        for [operator, since, place, types] in table_rows(table) {
            let constraints = kernels.entry(operator).or_default().entry(number(since)).or_default();
            if let Some(place) = tensor(place) {
                constraints.push(Constraint { place, types: types.split(',').collect() });
            }
        }
        Tables { provider, kernels, since: since_versions(), limits: limits() }
    }

    /// The constraints of the provider's kernel for an operator of a model that imports `opset`.
    ///
    /// # Errors
    /// Why there is no kernel.
    pub(super) fn kernel(&self, operator: &str, opset: i64) -> Result<&[Constraint], String> {
        let Some(versions) = self.kernels.get(operator) else {
            if table_rows(ORT_TRAINING).any(|[known, ..]: [&str; 4]| known == operator) && table_rows(CPU).all(|[known, ..]: [&str; 4]| known != operator) {
                return Err(format!("only ONNX Runtime's training build has a kernel for {operator}"));
            }
            if !self.since.contains_key(operator) {
                return Err(format!("the table of the {} provider does not know {operator}", self.provider));
            }
            return Err(format!("the {} provider has no kernel for {operator}", self.provider));
        };
        // Operators of com.microsoft and of the training build have one version.
        let since = match self.since.get(operator) {
            Some(since) => since.iter().copied().filter(|&since| since <= opset).max().unwrap_or(0),
            None => 1,
        };
        versions.get(&since).map(Vec::as_slice).ok_or_else(|| {
            let mut known: Vec<i64> = versions.keys().copied().collect();
            known.sort_unstable();
            format!("in opset {opset} it is of version {since}, the {} provider has kernels for {known:?}", self.provider)
        })
    }

    /// Whether a kernel that takes `types` takes `ty`.
    pub(super) fn takes(&self, types: &[&str], ty: &str) -> bool {
        let converted = self.limits.converted.iter().find(|converted| self.is_of(&converted.providers) && converted.from == ty);
        types.contains(&ty) || converted.is_some_and(|converted| types.contains(&converted.to.as_str()))
    }

    /// Attributes of an operator that may have certain values only.
    pub(super) fn attribute_limits(&self, operator: &str) -> impl Iterator<Item = &AttributeLimit> {
        self.limits.attribute.iter().filter(move |limit| limit.operator == operator && self.is_of(&limit.providers))
    }

    /// Inputs of an operator that must be constants, and why.
    pub(super) fn constant_inputs(&self, operator: &str) -> impl Iterator<Item = (usize, &str)> {
        let limits = self.limits.constant.iter().filter(|limit| self.is_of(&limit.providers));
        limits.flat_map(move |limit| limit.inputs.get(operator).into_iter().flatten().map(|&input| (input, limit.reason.as_str())))
    }

    fn is_of(&self, providers: &[String]) -> bool {
        let name = self.provider.to_string();
        providers.contains(&name)
    }
}

fn limits() -> &'static Limits {
    static LIMITS_READ: OnceLock<Limits> = OnceLock::new();
    LIMITS_READ.get_or_init(|| toml::from_str(LIMITS).expect("graphgen/kernels/limits.toml is valid (tested)"))
}

fn since_versions() -> &'static HashMap<&'static str, Vec<i64>> {
    static SINCE: OnceLock<HashMap<&'static str, Vec<i64>>> = OnceLock::new();
    SINCE.get_or_init(|| table_rows(OPERATORS).map(|[operator, versions]| (operator, versions.split(',').map(number).collect())).collect())
}

/// The columns of every line that is no comment.
fn table_rows<const N: usize>(table: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    table.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        columns.try_into().unwrap_or_else(|columns| panic!("graphgen/kernels: expected {N} columns (tested), got {columns:?}"))
    })
}

fn number(text: &str) -> i64 {
    text.parse().expect("graphgen/kernels: versions are numbers (tested)")
}

/// `in0`, `out1`; `-` for none.
fn tensor(text: &str) -> Option<Place> {
    let index = |text: &str| text.parse().expect("graphgen/kernels: tensors are in0, out0, … (tested)");
    match (text.strip_prefix("in"), text.strip_prefix("out")) {
        (Some(input), _) => Some(Place::Input(index(input))),
        (None, Some(output)) => Some(Place::Output(index(output))),
        (None, None) => None,
    }
}
