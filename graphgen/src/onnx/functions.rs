//! The functions of the domain `swav` that a file holds.

use std::collections::{BTreeSet, HashMap};

use super::lower::{Constants, lower};
use super::proto::{FunctionProto, NodeProto};
use super::tensor::value_info;
use super::writer::opset_imports;
use crate::ir::{Graph, GraphError, TensorType};
use crate::ops::{Domain, Op};
use crate::preset::Target;

/// Stands between the name and the number of a function; operators have none in their names.
pub(crate) const NUMBER_SEPARATOR: char = '_';

/// Name of a domain in files; `ai.onnx` is written as the empty string.
pub(super) fn domain_name(domain: Domain) -> &'static str {
    match domain {
        Domain::Onnx => "",
        Domain::Microsoft => "com.microsoft",
        Domain::Swav => "swav",
    }
}

/// How functions of one name for calls of several shapes are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FunctionNames {
    /// By ONNX's field `overload`, which came with IR version 10.
    #[default]
    Overloaded,
    /// By a number behind the name: ONNX Runtime 1.19 takes files of IR version 10, but the first function of a name for all
    /// calls of it.
    Numbered,
}

/// What a call is written as.
pub(super) struct Callee {
    pub(super) name: String,
    pub(super) overload: Option<String>,
}

/// Collects one function for every distinct call: a body is written for the static shapes and attributes of its calls.
pub(super) struct Functions {
    target: Target,
    names: FunctionNames,
    protos: Vec<FunctionProto>,
    /// Numbers of the functions by name, attributes and input types.
    overloads: HashMap<String, usize>,
    count: HashMap<&'static str, usize>,
    /// Domains that bodies use: the file has to import them, since ONNX Runtime inlines bodies into the main graph.
    domains: BTreeSet<&'static str>,
}

impl Functions {
    pub(super) fn new(target: Target, names: FunctionNames) -> Self {
        Functions { target, names, protos: Vec::new(), overloads: HashMap::new(), count: HashMap::new(), domains: BTreeSet::new() }
    }

    pub(super) fn target(&self) -> Target {
        self.target
    }

    fn callee(&self, op: &Op, number: usize) -> Callee {
        match self.names {
            FunctionNames::Overloaded => Callee { name: op.name().to_owned(), overload: Some(number.to_string()) },
            FunctionNames::Numbered => Callee { name: format!("{}{NUMBER_SEPARATOR}{number}", op.name()), overload: None },
        }
    }

    /// What a call is written as; its function is added on the first use.
    pub(super) fn call(&mut self, op: &Op, inputs: &[&TensorType], scope: &str) -> Result<Callee, GraphError> {
        let key = format!("{} {:?} {inputs:?}", op.name(), op.attributes());
        if let Some(&number) = self.overloads.get(&key) {
            return Ok(self.callee(op, number));
        }
        let count = self.count.entry(op.name()).or_default();
        let number = *count;
        *count += 1;
        self.overloads.insert(key, number);
        let callee = self.callee(op, number);

        let problem = |problem: String| GraphError::Shape { scope: scope_prefix(scope), operator: op.name(), problem };
        let body = op.body(inputs, self.target)?.ok_or_else(|| problem(format!("it has no body in standard operators for the target {}", self.target)))?;
        let lowered = lower(&body, Constants::Nodes, self)?;
        self.domains.extend(&lowered.domains);
        let outputs = body.outputs().iter().map(|(name, value)| value_info(name, body.ty(*value)));
        self.protos.push(FunctionProto {
            name: Some(callee.name.clone()),
            domain: Some(domain_name(op.domain()).to_owned()),
            overload: callee.overload.clone(),
            input: body.inputs().iter().map(|&input| body.input_name(input).to_owned()).collect(),
            output: body.outputs().iter().map(|(name, _)| name.clone()).collect(),
            // Declared because calls carry them for native kernels; the body has their values built in.
            attribute: op.attributes().into_iter().map(|(name, _)| name.to_owned()).collect(),
            node: lowered.nodes,
            value_info: outputs.chain(lowered.value_info).collect(),
            opset_import: opset_imports(&lowered.domains),
            ..FunctionProto::default()
        });
        Ok(callee)
    }

    pub(super) fn finish(self) -> (Vec<FunctionProto>, BTreeSet<&'static str>) {
        (self.protos, self.domains)
    }
}

/// The nodes of a graph that has no constants of its own beside them, as the body of a function.
///
/// # Errors
/// As [`write_model`](super::write_model).
pub(crate) fn body_nodes(graph: &Graph, target: Target) -> Result<Vec<NodeProto>, GraphError> {
    Ok(lower(graph, Constants::Nodes, &mut Functions::new(target, FunctionNames::Numbered))?.nodes)
}

pub(super) fn scope_prefix(scope: &str) -> String {
    if scope.is_empty() { String::new() } else { format!("{scope}: ") }
}
