//! `optimizer_model.onnx`: one update of all parameters for the training API.
//!
//! The training API wants one `AdamWOptimizer` over sequences of all parameters, gradients and moments, in an order that it
//! does not promise, and gives nothing else but learning rate and step. So what a parameter needs is found out from the
//! tensors themselves: the function `OptimizerGradient` takes tensors of any shape, and prototypes are known by theirs.
//!
//! With `alpha = μ`, `beta = 1`, `epsilon = 1` and no bias correction, `AdamWOptimizer` computes `m ← μ·m + (1−μ)·g`,
//! `p ← p − lr·m / (√v + 1)` with `v = 0` for ever: SGD's momentum, for gradients divided by `1 − μ`. What LARS does to
//! the gradient stands before it. Adam and AdamW are what the operator is made for.

use crate::functions::SWAV_VERSION;
use crate::functions::optimizer::{LarsStep, decayed};
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType};
use crate::nn::Parameter;
use crate::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::onnx::{OPSET, attribute, body_nodes, data_type, tensor, tensor_attribute, value_info};
use crate::ops::{Attribute, Where};
use crate::optim::{ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, LARS_EPSILON};
use crate::preset::{Optim, OptimizerName, Preset, Target};

const FUNCTION: &str = "OptimizerGradient";
const SEQUENCES: [&str; 4] = ["params", "gradients", "first_order_moments", "second_order_moments"];

/// The model for the parameters of a preset's network. [`check`](super::check) has been asked before.
///
/// # Errors
/// None for a preset that can be trained.
pub(super) fn optimizer_model(preset: &Preset, parameters: &[Parameter]) -> Result<ModelProto, GraphError> {
    let mut nodes = Vec::new();
    let mut initializers = Vec::new();
    let mut gradients = Vec::new();
    for index in 0..parameters.len() {
        initializers.push(named(&format!("index/{index}"), &TensorType::new(DType::I64, vec![]), &TensorData::I64(vec![index as i64])));
        let [index, parameter, gradient, update] = ["index", "parameter", "gradient", "update"].map(|name| format!("{name}/{index}"));
        nodes.push(node("SequenceAt", "", &["params", &index], &[&parameter]));
        nodes.push(node("SequenceAt", "", &["gradients", &index], &[&gradient]));
        nodes.push(node(FUNCTION, "swav", &[&parameter, &gradient, "step"], &[&update]));
        gradients.push(update);
    }
    nodes.push(NodeProto { input: gradients, ..node("SequenceConstruct", "", &[], &["updates"]) });
    let inputs = ["learning_rate", "step", "params", "updates", "first_order_moments", "second_order_moments"];
    let attributes = adam_attributes(&preset.optim).iter().map(|(name, value)| attribute(name, value)).collect();
    nodes.push(NodeProto { attribute: attributes, ..node("AdamWOptimizer", "com.microsoft", &inputs, &["updated"]) });

    let scalars = [value_info("learning_rate", &TensorType::f32(vec![1])), value_info("step", &TensorType::new(DType::I64, vec![1]))];
    let graph = GraphProto {
        name: Some("optimizer_model".to_owned()),
        input: scalars.into_iter().chain(SEQUENCES.map(sequence)).collect(),
        output: vec![value_info("updated", &TensorType::new(DType::Bool, vec![1]))],
        node: nodes.into_iter().enumerate().map(|(index, node)| NodeProto { name: Some(format!("node/{index}")), ..node }).collect(),
        initializer: initializers,
        ..GraphProto::default()
    };
    Ok(ModelProto {
        ir_version: Some(8),
        opset_import: opsets(&[("", OPSET), ("com.microsoft", 1), ("swav", SWAV_VERSION)]),
        producer_name: Some(env!("CARGO_PKG_NAME").to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(graph),
        functions: vec![gradient_function(preset)?],
        ..ModelProto::default()
    })
}

/// Attributes of the one `AdamWOptimizer`.
fn adam_attributes(optim: &Optim) -> [(&'static str, Attribute); 6] {
    let float = |value: f64| Attribute::Float(value as f32);
    let decoupled = if optim.name == OptimizerName::AdamW { optim.weight_decay } else { 0.0 };
    // Mode 0 is PyTorch's order, in which the decay comes first and the bias is corrected before epsilon is added; it always
    // corrects the bias. Mode 1 can leave that out.
    let (alpha, beta, epsilon, mode, corrects) = match optim.name {
        OptimizerName::Lars | OptimizerName::Sgd => (optim.momentum, 1.0, 1.0, 1, 0),
        OptimizerName::Adam | OptimizerName::AdamW => (ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, 0, 1),
    };
    [
        ("alpha", float(alpha)),
        ("beta", float(beta)),
        ("epsilon", float(epsilon)),
        ("weight_decay", float(decoupled)),
        ("adam_mode", Attribute::Int(mode)),
        ("correct_bias", Attribute::Int(corrects)),
    ]
}

/// `OptimizerGradient(parameter, gradient, step) → update`, for tensors of any shape.
///
/// They are flattened to rows first: norms are summed up row by row, as in our own optimizer graph.
fn gradient_function(preset: &Preset) -> Result<FunctionProto, GraphError> {
    let mut nodes = vec![
        with_attribute(node("Flatten", "", &["parameter"], &["flat/parameter"]), "axis", &Attribute::Int(1)),
        with_attribute(node("Flatten", "", &["gradient"], &["flat/gradient"]), "axis", &Attribute::Int(1)),
    ];
    nodes.push(node("Shape", "", &["parameter"], &["shape"]));
    if freezes(preset) {
        nodes.extend(freezing(preset));
    }
    nodes.extend(body_nodes(&flat_gradient(preset)?, Target::Portable)?);
    nodes.push(node("Reshape", "", &["flat/update", "shape"], &["update"]));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Ok(FunctionProto {
        name: Some(FUNCTION.to_owned()),
        domain: Some("swav".to_owned()),
        input: names(&["parameter", "gradient", "step"]),
        output: names(&["update"]),
        node: nodes,
        opset_import: opsets(&[("", OPSET)]),
        ..FunctionProto::default()
    })
}

/// `flat/parameter`, `flat/gradient` [R,C], with freezing also `frozen` bool [1,1] → `flat/update`, what the optimizer's first moment takes up: nothing for frozen prototypes, so that they stay.
fn flat_gradient(preset: &Preset) -> Result<Graph, GraphError> {
    let optim = &preset.optim;
    let mut g = Graph::new();
    // Any lengths do: no operator of the graph holds them.
    let ty = TensorType::f32(vec![2, 3]);
    let (p, gradient) = (g.input("flat/parameter", ty.clone()), g.input("flat/gradient", ty));
    let update = match optim.name {
        OptimizerName::Lars => {
            let step =
                LarsStep { momentum: optim.momentum, weight_decay: optim.weight_decay, trust_coefficient: optim.trust_coefficient, epsilon: LARS_EPSILON };
            step.scaled(&mut g, p, gradient)?
        }
        OptimizerName::Sgd | OptimizerName::Adam => decayed(&mut g, optim.weight_decay, p, gradient)?,
        OptimizerName::AdamW => g.identity(gradient)?,
    };
    let update = match optim.name {
        // The operator multiplies by 1 − μ in f32.
        OptimizerName::Lars | OptimizerName::Sgd => g.scale(update, 1.0 / f64::from(1.0 - optim.momentum as f32))?,
        OptimizerName::Adam | OptimizerName::AdamW => update,
    };
    let update = if freezes(preset) {
        let (frozen, zero) = (g.input("frozen", TensorType::new(DType::Bool, vec![1, 1])), g.scalar(0.0, 2));
        g.apply(Where, &[frozen, zero, update])?
    } else {
        update
    };
    g.output("flat/update", update);
    Ok(g)
}

/// Whether prototypes do not train from the start.
fn freezes(preset: &Preset) -> bool {
    preset.optim.freeze_prototypes_niters > 0
}

/// `prototypes` bool [1,1]: whether the parameter has the shape of a head of prototypes; `frozen` bool [1,1]: whether it stays
/// as it is in the update that is being made, which the training API's `step` counts.
fn freezing(preset: &Preset) -> Vec<NodeProto> {
    let counts = preset.model.nmb_prototypes.counts();
    let signatures = counts.iter().flat_map(|&count| [count as i64, preset.model.feat_dim as i64, 2]).collect();
    let integers = |shape: &[usize], values: Vec<i64>| (TensorType::new(DType::I64, shape), TensorData::I64(values));
    let (over_heads, over_dimensions) = (Attribute::Ints(vec![0]), Attribute::Ints(vec![1]));
    vec![
        node("Shape", "", &["shape"], &["rank"]),
        node("Shape", "", &["flat/parameter"], &["flat/shape"]),
        with_attribute(node("Concat", "", &["flat/shape", "rank"], &["signature"]), "axis", &Attribute::Int(0)),
        constant("signatures", integers(&[counts.len(), 3], signatures)),
        node("Sub", "", &["signature", "signatures"], &["differences"]),
        node("Abs", "", &["differences"], &["distances"]),
        with_attribute(node("ReduceMax", "", &["distances"], &["distance/head"]), "axes", &over_dimensions),
        with_attribute(node("ReduceMin", "", &["distance/head"], &["distance"]), "axes", &over_heads),
        constant("zero", integers(&[1, 1], vec![0])),
        node("Equal", "", &["distance", "zero"], &["prototypes"]),
        constant("niters", integers(&[1, 1], vec![i64::try_from(preset.optim.freeze_prototypes_niters).unwrap_or(i64::MAX)])),
        node("LessOrEqual", "", &["step", "niters"], &["early"]),
        node("And", "", &["prototypes", "early"], &["frozen"]),
    ]
}

fn node(operator: &str, domain: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { op_type: Some(operator.to_owned()), domain: Some(domain.to_owned()), input: names(inputs), output: names(outputs), ..NodeProto::default() }
}

fn with_attribute(mut node: NodeProto, name: &str, value: &Attribute) -> NodeProto {
    node.attribute.push(attribute(name, value));
    node
}

fn constant(name: &str, (ty, data): (TensorType, TensorData)) -> NodeProto {
    NodeProto { attribute: vec![tensor_attribute(tensor(&ty, &data))], ..node("Constant", "", &[], &[name]) }
}

fn named(name: &str, ty: &TensorType, data: &TensorData) -> TensorProto {
    TensorProto { name: Some(name.to_owned()), ..tensor(ty, data) }
}

fn sequence(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(data_type(DType::F32)), shape: None::<TensorShapeProto> };
    let element = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    let sequence = type_proto::Sequence { elem_type: Some(Box::new(element)) };
    let ty = TypeProto { value: Some(type_proto::Value::SequenceType(Box::new(sequence))), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(ty), ..ValueInfoProto::default() }
}

fn opsets(domains: &[(&str, i64)]) -> Vec<OperatorSetIdProto> {
    domains.iter().map(|&(domain, version)| OperatorSetIdProto { domain: Some(domain.to_owned()), version: Some(version) }).collect()
}
