//! Runs a graph with named inputs: in ONNX Runtime, and in graphgen's f64 evaluation.

use std::collections::BTreeMap;
use std::sync::Arc;

use graphgen::interpreter::{Evaluation, evaluate};
use graphgen::ir::{Graph, TensorData};
use graphgen::onnx::{ModelOptions, encode, write_model};
use graphgen::preset::Target;
use ndarray::{ArrayD, IxDyn};
use ort::value::{DynValue, Tensor};
use runtime::kernels::{KernelSet, native_operators};
use runtime::session::SessionOptions;
use runtime::session::environment::environment;

/// Inputs by name; those of type f32 may be exact.
pub type Inputs = BTreeMap<String, TensorData>;

/// How ONNX Runtime runs a graph.
#[derive(Debug, Clone, Copy)]
pub enum Variant {
    /// As the runtime does: channels-last maps and native kernels.
    Native,
    /// Any ONNX Runtime: standard operators only.
    Portable,
}

pub const VARIANTS: [Variant; 2] = [Variant::Native, Variant::Portable];

impl Variant {
    /// The target that its graphs are built for.
    pub fn target(self) -> Target {
        match self {
            Variant::Native => Target::Native,
            Variant::Portable => Target::Portable,
        }
    }
}

/// Evaluates a graph in f64.
pub fn in_f64(graph: &Graph, inputs: &Inputs) -> Evaluation {
    let array = |&input| {
        let name = graph.input_name(input);
        let data = inputs.get(name).unwrap_or_else(|| panic!("no value for the input {name}"));
        (name.to_owned(), ArrayD::from_shape_vec(IxDyn(graph.shape(input)), data.to_f64()).expect("the shape of the input"))
    };
    evaluate(graph, &graph.inputs().iter().map(array).collect())
}

/// Runs a graph of the variant's target in ONNX Runtime; the outputs of type f32.
pub fn in_onnx_runtime(graph: &Graph, inputs: &Inputs, variant: Variant) -> BTreeMap<String, Vec<f32>> {
    // The environment first: it loads the library that kernels are registered with.
    let environment = environment().expect("scripts/setup.sh has set ONNX Runtime up");
    let operators = match variant {
        Variant::Native => native_operators(KernelSet::Native, true, 1).expect("the native kernels"),
        Variant::Portable => None,
    };
    let model = write_model(graph, "golden", &ModelOptions::new(variant.target())).expect("a model");
    let options = SessionOptions { threads: 1, operators: operators.map(Arc::new), ..SessionOptions::default() };
    let mut session = options.open_bytes(&environment, &encode(&model).expect("a model")).expect("a graph that ONNX Runtime takes");
    let tensors: Vec<(String, DynValue)> = graph
        .inputs()
        .iter()
        .map(|&input| {
            let (name, shape) = (graph.input_name(input).to_owned(), graph.shape(input).to_vec());
            let data = inputs.get(&name).unwrap_or_else(|| panic!("no value for the input {name}"));
            (name, tensor(shape, data).expect("a tensor of the input's shape"))
        })
        .collect();
    let results = session.run(tensors).expect("a run");
    let outputs = graph.outputs().iter().filter_map(|(name, _)| {
        let (_, data) = results[name.as_str()].try_extract_tensor::<f32>().ok()?;
        Some((name.clone(), data.to_vec()))
    });
    outputs.collect()
}

fn tensor(shape: Vec<usize>, data: &TensorData) -> ort::Result<DynValue> {
    Ok(match data {
        TensorData::F32(data) => Tensor::from_array((shape, data.clone()))?.into_dyn(),
        &TensorData::Filled(value, len) => Tensor::from_array((shape, vec![value; len]))?.into_dyn(),
        TensorData::Exact(data) => Tensor::from_array((shape, data.iter().map(|&value| value as f32).collect::<Vec<_>>()))?.into_dyn(),
        TensorData::U8(data) => Tensor::from_array((shape, data.clone()))?.into_dyn(),
        TensorData::I64(data) => Tensor::from_array((shape, data.clone()))?.into_dyn(),
        TensorData::Bool(data) => Tensor::from_array((shape, data.clone()))?.into_dyn(),
        TensorData::F16(_) => return Err(ort::Error::new("the goldens are in f32 and f64")),
    })
}

/// Values of an output of an evaluation.
pub fn output<'a>(graph: &Graph, evaluation: &'a Evaluation, name: &str) -> &'a ArrayD<f64> {
    evaluation.get(graph.find_output(name).unwrap_or_else(|| panic!("there is no output {name}")))
}
