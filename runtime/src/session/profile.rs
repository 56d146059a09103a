//! Where the time of graphs goes, from ONNX Runtime's profiler.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// What ONNX Runtime puts before the names of a function's nodes when it puts them in the function's place.
const INLINED: &str = "_inlfunc_";
/// What it puts behind a node's name for the time that its kernel took.
const KERNEL_TIME: &str = "_kernel_time";

/// A function of the graphs, or a standard operator outside of one, and what it takes in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionTime {
    /// Its name. Nodes of a function's body count as the function.
    pub name: String,
    /// Kernels run in a step.
    pub kernels: usize,
    /// Their time in a step.
    pub time: Duration,
}

/// A convolution of some shape, or one of its gradients, and what it takes in a step as a kernel of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvolutionTime {
    /// `Convolution`, `ConvInputGrad` or `ConvWeightGrad`.
    pub function: String,
    /// Its sizes.
    pub shape: ConvolutionShape,
    /// Kernels run in a step.
    pub kernels: usize,
    /// Their time in a step.
    pub time: Duration,
}

impl ConvolutionTime {
    /// Floating-point operations in a step, by the definition: two for every product of an output with a weight.
    pub fn flops(&self) -> u64 {
        let ConvolutionShape { kernel, out_size, channels, images, .. } = self.shape;
        (2 * self.kernels * images * out_size.iter().product::<usize>() * channels.iter().product::<usize>() * kernel * kernel) as u64
    }
}

/// Sizes of a convolution of channels-last maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConvolutionShape {
    /// Side of the kernel.
    pub kernel: usize,
    /// Stride.
    pub stride: usize,
    /// Channels of its input and of its output.
    pub channels: [usize; 2],
    /// H and W of its input.
    pub size: [usize; 2],
    /// H and W of its output.
    pub out_size: [usize; 2],
    /// Images of the batch.
    pub images: usize,
}

impl ConvolutionShape {
    /// That of x [N,H,W,C], w [O,C,k,k] and y [N,H',W',O].
    fn new(x: &[usize], w: &[usize], y: &[usize]) -> Option<ConvolutionShape> {
        let (&[images, height, width, channels], &[out, _, kernel, _], &[_, out_height, out_width, _]) = (x, w, y) else { return None };
        let stride = height.div_ceil(out_height.max(1));
        Some(ConvolutionShape { kernel, stride, channels: [channels, out], size: [height, width], out_size: [out_height, out_width], images })
    }

    /// That of a native kernel's inputs and outputs.
    fn of_kernel(operator: &str, inputs: &[Vec<usize>], outputs: &[Vec<usize>]) -> Option<ConvolutionShape> {
        match (operator, inputs, outputs) {
            ("Convolution", [x, w], [y]) => ConvolutionShape::new(x, w, y),
            ("ConvInputGrad", [y, w, ..], [x]) => ConvolutionShape::new(x, w, y),
            ("ConvWeightGrad", [y, x], [w]) => ConvolutionShape::new(x, w, y),
            _ => None,
        }
    }
}

/// What the profiles of a step's sessions say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepProfile {
    /// The dearest first.
    pub functions: Vec<FunctionTime>,
    /// Those that are kernels of their own, by shape; none where functions run as their bodies.
    pub convolutions: Vec<ConvolutionTime>,
}

/// A profile that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: ONNX Runtime's profile cannot be read: {problem}", path.display())]
pub struct ProfileError {
    /// The file, or the folder of it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    name: String,
    #[serde(default)]
    dur: u64,
    #[serde(default)]
    args: Arguments,
}

#[derive(Deserialize, Default)]
struct Arguments {
    #[serde(default)]
    op_name: String,
    /// An element type with a shape for each tensor.
    #[serde(default)]
    input_type_shape: Vec<BTreeMap<String, Vec<usize>>>,
    #[serde(default)]
    output_type_shape: Vec<BTreeMap<String, Vec<usize>>>,
}

/// A node's kernel.
struct Node {
    /// The function that it is part of.
    function: String,
    convolution: Option<ConvolutionShape>,
    micros: Vec<u64>,
}

impl Node {
    fn new(name: &str, arguments: Arguments) -> Node {
        let shapes = |tensors: Vec<BTreeMap<String, Vec<usize>>>| tensors.into_iter().flat_map(BTreeMap::into_values).collect::<Vec<_>>();
        let (inputs, outputs) = (shapes(arguments.input_type_shape), shapes(arguments.output_type_shape));
        let convolution = ConvolutionShape::of_kernel(&arguments.op_name, &inputs, &outputs);
        Node { function: function_of(name, arguments.op_name), convolution, micros: Vec::new() }
    }
}

/// Kernels and their microseconds.
type Sums<K> = BTreeMap<K, (usize, u64)>;

/// Reads the profiles of a folder: those of sessions that ran `warm_up` steps, which do not count, and `steps` more.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn read_profiles(folder: &Path, warm_up: usize, steps: usize) -> Result<StepProfile, ProfileError> {
    let error = |path: &Path, problem: &dyn std::fmt::Display| ProfileError { path: path.into(), problem: problem.to_string() };
    let (mut functions, mut convolutions) = (Sums::new(), Sums::new());
    for entry in std::fs::read_dir(folder).map_err(|problem| error(folder, &problem))? {
        let path = entry.map_err(|problem| error(folder, &problem))?.path();
        let bytes = std::fs::read(&path).map_err(|problem| error(&path, &problem))?;
        let events: Vec<Event> = serde_json::from_slice(&bytes).map_err(|problem| error(&path, &problem))?;
        for Node { function, convolution, micros } in nodes(events) {
            let counted = &micros[micros.len() * warm_up / (warm_up + steps)..];
            if let Some(shape) = convolution {
                add(&mut convolutions, (shape, function.clone()), counted);
            }
            add(&mut functions, function, counted);
        }
    }
    let in_a_step = |(kernels, micros): (usize, u64)| (kernels / steps, Duration::from_secs_f64(micros as f64 / 1e6 / steps as f64));
    let mut functions: Vec<FunctionTime> = functions
        .into_iter()
        .map(|(name, sums)| {
            let (kernels, time) = in_a_step(sums);
            FunctionTime { name, kernels, time }
        })
        .collect();
    functions.sort_by_key(|function| std::cmp::Reverse(function.time));
    let convolutions = convolutions.into_iter().map(|((shape, function), sums)| {
        let (kernels, time) = in_a_step(sums);
        ConvolutionTime { function, shape, kernels, time }
    });
    Ok(StepProfile { functions, convolutions: convolutions.collect() })
}

/// The nodes of one session with the times of their kernels.
fn nodes(events: Vec<Event>) -> impl Iterator<Item = Node> {
    let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
    for event in events.into_iter().filter(|event| event.cat == "Node") {
        if let Some(name) = event.name.strip_suffix(KERNEL_TIME) {
            nodes.entry(name.to_owned()).or_insert_with(|| Node::new(name, event.args)).micros.push(event.dur);
        }
    }
    nodes.into_values()
}

fn add<K: Ord>(sums: &mut Sums<K>, key: K, times: &[u64]) {
    let (kernels, micros) = sums.entry(key).or_default();
    *kernels += times.len();
    *micros += times.iter().sum::<u64>();
}

/// The function that a node of this name and operator is part of.
fn function_of(node: &str, operator: String) -> String {
    match node.strip_prefix(INLINED).and_then(|rest| rest.split('_').next()) {
        Some(function) => function.to_owned(),
        None => operator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bodys_nodes_count_as_the_function_and_warm_up_does_not() {
        let event = |name: &str, operator: &str, micros: u64| serde_json::json!({ "cat": "Node", "name": format!("{name}_kernel_time"), "dur": micros, "args": { "op_name": operator } });
        let run = |factor: u64| {
            [
                event("_inlfunc_LarsStep_token_7_Mul", "Mul", 1000 * factor),
                event("_inlfunc_LarsStep_Add", "Add", 500 * factor),
                event("conv1/Convolution", "Convolution", 3000 * factor),
                event("loss/Mul", "Mul", 10 * factor),
            ]
        };
        let mut events: Vec<_> = [run(100), run(1), run(3)].into_iter().flatten().collect();
        events.push(serde_json::json!({ "cat": "Session", "name": "model_run", "dur": 9, "args": {} }));
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("train_step.json"), serde_json::to_vec(&events).expect("JSON")).expect("written");

        let profile = read_profiles(folder.path(), 1, 2).expect("read");
        assert_eq!(profile.convolutions, [], "the events have no shapes");
        let found: Vec<_> = profile.functions.iter().map(|function| (function.name.as_str(), function.kernels, function.time.as_micros())).collect();
        assert_eq!(found, [("Convolution", 1, 6000), ("LarsStep", 2, 3000), ("Mul", 1, 20)]);
    }

    #[test]
    fn convolutions_and_their_gradients_are_told_apart_by_their_shapes() {
        let (x, w, y) = ([8, 15, 14, 3], [5, 3, 3, 3], [8, 8, 7, 5]);
        let event = |name: &str, operator: &str, inputs: &[[usize; 4]], output: [usize; 4]| {
            let shapes = |shapes: &[[usize; 4]]| shapes.iter().map(|shape| serde_json::json!({ "float": shape })).collect::<Vec<_>>();
            let args = serde_json::json!({ "op_name": operator, "input_type_shape": shapes(inputs), "output_type_shape": shapes(&[output]) });
            serde_json::json!({ "cat": "Node", "name": format!("{name}_kernel_time"), "dur": 500, "args": args })
        };
        let events = [
            event("a/Convolution", "Convolution", &[x, w], y),
            event("b/Convolution", "Convolution", &[x, w], y),
            event("a/ConvInputGrad", "ConvInputGrad", &[y, w, x], x),
            event("a/ConvWeightGrad", "ConvWeightGrad", &[y, x], w),
        ];
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("train_step.json"), serde_json::to_vec(&events).expect("JSON")).expect("written");

        let convolutions = read_profiles(folder.path(), 0, 1).expect("read").convolutions;
        let found: Vec<_> = convolutions.iter().map(|convolution| (convolution.function.as_str(), convolution.kernels, convolution.time.as_micros())).collect();
        assert_eq!(found, [("ConvInputGrad", 1, 500), ("ConvWeightGrad", 1, 500), ("Convolution", 2, 1000)]);
        let shape = ConvolutionShape { kernel: 3, stride: 2, channels: [3, 5], size: [15, 14], out_size: [8, 7], images: 8 };
        for convolution in &convolutions {
            assert_eq!(convolution.shape, shape, "{}", convolution.function);
            assert_eq!(convolution.flops(), 2 * convolution.kernels as u64 * 8 * 8 * 7 * 5 * 3 * 9);
        }
    }

    #[test]
    fn what_is_no_profile_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(folder.path().join("other.json"), "{").expect("written");
        let error = read_profiles(folder.path(), 1, 2).expect_err("no profile").to_string();
        assert!(error.contains("other.json"), "{error}");
    }
}
