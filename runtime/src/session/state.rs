//! Tensors that live as long as an engine, and are bound to its sessions once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use graphgen::manifest::TensorSpec;
use graphgen::weights::{WeightTensor, Weights};
use ort::memory::Allocator;
use ort::session::{IoBinding, Session};
use ort::value::{PrimitiveTensorElementType, Tensor};

use super::engine_state::{NamedTensor, StateTensor, StateTensors};
use super::{ProviderError, SessionOptions};

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
    /// The provider is not there or does not start.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The device's memory is full.
    #[error("{activity}: {source}; {advice}")]
    Memory {
        /// What was going on.
        activity: String,
        /// What ONNX Runtime says.
        source: ort::Error,
        /// What to change.
        advice: &'static str,
    },
    /// Nodes lie on another provider than the run's.
    #[error(
        "{file}: {on_provider} nodes are on {provider}, {elsewhere} are not: {nodes}. Run graphgen check on the file to see why; operators named in \
         device.allow_on_cpu may stay on the CPU"
    )]
    Placement {
        /// The graph's file.
        file: PathBuf,
        /// ONNX Runtime's name of the provider.
        provider: &'static str,
        /// Nodes on it.
        on_provider: usize,
        /// Nodes that are elsewhere and not allowed to be.
        elsewhere: usize,
        /// Their operators and names.
        nodes: String,
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

    /// Says whose state or data it is that does not fit.
    pub(crate) fn of(self, whose: &str) -> EngineError {
        match self {
            EngineError::State { name, problem } => EngineError::State { name: format!("{name} of {whose}"), problem },
            other => other,
        }
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

/// A zeroed tensor in ONNX Runtime's memory on the host. Only such tensors can be bound as outputs, and only their memory
/// is shared between sessions rather than copied.
pub(crate) fn zeros<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug>(shape: &[usize]) -> ort::Result<Tensor<T>> {
    let mut tensor = Tensor::<T>::new(&Allocator::default(), shape)?;
    tensor.extract_tensor_mut().1.fill(T::default());
    Ok(tensor)
}

/// Where an engine's big tensors are.
pub(crate) enum Memory {
    /// In the host's.
    Host,
    /// In a device's; what the host reads and writes is copied.
    Device(Allocator),
}

impl Memory {
    /// The memory of a session's provider.
    pub(super) fn of(options: &SessionOptions, session: &Session) -> Result<Memory, EngineError> {
        let allocator = options.provider.allocator(session).map_err(EngineError::run("asking for the device's memory"))?;
        Ok(allocator.map_or(Memory::Host, Memory::Device))
    }

    /// A zeroed tensor here.
    pub(crate) fn zeros<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug>(&self, shape: &[usize]) -> ort::Result<Tensor<T>> {
        let host = zeros(shape)?;
        let Memory::Device(allocator) = self else { return Ok(host) };
        let mut tensor = Tensor::<T>::new(allocator, shape)?;
        host.copy_into(&mut tensor)?;
        Ok(tensor)
    }
}

/// An input that the host writes. ONNX Runtime copies an input from the host to a device when it is bound, not when a graph
/// runs: what is bound once has to lie on the device.
pub(crate) struct HostInput<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug> {
    host: Tensor<T>,
    device: Option<Tensor<T>>,
}

impl<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug> HostInput<T> {
    pub(crate) fn zeros(memory: &Memory, shape: &[usize]) -> ort::Result<HostInput<T>> {
        let device = matches!(memory, Memory::Device(_)).then(|| memory.zeros(shape)).transpose()?;
        Ok(HostInput { host: zeros(shape)?, device })
    }

    pub(crate) fn write(&mut self, data: &[T]) -> ort::Result<()> {
        self.host.extract_tensor_mut().1.copy_from_slice(data);
        self.device.as_mut().map_or(Ok(()), |device| self.host.copy_into(device))
    }

    /// What was written last.
    pub(crate) fn data(&self) -> &[T] {
        self.host.extract_tensor().1
    }

    /// What a graph reads.
    pub(crate) fn tensor(&self) -> &Tensor<T> {
        self.device.as_ref().unwrap_or(&self.host)
    }

    pub(crate) fn bind(&self, binding: &mut IoBinding, name: &str) -> ort::Result<bool> {
        binding.bind_input(name, self.tensor()).map(|()| true)
    }
}

/// Copies elements into a tensor wherever it is.
pub(crate) fn write<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug>(tensor: &mut Tensor<T>, data: &[T]) -> ort::Result<()> {
    if tensor.memory_info().is_cpu_accessible() {
        tensor.extract_tensor_mut().1.copy_from_slice(data);
        return Ok(());
    }
    let mut host = zeros::<T>(&dimensions(tensor))?;
    host.extract_tensor_mut().1.copy_from_slice(data);
    host.copy_into(tensor)
}

/// f32 tensors by name.
#[derive(Default)]
pub(crate) struct Tensors(BTreeMap<String, Tensor<f32>>);

impl Tensors {
    /// One zeroed tensor for each name and spec, on the host.
    pub(crate) fn zeros<'a>(specs: impl IntoIterator<Item = (&'a str, &'a TensorSpec)>) -> Result<Tensors, EngineError> {
        Tensors::zeros_in(&Memory::Host, specs)
    }

    /// One zeroed tensor for each name and spec.
    pub(crate) fn zeros_in<'a>(memory: &Memory, specs: impl IntoIterator<Item = (&'a str, &'a TensorSpec)>) -> Result<Tensors, EngineError> {
        let mut tensors = BTreeMap::new();
        for (name, spec) in specs {
            if spec.dtype != "f32" {
                return Err(EngineError::State { name: name.into(), problem: format!("expected type f32, the manifest says {}", spec.dtype) });
            }
            let tensor = memory.zeros(&spec.shape).map_err(EngineError::run(format!("allocating {name}")))?;
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

    /// A copy of a tensor; `None` if there is none of the name.
    pub(crate) fn get(&self, name: &str) -> Result<Option<WeightTensor>, EngineError> {
        self.0.get(name).map(|tensor| copy(tensor).map_err(EngineError::run(format!("reading {name}")))).transpose()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<f32>)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// All tensors, where they lie.
    pub(crate) fn state(&self) -> StateTensors<'_> {
        self.0.iter().map(|(name, tensor)| (name.clone(), Box::new(NamedTensor { name, tensor }) as Box<dyn StateTensor>)).collect()
    }

    /// Copies of all tensors.
    pub(crate) fn to_weights(&self) -> Result<Weights, EngineError> {
        let copies = self.0.iter().map(|(name, tensor)| Ok((name.clone(), copy(tensor).map_err(EngineError::run(format!("reading {name}")))?)));
        copies.collect()
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
    pub(crate) fn load(&mut self, weights: &Weights) -> Result<(), EngineError> {
        for (name, tensor) in &mut self.0 {
            if let Some(weight) = weights.get(name) {
                write(tensor, &weight.data).map_err(EngineError::run(format!("writing {name}")))?;
            }
        }
        Ok(())
    }
}

pub(crate) fn dimensions<T: PrimitiveTensorElementType + std::fmt::Debug>(tensor: &Tensor<T>) -> Vec<usize> {
    tensor.shape().iter().map(|&dimension| usize::try_from(dimension).expect("tensors have no negative dimensions")).collect()
}

/// A copy on the host.
pub(crate) fn copy(tensor: &Tensor<f32>) -> ort::Result<WeightTensor> {
    Ok(WeightTensor { shape: dimensions(tensor), data: read(tensor)? })
}

/// A copy of a tensor's elements, wherever it is.
pub(crate) fn read<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug>(tensor: &Tensor<T>) -> ort::Result<Vec<T>> {
    elements(tensor).map(Cow::into_owned)
}

/// The elements of a tensor: those on a device are copied.
pub(crate) fn elements<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug>(tensor: &Tensor<T>) -> ort::Result<Cow<'_, [T]>> {
    if tensor.memory_info().is_cpu_accessible() {
        return Ok(Cow::Borrowed(tensor.extract_tensor().1));
    }
    let mut host = zeros::<T>(&dimensions(tensor))?;
    tensor.copy_into(&mut host)?;
    Ok(Cow::Owned(host.extract_tensor().1.to_vec()))
}
