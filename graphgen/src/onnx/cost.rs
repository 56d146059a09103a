//! Floating-point operations and memory of one run, from the static types in a file.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::inspection::{named_types, operator_name, tensor_type};
use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::dimension;
use super::proto::{FunctionProto, NodeProto, TypeProto, type_proto};

/// What one run costs, as far as shapes are static.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Floating-point operations of convolutions and matrix products, two for a multiplication with its addition.
    pub flops: u64,
    /// Convolutions and products of unknown shape, which `flops` does not count.
    pub unknown_products: usize,
    /// Bytes of the values alive together at the worst moment when nodes run in file order: neither inputs nor
    /// constants, no scratch memory of kernels, reshapes free. An estimate: a runtime chooses its own order and reuse.
    pub activation_bytes: u64,
    /// Values of unknown size, which `activation_bytes` does not count.
    pub unknown_values: usize,
}

/// Element type and dimensions; a dimension that is not static is its name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Type {
    dtype: DataType,
    dims: Vec<Result<u64, String>>,
}

impl Type {
    pub(super) fn new(dtype: DataType, dims: Vec<Result<u64, String>>) -> Self {
        Type { dtype, dims }
    }

    /// `None` for what is no tensor of known rank.
    pub(super) fn from_proto(proto: &TypeProto) -> Option<Self> {
        let Some(type_proto::Value::TensorType(tensor)) = &proto.value else { return None };
        let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match &dim.value {
            Some(dimension::Value::DimValue(length)) => u64::try_from(*length).map_err(|_| "?".to_owned()),
            Some(dimension::Value::DimParam(name)) => Err(name.clone()),
            None => Err("?".to_owned()),
        });
        Some(Type { dtype: DataType::try_from(tensor.elem_type()).unwrap_or(DataType::Undefined), dims: dims.collect() })
    }

    fn static_dims(&self) -> Option<Vec<u64>> {
        self.dims.iter().map(|dim| dim.clone().ok()).collect()
    }

    /// `None` without a static shape, and for a number that no tensor has.
    pub(super) fn elements(&self) -> Option<u64> {
        product(&self.static_dims()?)
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        let size = match self.dtype {
            DataType::Bool | DataType::Int8 | DataType::Uint8 => 1,
            DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
            DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
            DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
            _ => return None,
        };
        self.elements()?.checked_mul(size)
    }

    pub(super) fn is_float(&self) -> bool {
        matches!(self.dtype, DataType::Float | DataType::Double | DataType::Float16 | DataType::Bfloat16)
    }
}

fn product(dims: &[u64]) -> Option<u64> {
    dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim))
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = match self.dtype {
            DataType::Float => "f32".to_owned(),
            DataType::Double => "f64".to_owned(),
            DataType::Float16 => "f16".to_owned(),
            DataType::Uint8 => "u8".to_owned(),
            DataType::Int32 => "i32".to_owned(),
            DataType::Int64 => "i64".to_owned(),
            other => other.as_str_name().to_lowercase(),
        };
        let dims: Vec<String> = self.dims.iter().map(|dim| dim.as_ref().map_or_else(Clone::clone, u64::to_string)).collect();
        write!(f, "{dtype} [{}]", dims.join(", "))
    }
}

/// Domain, name and overload.
pub(super) type FunctionKey<'m> = (&'m str, &'m str, &'m str);

pub(super) fn function_key<'m>(domain: &'m str, name: &'m str, overload: &'m str) -> FunctionKey<'m> {
    (domain, name, overload)
}

/// Cost of the nodes that `outputs` depend on, and how many of each operator run with all functions expanded.
pub(super) fn run_cost(
    nodes: &[NodeProto],
    types: HashMap<String, Type>,
    outputs: &[&str],
    functions: &HashMap<FunctionKey<'_>, &FunctionProto>,
) -> (Cost, BTreeMap<String, usize>) {
    let mut walk = Walk { functions, cost: Cost::default(), operators: BTreeMap::new(), depth: 0, visited: 0 };
    walk.cost.activation_bytes = walk.run(nodes, types, outputs);
    (walk.cost, walk.operators)
}

struct Walk<'m> {
    functions: &'m HashMap<FunctionKey<'m>, &'m FunctionProto>,
    cost: Cost,
    operators: BTreeMap<String, usize>,
    depth: usize,
    /// Nodes walked so far, those of function bodies once a call.
    visited: usize,
}

/// A malformed file could call functions in a circle.
const MAX_DEPTH: usize = 16;
/// Functions that call functions several times each grow exponentially: beyond this, calls count as one node.
const MAX_VISITED: usize = 1_000_000;

impl Walk<'_> {
    /// Peak bytes of the values that the nodes write.
    fn run(&mut self, nodes: &[NodeProto], mut types: HashMap<String, Type>, outputs: &[&str]) -> u64 {
        let nodes = needed(nodes, outputs);
        self.visited += nodes.len() + 1;
        let buffers = Buffers::new(&nodes, outputs);
        let (mut alive, mut peak) = (0u64, 0u64);
        let mut sizes: HashMap<&str, u64> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            if let Some(tensor) = constant(node) {
                types.insert(node.output[0].clone(), tensor_type(tensor));
                continue;
            }
            let inside = match self.functions.get(&function_key(node.domain(), node.op_type(), node.overload())) {
                Some(function) if self.depth < MAX_DEPTH && self.visited < MAX_VISITED => self.call(node, function, &types),
                _ => {
                    *self.operators.entry(operator_name(node.domain(), node.op_type())).or_default() += 1;
                    self.count_flops(node, &types);
                    0
                }
            };
            for output in node.output.iter().filter(|output| !output.is_empty() && buffers.root(output) == output.as_str()) {
                let bytes = types.get(output).and_then(Type::bytes);
                self.cost.unknown_values += usize::from(bytes.is_none());
                sizes.insert(output, bytes.unwrap_or(0));
                alive = alive.saturating_add(bytes.unwrap_or(0));
            }
            peak = peak.max(alive.saturating_add(inside));
            for name in &buffers.dead_after[index] {
                alive = alive.saturating_sub(sizes.remove(name).unwrap_or(0));
            }
        }
        peak
    }

    /// Peak bytes inside a function's body, without its outputs.
    fn call(&mut self, node: &NodeProto, function: &FunctionProto, types: &HashMap<String, Type>) -> u64 {
        let mut inner: HashMap<String, Type> = named_types(&function.value_info).map(|(name, ty)| (name.to_owned(), ty)).collect();
        let pairs = function.input.iter().zip(&node.input).chain(function.output.iter().zip(&node.output));
        inner.extend(pairs.filter_map(|(inside, outside)| Some((inside.clone(), types.get(outside)?.clone()))));
        let outputs: Vec<&str> =
            function.output.iter().zip(&node.output).filter(|(_, outside)| !outside.is_empty()).map(|(inside, _)| inside.as_str()).collect();
        let outputs_bytes = outputs.iter().filter_map(|&output| inner.get(output)?.bytes()).fold(0, u64::saturating_add);
        self.depth += 1;
        let peak = self.run(&function.node, inner, &outputs);
        self.depth -= 1;
        peak.saturating_sub(outputs_bytes)
    }

    fn count_flops(&mut self, node: &NodeProto, types: &HashMap<String, Type>) {
        let dims = |name: Option<&String>| types.get(name?)?.static_dims();
        let elements = |name: Option<&String>| dims(name).and_then(|dims| product(&dims));
        let (a, b, y) = (node.input.first(), node.input.get(1), node.output.first());
        // Products behind each element of a convolution's output (input, if transposed).
        let taps = || Some(elements(b)? / dims(b)?.first().filter(|&&dim| dim > 0)?);
        let transposed = node.attribute.iter().any(|attribute| attribute.name() == "transA" && attribute.i() != 0);
        let products = match node.op_type() {
            "Conv" => elements(y).zip(taps()),
            "ConvTranspose" => elements(a).zip(taps()),
            "MatMul" | "FusedMatMul" | "Gemm" => elements(y).zip(dims(a).and_then(|dims| dims.iter().rev().nth(transposed.into()).copied())),
            _ => return,
        };
        match products {
            Some((elements, length)) => {
                self.cost.flops = self.cost.flops.saturating_add(elements.saturating_mul(length).saturating_mul(2));
            }
            None => self.cost.unknown_products += 1,
        }
    }
}

fn constant(node: &NodeProto) -> Option<&super::proto::TensorProto> {
    if node.op_type() != "Constant" || node.output.is_empty() {
        return None;
    }
    node.attribute.iter().find_map(|attribute| attribute.t.as_ref())
}

/// Nodes that an output depends on, in file order.
fn needed<'n>(nodes: &'n [NodeProto], outputs: &[&'n str]) -> Vec<&'n NodeProto> {
    let mut wanted: HashSet<&str> = outputs.iter().copied().collect();
    let mut needed: Vec<&NodeProto> = Vec::new();
    for node in nodes.iter().rev() {
        if node.output.iter().any(|output| wanted.contains(output.as_str())) {
            wanted.extend(node.input.iter().map(String::as_str));
            needed.push(node);
        }
    }
    needed.reverse();
    needed
}

/// Which values share memory, and when it is free.
struct Buffers<'n> {
    roots: HashMap<&'n str, &'n str>,
    /// Buffers last read or written by each node.
    dead_after: Vec<Vec<&'n str>>,
}

impl<'n> Buffers<'n> {
    fn new(nodes: &[&'n NodeProto], outputs: &[&'n str]) -> Self {
        let mut roots: HashMap<&str, &str> = HashMap::new();
        let mut last_use: HashMap<&str, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            if let (true, Some(from), Some(to)) = (moves_nothing(node), node.input.first(), node.output.first()) {
                let root = roots.get(from.as_str()).copied().unwrap_or(from);
                roots.insert(to, root);
            }
            for name in node.input.iter().chain(&node.output) {
                last_use.insert(roots.get(name.as_str()).copied().unwrap_or(name), index);
            }
        }
        for &output in outputs {
            last_use.remove(roots.get(output).copied().unwrap_or(output));
        }
        let mut dead_after = vec![Vec::new(); nodes.len()];
        for (name, index) in last_use {
            dead_after[index].push(name);
        }
        Buffers { roots, dead_after }
    }

    fn root<'s>(&'s self, name: &'s str) -> &'s str {
        self.roots.get(name).copied().unwrap_or(name)
    }
}

fn moves_nothing(node: &NodeProto) -> bool {
    matches!(node.op_type(), "Reshape" | "Flatten" | "Identity" | "Squeeze" | "Unsqueeze")
}
