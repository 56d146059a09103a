//! Every node of a model, with functions expanded.

use std::collections::{HashMap, HashSet};

use super::tables::{Place, Tables};
use super::{Refusal, Report};
use crate::onnx::operator_name;
use crate::onnx::proto::attribute_proto::AttributeType;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{AttributeProto, FunctionProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto, type_proto};

/// A malformed file could call functions in a circle.
const MAX_DEPTH: usize = 16;

/// Name of an operator's domain, name and overload.
type FunctionKey<'m> = (&'m str, &'m str, &'m str);

struct Walk<'m> {
    tables: &'m Tables,
    functions: HashMap<FunctionKey<'m>, &'m FunctionProto>,
    native: &'m [String],
    report: Report,
}

/// What is known of the values of one graph or function body.
#[derive(Default)]
struct Values<'m> {
    types: HashMap<&'m str, DataType>,
    constants: HashSet<&'m str>,
}

pub(super) fn walk(model: &ModelProto, tables: &Tables, native: &[String]) -> Report {
    let functions = model.functions.iter().map(|function| ((function.domain(), function.name(), function.overload()), function)).collect();
    let mut walk = Walk { tables, functions, native, report: Report::default() };
    if let Some(graph) = &model.graph {
        let mut values = Values::default();
        values.add_types(graph.input.iter().chain(&graph.output).chain(&graph.value_info));
        for tensor in &graph.initializer {
            values.types.insert(tensor.name(), DataType::try_from(tensor.data_type()).unwrap_or(DataType::Undefined));
            values.constants.insert(tensor.name());
        }
        walk.nodes(&graph.node, values, &model.opset_import, "", 0);
    }
    walk.report
}

impl<'m> Values<'m> {
    fn add_types(&mut self, infos: impl Iterator<Item = &'m ValueInfoProto>) {
        for info in infos {
            if let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
                self.types.insert(info.name(), DataType::try_from(tensor.elem_type()).unwrap_or(DataType::Undefined));
            }
        }
    }
}

impl<'m> Walk<'m> {
    fn nodes(&mut self, nodes: &'m [NodeProto], mut values: Values<'m>, opsets: &'m [OperatorSetIdProto], within: &str, depth: usize) {
        for node in nodes {
            let name = if node.name().is_empty() { node.op_type() } else { node.name() };
            let path = if within.is_empty() { name.to_owned() } else { format!("{within} › {name}") };
            match self.functions.get(&(node.domain(), node.op_type(), node.overload())) {
                Some(_) if self.native.iter().any(|native| native == node.op_type()) => self.report.native += 1,
                Some(function) => {
                    let function = *function;
                    self.call(node, function, &mut values, &path, depth);
                }
                // ONNX Runtime makes initializers of these.
                None if operator_name(node.domain(), node.op_type()) == "Constant" => note_constant(node, &mut values),
                None => {
                    if let Some(reason) = self.refusal(node, &values, opset(opsets, node.domain())) {
                        self.report.refusals.push(Refusal { node: path.clone(), operator: operator_name(node.domain(), node.op_type()), reason });
                    }
                    self.report.nodes += 1;
                    note_constant(node, &mut values);
                    // Bodies of If, Loop and Scan see the values around them.
                    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
                        let mut inner = Values { types: values.types.clone(), constants: values.constants.clone() };
                        inner.add_types(graph.input.iter().chain(&graph.output).chain(&graph.value_info));
                        inner.constants.extend(graph.initializer.iter().map(|tensor| tensor.name()));
                        self.nodes(&graph.node, inner, opsets, &path, depth + 1);
                    }
                }
            }
        }
    }

    fn call(&mut self, node: &'m NodeProto, function: &'m FunctionProto, values: &mut Values<'m>, path: &str, depth: usize) {
        if depth == MAX_DEPTH {
            let reason = format!("functions call each other more than {MAX_DEPTH} deep");
            self.report.refusals.push(Refusal { node: path.to_owned(), operator: operator_name(node.domain(), node.op_type()), reason });
            return;
        }
        let mut inner = Values::default();
        inner.add_types(function.value_info.iter());
        for (formal, actual) in function.input.iter().zip(&node.input) {
            if let Some(&ty) = values.types.get(actual.as_str()) {
                inner.types.insert(formal, ty);
            }
            if values.constants.contains(actual.as_str()) {
                inner.constants.insert(formal);
            }
        }
        for (formal, actual) in function.output.iter().zip(&node.output) {
            if let Some(&ty) = values.types.get(actual.as_str()) {
                inner.types.insert(formal, ty);
            }
        }
        self.nodes(&function.node, inner, &function.opset_import, path, depth + 1);
    }

    /// Why the provider does not take a node.
    fn refusal(&mut self, node: &NodeProto, values: &Values<'_>, opset: Option<i64>) -> Option<String> {
        let operator = operator_name(node.domain(), node.op_type());
        let Some(opset) = opset else { return Some(format!("the file does not import the domain of {operator}")) };
        let constraints = match self.tables.kernel(&operator, opset) {
            Ok(constraints) => constraints,
            Err(reason) => return Some(reason),
        };
        let mut untyped = false;
        for constraint in constraints {
            let (names, index, what) = match constraint.place {
                Place::Input(index) => (&node.input, index, "input"),
                Place::Output(index) => (&node.output, index, "output"),
            };
            let Some(name) = names.get(index).filter(|name| !name.is_empty()) else { continue };
            let Some(ty) = values.types.get(name.as_str()).and_then(|&ty| type_name(ty)) else {
                untyped = true;
                continue;
            };
            if !self.tables.takes(&constraint.types, ty) {
                return Some(format!("{what} {index} is {ty}, the kernel takes {}", constraint.types.join(", ")));
            }
        }
        self.report.untyped += usize::from(untyped);
        for limit in self.tables.attribute_limits(&operator) {
            let value = node.attribute.iter().find(|attribute| attribute.name() == limit.attribute).map(attribute_text);
            if let Some(value) = value.filter(|value| !limit.values.contains(value)) {
                return Some(format!("{} is {value}, expected {}: {}", limit.attribute, limit.values.join(" or "), limit.reason));
            }
        }
        let given = |index: usize| node.input.get(index).filter(|name| !name.is_empty());
        let changing = |&(index, _): &(usize, &str)| given(index).is_some_and(|name| !values.constants.contains(name.as_str()));
        self.tables.constant_inputs(&operator).find(changing).map(|(index, reason)| format!("input {index} is computed by the graph: {reason}"))
    }
}

/// Version of a domain in a file.
fn opset(opsets: &[OperatorSetIdProto], domain: &str) -> Option<i64> {
    let normal = |domain: &str| if domain == "ai.onnx" { String::new() } else { domain.to_owned() };
    opsets.iter().find(|import| normal(import.domain()) == normal(domain)).map(OperatorSetIdProto::version)
}

/// The output of a Constant is one, and so is what is computed from constants alone when the session starts.
fn note_constant<'m>(node: &'m NodeProto, values: &mut Values<'m>) {
    let constant = node.input.iter().all(|input| input.is_empty() || values.constants.contains(input.as_str()));
    let output = node.output.first().map(String::as_str);
    if let Some(output) = output.filter(|_| constant) {
        values.constants.insert(output);
    }
    if node.op_type() == "Constant"
        && let (Some(output), Some(tensor)) = (output, node.attribute.iter().find_map(|attribute| attribute.t.as_ref()))
    {
        values.types.insert(output, DataType::try_from(tensor.data_type()).unwrap_or(DataType::Undefined));
    }
}

/// The name that the tables use.
fn type_name(ty: DataType) -> Option<&'static str> {
    Some(match ty {
        DataType::Undefined => return None,
        DataType::Float => "float",
        DataType::Float16 => "float16",
        DataType::Double => "double",
        DataType::Bfloat16 => "bfloat16",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::Uint8 => "uint8",
        DataType::Uint16 => "uint16",
        DataType::Uint32 => "uint32",
        DataType::Uint64 => "uint64",
        DataType::Bool => "bool",
        DataType::String => "string",
        _ => "a rare type",
    })
}

fn attribute_text(attribute: &AttributeProto) -> String {
    match attribute.r#type() {
        AttributeType::Int => attribute.i().to_string(),
        AttributeType::Float => attribute.f().to_string(),
        AttributeType::String => String::from_utf8_lossy(attribute.s()).into_owned(),
        other => other.as_str_name().to_lowercase(),
    }
}
