//! 16-bit floats on a provider that computes them in 32 bits: every f16 value becomes an f32 value that went through f16.
//!
//! ONNX Runtime's CPU provider runs f16 graphs wholly in f32, without their rounding and without their overflow. Explicit
//! pairs of casts it keeps.

use std::collections::HashMap;

use crate::ir::{DType, Graph, GraphError, Node, TensorData, TensorType, ValueId, ValueSource};
use crate::ops::{Domain, Op};
use crate::preset::Target;

/// The same graph without f16 values: each of them is an f32 value that a pair of casts has rounded, inside the functions
/// that work on f16 as well, which are expanded.
///
/// # Errors
/// A function without a body for the target.
pub fn emulate_f16(graph: &Graph, target: Target) -> Result<Graph, GraphError> {
    let mut emulated = Graph::new();
    let inputs = graph.inputs().iter().map(|&input| (input, emulated.input(graph.input_name(input), graph.ty(input).clone())));
    let mut values: HashMap<ValueId, ValueId> = inputs.collect();
    copy(graph, target, &mut emulated, &mut values)?;
    for (name, value) in graph.outputs() {
        let value = mapped(graph, &mut emulated, &mut values, *value);
        emulated.output(name, value);
    }
    Ok(emulated)
}

/// Copies the nodes of a graph, whose inputs `values` maps already.
fn copy(graph: &Graph, target: Target, into: &mut Graph, values: &mut HashMap<ValueId, ValueId>) -> Result<(), GraphError> {
    for node in graph.nodes() {
        let inputs: Vec<ValueId> = node.inputs.iter().map(|&input| mapped(graph, into, values, input)).collect();
        let outputs = if node.scope.is_empty() {
            copy_node(graph, target, into, node, &inputs)?
        } else {
            into.scoped(&node.scope, |into| copy_node(graph, target, into, node, &inputs))?
        };
        values.extend(node.outputs.iter().copied().zip(outputs));
    }
    Ok(())
}

fn copy_node(graph: &Graph, target: Target, into: &mut Graph, node: &Node, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let is_f16 = |value: &ValueId| graph.dtype(*value) == DType::F16;
    let works_on_f16 = node.inputs.iter().chain(&node.outputs).any(is_f16);
    if works_on_f16 && node.op.domain() == Domain::Swav {
        let types: Vec<&TensorType> = node.inputs.iter().map(|&input| graph.ty(input)).collect();
        if let Some(body) = node.op.body(&types, target)? {
            let mut inner = body.inputs().iter().copied().zip(inputs.iter().copied()).collect();
            copy(&body, target, into, &mut inner)?;
            return Ok(body.outputs().iter().map(|(_, value)| mapped(&body, into, &mut inner, *value)).collect());
        }
    }
    let outputs = match &node.op {
        // Between f16 and f32 only the rounding is left.
        Op::Cast(cast) if is_f16(&node.inputs[0]) && cast.to == DType::F32 => vec![inputs[0]],
        Op::Cast(cast) if graph.dtype(node.inputs[0]) == DType::F32 && cast.to == DType::F16 => vec![inputs[0]],
        op => into.apply_all(op.clone(), inputs)?,
    };
    let rounded = outputs.into_iter().zip(&node.outputs).map(|(value, original)| if is_f16(original) { round(into, value) } else { Ok(value) });
    rounded.collect()
}

/// The copy of a value; constants are copied when they are first asked for.
fn mapped(graph: &Graph, into: &mut Graph, values: &mut HashMap<ValueId, ValueId>, value: ValueId) -> ValueId {
    if let Some(&known) = values.get(&value) {
        return known;
    }
    let ValueSource::Constant(data) = &graph.value(value).source else { unreachable!("nodes stand in a topological order") };
    let data = match data {
        TensorData::F16(data) => TensorData::Exact(data.iter().map(|&value| half::f16::from_f64(value).to_f64()).collect()),
        other => other.clone(),
    };
    let copy = into.constant(graph.shape(value).to_vec(), data);
    values.insert(value, copy);
    copy
}

/// Through f16 and back.
fn round(g: &mut Graph, x: ValueId) -> Result<ValueId, GraphError> {
    let f16 = g.cast(x, DType::F16)?;
    g.cast(f16, DType::F32)
}
