//! What a model holds and what a run of it costs, from the file alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::cost::{Cost, Type, function_key, run_cost};
use super::proto::{ModelProto, TensorProto, ValueInfoProto, tensor_proto::DataType};

/// A model's contents and cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// Version of the file format.
    pub ir_version: i64,
    /// Domain and version; `ai.onnx` is spelled out.
    pub opsets: Vec<(String, i64)>,
    /// Program that wrote the file, and its version.
    pub producer: String,
    /// Key-value pairs.
    pub metadata: Vec<(String, String)>,
    /// Inputs, without initializers: name and type.
    pub inputs: Vec<(String, String)>,
    /// Outputs: name and type.
    pub outputs: Vec<(String, String)>,
    /// Nodes of the main graph by operator; a function call is one.
    pub operators: BTreeMap<String, usize>,
    /// Nodes by operator once all functions are expanded, without constants.
    pub expanded: BTreeMap<String, usize>,
    /// Function bodies in the file.
    pub functions: usize,
    /// What is trained: inputs with a gradient. In a file without any, the floating-point initializers that are no scalars.
    pub parameters: Size,
    /// Other inputs that the graph returns changed, as `next/<name>`.
    pub state: Size,
    /// All initializers.
    pub initializers: Size,
    /// What a run costs.
    pub cost: Cost,
}

/// A number of tensors and how large they are together; tensors without a static shape count as empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Tensors.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Size {
    fn add(&mut self, ty: &Type) {
        self.tensors += 1;
        self.elements = self.elements.saturating_add(ty.elements().unwrap_or(0));
        self.bytes = self.bytes.saturating_add(ty.bytes().unwrap_or(0));
    }
}

impl<'t> FromIterator<&'t Type> for Size {
    fn from_iter<I: IntoIterator<Item = &'t Type>>(types: I) -> Self {
        types.into_iter().fold(Size::default(), |mut size, ty| {
            size.add(ty);
            size
        })
    }
}

/// Looks through a model that [`read_model`](super::read_model) accepted.
pub fn inspect(model: &ModelProto) -> Inspection {
    let empty = super::proto::GraphProto::default();
    let graph = model.graph.as_ref().unwrap_or(&empty);
    let initializers: HashMap<&str, Type> = graph.initializer.iter().map(|tensor| (tensor.name(), tensor_type(tensor))).collect();
    // Files of IR version 3 list initializers as inputs too.
    let inputs: Vec<(&str, Type)> = named_types(&graph.input).filter(|(name, _)| !initializers.contains_key(name)).collect();
    let outputs: Vec<(&str, Type)> = named_types(&graph.output).collect();
    let names: HashSet<&str> = inputs.iter().chain(&outputs).map(|(name, _)| *name).collect();
    let trained = |name: &str| names.contains(format!("grad/{name}").as_str());

    let mut parameters: Size = inputs.iter().filter(|(name, _)| trained(name)).map(|(_, ty)| ty).collect();
    if parameters.tensors == 0 {
        parameters = initializers.values().filter(|ty| ty.is_float() && ty.elements() > Some(1)).collect();
    }
    let state = inputs.iter().filter(|(name, _)| !trained(name) && names.contains(format!("next/{name}").as_str())).map(|(_, ty)| ty).collect();

    let mut types: HashMap<String, Type> = named_types(&graph.value_info).map(|(name, ty)| (name.to_owned(), ty)).collect();
    types.extend(inputs.iter().chain(&outputs).map(|(name, ty)| ((*name).to_owned(), ty.clone())));
    types.extend(initializers.iter().map(|(name, ty)| ((*name).to_owned(), ty.clone())));
    let functions = model.functions.iter().map(|function| (function_key(function.domain(), function.name(), function.overload()), function)).collect();
    let output_names: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
    let (cost, expanded) = run_cost(&graph.node, types, &output_names, &functions);

    let mut operators = BTreeMap::new();
    for node in graph.node.iter().filter(|node| node.op_type() != "Constant") {
        *operators.entry(operator_name(node.domain(), node.op_type())).or_default() += 1;
    }
    let described = |types: &[(&str, Type)]| types.iter().map(|(name, ty)| ((*name).to_owned(), ty.to_string())).collect();
    Inspection {
        ir_version: model.ir_version(),
        opsets: model.opset_import.iter().map(|import| (domain_label(import.domain()).to_owned(), import.version())).collect(),
        producer: [model.producer_name(), model.producer_version()].join(" ").trim().to_owned(),
        metadata: model.metadata_props.iter().map(|entry| (entry.key().to_owned(), entry.value().to_owned())).collect(),
        inputs: described(&inputs),
        outputs: described(&outputs),
        operators,
        expanded,
        functions: model.functions.len(),
        parameters,
        state,
        initializers: initializers.values().collect(),
        cost,
    }
}

fn domain_label(domain: &str) -> &str {
    if domain.is_empty() { "ai.onnx" } else { domain }
}

/// `Conv`, `com.microsoft::FusedMatMul`
pub(crate) fn operator_name(domain: &str, operator: &str) -> String {
    if domain.is_empty() || domain == "ai.onnx" { operator.to_owned() } else { format!("{domain}::{operator}") }
}

/// Names and types of tensors; other values are left out.
pub(super) fn named_types(infos: &[ValueInfoProto]) -> impl Iterator<Item = (&str, Type)> {
    infos.iter().filter_map(|info| Some((info.name(), Type::from_proto(info.r#type.as_ref()?)?)))
}

/// Type of a constant.
pub(super) fn tensor_type(tensor: &TensorProto) -> Type {
    Type::new(
        DataType::try_from(tensor.data_type()).unwrap_or(DataType::Undefined),
        tensor.dims.iter().map(|&dim| u64::try_from(dim).map_err(|_| "?".to_owned())).collect(),
    )
}
