//! The functions of the domain `swav` that a file holds.

use std::collections::{BTreeSet, HashMap};

use super::lower::{Constants, lower};
use super::proto::FunctionProto;
use super::tensor::value_info;
use super::writer::opset_imports;
use crate::ir::{GraphError, TensorType};
use crate::ops::{Domain, Op};
use crate::preset::Target;

/// Name of a domain in files; `ai.onnx` is written as the empty string.
pub(super) fn domain_name(domain: Domain) -> &'static str {
    match domain {
        Domain::Onnx => "",
        Domain::Microsoft => "com.microsoft",
        Domain::Swav => "swav",
    }
}

/// Collects one function for every distinct call: a body is written for the static shapes and attributes of its calls.
pub(super) struct Functions {
    target: Target,
    protos: Vec<FunctionProto>,
    /// By name, attributes and input types.
    overloads: HashMap<String, String>,
    count: HashMap<&'static str, usize>,
    /// Domains that bodies use: the file has to import them, since ONNX Runtime inlines bodies into the main graph.
    domains: BTreeSet<&'static str>,
}

impl Functions {
    pub(super) fn new(target: Target) -> Self {
        Functions { target, protos: Vec::new(), overloads: HashMap::new(), count: HashMap::new(), domains: BTreeSet::new() }
    }

    pub(super) fn target(&self) -> Target {
        self.target
    }

    /// The overload for a call, whose function is added on its first use.
    pub(super) fn overload(&mut self, op: &Op, inputs: &[&TensorType], scope: &str) -> Result<String, GraphError> {
        let key = format!("{} {:?} {inputs:?}", op.name(), op.attributes());
        if let Some(overload) = self.overloads.get(&key) {
            return Ok(overload.clone());
        }
        let count = self.count.entry(op.name()).or_default();
        let overload = count.to_string();
        *count += 1;
        self.overloads.insert(key, overload.clone());

        let problem = |problem: String| GraphError::Shape { scope: scope_prefix(scope), operator: op.name(), problem };
        let body = op.body(inputs, self.target)?.ok_or_else(|| problem(format!("it has no body in standard operators for the target {}", self.target)))?;
        let lowered = lower(&body, Constants::Nodes, self)?;
        self.domains.extend(&lowered.domains);
        let outputs = body.outputs().iter().map(|(name, value)| value_info(name, body.ty(*value)));
        self.protos.push(FunctionProto {
            name: Some(op.name().to_owned()),
            domain: Some(domain_name(op.domain()).to_owned()),
            overload: Some(overload.clone()),
            input: body.inputs().iter().map(|&input| body.input_name(input).to_owned()).collect(),
            output: body.outputs().iter().map(|(name, _)| name.clone()).collect(),
            // Declared because calls carry them for native kernels; the body has their values built in.
            attribute: op.attributes().into_iter().map(|(name, _)| name.to_owned()).collect(),
            node: lowered.nodes,
            value_info: outputs.chain(lowered.value_info).collect(),
            opset_import: opset_imports(&lowered.domains),
            ..FunctionProto::default()
        });
        Ok(overload)
    }

    pub(super) fn finish(self) -> (Vec<FunctionProto>, BTreeSet<&'static str>) {
        (self.protos, self.domains)
    }
}

pub(super) fn scope_prefix(scope: &str) -> String {
    if scope.is_empty() { String::new() } else { format!("{scope}: ") }
}
