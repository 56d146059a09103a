//! The stock engine: `train_step.onnx` and `optimizer.onnx` in any ONNX Runtime, with the state bound in place.
//!
//! All tensors are bound once, but for [crops](super::crops) on a device and, with several micro-batches, embeddings and
//! codes. A parameter is an input of both graphs and, as `next/<parameter>`, an output of the optimizer that overwrites it.
//! ONNX Runtime does not know that the two are the same memory. That is safe here because in both graphs every reader of a
//! state's old value is an ancestor of the write: an update is computed from all of it. With several micro-batches the same
//! holds for a gradient and the sum that it is added to, `accumulated/<parameter>`.

use std::collections::BTreeMap;
use std::path::Path;

use graphgen::manifest::{GraphSpec, Manifest, TensorSpec};
use graphgen::weights::{WeightTensor, Weights};
use ort::environment::Environment;
use ort::session::IoBinding;
use ort::value::Tensor;

use super::accumulation::Accumulation;
use super::bound::Bound;
use super::crops::{BatchCrops, CropInputs};
use super::queue::Queue;
use super::state::{EngineError, HostInput, Memory, OptimizerState, QueueState, Tensors, read, write, zeros};
use super::{EngineState, SessionOptions};

/// What the forward and backward passes of one step give the host.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutput {
    /// Swapped prediction loss; the mean over micro-batches.
    pub loss: f32,
    /// The graph's `stats/…` scalars, without the prefix.
    pub stats: BTreeMap<String, f32>,
    /// In mixed precision, a gradient was not finite: [`StockEngine::update`] will leave parameters and optimizer state as
    /// they are and lower the loss scale.
    pub overflowed: bool,
}

/// The state of loss scaling in mixed precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScaling {
    /// What the loss is multiplied by.
    pub scale: f32,
    /// Updates that were skipped since the run began.
    pub skipped_steps: f32,
}

/// The optimizer's scalars of loss scaling, and those that are read.
const LOSS_SCALING: &str = "loss_scaling/";
const LOSS_SCALE: &str = "loss_scaling/scale";
const SKIPPED_STEPS: &str = "loss_scaling/skipped_steps";

/// The sessions of a step and their shared state.
pub struct StockEngine {
    train_step: Bound,
    optimizer: Bound,
    /// With several micro-batches a step.
    accumulation: Option<Accumulation>,
    crops: CropInputs,
    /// In supervised training.
    labels: Option<HostInput<i64>>,
    parameters: Tensors,
    statistics: Tensors,
    gradients: Tensors,
    moments: Tensors,
    step: Option<Tensor<i64>>,
    queue: Option<Queue>,
    /// In mixed precision: written by the training step, read by the optimizer.
    gradients_finite: Option<Tensor<bool>>,
    learning_rate: HostInput<f32>,
    train_prototypes: HostInput<bool>,
    loss: Tensor<f32>,
    stats: Tensors,
    requested: Tensors,
    outputs: Vec<TensorSpec>,
}

impl StockEngine {
    /// Loads the graphs of an artifact directory and binds a zeroed state; [`load_weights`](Self::load_weights) next.
    ///
    /// # Errors
    /// Graphs that ONNX Runtime does not accept, or whose inputs and outputs are not those of the contract.
    pub fn open(environment: &Environment, directory: &Path, manifest: &Manifest, options: &SessionOptions) -> Result<StockEngine, EngineError> {
        StockEngine::open_in(environment, directory, manifest, options, |train_step| train_step.memory(options))
    }

    /// An engine on the CPU for which a part of the host's memory is that of a device.
    #[cfg(test)]
    pub(crate) fn open_as_on_device(
        environment: &Environment,
        directory: &Path,
        manifest: &Manifest,
        options: &SessionOptions,
    ) -> Result<StockEngine, EngineError> {
        StockEngine::open_in(environment, directory, manifest, options, |_| Ok(Memory::Device(ort::memory::Allocator::default())))
    }

    fn open_in(
        environment: &Environment,
        directory: &Path,
        manifest: &Manifest,
        options: &SessionOptions,
        memory: impl FnOnce(&Bound) -> Result<Memory, EngineError>,
    ) -> Result<StockEngine, EngineError> {
        let mut train_step = Bound::open(environment, directory, &manifest.train_step, options)?;
        let mut optimizer = Bound::open(environment, directory, &manifest.optimizer, options)?;

        let memory = memory(&train_step)?;
        let mut parameters = Tensors::zeros_in(&memory, manifest.parameters.iter().map(|spec| (spec.name.as_str(), spec)))?;
        let mut statistics = Tensors::zeros_in(&memory, manifest.running_statistics.iter().map(|spec| (spec.name.as_str(), spec)))?;
        let mut gradients = Tensors::zeros_in(&memory, named(&manifest.train_step.outputs, |name| name.starts_with("grad/")))?;
        let of_optimizer = |name: &str| ["momentum/", "variance/", LOSS_SCALING].iter().any(|prefix| name.starts_with(prefix));
        let mut moments = Tensors::zeros_in(&memory, named(&manifest.optimizer.inputs, of_optimizer))?;
        if let Some(scale) = manifest.initial_loss_scale {
            moments.load(&Weights::from([(LOSS_SCALE.to_owned(), WeightTensor { shape: vec![1], data: vec![scale as f32] })]))?;
        }
        let mut stats = Tensors::zeros(named(&manifest.train_step.outputs, |name| name.starts_with("stats/")))?;

        let allocating = || EngineError::run("allocating the engine's tensors");
        let mut gradients_finite = manifest.initial_loss_scale.map(|_| memory.zeros::<bool>(&[1])).transpose().map_err(allocating())?;
        let mut step =
            manifest.optimizer.inputs.iter().find(|input| input.name == "step").map(|_| memory.zeros::<i64>(&[1])).transpose().map_err(allocating())?;
        let accumulation = manifest.accumulation.as_ref();
        let mut queue = Queue::of(&accumulation.map_or(&manifest.train_step, |accumulation| &accumulation.assign_step).inputs, &memory).map_err(allocating())?;
        let (learning_rate, train_prototypes) =
            (HostInput::zeros(&memory, &[1]).map_err(allocating())?, HostInput::zeros(&memory, &[1]).map_err(allocating())?);
        let mut loss = zeros::<f32>(&[1]).map_err(allocating())?;
        let crops = CropInputs::zeros(&manifest.train_step.inputs, &memory).map_err(allocating())?;
        if crops.is_empty() {
            return Err(train_step.contract("expected an input crops/0, found none"));
        }
        let labels = manifest.train_step.inputs.iter().find(|input| input.name == "labels");
        let labels = labels.map(|input| HostInput::<i64>::zeros(&memory, &input.shape)).transpose().map_err(allocating())?;

        let bind_state = |binding: &mut IoBinding, name: &str| {
            if crops.bind(binding, name)? {
                return Ok(true);
            }
            if name == "labels" {
                return labels.as_ref().map_or(Ok(false), |labels| labels.bind(binding, name));
            }
            if name == "loss_scale" {
                return moments.bind_input(binding, LOSS_SCALE, name);
            }
            parameters.bind_input(binding, name, name)
        };
        let inputs = &manifest.train_step.inputs;
        let open = |accumulation| Accumulation::open(environment, directory, accumulation, inputs, options, bind_state, queue.as_mut(), &memory);
        let accumulation = accumulation.map(open).transpose()?;
        train_step.bind_inputs(|binding, name| {
            if bind_state(binding, name)? || statistics.bind_input(binding, name, name)? {
                return Ok(true);
            }
            match (&accumulation, name.strip_prefix("accumulated/")) {
                (Some(_), Some(parameter)) => gradients.bind_input(binding, &format!("grad/{parameter}"), name),
                (Some(accumulation), None) => accumulation.bind_input(binding, name),
                (None, _) => queue.as_ref().map_or(Ok(false), |queue| queue.bind_input(binding, name)),
            }
        })?;
        optimizer.bind_inputs(|binding, name| match (name, &step) {
            ("gradients_finite", _) => gradients_finite.as_ref().map_or(Ok(false), |finite| binding.bind_input(name, finite).map(|()| true)),
            ("learning_rate", _) => learning_rate.bind(binding, name),
            ("train_prototypes", _) => train_prototypes.bind(binding, name),
            ("step", Some(step)) => binding.bind_input(name, step).map(|()| true),
            _ => Ok(parameters.bind_input(binding, name, name)? || gradients.bind_input(binding, name, name)? || moments.bind_input(binding, name, name)?),
        })?;

        // Scores, embeddings and codes are not bound.
        train_step.bind_outputs(&manifest.train_step.outputs, |binding, name| {
            if name == "loss" {
                return binding.bind_output(name, &mut loss).map(|()| true);
            }
            if let ("gradients_finite", Some(finite)) = (name, &mut gradients_finite) {
                return binding.bind_output(name, finite).map(|()| true);
            }
            let of_queue = queue.as_mut().map_or(Ok(false), |queue| queue.bind_output(binding, name))?;
            let of_statistics = name.strip_prefix("next/").map_or(Ok(false), |statistic| statistics.bind_output(binding, statistic, name))?;
            Ok(of_queue || of_statistics || gradients.bind_output(binding, name, name)? || stats.bind_output(binding, name, name)?)
        })?;
        optimizer.bind_all_outputs(&manifest.optimizer.outputs, |binding, name| {
            let state = name.strip_prefix("next/").unwrap_or(name);
            match (state, &mut step) {
                ("step", Some(step)) => binding.bind_output(name, step).map(|()| true),
                _ => Ok(parameters.bind_output(binding, state, name)? || moments.bind_output(binding, state, name)?),
            }
        })?;
        check_outputs(manifest, &parameters, &statistics, &moments)?;

        let (requested, outputs) = (Tensors::default(), manifest.train_step.outputs.clone());
        Ok(StockEngine {
            train_step,
            optimizer,
            accumulation,
            crops,
            labels,
            parameters,
            statistics,
            gradients,
            moments,
            step,
            queue,
            gradients_finite,
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
    /// `crops`: u8 [N·count·B, 3, S, S], one slice for each group of adjacent crops of equal size: micro-batch after
    /// micro-batch, each of them crop-major. N is 1 without accumulation.
    ///
    /// # Errors
    /// Slices of the wrong size, and whatever ONNX Runtime reports.
    pub fn forward_backward(&mut self, crops: &[&[u8]]) -> Result<StepOutput, EngineError> {
        self.forward_backward_with_next(BatchCrops { groups: crops, number: None }, None)
    }

    /// Whether a step has the crops of the next one copied: on a device.
    pub fn copies_ahead(&self) -> bool {
        self.crops.copies_ahead()
    }

    /// [`forward_backward`](Self::forward_backward) of a batch; on a device, the crops of the `next` one are copied
    /// meanwhile, as much of them as the next step begins with. That step may be one of another batch.
    ///
    /// # Errors
    /// Slices of the wrong size in either batch, before anything is done; and whatever ONNX Runtime reports, of the copy, too.
    pub fn forward_backward_with_next(&mut self, batch: BatchCrops<'_>, next: Option<BatchCrops<'_>>) -> Result<StepOutput, EngineError> {
        let count = self.accumulation.as_ref().map_or(1, Accumulation::count);
        self.crops.check(batch, count)?;
        if let Some(next) = next {
            self.crops.check(next, count).map_err(|error| error.of("the next batch"))?;
        }
        if batch.number.is_none() {
            self.crops.forget();
        }
        let next = next.map(|next| next.micro_batch(0));
        let loss = match &mut self.accumulation {
            None => {
                self.crops.run(&mut self.train_step, batch.micro_batch(0), next)?;
                scalar(&self.loss)
            }
            Some(accumulation) => {
                for micro in 0..count {
                    // The training step begins with the first one again.
                    let following = batch.micro_batch((micro + 1) % count);
                    accumulation.embed(&mut self.crops, batch.micro_batch(micro), following)?;
                }
                accumulation.assign()?;
                let mut sum = 0.0;
                for micro in 0..count {
                    accumulation.select(micro, &mut self.train_step)?;
                    let following = if micro + 1 < count { Some(batch.micro_batch(micro + 1)) } else { next };
                    self.crops.run(&mut self.train_step, batch.micro_batch(micro), following)?;
                    sum += f64::from(scalar(&self.loss));
                }
                (sum / count as f64) as f32
            }
        };
        let over_all = self.accumulation.iter().flat_map(|accumulation| accumulation.stats().iter());
        let stats = self.stats.iter().chain(over_all).map(|(name, tensor)| (name.trim_start_matches("stats/").to_owned(), scalar(tensor)));
        let finite = self.gradients_finite.as_ref().map(read).transpose().map_err(EngineError::run("reading gradients_finite"))?;
        let overflowed = finite.is_some_and(|finite| !finite[0]);
        Ok(StepOutput { loss, stats: stats.collect(), overflowed })
    }

    /// Gives the next steps of supervised training their classes, one for each image.
    ///
    /// # Errors
    /// Graphs that take no labels, or another number of them.
    pub fn load_labels(&mut self, classes: &[usize]) -> Result<(), EngineError> {
        let expected = self.labels.as_ref().map_or(0, |labels| labels.data().len());
        let Some(labels) = self.labels.as_mut().filter(|_| expected == classes.len()) else {
            return Err(EngineError::State { name: "labels".into(), problem: format!("expected {expected} labels, got {}", classes.len()) });
        };
        let classes: Vec<i64> = classes.iter().map(|&class| i64::try_from(class).unwrap_or(i64::MAX)).collect();
        labels.write(&classes).map_err(EngineError::run("writing the labels"))
    }

    /// Loss scale and skipped steps; `None` in f32.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn loss_scaling(&self) -> Result<Option<LossScaling>, EngineError> {
        let scalar = |name: &str| Ok::<_, EngineError>(self.moments.get(name)?.and_then(|tensor| tensor.data.first().copied()));
        Ok(scalar(LOSS_SCALE)?.zip(scalar(SKIPPED_STEPS)?).map(|(scale, skipped_steps)| LossScaling { scale, skipped_steps }))
    }

    /// Updates parameters and optimizer state from the gradients of the last [`forward_backward`](Self::forward_backward).
    /// Without `train_prototypes`, the prototypes and their state stay.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn update(&mut self, learning_rate: f32, train_prototypes: bool) -> Result<(), EngineError> {
        let written = self.learning_rate.write(&[learning_rate]).and_then(|()| self.train_prototypes.write(&[train_prototypes]));
        written.map_err(EngineError::run("writing the optimizer's scalars"))?;
        self.optimizer.run()
    }

    /// Takes the embeddings of the last step into the queue. Until it is called, `next/queue/…` are discarded.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn advance_queue(&mut self) -> Result<(), EngineError> {
        self.queue.as_mut().map_or(Ok(()), Queue::advance)
    }

    /// Rows of the queue that hold embeddings, and its length; `None` without a queue.
    pub fn queue_filled(&self) -> Option<(i64, usize)> {
        self.queue.as_ref().map(Queue::filled)
    }

    /// Parameters and running statistics.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn weights(&self) -> Result<Weights, EngineError> {
        let mut weights = self.parameters.to_weights()?;
        weights.extend(self.statistics.to_weights()?);
        Ok(weights)
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
        self.parameters.load(weights)?;
        self.statistics.load(weights)
    }

    /// Running statistics.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn running_statistics(&self) -> Result<Weights, EngineError> {
        self.statistics.to_weights()
    }

    /// Overwrites the running statistics.
    ///
    /// # Errors
    /// Missing names and other shapes; nothing changes then.
    pub fn load_running_statistics(&mut self, statistics: &Weights) -> Result<(), EngineError> {
        self.statistics.check(statistics)?;
        self.statistics.load(statistics)
    }

    /// All of the state that outlives a step; in mixed precision also that of loss scaling.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn state(&self) -> Result<EngineState<'_>, EngineError> {
        let step = self.step.as_ref().map(read).transpose().map_err(EngineError::run("reading step"))?;
        let mut weights = self.parameters.state();
        weights.extend(self.statistics.state());
        let queue = self.queue.as_ref().map(Queue::view);
        Ok(EngineState { weights, moments: self.moments.state(), step: step.map(|step| step[0]), queue })
    }

    /// Overwrites momentum and the like.
    ///
    /// # Errors
    /// State of another optimizer or network; nothing changes then.
    pub fn load_optimizer_state(&mut self, state: &OptimizerState) -> Result<(), EngineError> {
        self.moments.check(&state.moments)?;
        match (&mut self.step, state.step) {
            (Some(tensor), Some(step)) => write(tensor, &[step]).map_err(EngineError::run("writing step"))?,
            (None, None) => {}
            _ => return Err(EngineError::State { name: "step".into(), problem: "the saved state belongs to another optimizer".into() }),
        }
        self.moments.load(&state.moments)
    }

    /// Overwrites the queue.
    ///
    /// # Errors
    /// A queue of another shape, or one where there should be none.
    pub fn load_queue(&mut self, state: Option<&QueueState>) -> Result<(), EngineError> {
        Queue::load_into(self.queue.as_mut(), state)
    }

    /// Makes every later step compute a further f32 output (`scores`, `embeddings`, `codes`), to be read with
    /// [`output`](Self::output); gradients are there anyway.
    ///
    /// # Errors
    /// Names that `train_step.onnx` does not have, and those of the loss and the state, which are read elsewhere.
    pub fn request_output(&mut self, name: &str) -> Result<(), EngineError> {
        let Some(spec) = self.outputs.iter().find(|output| output.name == name) else {
            return Err(self.train_step.contract(format!("there is no output {name}")));
        };
        if self.gradients.contains(name) {
            return Ok(());
        }
        // Bound elsewhere, these would no longer reach the state.
        if name == "loss" || name.starts_with("next/") || name.starts_with("stats/") {
            return Err(self
                .train_step
                .contract(format!("output {name} cannot be requested; StepOutput, weights and queue_state give the loss and the state")));
        }
        let mut tensors = Tensors::zeros([(name, spec)])?;
        tensors.bind_output(&mut self.train_step.binding, name, name).map_err(self.train_step.binding_error(name))?;
        self.requested.extend(tensors);
        Ok(())
    }

    /// A requested output or a gradient of the last step. With several micro-batches, a gradient is their mean and an
    /// output the last one's.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn output(&self, name: &str) -> Result<Option<WeightTensor>, EngineError> {
        Ok(self.requested.get(name)?.or(self.gradients.get(name)?))
    }
}

/// The specs of wanted names.
pub(super) fn named(specs: &[TensorSpec], wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &TensorSpec)> {
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

#[cfg(test)]
#[path = "accumulation_tests.rs"]
mod accumulation_tests;
