//! One operator with inputs: evaluated in double precision and by ONNX Runtime.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use graphgen::interpreter::evaluate;
use graphgen::ir::{DType, Graph, TensorType};
use graphgen::onnx::{ModelOptions, encode, write_model};
use graphgen::ops::Op;
use graphgen::preset::Target;
use ndarray::{ArrayD, IxDyn};
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal, Uniform};
use runtime::session::environment::{EnvironmentError, Library};

use super::LIBRARY;

/// Distance of neighbouring f32 near 1.
pub const EPS: f64 = f32::EPSILON as f64;

/// A few roundings one after the other.
pub const FEW_ROUNDINGS: f64 = 4.0 * EPS;

/// Tolerance of a sum of n products in f32: rounding errors of random sign add up like √n.
pub fn sum_of(n: usize) -> f64 {
    (4.0 + (n as f64).sqrt()) * EPS
}

/// A tensor whose elements its element type represents exactly.
#[derive(Debug, Clone)]
pub struct Input {
    pub ty: TensorType,
    pub values: ArrayD<f64>,
}

impl Input {
    pub fn new(dtype: DType, shape: &[usize], values: Vec<f64>) -> Self {
        let values = ArrayD::from_shape_vec(IxDyn(shape), values).expect("as many values as elements");
        Input::from_array(dtype, values)
    }

    /// Rounds f32.
    pub fn from_array(dtype: DType, values: ArrayD<f64>) -> Self {
        let values = if dtype == DType::F32 { values.mapv(|value| f64::from(value as f32)) } else { values };
        Input { ty: TensorType::new(dtype, values.shape()), values }
    }

    pub fn map(&self, f: impl FnMut(f64) -> f64) -> Self {
        Input::from_array(self.ty.dtype, self.values.mapv(f))
    }
}

/// A seeded source of inputs.
pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn normal(&mut self, shape: &[usize]) -> Input {
        let values = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut self.0)).collect();
        Input::new(DType::F32, shape, values)
    }

    /// In 0.5…2: divisors, variances, arguments of logarithms.
    pub fn positive(&mut self, shape: &[usize]) -> Input {
        self.uniform(DType::F32, shape, 0.5, 2.0)
    }

    pub fn uniform(&mut self, dtype: DType, shape: &[usize], low: f64, high: f64) -> Input {
        let distribution = Uniform::new(low, high).expect("a range");
        let values = (0..shape.iter().product()).map(|_| distribution.sample(&mut self.0)).map(|value| if dtype == DType::F32 { value } else { value.floor() });
        Input::new(dtype, shape, values.collect())
    }

    /// A number of channels, pixels or images.
    pub fn size(&mut self, sizes: RangeInclusive<usize>) -> usize {
        Uniform::try_from(sizes).expect("a range").sample(&mut self.0)
    }

    pub fn bools(&mut self, shape: &[usize]) -> Input {
        self.uniform(DType::Bool, shape, 0.0, 2.0)
    }
}

/// An operator, its inputs, and the largest difference relative to the largest element of an output.
pub struct Case {
    pub op: Op,
    pub inputs: Vec<Input>,
    pub tolerance: f64,
    /// How many of the outputs the graph has.
    outputs: usize,
}

pub fn case(op: impl Into<Op>, inputs: impl Into<Vec<Input>>, tolerance: f64) -> Case {
    Case { op: op.into(), inputs: inputs.into(), tolerance, outputs: usize::MAX }
}

impl Case {
    /// The same, of which only the first output is used.
    pub fn first_output(self) -> Self {
        Case { outputs: 1, ..self }
    }

    pub fn describe(&self, target: Target) -> String {
        let types: Vec<String> = self.inputs.iter().map(|input| input.ty.to_string()).collect();
        format!("{:?} of {} for {target:?}", self.op, types.join(", "))
    }

    pub fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        let inputs: Vec<_> = self.inputs.iter().enumerate().map(|(index, input)| graph.input(&format!("x{index}"), input.ty.clone())).collect();
        let outputs = graph.apply_all(self.op.clone(), &inputs).unwrap_or_else(|error| panic!("{error}"));
        for (index, output) in outputs.into_iter().enumerate().take(self.outputs) {
            graph.output(&format!("y{index}"), output);
        }
        graph
    }

    fn against_onnx_runtime(&self, environment: &Environment, target: Target, level: GraphOptimizationLevel) -> Result<f64, String> {
        against_onnx_runtime(environment, &self.graph(), &self.inputs, target, level)
    }

    /// Largest relative difference between a function's body and its own evaluation, both in double precision.
    fn body_against_eval(&self, target: Target) -> Result<f64, String> {
        let types: Vec<&TensorType> = self.inputs.iter().map(|input| &input.ty).collect();
        let body = self.op.body(&types, target).map_err(|error| error.to_string())?.ok_or("no body")?;
        let inputs = body.inputs().iter().zip(&self.inputs).map(|(&input, value)| (body.input_name(input).to_owned(), value.values.clone())).collect();
        let evaluation = evaluate(&body, &inputs);
        let values: Vec<&ArrayD<f64>> = self.inputs.iter().map(|input| &input.values).collect();
        let expected = self.op.eval(&values);
        if expected.len() != body.outputs().len() {
            return Err(format!("{} outputs, its body has {}", expected.len(), body.outputs().len()));
        }
        Ok(body.outputs().iter().zip(&expected).map(|((_, id), expected)| difference(evaluation.get(*id), expected)).fold(0.0, f64::max))
    }
}

/// Largest relative difference between ONNX Runtime and the interpreter, for a graph whose inputs are named `x0`, `x1`,
/// … and whose outputs `y0`, `y1`, ….
fn against_onnx_runtime(environment: &Environment, graph: &Graph, inputs: &[Input], target: Target, level: GraphOptimizationLevel) -> Result<f64, String> {
    let values: HashMap<String, ArrayD<f64>> = inputs.iter().enumerate().map(|(index, input)| (format!("x{index}"), input.values.clone())).collect();
    let expected = evaluate(graph, &values);
    let model = write_model(graph, "operator", &ModelOptions::new(target)).map_err(|error| error.to_string())?;
    let bytes = encode(&model).map_err(|error| error.to_string())?;
    let actual = run(environment, &bytes, inputs, graph.outputs().len(), level).map_err(|error| error.to_string())?;
    let mut worst: f64 = 0.0;
    for ((name, id), actual) in graph.outputs().iter().zip(actual) {
        let (ty, expected) = (graph.ty(*id), expected.get(*id));
        if actual.ty != *ty {
            return Err(format!("{name} is {}, inferred was {ty}", actual.ty));
        }
        worst = worst.max(difference(&actual.values, expected));
    }
    Ok(worst)
}

/// Relative to the largest element; infinite where one is not a number.
fn difference(actual: &ArrayD<f64>, expected: &ArrayD<f64>) -> f64 {
    assert_eq!(actual.shape(), expected.shape());
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let distance = actual.iter().zip(expected).map(|(a, b)| if (a - b).is_finite() { (a - b).abs() } else { f64::INFINITY }).fold(0.0, f64::max);
    if distance == 0.0 { 0.0 } else { distance / largest.max(f64::MIN_POSITIVE) }
}

/// The library's environment; `None` where the training build is not set up.
pub fn environment() -> Option<Environment> {
    match LIBRARY.environment() {
        Ok(environment) => Some(environment),
        Err(error @ (EnvironmentError::NotFound { .. } | EnvironmentError::NoTrainingApi { .. })) if LIBRARY == Library::Training => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs every case on ONNX Runtime, without and with its graph optimisations; reports all failures at once.
pub fn check_on_onnx_runtime(cases: &[Case], targets: &[Target]) {
    let Some(environment) = environment() else { return };
    let levels = [GraphOptimizationLevel::Disable, GraphOptimizationLevel::All];
    let runs = cases.iter().flat_map(|case| targets.iter().flat_map(move |&target| levels.into_iter().map(move |level| (case, target, level))));
    report(runs.filter_map(|(case, target, level)| {
        failure(case.against_onnx_runtime(&environment, target, level), case.tolerance)
            .map(|problem| format!("{} (level {level:?}): {problem}", case.describe(target)))
    }));
}

/// Runs a graph as [`check_on_onnx_runtime`] runs cases.
pub fn check_graph(graph: &Graph, inputs: &[Input], targets: &[Target], tolerance: f64) {
    let Some(environment) = environment() else { return };
    let levels = [GraphOptimizationLevel::Disable, GraphOptimizationLevel::All];
    let runs = targets.iter().flat_map(|&target| levels.into_iter().map(move |level| (target, level)));
    report(runs.filter_map(|(target, level)| {
        failure(against_onnx_runtime(&environment, graph, inputs, target, level), tolerance).map(|problem| format!("{target:?} (level {level:?}): {problem}"))
    }));
}

/// Compares every body with the function's evaluation.
pub fn check_bodies(cases: &[Case], targets: &[Target], tolerance: f64) {
    let runs = cases.iter().flat_map(|case| targets.iter().map(move |&target| (case, target)));
    report(runs.filter_map(|(case, target)| failure(case.body_against_eval(target), tolerance).map(|problem| format!("{}: {problem}", case.describe(target)))));
}

fn failure(difference: Result<f64, String>, tolerance: f64) -> Option<String> {
    match difference {
        Ok(difference) if difference <= tolerance => None,
        Ok(difference) => Some(format!("differs by {difference:.1e}, allowed are {tolerance:.1e}")),
        Err(problem) => Some(problem),
    }
}

/// Panics with all failures, if there are any.
pub fn report(failures: impl Iterator<Item = String>) {
    let failures: Vec<String> = failures.collect();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn run(
    environment: &Environment,
    model: &[u8],
    inputs: &[Input],
    outputs: usize,
    level: GraphOptimizationLevel,
) -> Result<Vec<Input>, Box<dyn std::error::Error>> {
    run_session(Session::builder(environment)?.with_optimization_level(level)?.with_intra_threads(1)?.commit_from_memory(model)?, inputs, outputs)
}

/// The outputs `y0`, `y1`, … of inputs `x0`, `x1`, ….
pub fn run_session(mut session: Session, inputs: &[Input], outputs: usize) -> Result<Vec<Input>, Box<dyn std::error::Error>> {
    let tensors = inputs.iter().enumerate().map(|(index, input)| Ok((format!("x{index}"), tensor(input)?))).collect::<ort::Result<Vec<_>>>()?;
    let results = session.run(tensors)?;
    (0..outputs).map(|index| array(&results[format!("y{index}").as_str()])).collect()
}

fn tensor(input: &Input) -> ort::Result<DynValue> {
    let (shape, values) = (input.ty.shape.clone(), input.values.iter());
    Ok(match input.ty.dtype {
        DType::F32 => Tensor::from_array((shape, values.map(|&value| value as f32).collect::<Vec<_>>()))?.into_dyn(),
        DType::F16 => return Err(ort::Error::new("f16 is tested by its emulation")),
        DType::F64 => Tensor::from_array((shape, values.copied().collect::<Vec<_>>()))?.into_dyn(),
        DType::U8 => Tensor::from_array((shape, values.map(|&value| value as u8).collect::<Vec<_>>()))?.into_dyn(),
        DType::I64 => Tensor::from_array((shape, values.map(|&value| value as i64).collect::<Vec<_>>()))?.into_dyn(),
        DType::Bool => Tensor::from_array((shape, values.map(|&value| value != 0.0).collect::<Vec<_>>()))?.into_dyn(),
    })
}

fn array(value: &DynValue) -> Result<Input, Box<dyn std::error::Error>> {
    let dims = |shape: &[i64]| shape.iter().map(|&dim| dim as usize).collect::<Vec<_>>();
    if let Ok((shape, data)) = value.try_extract_tensor::<f32>() {
        return Ok(Input::new(DType::F32, &dims(shape), data.iter().map(|&value| value.into()).collect()));
    }
    if let Ok((shape, data)) = value.try_extract_tensor::<f64>() {
        return Ok(Input::new(DType::F64, &dims(shape), data.to_vec()));
    }
    if let Ok((shape, data)) = value.try_extract_tensor::<i64>() {
        return Ok(Input::new(DType::I64, &dims(shape), data.iter().map(|&value| value as f64).collect()));
    }
    if let Ok((shape, data)) = value.try_extract_tensor::<u8>() {
        return Ok(Input::new(DType::U8, &dims(shape), data.iter().map(|&value| value.into()).collect()));
    }
    let (shape, data) = value.try_extract_tensor::<bool>()?;
    Ok(Input::new(DType::Bool, &dims(shape), data.iter().map(|&value| f64::from(u8::from(value))).collect()))
}
