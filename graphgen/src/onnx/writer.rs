//! A graph → an ONNX model.

use std::collections::{BTreeMap, BTreeSet};

use super::OPSET;
use super::functions::{FunctionNames, Functions, domain_name};
use super::lower::{Constants, lower};
use super::proto::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto};
use super::tensor::{symbolic_value_info, value_info};
use crate::functions::SWAV_VERSION;
use crate::ir::{Graph, GraphError, ValueId};
use crate::ops::Domain;
use crate::preset::Target;

/// A dimension of a graph input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// A length.
    Static(usize),
    /// A name for a length that the caller chooses.
    Symbolic(String),
}

/// What a file says besides the graph.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Which bodies the functions get.
    pub target: Target,
    /// How functions of one name are told apart.
    pub function_names: FunctionNames,
    /// Dimensions of graph inputs and outputs that replace the static ones, by the name of the input or output.
    pub symbolic: BTreeMap<String, Vec<Dim>>,
    /// Key-value pairs of the file.
    pub metadata: BTreeMap<String, String>,
}

impl ModelOptions {
    /// Static shapes and no metadata; functions named as the target's ONNX Runtime can tell them apart.
    pub fn new(target: Target) -> Self {
        let function_names = if target == Target::OrtTraining { FunctionNames::Numbered } else { FunctionNames::Overloaded };
        ModelOptions { target, function_names, symbolic: BTreeMap::new(), metadata: BTreeMap::new() }
    }
}

impl Default for ModelOptions {
    /// [`Target::Portable`], static shapes and no metadata.
    fn default() -> Self {
        ModelOptions::new(Target::Portable)
    }
}

/// Writes a graph, with a function for every distinct call of the domain `swav`. Equal graphs give equal models.
///
/// Nodes that no output depends on are left out; all inputs are written. An output that is an input, a constant or
/// named before gets an Identity.
///
/// ```
/// use graphgen::ir::{Graph, TensorType};
/// use graphgen::onnx::{ModelOptions, encode, write_model};
/// use graphgen::preset::Target;
///
/// let mut graph = Graph::new();
/// let x = graph.input("x", TensorType::f32(vec![2, 3]));
/// let y = graph.scale(x, 2.0)?;
/// graph.output("y", y);
/// let model = write_model(&graph, "double", &ModelOptions::new(Target::Portable))?;
/// assert_eq!(model.graph.as_ref().map(|graph| graph.node.len()), Some(1));
/// let bytes = encode(&model)?;
/// # assert!(!bytes.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A function without a body for the target, an operator that the target does not have, an output with the name of an
/// input, symbolic dimensions for a name the graph does not have or in another number than its rank.
pub fn write_model(graph: &Graph, name: &str, options: &ModelOptions) -> Result<ModelProto, GraphError> {
    check_symbolic(graph, options)?;
    let mut functions = Functions::new(options.target, options.function_names);
    let mut lowered = lower(graph, Constants::Initializers, &mut functions)?;
    let (functions, body_domains) = functions.finish();
    lowered.domains.extend(body_domains);
    let info = |name: &str, value: ValueId| interface(graph, options, name, value);
    let graph_proto = GraphProto {
        name: Some(name.to_owned()),
        input: graph.inputs().iter().map(|&input| info(graph.input_name(input), input)).collect(),
        output: graph.outputs().iter().map(|(name, value)| info(name, *value)).collect(),
        node: lowered.nodes,
        initializer: lowered.initializers,
        // With symbolic dimensions the types in between are those of one example only.
        value_info: if options.symbolic.is_empty() { lowered.value_info } else { Vec::new() },
        ..GraphProto::default()
    };
    let entry = |(key, value): (&String, &String)| StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
    Ok(ModelProto {
        // 10 brought the field `overload`.
        ir_version: Some(if functions.iter().any(|function| function.overload.is_some()) { 10 } else { 8 }),
        opset_import: opset_imports(&lowered.domains),
        producer_name: Some(env!("CARGO_PKG_NAME").to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        metadata_props: options.metadata.iter().map(entry).collect(),
        graph: Some(graph_proto),
        functions,
        ..ModelProto::default()
    })
}

fn check_symbolic(graph: &Graph, options: &ModelOptions) -> Result<(), GraphError> {
    let error = |problem| Err(GraphError::Shape { scope: String::new(), operator: "symbolic dimensions", problem });
    for (name, dims) in &options.symbolic {
        match graph.find_input(name).or_else(|| graph.find_output(name)) {
            None => return error(format!("expected the name of a graph input or output, got {name}")),
            Some(value) if graph.shape(value).len() != dims.len() => return error(format!("{name} is {}, got {} dimensions", graph.ty(value), dims.len())),
            Some(_) => {}
        }
    }
    Ok(())
}

fn interface(graph: &Graph, options: &ModelOptions, name: &str, value: ValueId) -> ValueInfoProto {
    match options.symbolic.get(name) {
        Some(dims) => symbolic_value_info(name, graph.dtype(value), dims),
        None => value_info(name, graph.ty(value)),
    }
}

/// `ai.onnx` always, other domains where they are used.
pub(super) fn opset_imports(domains: &BTreeSet<&'static str>) -> Vec<OperatorSetIdProto> {
    [(Domain::Onnx, OPSET), (Domain::Microsoft, 1), (Domain::Swav, SWAV_VERSION)]
        .into_iter()
        .map(|(domain, version)| (domain_name(domain), version))
        .filter(|(domain, _)| domain.is_empty() || domains.contains(domain))
        .map(|(domain, version)| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) })
        .collect()
}
