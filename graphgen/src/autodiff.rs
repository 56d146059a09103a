//! Reverse-mode differentiation: a walk over the nodes from the loss back to the parameters.

use std::collections::HashMap;

use crate::ir::{Graph, GraphError, ValueId, ValueSource};
use crate::ops::Vjp;

/// Gradients of a scalar with respect to values, as new nodes of the graph; `None` for a value that the scalar does not
/// depend on, or only through values without a gradient (codes).
///
/// # Errors
/// An operator on the way without a gradient rule.
///
/// # Panics
/// If `scalar` has more than one element.
pub fn gradients(graph: &mut Graph, scalar: ValueId, with_respect_to: &[ValueId]) -> Result<Vec<Option<ValueId>>, GraphError> {
    assert_eq!(graph.ty(scalar).elements(), 1, "only a scalar has a gradient");
    let depends = dependants(graph, with_respect_to);
    let seed = graph.scalar(1.0, graph.shape(scalar).len());
    let mut gradients: HashMap<ValueId, ValueId> = HashMap::from([(scalar, seed)]);

    for index in (0..graph.nodes().len()).rev() {
        let node = &graph.nodes()[index];
        let output_gradients: Vec<Option<ValueId>> = node.outputs.iter().map(|output| gradients.get(output).copied()).collect();
        let needed: Vec<bool> = node.inputs.iter().map(|input| depends[input.0]).collect();
        if output_gradients.iter().all(Option::is_none) || !needed.contains(&true) {
            continue;
        }
        let (op, inputs, outputs) = (node.op.clone(), node.inputs.clone(), node.outputs.clone());
        // Of an input that stands there twice the first one's gradient comes in between.
        let sum_of = |(place, input)| if inputs[..place].contains(input) { None } else { gradients.get(input).copied() };
        let sums: Vec<Option<ValueId>> = inputs.iter().enumerate().map(sum_of).collect();
        let (input_gradients, left) = graph.scoped_like(index, |graph| {
            let (inputs, needed, sums) = (inputs.clone(), needed.clone(), sums.clone());
            let mut cx = Vjp { graph, operator: op.name(), inputs, outputs, gradients: output_gradients, needed, sums };
            op.vjp(&mut cx).map(|gradients| (gradients, cx.sums))
        })?;
        let taken = sums.iter().zip(&left).map(|(before, after)| before != after);
        for (((&input, gradient), needed), taken) in inputs.iter().zip(input_gradients).zip(needed).zip(taken) {
            let (Some(gradient), true) = (gradient, needed) else { continue };
            graph.scoped_like(index, |graph| {
                let gradient = undo_broadcast(graph, gradient, input)?;
                let total = match gradients.get(&input) {
                    Some(&other) if !taken => graph.add(other, gradient)?,
                    _ => gradient,
                };
                gradients.insert(input, total);
                Ok::<_, GraphError>(())
            })?;
        }
    }
    Ok(with_respect_to.iter().map(|value| gradients.get(value).copied()).collect())
}

/// For every value, whether it depends on one of `sources` or is one.
fn dependants(graph: &Graph, sources: &[ValueId]) -> Vec<bool> {
    let mut depends = vec![false; graph.values().count()];
    for source in sources {
        depends[source.0] = true;
    }
    for node in graph.nodes() {
        if node.inputs.iter().any(|input| depends[input.0]) {
            for output in &node.outputs {
                depends[output.0] = true;
            }
        }
    }
    depends
}

/// Sums a gradient over the axes along which its value was broadcast.
fn undo_broadcast(graph: &mut Graph, gradient: ValueId, value: ValueId) -> Result<ValueId, GraphError> {
    let (from, to) = (graph.shape(gradient).to_vec(), graph.shape(value).to_vec());
    debug_assert!(!matches!(graph.value(value).source, ValueSource::Constant(_)), "constants need no gradient");
    if from == to {
        return Ok(gradient);
    }
    let leading = from.len() - to.len();
    let axes: Vec<usize> = (0..from.len()).filter(|&axis| axis < leading || (to[axis - leading] == 1 && from[axis] != 1)).collect();
    let sum = if axes.is_empty() { gradient } else { graph.reduce_sum(gradient, &axes, true)? };
    graph.reshape(sum, &to)
}
