//! A graph → nodes, initializers and value types.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::functions::{Callee, Functions, domain_name, scope_prefix};
use super::proto::{NodeProto, TensorProto, ValueInfoProto};
use super::tensor::{attribute, tensor, tensor_attribute, value_info};
use crate::ir::{DType, Graph, GraphError, Node, TensorData, TensorType, ValueId, ValueSource};
use crate::ops::{Domain, InPlaceAccumulator, Operator};

/// Elements from which on a constant of one value is filled by a node instead of stored: the zeros that a max pooling's
/// gradient scatters into are as large as its input, gigabytes for large batches.
pub(super) const FILLED_FROM: usize = 16_384;

/// How constants are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constants {
    /// As initializers of the main graph.
    Initializers,
    /// As `Constant` nodes: functions have no initializers.
    Nodes,
}

/// What a graph becomes.
#[derive(Default)]
pub(super) struct Lowered {
    /// In topological order.
    pub(super) nodes: Vec<NodeProto>,
    /// Empty in functions.
    pub(super) initializers: Vec<TensorProto>,
    /// Types of all values that are neither inputs, outputs nor constants.
    pub(super) value_info: Vec<ValueInfoProto>,
    /// Domains of the nodes.
    pub(super) domains: BTreeSet<&'static str>,
}

/// Writes the nodes that an output depends on; values keep the names of inputs and outputs.
pub(super) fn lower(graph: &Graph, constants: Constants, functions: &mut Functions) -> Result<Lowered, GraphError> {
    let mut lowering = Lowering::new(graph, constants)?;
    let live = live_values(graph);
    for node in graph.nodes() {
        if node.outputs.iter().any(|output| live.contains(output)) {
            lowering.node(node, &live, functions)?;
        }
    }
    lowering.aliases();
    Ok(lowering.lowered)
}

/// Values that an output depends on.
fn live_values(graph: &Graph) -> HashSet<ValueId> {
    let mut live: HashSet<ValueId> = graph.outputs().iter().map(|&(_, value)| value).collect();
    for node in graph.nodes().iter().rev() {
        if node.outputs.iter().any(|output| live.contains(output)) {
            live.extend(&node.inputs);
        }
    }
    live
}

struct Lowering<'g> {
    graph: &'g Graph,
    constants: Constants,
    names: Names,
    values: HashMap<ValueId, String>,
    /// Name and message of every constant written, by the hash of its type and bytes.
    written: HashMap<u64, Vec<(String, TensorProto)>>,
    /// Names of the constants that are filled when the graph runs, by type and value.
    filled: HashMap<String, String>,
    lowered: Lowered,
}

impl<'g> Lowering<'g> {
    fn new(graph: &'g Graph, constants: Constants) -> Result<Self, GraphError> {
        let mut names = Names::default();
        let mut values = HashMap::new();
        for &input in graph.inputs() {
            names.reserve(graph.input_name(input));
            values.insert(input, graph.input_name(input).to_owned());
        }
        for (name, value) in graph.outputs() {
            if graph.find_input(name).is_some() {
                return Err(GraphError::Shape { scope: String::new(), operator: "Identity", problem: format!("output {name} has the name of an input") });
            }
            names.reserve(name);
            if matches!(graph.value(*value).source, ValueSource::Node { .. }) {
                values.entry(*value).or_insert_with(|| name.clone());
            }
        }
        Ok(Lowering { graph, constants, names, values, written: HashMap::new(), filled: HashMap::new(), lowered: Lowered::default() })
    }

    fn node(&mut self, node: &Node, live: &HashSet<ValueId>, functions: &mut Functions) -> Result<(), GraphError> {
        let (op, domain) = (&node.op, node.op.domain());
        let types: Vec<&TensorType> = node.inputs.iter().map(|&input| self.graph.ty(input)).collect();
        let callee = match domain {
            Domain::Swav => functions.call(op, &types, &node.scope)?,
            // Only the training API assigns to inputs, and it has no other way.
            Domain::Microsoft if !functions.target().formulations().microsoft && op.name() != InPlaceAccumulator::NAME => {
                let problem = format!("the target {} has operators of ai.onnx only, this one is of com.microsoft", functions.target());
                return Err(GraphError::Shape { scope: scope_prefix(&node.scope), operator: op.name(), problem });
            }
            Domain::Microsoft | Domain::Onnx => Callee { name: op.name().to_owned(), overload: None },
        };
        let mut input: Vec<String> = node.inputs.iter().map(|&input| self.value(input)).collect();
        for data in op.constant_inputs() {
            input.push(self.constant(&TensorType::new(data.dtype(), vec![data.len()]), &data));
        }
        let name = self.names.node(&node.scope, op.name());
        let mut output = Vec::with_capacity(node.outputs.len());
        for (index, &value) in node.outputs.iter().enumerate() {
            output.push(if live.contains(&value) { self.output(value, &name, index) } else { String::new() });
        }
        // A native kernel of a function wants every output listed.
        while domain != Domain::Swav && output.last().is_some_and(String::is_empty) {
            output.pop();
        }
        self.lowered.domains.insert(domain_name(domain));
        self.lowered.nodes.push(NodeProto {
            name: Some(name),
            op_type: Some(callee.name),
            domain: Some(domain_name(domain).to_owned()),
            overload: callee.overload,
            input,
            output,
            attribute: op.attributes().iter().map(|(name, value)| attribute(name, value)).collect(),
            ..NodeProto::default()
        });
        Ok(())
    }

    /// Name of a value that a node reads.
    fn value(&mut self, value: ValueId) -> String {
        if let Some(name) = self.values.get(&value) {
            return name.clone();
        }
        let ValueSource::Constant(data) = &self.graph.value(value).source else { unreachable!("inputs and outputs of earlier nodes have names") };
        let name = self.constant(self.graph.ty(value), data);
        self.values.insert(value, name.clone());
        name
    }

    /// Name of a value that a node writes.
    fn output(&mut self, value: ValueId, node: &str, index: usize) -> String {
        if let Some(name) = self.values.get(&value) {
            return name.clone();
        }
        let name = self.names.unique(format!("{node}:{index}"));
        self.lowered.value_info.push(value_info(&name, self.graph.ty(value)));
        self.values.insert(value, name.clone());
        name
    }

    /// Name of a constant, which is written on its first use; equal ones are written once.
    fn constant(&mut self, ty: &TensorType, data: &TensorData) -> String {
        if data.len() >= FILLED_FROM
            && let Some(value) = uniform(data)
        {
            return self.filled(ty, &value);
        }
        let message = tensor(ty, data);
        let mut hasher = DefaultHasher::new();
        (ty, &message.raw_data).hash(&mut hasher);
        let equal_hash = self.written.entry(hasher.finish()).or_default();
        if let Some((name, _)) = equal_hash.iter().find(|(_, written)| *written == message) {
            return name.clone();
        }
        let name = self.names.unique(constant_name(ty, data));
        equal_hash.push((name.clone(), message.clone()));
        match self.constants {
            Constants::Initializers => self.lowered.initializers.push(TensorProto { name: Some(name.clone()), ..message }),
            Constants::Nodes => {
                self.lowered.domains.insert(domain_name(Domain::Onnx));
                self.lowered.nodes.push(NodeProto {
                    name: Some(self.names.node("", "Constant")),
                    op_type: Some("Constant".to_owned()),
                    domain: Some(String::new()),
                    output: vec![name.clone()],
                    attribute: vec![tensor_attribute(message)],
                    ..NodeProto::default()
                });
            }
        }
        name
    }

    /// Name of a constant whose elements all have one value: a node that fills it takes no room in the file.
    fn filled(&mut self, ty: &TensorType, value: &TensorData) -> String {
        let key = format!("{ty} {value:?}");
        if let Some(name) = self.filled.get(&key) {
            return name.clone();
        }
        let dims: Vec<i64> = ty.shape.iter().map(|&dim| dim as i64).collect();
        let shape = self.constant(&TensorType::new(DType::I64, vec![dims.len()]), &TensorData::I64(dims));
        let name = self.names.unique(large_constant_name(ty));
        self.lowered.value_info.push(value_info(&name, ty));
        self.lowered.domains.insert(domain_name(Domain::Onnx));
        self.lowered.nodes.push(NodeProto {
            name: Some(self.names.node("", "ConstantOfShape")),
            op_type: Some("ConstantOfShape".to_owned()),
            domain: Some(String::new()),
            input: vec![shape],
            output: vec![name.clone()],
            attribute: vec![tensor_attribute(tensor(&TensorType::new(ty.dtype, vec![1]), value))],
            ..NodeProto::default()
        });
        self.filled.insert(key, name.clone());
        name
    }

    /// An Identity for every output that is an input, a constant, or a value that another output named.
    fn aliases(&mut self) {
        for (name, value) in self.graph.outputs() {
            let source = self.value(*value);
            if source == *name {
                continue;
            }
            self.lowered.domains.insert(domain_name(Domain::Onnx));
            self.lowered.nodes.push(NodeProto {
                name: Some(self.names.node("", "Identity")),
                op_type: Some("Identity".to_owned()),
                domain: Some(String::new()),
                input: vec![source],
                output: vec![name.clone()],
                ..NodeProto::default()
            });
        }
    }
}

/// The one value that all elements have, bit by bit.
fn uniform(data: &TensorData) -> Option<TensorData> {
    fn one<T: Copy + PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
        let first = values.next()?;
        values.all(|value| value == first).then_some(first)
    }
    Some(match data {
        &TensorData::Filled(value, _) => TensorData::F32(vec![value]),
        TensorData::F32(values) => TensorData::F32(vec![f32::from_bits(one(values.iter().map(|value| value.to_bits()))?)]),
        TensorData::Exact(values) => TensorData::F32(vec![f32::from_bits(one(values.iter().map(|&value| (value as f32).to_bits()))?)]),
        TensorData::F16(values) => TensorData::F16(vec![f64::from_bits(one(values.iter().map(|value| value.to_bits()))?)]),
        TensorData::U8(values) => TensorData::U8(vec![one(values.iter().copied())?]),
        TensorData::I64(values) => TensorData::I64(vec![one(values.iter().copied())?]),
        TensorData::Bool(values) => TensorData::Bool(vec![one(values.iter().copied())?]),
    })
}

/// `const/0.5`, `const/[1,2]`, `const/f32[64]`: a viewer shows what a small constant is.
fn constant_name(ty: &TensorType, data: &TensorData) -> String {
    match data {
        TensorData::F32(values) if values.len() == 1 => format!("const/{}", values[0]),
        TensorData::Filled(value, 1) => format!("const/{value}"),
        TensorData::Exact(values) if values.len() == 1 => format!("const/{}", values[0] as f32),
        TensorData::F16(values) if values.len() == 1 => format!("const/f16/{}", values[0]),
        TensorData::I64(values) if values.len() <= 4 => format!("const/{values:?}").replace(' ', ""),
        _ => large_constant_name(ty),
    }
}

fn large_constant_name(ty: &TensorType) -> String {
    format!("const/{}{:?}", ty.dtype, ty.shape).replace(' ', "")
}

/// Names given so far, to values and to nodes apart.
#[derive(Default)]
struct Names {
    values: HashSet<String>,
    nodes: HashMap<String, usize>,
}

impl Names {
    fn reserve(&mut self, name: &str) {
        self.values.insert(name.to_owned());
    }

    /// `name`, or `name_1`, `name_2`, … where it is taken.
    fn unique(&mut self, name: String) -> String {
        let mut candidate = name.clone();
        let mut number = 0;
        while !self.values.insert(candidate.clone()) {
            number += 1;
            candidate = format!("{name}_{number}");
        }
        candidate
    }

    /// `scope/Operator`, numbered from the second on. Operators have no `_` in their names, so numbers cannot clash.
    fn node(&mut self, scope: &str, operator: &str) -> String {
        let name = if scope.is_empty() { operator.to_owned() } else { format!("{scope}/{operator}") };
        let count = self.nodes.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name}_{}", *count - 1) }
    }
}
