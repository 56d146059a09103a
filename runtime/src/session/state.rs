//! Tensors that live as long as an engine, and are bound to its sessions once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use graphgen::manifest::TensorSpec;
use graphgen::weights::{WeightTensor, Weights};
use ort::memory::Allocator;
use ort::session::IoBinding;
use ort::value::{PrimitiveTensorElementType, Tensor};

/// What can go wrong in an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A graph that ONNX Runtime does not accept.
    #[error("{file}: ONNX Runtime cannot load this graph: {source}")]
    Graph {
        /// The graph's file.
        file: PathBuf,
        /// What ONNX Runtime says.
        source: ort::Error,
    },
    /// A failure while a graph runs, or while tensors are made for it.
    #[error("{activity}: {source}")]
    Run {
        /// What was going on.
        activity: String,
        /// What ONNX Runtime says.
        source: ort::Error,
    },
    /// A graph whose inputs or outputs are not those of the contract.
    #[error("{graph}: {problem}")]
    Contract {
        /// The graph's file.
        graph: String,
        /// What was expected and what came.
        problem: String,
    },
    /// Weights or state of another network, or data of another size.
    #[error("{name}: {problem}")]
    State {
        /// The tensor.
        name: String,
        /// What was expected and what came.
        problem: String,
    },
}

impl EngineError {
    pub(crate) fn run(activity: impl Into<String>) -> impl FnOnce(ort::Error) -> EngineError {
        let activity = activity.into();
        move |source| EngineError::Run { activity, source }
    }
}

/// Momentum and the like, as they are saved.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OptimizerState {
    /// `momentum/<parameter>`, and `variance/<parameter>` of Adam and AdamW.
    pub moments: Weights,
    /// Updates made; Adam and AdamW only.
    pub step: Option<i64>,
}

/// The queue, as it is saved.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueState {
    /// f32 [A, L, D]: newest embeddings first.
    pub embeddings: WeightTensor,
    /// Rows that hold embeddings, 0…L.
    pub filled: i64,
}

/// A zeroed tensor in ONNX Runtime's memory. Only such tensors can be bound as outputs, and only their memory is
/// shared between sessions rather than copied.
pub(crate) fn zeros<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug>(shape: &[usize]) -> ort::Result<Tensor<T>> {
    let mut tensor = Tensor::<T>::new(&Allocator::default(), shape)?;
    tensor.extract_tensor_mut().1.fill(T::default());
    Ok(tensor)
}

/// f32 tensors by name.
#[derive(Default)]
pub(crate) struct Tensors(BTreeMap<String, Tensor<f32>>);

impl Tensors {
    /// One zeroed tensor for each name and spec.
    pub(crate) fn zeros<'a>(specs: impl IntoIterator<Item = (&'a str, &'a TensorSpec)>) -> Result<Tensors, EngineError> {
        let mut tensors = BTreeMap::new();
        for (name, spec) in specs {
            if spec.dtype != "f32" {
                return Err(EngineError::State { name: name.into(), problem: format!("expected type f32, the manifest says {}", spec.dtype) });
            }
            let tensor = zeros(&spec.shape).map_err(EngineError::run(format!("allocating {name}")))?;
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(Tensors(tensors))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Binds the tensor `name` to the graph input `input`; `false` if there is no such tensor.
    pub(crate) fn bind_input(&self, binding: &mut IoBinding, name: &str, input: &str) -> ort::Result<bool> {
        self.0.get(name).map_or(Ok(false), |tensor| binding.bind_input(input, tensor).map(|()| true))
    }

    /// Binds the tensor `name` to the graph output `output`; `false` if there is no such tensor.
    pub(crate) fn bind_output(&mut self, binding: &mut IoBinding, name: &str, output: &str) -> ort::Result<bool> {
        self.0.get_mut(name).map_or(Ok(false), |tensor| binding.bind_output(output, tensor).map(|()| true))
    }

    pub(crate) fn extend(&mut self, more: Tensors) {
        self.0.extend(more.0);
    }

    pub(crate) fn get(&self, name: &str) -> Option<WeightTensor> {
        self.0.get(name).map(copy)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<f32>)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Copies of all tensors.
    pub(crate) fn to_weights(&self) -> Weights {
        self.0.iter().map(|(name, tensor)| (name.clone(), copy(tensor))).collect()
    }

    /// Whether `weights` holds every tensor in its shape.
    pub(crate) fn check(&self, weights: &Weights) -> Result<(), EngineError> {
        for (name, tensor) in &self.0 {
            let Some(weight) = weights.get(name) else {
                return Err(EngineError::State { name: name.clone(), problem: "missing in what is being loaded".into() });
            };
            if dimensions(tensor) != weight.shape {
                let problem = format!("expected shape {:?}, got {:?}", dimensions(tensor), weight.shape);
                return Err(EngineError::State { name: name.clone(), problem });
            }
        }
        Ok(())
    }

    /// Overwrites all tensors that `weights` names; [`check`](Self::check) first.
    pub(crate) fn load(&mut self, weights: &Weights) {
        for (name, tensor) in &mut self.0 {
            if let Some(weight) = weights.get(name) {
                tensor.extract_tensor_mut().1.copy_from_slice(&weight.data);
            }
        }
    }
}

pub(crate) fn dimensions<T: PrimitiveTensorElementType + std::fmt::Debug>(tensor: &Tensor<T>) -> Vec<usize> {
    tensor.shape().iter().map(|&dimension| usize::try_from(dimension).expect("tensors have no negative dimensions")).collect()
}

pub(crate) fn copy(tensor: &Tensor<f32>) -> WeightTensor {
    WeightTensor { shape: dimensions(tensor), data: tensor.extract_tensor().1.to_vec() }
}
