//! `optimizer_model.onnx`: one update of all parameters for the training API.
//!
//! The training API wants one `AdamWOptimizer` over sequences of all parameters, gradients and moments, in an order that it
//! does not promise, and gives nothing else but learning rate and step. So what a parameter needs is found out from the
//! tensors themselves: the function `OptimizerGradient` takes tensors of any shape, and prototypes are known by theirs.
//!
//! With `alpha = μ`, `beta = 1`, `epsilon = 1` and no bias correction, `AdamWOptimizer` computes `m ← μ·m + (1−μ)·g`,
//! `p ← p − lr·m / (√v + 1)` with `v = 0` for ever: SGD's momentum, for gradients divided by `1 − μ`. What LARS does to
//! the gradient stands before it. Adam and AdamW are what the operator is made for, as long as one step counts for all
//! parameters. Prototypes that were frozen have taken fewer: the operator does right by their moments, but corrects them
//! for the wrong number of steps, and decays frozen ones. So an `SGDOptimizerV2` subtracts the difference of the right
//! update from the operator's, and all decay, before the operator updates.

use crate::functions::SWAV_VERSION;
use crate::functions::optimizer::{LarsStep, decayed, norm};
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::nn::Parameter;
use crate::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::onnx::{OPSET, attribute, body_nodes, data_type, graph_attribute, tensor, tensor_attribute, value_info};
use crate::ops::{Attribute, Greater, Where};
use crate::optim::{ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, LARS_EPSILON, one_minus_power};
use crate::preset::{Optim, OptimizerName, Preset, Target};

/// What the operator takes for a gradient.
const FUNCTION: &str = "OptimizerGradient";
const SEQUENCES: [&str; 4] = ["params", "gradients", "first_order_moments", "second_order_moments"];

/// The model for the parameters of a preset's network. [`check`](super::check) has been asked before.
///
/// # Errors
/// None for a preset that can be trained.
pub(super) fn optimizer_model(preset: &Preset, parameters: &[Parameter]) -> Result<ModelProto, GraphError> {
    let mut nodes = Vec::new();
    let mut initializers = Vec::new();
    let corrects = corrects(preset);
    let (read, given) = if corrects { (&SEQUENCES[..], &["update", "correction"][..]) } else { (&SEQUENCES[..2], &["update"][..]) };
    let of_all = |name: &str| (0..parameters.len()).map(|index| format!("{name}/{index}")).collect::<Vec<_>>();
    for index in 0..parameters.len() {
        initializers.push(named(&format!("index/{index}"), &TensorType::new(DType::I64, vec![]), &TensorData::I64(vec![index as i64])));
        let numbered = |names: &[&str]| names.iter().map(|name| format!("{name}/{index}")).collect::<Vec<_>>();
        for (sequence, element) in read.iter().zip(numbered(read)) {
            nodes.push(node("SequenceAt", "", &[sequence, &format!("index/{index}")], &[&element]));
        }
        let inputs = numbered(read).into_iter().chain(["step".to_owned()]).collect();
        nodes.push(NodeProto { input: inputs, output: numbered(given), ..node(FUNCTION, "swav", &[], &[]) });
    }
    nodes.push(NodeProto { input: of_all("update"), ..node("SequenceConstruct", "", &[], &["updates"]) });
    let mut inputs = vec!["learning_rate", "step", "params", "updates", "first_order_moments", "second_order_moments"];
    if corrects {
        nodes.push(NodeProto { input: of_all("correction"), ..node("SequenceConstruct", "", &[], &["corrections"]) });
        initializers.push(named("zero", &TensorType::f32(vec![1]), &TensorData::F32(vec![0.0])));
        nodes.push(node("Greater", "", &["learning_rate", "zero"], &["moves"]));
        nodes.push(subtraction());
        // The operator's signal to update, which comes after the subtraction.
        inputs.push("corrected");
    }
    let attributes = adam_attributes(preset).iter().map(|(name, value)| attribute(name, value)).collect();
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
fn adam_attributes(preset: &Preset) -> [(&'static str, Attribute); 6] {
    let optim = &preset.optim;
    let float = |value: f64| Attribute::Float(value as f32);
    let decoupled = if corrects(preset) { 0.0 } else { decoupled_decay(optim) };
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

/// AdamW's decay.
fn decoupled_decay(optim: &Optim) -> f64 {
    if optim.name == OptimizerName::AdamW { optim.weight_decay } else { 0.0 }
}

/// Whether prototypes do not train from the start.
fn freezes(preset: &Preset) -> bool {
    preset.optim.freeze_prototypes_niters > 0
}

/// Whether the steps of prototypes are counted for themselves.
fn corrects(preset: &Preset) -> bool {
    freezes(preset) && matches!(preset.optim.name, OptimizerName::Adam | OptimizerName::AdamW)
}

/// `OptimizerGradient(parameter, gradient, step) → update`, for tensors of any shape, or with both moments before the step
/// `→ update, correction`.
///
/// They are flattened to rows first: norms are summed up row by row, as in our own optimizer graph.
fn gradient_function(preset: &Preset) -> Result<FunctionProto, GraphError> {
    let (read, given) = if corrects(preset) {
        (&["parameter", "gradient", "momentum", "variance"][..], &["update", "correction"][..])
    } else {
        (&["parameter", "gradient"][..], &["update"][..])
    };
    let flat = |name: &str| format!("flat/{name}");
    let flatten = |name: &&str| with_attribute(node("Flatten", "", &[name], &[&flat(name)]), "axis", &Attribute::Int(1));
    let mut nodes: Vec<NodeProto> = read.iter().map(flatten).collect();
    nodes.push(node("Shape", "", &["parameter"], &["shape"]));
    if freezes(preset) {
        nodes.extend(freezing(preset));
    }
    nodes.extend(body_nodes(&flat_gradient(preset)?, Target::Portable)?);
    nodes.extend(given.iter().map(|name| node("Reshape", "", &[&flat(name), "shape"], &[name])));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Ok(FunctionProto {
        name: Some(FUNCTION.to_owned()),
        domain: Some("swav".to_owned()),
        input: names(&[read, &["step"]].concat()),
        output: names(given),
        node: nodes,
        opset_import: opsets(&[("", OPSET)]),
        ..FunctionProto::default()
    })
}

/// `moves`, `learning_rate`, `params`, `corrections` → `corrected` bool [1], true: `p ← p − lr·correction`, in place.
///
/// It stands in a branch because the training API takes one optimizer in a graph; it does not look into branches.
fn subtraction() -> NodeProto {
    let flag = TensorType::new(DType::Bool, vec![1]);
    let constant = |name: &str, data: TensorData| constant(name, (TensorType::new(data.dtype(), vec![1]), data));
    let subtracts = vec![
        node("SGDOptimizerV2", "com.microsoft", &["learning_rate", "params", "corrections"], &["done"]),
        // ONNX Runtime infers no dimension for what has one.
        constant("one", TensorData::I64(vec![1])),
        node("Reshape", "", &["done", "one"], &["subtracted"]),
    ];
    let stays = vec![constant("unchanged", TensorData::Bool(vec![true]))];
    let branch = |output: &str, node| GraphProto { name: Some(output.to_owned()), output: vec![value_info(output, &flag)], node, ..GraphProto::default() };
    let (subtracts, stays) = (branch("subtracted", subtracts), branch("unchanged", stays));
    let attribute = vec![graph_attribute("then_branch", subtracts), graph_attribute("else_branch", stays)];
    NodeProto { attribute, ..node("If", "", &["moves"], &["corrected"]) }
}

/// `flat/parameter`, `flat/gradient` [R,C], with freezing also `frozen` bool [1,1] → `flat/update`, what the optimizer's
/// first moment takes up: nothing for frozen prototypes, so that they stay. What else [`correction`] needs.
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
            let norms = [norm(&mut g, p)?, norm(&mut g, gradient)?];
            step.scaled(&mut g, [p, gradient], norms)?
        }
        OptimizerName::Sgd | OptimizerName::Adam => decayed(&mut g, optim.weight_decay, p, gradient)?,
        OptimizerName::AdamW => g.identity(gradient)?,
    };
    let mut update = match optim.name {
        // The operator multiplies by 1 − μ in f32.
        OptimizerName::Lars | OptimizerName::Sgd => g.scale(update, 1.0 / f64::from(1.0 - optim.momentum as f32))?,
        OptimizerName::Adam | OptimizerName::AdamW => update,
    };
    if freezes(preset) {
        let (frozen, zero) = (g.input("frozen", TensorType::new(DType::Bool, vec![1, 1])), g.scalar(0.0, 2));
        update = g.apply(Where, &[frozen, zero, update])?;
        if corrects(preset) {
            let correction = correction(&mut g, preset, p, update)?;
            let correction = g.apply(Where, &[frozen, zero, correction])?;
            g.output("flat/correction", correction);
        }
    }
    g.output("flat/update", update);
    Ok(g)
}

/// What is to be subtracted besides what the operator subtracts, in units of the learning rate. Further inputs
/// `flat/momentum`, `flat/variance` [R,C], `prototypes` bool [1,1], `step` i64 [1].
fn correction(g: &mut Graph, preset: &Preset, p: ValueId, gradient: ValueId) -> Result<ValueId, GraphError> {
    let ty = g.ty(p).clone();
    let (momentum, variance) = (g.input("flat/momentum", ty.clone()), g.input("flat/variance", ty));
    let prototypes = g.input("prototypes", TensorType::new(DType::Bool, vec![1, 1]));
    let step = g.input("step", TensorType::new(DType::I64, vec![1]));
    let step = g.reshape(step, &[1, 1])?;
    let integer = |g: &mut Graph, value: i64| g.constant([1, 1], TensorData::I64(vec![value]));
    let (frozen, one) = (integer(g, -niters(preset)), integer(g, 1));
    let own = g.add(step, frozen)?;
    let started = g.apply(Greater, &[own, one])?;
    let own = g.apply(Where, &[started, own, one])?;

    // The operator has β in f32, and 1 − β from it.
    let [beta1, beta2] = [ADAM_BETA1, ADAM_BETA2].map(|beta| f64::from(beta as f32));
    let (old, new) = (g.scale(momentum, beta1)?, g.scale(gradient, 1.0 - beta1)?);
    let momentum = g.add(old, new)?;
    let square = g.mul(gradient, gradient)?;
    let (old, new) = (g.scale(variance, beta2)?, g.scale(square, 1.0 - beta2)?);
    let variance = g.add(old, new)?;
    let mut direction = |step: ValueId| {
        let steps = g.cast(step, DType::F32)?;
        let (correction1, correction2) = (one_minus_power(g, beta1, steps)?, one_minus_power(g, beta2, steps)?);
        let root = g.div(variance, correction2)?;
        let root = g.sqrt(root)?;
        let root = g.offset(root, ADAM_EPSILON)?;
        let denominator = g.mul(root, correction1)?;
        g.div(momentum, denominator)
    };
    let (right, of_operator) = (direction(own)?, direction(step)?);
    let difference = g.sub(right, of_operator)?;
    let zero = g.scalar(0.0, 2);
    let difference = g.apply(Where, &[prototypes, difference, zero])?;
    decayed(g, decoupled_decay(&preset.optim), p, difference)
}

/// Updates before prototypes train.
fn niters(preset: &Preset) -> i64 {
    i64::try_from(preset.optim.freeze_prototypes_niters).unwrap_or(i64::MAX)
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
        constant("niters", integers(&[1, 1], vec![niters(preset)])),
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
