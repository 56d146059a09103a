//! A graph in static single assignment: values, and nodes in the order they were added.

use std::collections::HashMap;

use super::{DType, TensorData, TensorType};
use crate::ops::Op;

/// Why a node could not be added or differentiated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// The operator refused its inputs.
    #[error("{scope}{operator}: {problem}")]
    Shape {
        /// Where in the network, with a trailing `: `, or empty.
        scope: String,
        /// The operator.
        operator: &'static str,
        /// What was expected and what came.
        problem: String,
    },
    /// A gradient was asked of an operator that has no gradient rule for it.
    #[error("{scope}{operator}: its gradient is not known{detail}")]
    UnknownGradient {
        /// Where in the network, with a trailing `: `, or empty.
        scope: String,
        /// The operator.
        operator: &'static str,
        /// Which gradient.
        detail: String,
    },
    /// Weights that do not belong to the network.
    #[error("{0}")]
    Weights(String),
}

/// A value of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueSource {
    /// A named graph input.
    Input(String),
    /// A constant.
    Constant(TensorData),
    /// An output of a node.
    Node {
        /// Index into [`Graph::nodes`].
        node: usize,
        /// Index of the output.
        output: usize,
    },
}

/// A value: its type and source.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Type.
    pub ty: TensorType,
    /// Source.
    pub source: ValueSource,
}

/// An operator applied to values.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Operator with its attributes.
    pub op: Op,
    /// Inputs.
    pub inputs: Vec<ValueId>,
    /// Outputs.
    pub outputs: Vec<ValueId>,
    /// Where in the network: `layer1.0.conv1`, empty at the top.
    pub scope: String,
}

/// A graph under construction or complete. Nodes stand in a topological order.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<(String, ValueId)>,
    scope: String,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }

    /// Adds a named input.
    ///
    /// # Panics
    /// If the name is taken.
    pub fn input(&mut self, name: &str, ty: TensorType) -> ValueId {
        assert!(self.find_input(name).is_none(), "graph input {name} exists already");
        let id = self.add_value(Value { ty, source: ValueSource::Input(name.to_owned()) });
        self.inputs.push(id);
        id
    }

    /// Gives an input another name.
    ///
    /// # Panics
    /// If there is no input `from`, or `to` is taken.
    pub(crate) fn rename_input(&mut self, from: &str, to: &str) -> ValueId {
        assert!(self.find_input(to).is_none(), "graph input {to} exists already");
        let input = self.find_input(from).unwrap_or_else(|| panic!("there is no graph input {from}"));
        self.values[input.0].source = ValueSource::Input(to.to_owned());
        input
    }

    /// Adds a constant.
    ///
    /// # Panics
    /// If the number of elements does not fit the shape.
    pub fn constant(&mut self, shape: impl Into<Vec<usize>>, data: TensorData) -> ValueId {
        let ty = TensorType::new(data.dtype(), shape);
        assert_eq!(ty.elements(), data.len(), "a constant of type {ty}");
        self.add_value(Value { ty, source: ValueSource::Constant(data) })
    }

    /// Adds an f32 constant with one element, kept exact until it is written, of shape `[1; rank]`: a rank-0 constant makes ONNX Runtime's CPU
    /// provider take a slow broadcasting path.
    pub fn scalar(&mut self, value: f64, rank: usize) -> ValueId {
        self.constant(vec![1; rank], TensorData::Exact(vec![value]))
    }

    /// As [`scalar`](Self::scalar), of the element type and rank of a float `like`.
    ///
    /// # Panics
    /// If `like` is no float.
    pub fn scalar_like(&mut self, value: f64, like: ValueId) -> ValueId {
        let data = match self.dtype(like) {
            DType::F32 => TensorData::Exact(vec![value]),
            DType::F16 => TensorData::F16(vec![value]),
            other => panic!("a scalar like a float, got {other}"),
        };
        self.constant(vec![1; self.shape(like).len()], data)
    }

    /// Applies an operator with one output.
    ///
    /// # Errors
    /// Inputs that the operator refuses.
    pub fn apply(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let outputs = self.apply_all(op, inputs)?;
        debug_assert_eq!(outputs.len(), 1, "apply is for operators with one output");
        Ok(outputs[0])
    }

    /// Applies an operator and returns all its outputs.
    ///
    /// # Errors
    /// Inputs that the operator refuses.
    pub fn apply_all(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        let op = op.into();
        let types: Vec<&TensorType> = inputs.iter().map(|&input| self.ty(input)).collect();
        let inferred = op.infer(&types).map_err(|problem| GraphError::Shape { scope: self.scope_prefix(), operator: op.name(), problem })?;
        let node = self.nodes.len();
        let outputs =
            inferred.into_iter().enumerate().map(|(output, ty)| self.add_value(Value { ty, source: ValueSource::Node { node, output } })).collect::<Vec<_>>();
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), scope: self.scope.clone() });
        Ok(outputs)
    }

    /// Adds the nodes of another graph with `arguments` for its inputs, in their order, and returns the values of its outputs.
    ///
    /// # Errors
    /// None for arguments of its inputs' types.
    pub(crate) fn inline(&mut self, other: &Graph, arguments: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        let mut values: HashMap<ValueId, ValueId> = other.inputs.iter().copied().zip(arguments.iter().copied()).collect();
        for (id, value) in other.values() {
            if let ValueSource::Constant(data) = &value.source {
                values.insert(id, self.constant(value.ty.shape.clone(), data.clone()));
            }
        }
        for node in &other.nodes {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|input| values[input]).collect();
            let outputs = self.apply_all(node.op.clone(), &inputs)?;
            values.extend(node.outputs.iter().copied().zip(outputs));
        }
        Ok(other.outputs.iter().map(|(_, value)| values[value]).collect())
    }

    /// Names a value as a graph output.
    ///
    /// # Panics
    /// If the name is taken.
    pub fn output(&mut self, name: &str, value: ValueId) {
        assert!(self.outputs.iter().all(|(taken, _)| taken != name), "graph output {name} exists already");
        self.outputs.push((name.to_owned(), value));
    }

    /// Takes all outputs away, to name others.
    pub(crate) fn take_outputs(&mut self) -> Vec<(String, ValueId)> {
        std::mem::take(&mut self.outputs)
    }

    /// Runs `build` inside a scope: nodes and errors carry `outer.name`.
    pub fn scoped<T>(&mut self, name: &str, build: impl FnOnce(&mut Graph) -> T) -> T {
        let outer = self.scope.clone();
        if !self.scope.is_empty() {
            self.scope.push('.');
        }
        self.scope.push_str(name);
        let result = build(self);
        self.scope = outer;
        result
    }

    /// Replaces the scope by that of an existing node while `build` runs: a gradient belongs where its operator stands.
    pub(crate) fn scoped_like<T>(&mut self, node: usize, build: impl FnOnce(&mut Graph) -> T) -> T {
        let outer = std::mem::replace(&mut self.scope, self.nodes[node].scope.clone());
        let result = build(self);
        self.scope = outer;
        result
    }

    /// The scope that nodes are added in; empty at the top.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    pub(crate) fn scope_prefix(&self) -> String {
        if self.scope.is_empty() { String::new() } else { format!("{}: ", self.scope) }
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.values[value.0].ty
    }

    /// Shape of a value.
    pub fn shape(&self, value: ValueId) -> &[usize] {
        &self.values[value.0].ty.shape
    }

    /// Element type of a value.
    pub fn dtype(&self, value: ValueId) -> DType {
        self.values[value.0].ty.dtype
    }

    /// A value.
    pub fn value(&self, value: ValueId) -> &Value {
        &self.values[value.0]
    }

    /// All values with their ids.
    pub fn values(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(index, value)| (ValueId(index), value))
    }

    /// Nodes, in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Inputs, in the order they were added.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Name of an input.
    ///
    /// # Panics
    /// If the value is no input.
    pub fn input_name(&self, value: ValueId) -> &str {
        match &self.value(value).source {
            ValueSource::Input(name) => name,
            _ => panic!("value {} is not a graph input", value.0),
        }
    }

    /// The input of a name.
    pub fn find_input(&self, name: &str) -> Option<ValueId> {
        self.inputs.iter().copied().find(|&input| self.input_name(input) == name)
    }

    /// Named outputs, in the order they were added.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// The output of a name.
    pub fn find_output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|(output, _)| output == name).map(|&(_, value)| value)
    }

    fn add_value(&mut self, value: Value) -> ValueId {
        self.values.push(value);
        ValueId(self.values.len() - 1)
    }
}
