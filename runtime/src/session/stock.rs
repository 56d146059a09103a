//! The stock engine: `train_step.onnx` and `optimizer.onnx` in any ONNX Runtime, with the state bound in place.
//!
//! All tensors are bound once. A parameter is an input of both graphs and, as `next/<parameter>`, an output of the
//! optimizer that overwrites it. ONNX Runtime does not know that the two are the same memory. That is safe here because
//! in both graphs every reader of a state's old value is an ancestor of the write: an update is computed from all of it.

use std::collections::BTreeMap;
use std::path::Path;

use graphgen::manifest::{GraphSpec, Manifest, TensorSpec};
use graphgen::weights::{WeightTensor, Weights};
use ort::environment::Environment;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use super::SessionOptions;
use super::state::{EngineError, OptimizerState, QueueState, Tensors, copy, dimensions, zeros};

/// What one forward and backward pass gives the host.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutput {
    /// Swapped prediction loss.
    pub loss: f32,
    /// The graph's `stats/…` scalars, without the prefix.
    pub stats: BTreeMap<String, f32>,
}

/// A graph with everything bound.
struct Bound {
    file: String,
    session: Session,
    binding: IoBinding,
}

impl Bound {
    fn open(environment: &Environment, directory: &Path, spec: &GraphSpec, options: &SessionOptions) -> Result<Bound, EngineError> {
        let session = options.open(environment, &directory.join(&spec.file))?;
        let binding = session.create_binding().map_err(EngineError::run(format!("binding {}", spec.file)))?;
        Ok(Bound { file: spec.file.clone(), session, binding })
    }

    fn run(&mut self) -> Result<(), EngineError> {
        self.session.run_binding(&self.binding).map(drop).map_err(EngineError::run(format!("running {}", self.file)))
    }

    fn contract(&self, problem: impl Into<String>) -> EngineError {
        EngineError::Contract { graph: self.file.clone(), problem: problem.into() }
    }

    /// Every input of the session must be bound: ONNX Runtime reports a missing one only when it runs.
    fn bind_inputs(&mut self, mut bind: impl FnMut(&mut IoBinding, &str) -> ort::Result<bool>) -> Result<(), EngineError> {
        let names: Vec<String> = self.session.inputs().iter().map(|input| input.name().to_owned()).collect();
        for name in names {
            if !bind(&mut self.binding, &name).map_err(EngineError::run(format!("binding input {name} of {}", self.file)))? {
                return Err(self.contract(format!("input {name} is none of the contract's: graphs and program are of different versions")));
            }
        }
        Ok(())
    }
}

/// The queue's current rows, and those that the last step would go on with.
struct Queue {
    embeddings: Tensor<f32>,
    filled: Tensor<i64>,
    next_embeddings: Tensor<f32>,
    next_filled: Tensor<i64>,
}

impl Queue {
    fn zeros(shape: &[usize]) -> ort::Result<Queue> {
        Ok(Queue { embeddings: zeros(shape)?, filled: zeros(&[1])?, next_embeddings: zeros(shape)?, next_filled: zeros(&[1])? })
    }
}

/// Two sessions and their shared state.
pub struct StockEngine {
    train_step: Bound,
    optimizer: Bound,
    crops: Vec<Tensor<u8>>,
    parameters: Tensors,
    statistics: Tensors,
    moments: Tensors,
    step: Option<Tensor<i64>>,
    queue: Option<Queue>,
    learning_rate: Tensor<f32>,
    train_prototypes: Tensor<bool>,
    loss: Tensor<f32>,
    stats: Tensors,
    requested: Tensors,
    outputs: Vec<TensorSpec>,
}

impl StockEngine {
    /// Loads both graphs of an artifact directory and binds a zeroed state; [`load_weights`](Self::load_weights) next.
    ///
    /// # Errors
    /// Graphs that ONNX Runtime does not accept, or whose inputs and outputs are not those of the contract.
    pub fn open(environment: &Environment, directory: &Path, manifest: &Manifest, options: &SessionOptions) -> Result<StockEngine, EngineError> {
        let mut train_step = Bound::open(environment, directory, &manifest.train_step, options)?;
        let mut optimizer = Bound::open(environment, directory, &manifest.optimizer, options)?;

        let mut parameters = Tensors::zeros(manifest.parameters.iter().map(|spec| (spec.name.as_str(), spec)))?;
        let mut statistics = Tensors::zeros(manifest.running_statistics.iter().map(|spec| (spec.name.as_str(), spec)))?;
        let mut gradients = Tensors::zeros(named(&manifest.train_step.outputs, |name| name.starts_with("grad/")))?;
        let mut moments = Tensors::zeros(named(&manifest.optimizer.inputs, |name| name.starts_with("momentum/") || name.starts_with("variance/")))?;
        let mut stats = Tensors::zeros(named(&manifest.train_step.outputs, |name| name.starts_with("stats/")))?;

        let allocating = || EngineError::run("allocating the engine's tensors");
        let mut step = manifest.optimizer.inputs.iter().find(|input| input.name == "step").map(|_| zeros::<i64>(&[1])).transpose().map_err(allocating())?;
        let queue = manifest.train_step.inputs.iter().find(|input| input.name == "queue/embeddings");
        let mut queue = queue.map(|input| Queue::zeros(&input.shape)).transpose().map_err(allocating())?;
        let (learning_rate, train_prototypes) = (zeros::<f32>(&[1]).map_err(allocating())?, zeros::<bool>(&[1]).map_err(allocating())?);
        let mut loss = zeros::<f32>(&[1]).map_err(allocating())?;
        let mut crops = Vec::new();
        while let Some(input) = manifest.train_step.inputs.iter().find(|input| input.name == format!("crops/{}", crops.len())) {
            crops.push(zeros::<u8>(&input.shape).map_err(allocating())?);
        }
        if crops.is_empty() {
            return Err(train_step.contract("expected an input crops/0, found none"));
        }

        train_step.bind_inputs(|binding, name| {
            if let Some(index) = name.strip_prefix("crops/").and_then(|index| index.parse::<usize>().ok()) {
                return crops.get(index).map_or(Ok(false), |crops| binding.bind_input(name, crops).map(|()| true));
            }
            match (name, &queue) {
                ("queue/embeddings", Some(queue)) => binding.bind_input(name, &queue.embeddings).map(|()| true),
                ("queue/filled", Some(queue)) => binding.bind_input(name, &queue.filled).map(|()| true),
                _ => Ok(parameters.bind_input(binding, name)? || statistics.bind_input(binding, name)?),
            }
        })?;
        optimizer.bind_inputs(|binding, name| match (name, &step) {
            ("learning_rate", _) => binding.bind_input(name, &learning_rate).map(|()| true),
            ("train_prototypes", _) => binding.bind_input(name, &train_prototypes).map(|()| true),
            ("step", Some(step)) => binding.bind_input(name, step).map(|()| true),
            _ => Ok(parameters.bind_input(binding, name)? || gradients.bind_input(binding, name)? || moments.bind_input(binding, name)?),
        })?;

        // Outputs that are not bound here (scores, embeddings, codes) are not computed for their own sake.
        let binding = &mut train_step.binding;
        for output in &manifest.train_step.outputs {
            let name = output.name.as_str();
            match (name, &mut queue) {
                ("loss", _) => binding.bind_output(name, &mut loss),
                ("next/queue/embeddings", Some(queue)) => binding.bind_output(name, &mut queue.next_embeddings),
                ("next/queue/filled", Some(queue)) => binding.bind_output(name, &mut queue.next_filled),
                _ => match name.strip_prefix("next/") {
                    Some(statistic) => statistics.bind_output(binding, statistic, name).map(drop),
                    None => gradients.bind_output(binding, name, name).and_then(|_| stats.bind_output(binding, name, name)).map(drop),
                },
            }
            .map_err(EngineError::run(format!("binding output {name} of {}", manifest.train_step.file)))?;
        }
        let binding = &mut optimizer.binding;
        for output in &manifest.optimizer.outputs {
            let name = output.name.as_str();
            let state = name.strip_prefix("next/").unwrap_or(name);
            let bound = match (state, &mut step) {
                ("step", Some(step)) => binding.bind_output(name, step).map(|()| true),
                _ => parameters.bind_output(binding, state, name).and_then(|bound| Ok(bound || moments.bind_output(binding, state, name)?)),
            };
            if !bound.map_err(EngineError::run(format!("binding output {name} of {}", manifest.optimizer.file)))? {
                let problem = format!("output {name} is none of the contract's: graphs and program are of different versions");
                return Err(EngineError::Contract { graph: manifest.optimizer.file.clone(), problem });
            }
        }
        check_outputs(manifest, &parameters, &statistics, &moments)?;

        let (requested, outputs) = (Tensors::default(), manifest.train_step.outputs.clone());
        Ok(StockEngine {
            train_step,
            optimizer,
            crops,
            parameters,
            statistics,
            moments,
            step,
            queue,
            learning_rate,
            train_prototypes,
            loss,
            stats,
            requested,
            outputs,
        })
    }

    /// Forward, codes, loss and backward of one batch; running statistics move on, parameters and queue do not.
    ///
    /// `crops`: u8 [count·B, 3, S, S], crop-major, one slice for each group of adjacent crops of equal size.
    ///
    /// # Errors
    /// Slices of the wrong size, and whatever ONNX Runtime reports.
    pub fn forward_backward(&mut self, crops: &[&[u8]]) -> Result<StepOutput, EngineError> {
        if crops.len() != self.crops.len() {
            let problem = format!("expected {} groups of crops, got {}", self.crops.len(), crops.len());
            return Err(EngineError::State { name: "crops".into(), problem });
        }
        for (index, (tensor, bytes)) in self.crops.iter_mut().zip(crops).enumerate() {
            let expected = tensor.shape().num_elements();
            if bytes.len() != expected {
                let problem = format!("expected {expected} bytes for shape {:?}, got {}", dimensions(tensor), bytes.len());
                return Err(EngineError::State { name: format!("crops/{index}"), problem });
            }
            tensor.extract_tensor_mut().1.copy_from_slice(bytes);
        }
        self.train_step.run()?;
        let stats = self.stats.iter().map(|(name, tensor)| (name.trim_start_matches("stats/").to_owned(), scalar(tensor))).collect();
        Ok(StepOutput { loss: scalar(&self.loss), stats })
    }

    /// Updates parameters and optimizer state from the gradients of the last [`forward_backward`](Self::forward_backward).
    /// Without `train_prototypes`, the prototypes and their state stay.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn update(&mut self, learning_rate: f32, train_prototypes: bool) -> Result<(), EngineError> {
        self.learning_rate.extract_tensor_mut().1[0] = learning_rate;
        self.train_prototypes.extract_tensor_mut().1[0] = train_prototypes;
        self.optimizer.run()
    }

    /// Takes the embeddings of the last step into the queue. Until it is called, `next/queue/…` are discarded.
    pub fn advance_queue(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.embeddings.extract_tensor_mut().1.copy_from_slice(queue.next_embeddings.extract_tensor().1);
            queue.filled.extract_tensor_mut().1.copy_from_slice(queue.next_filled.extract_tensor().1);
        }
    }

    /// Rows of the queue that hold embeddings, and its length; `None` without a queue.
    pub fn queue_filled(&self) -> Option<(i64, usize)> {
        self.queue.as_ref().map(|queue| (queue.filled.extract_tensor().1[0], dimensions(&queue.embeddings).get(1).copied().unwrap_or(0)))
    }

    /// Parameters and running statistics.
    pub fn weights(&self) -> Weights {
        let mut weights = self.parameters.to_weights();
        weights.extend(self.statistics.to_weights());
        weights
    }

    /// Overwrites parameters and running statistics; `…num_batches_tracked` is ignored.
    ///
    /// # Errors
    /// Missing and unknown names and other shapes; nothing changes then.
    pub fn load_weights(&mut self, weights: &Weights) -> Result<(), EngineError> {
        self.parameters.check(weights)?;
        self.statistics.check(weights)?;
        let known = |name: &str| self.parameters.contains(name) || self.statistics.contains(name) || name.ends_with("num_batches_tracked");
        if let Some(name) = weights.keys().find(|name| !known(name)) {
            let problem = "the preset's network has no such parameter".to_owned();
            return Err(EngineError::State { name: name.clone(), problem });
        }
        self.parameters.load(weights);
        self.statistics.load(weights);
        Ok(())
    }

    /// Momentum and the like.
    pub fn optimizer_state(&self) -> OptimizerState {
        OptimizerState { moments: self.moments.to_weights(), step: self.step.as_ref().map(|step| step.extract_tensor().1[0]) }
    }

    /// Overwrites momentum and the like.
    ///
    /// # Errors
    /// State of another optimizer or network; nothing changes then.
    pub fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError> {
        self.moments.check(&state.moments)?;
        match (&mut self.step, state.step) {
            (Some(tensor), Some(step)) => tensor.extract_tensor_mut().1[0] = step,
            (None, None) => {}
            _ => return Err(EngineError::State { name: "step".into(), problem: "the saved state belongs to another optimizer".into() }),
        }
        self.moments.load(&state.moments);
        Ok(())
    }

    /// The queue; `None` without one.
    pub fn queue_state(&self) -> Option<QueueState> {
        self.queue.as_ref().map(|queue| QueueState { embeddings: copy(&queue.embeddings), filled: queue.filled.extract_tensor().1[0] })
    }

    /// Overwrites the queue.
    ///
    /// # Errors
    /// A queue of another shape, or one where there should be none.
    pub fn load_queue(&mut self, state: Option<&QueueState>) -> Result<(), EngineError> {
        let mismatch = |problem: String| Err(EngineError::State { name: "queue".into(), problem });
        match (&mut self.queue, state) {
            (None, None) => Ok(()),
            (Some(queue), Some(state)) if dimensions(&queue.embeddings) == state.embeddings.shape => {
                queue.embeddings.extract_tensor_mut().1.copy_from_slice(&state.embeddings.data);
                queue.filled.extract_tensor_mut().1[0] = state.filled;
                Ok(())
            }
            (Some(queue), Some(state)) => mismatch(format!("expected shape {:?}, got {:?}", dimensions(&queue.embeddings), state.embeddings.shape)),
            (Some(_), None) => mismatch("missing in what is being loaded".into()),
            (None, Some(_)) => mismatch("the preset has none".into()),
        }
    }

    /// Makes every later step compute a further f32 output (`scores`, `embeddings`, `codes`), to be read with
    /// [`output`](Self::output).
    ///
    /// # Errors
    /// Names that `train_step.onnx` does not have.
    pub fn request_output(&mut self, name: &str) -> Result<(), EngineError> {
        let Some(spec) = self.outputs.iter().find(|output| output.name == name) else {
            return Err(self.train_step.contract(format!("there is no output {name}")));
        };
        let mut tensors = Tensors::zeros([(name, spec)])?;
        tensors.bind_output(&mut self.train_step.binding, name, name).map_err(EngineError::run(format!("binding output {name}")))?;
        self.requested.extend(tensors);
        Ok(())
    }

    /// A requested output of the last step.
    pub fn output(&self, name: &str) -> Option<WeightTensor> {
        self.requested.get(name)
    }
}

fn named(specs: &[TensorSpec], wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &TensorSpec)> {
    specs.iter().map(|spec| (spec.name.as_str(), spec)).filter(move |(name, _)| wanted(name))
}

fn scalar(tensor: &Tensor<f32>) -> f32 {
    tensor.extract_tensor().1[0]
}

/// A state without a gradient or without a next value would stand still unnoticed.
fn check_outputs(manifest: &Manifest, parameters: &Tensors, statistics: &Tensors, moments: &Tensors) -> Result<(), EngineError> {
    let has = |spec: &GraphSpec, name: String| match spec.outputs.iter().any(|output| output.name == name) {
        true => Ok(()),
        false => Err(EngineError::Contract { graph: spec.file.clone(), problem: format!("expected an output {name}, found none") }),
    };
    has(&manifest.train_step, "loss".into())?;
    for (name, _) in parameters.iter() {
        has(&manifest.train_step, format!("grad/{name}"))?;
    }
    for (name, _) in statistics.iter() {
        has(&manifest.train_step, format!("next/{name}"))?;
    }
    for (name, _) in parameters.iter().chain(moments.iter()) {
        has(&manifest.optimizer, format!("next/{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "stock_tests.rs"]
mod tests;
