//! Runs a graph in double precision: the oracle of the gradient checks.

use std::collections::HashMap;

use ndarray::{ArrayD, IxDyn};

use crate::ir::{Graph, ValueId, ValueSource};

/// Evaluates every value of a graph for the given inputs, by name.
///
/// # Panics
/// If an input is missing or has another shape than the graph says.
pub fn evaluate(graph: &Graph, inputs: &HashMap<String, ArrayD<f64>>) -> Evaluation {
    let mut values: Vec<Option<ArrayD<f64>>> = vec![None; graph.values().count()];
    for (id, value) in graph.values() {
        values[id.0] = match &value.source {
            ValueSource::Input(name) => {
                let array = inputs.get(name).unwrap_or_else(|| panic!("no value for the input {name}"));
                assert_eq!(array.shape(), value.ty.shape, "shape of the input {name}");
                Some(array.clone())
            }
            ValueSource::Constant(data) => Some(ArrayD::from_shape_vec(IxDyn(&value.ty.shape), data.to_f64()).expect("the graph checked the shape")),
            ValueSource::Node { .. } => None,
        };
    }
    for node in graph.nodes() {
        let inputs: Vec<&ArrayD<f64>> = node.inputs.iter().map(|input| values[input.0].as_ref().expect("topological order")).collect();
        let outputs = node.op.eval(&inputs);
        assert_eq!(outputs.len(), node.outputs.len(), "outputs of {}", node.op.name());
        for (&id, output) in node.outputs.iter().zip(outputs) {
            assert_eq!(output.shape(), graph.shape(id), "inferred shape of {}", node.op.name());
            values[id.0] = Some(output);
        }
    }
    Evaluation(values.into_iter().map(|value| value.expect("every value has a source")).collect())
}

/// All values of one evaluation.
pub struct Evaluation(Vec<ArrayD<f64>>);

impl Evaluation {
    /// A value.
    pub fn get(&self, value: ValueId) -> &ArrayD<f64> {
        &self.0[value.0]
    }
}
