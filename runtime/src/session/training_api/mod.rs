//! The training API's engine: `training_model.onnx` and `optimizer_model.onnx` in a training build of ONNX Runtime, which
//! holds parameters, gradients and moments itself.
//!
//! Weights can be read and written where they are. Moments cannot: they are read through a checkpoint that ONNX Runtime
//! writes, and written by creating the session anew from a checkpoint that holds them.

mod ffi;
mod micro_batches;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use graphgen::artifacts::{ASSIGN_STEP_FILE, EMBED_STEP_FILE};
use graphgen::manifest::{Manifest, TensorSpec, TrainingApiSpec};
use graphgen::preset::OptimizerName;
use graphgen::training_api::{self, OptimizerGroup, TrainingCheckpoint, checkpoint_of};
use graphgen::weights::{WeightTensor, Weights};
use ort::environment::Environment;
use ort::memory::Allocator;
use ort::training::{Checkpoint, Trainer};
use ort::value::{DynValue, Tensor};

use self::ffi::{AnyTensor, Step};
use self::micro_batches::MicroBatches;
use super::crops::check_crops;
use super::options::creating;
use super::queue::Queue;
use super::state::{Memory, Tensors, dimensions, zeros};
use super::{Engine, EngineError, EngineState, LossScaling, OptimizerState, QueueState, SessionOptions, StateTensor, StateTensors, StepOutput};

/// The training session of a run.
pub struct TrainingApiEngine {
    trainer: Trainer,
    source: Source,
    crops: Vec<Tensor<u8>>,
    queue: Option<Queue>,
    /// With several micro-batches a step.
    micro_batches: Option<MicroBatches>,
    /// Updates made.
    updates: i64,
}

/// What a session is created from.
struct Source {
    environment: Environment,
    options: SessionOptions,
    manifest: Manifest,
    spec: TrainingApiSpec,
    training_model: Vec<u8>,
    /// What EvalStep runs: the embeddings of a micro-batch. Empty without several of them.
    eval_model: Vec<u8>,
    optimizer_model: Vec<u8>,
}

impl Source {
    fn create(&self, checkpoint: &TrainingCheckpoint) -> Result<Trainer, EngineError> {
        let files = checkpoint.to_files().map_err(|error| self.contract(error.to_string()))?;
        if files.data.is_some() {
            return Err(self.contract("the weights exceed 1 GiB, which the training API takes from files only; train with --engine stock"));
        }
        let _creating = creating();
        let create = || {
            let builder = self.options.builder(&self.environment)?;
            let checkpoint = Checkpoint::load_from_buffer(&files.checkpoint)?;
            Trainer::new_from_memory(builder, Allocator::default(), checkpoint, &self.training_model, &self.eval_model, &self.optimizer_model)
        };
        create().map_err(|source| EngineError::Graph { file: self.file(training_api::TRAINING_MODEL_FILE), source })
    }

    /// A model's place in the artifact directory.
    fn file(&self, name: &str) -> PathBuf {
        Path::new(training_api::FOLDER).join(name)
    }

    fn contract(&self, problem: impl Into<String>) -> EngineError {
        EngineError::Contract { graph: training_api::TRAINING_MODEL_FILE.into(), problem: problem.into() }
    }

    /// Parameters and running statistics with their shapes.
    fn tensors(&self) -> impl Iterator<Item = &TensorSpec> {
        self.manifest.parameters.iter().chain(&self.manifest.running_statistics)
    }

    fn has_variance(&self) -> bool {
        matches!(self.manifest.preset.optim.name, OptimizerName::Adam | OptimizerName::AdamW)
    }
}

/// A parameter or running statistic in a session; it is copied when it is read.
struct Weight<'a> {
    trainer: &'a Trainer,
    spec: &'a TensorSpec,
}

impl StateTensor for Weight<'_> {
    fn shape(&self) -> Vec<usize> {
        self.spec.shape.clone()
    }

    fn read(&self) -> Result<Cow<'_, [f32]>, EngineError> {
        let value = self.trainer.checkpoint().get_parameter(&self.spec.name, &Allocator::default());
        let data = value.and_then(|value| Ok(value.try_extract_tensor::<f32>()?.1.to_vec()));
        data.map(Cow::Owned).map_err(EngineError::run(format!("reading {}", self.spec.name)))
    }
}

fn read(trainer: &Trainer, spec: &TensorSpec) -> Result<(String, WeightTensor), EngineError> {
    let data = Weight { trainer, spec }.read()?.into_owned();
    Ok((spec.name.clone(), WeightTensor { shape: spec.shape.clone(), data }))
}

fn write(trainer: &mut Trainer, spec: &TensorSpec, weights: &WeightTensor) -> Result<(), EngineError> {
    let writing = || EngineError::run(format!("writing {}", spec.name));
    let mut tensor = zeros::<f32>(&spec.shape).map_err(writing())?;
    tensor.extract_tensor_mut().1.copy_from_slice(&weights.data);
    ffi::update_parameter(trainer, &spec.name, &tensor).map_err(writing())
}

impl TrainingApiEngine {
    /// Loads the training API's models of an artifact directory, with a zeroed state; [`load_weights`](Engine::load_weights)
    /// next. `native` names the functions that the options' operators have kernels for.
    ///
    /// # Errors
    /// A directory without them, and models that ONNX Runtime does not accept.
    pub fn open(
        environment: &Environment,
        directory: &Path,
        manifest: &Manifest,
        options: &SessionOptions,
        native: &[&str],
    ) -> Result<TrainingApiEngine, EngineError> {
        let folder = directory.join(training_api::FOLDER);
        let missing = |problem: String| EngineError::Contract { graph: folder.display().to_string(), problem };
        let read = |file: &str| std::fs::read(folder.join(file)).map_err(|error| missing(format!("{file} cannot be read: {error}")));
        let spec = manifest.training_api.clone().ok_or_else(|| missing("the manifest names no artifacts of the training API".into()))?;
        let allocating = || EngineError::run("allocating the engine's tensors");
        let crops = spec.inputs.iter().filter(|input| input.name.starts_with("crops/")).map(|input| zeros::<u8>(&input.shape));
        let crops = crops.collect::<ort::Result<Vec<_>>>().map_err(allocating())?;
        let accumulation = manifest.accumulation.as_ref();
        let mut queue = Queue::of(accumulation.map_or(&spec.inputs, |accumulation| &accumulation.assign_step.inputs), &Memory::Host).map_err(allocating())?;
        let with_kernels = |file: &str| training_api::with_native_kernels(&read(file)?, native).map_err(|error| missing(error.to_string()));
        let source = Source {
            environment: environment.clone(),
            options: options.clone(),
            manifest: manifest.clone(),
            training_model: with_kernels(training_api::TRAINING_MODEL_FILE)?,
            eval_model: accumulation.map(|_| with_kernels(EMBED_STEP_FILE)).transpose()?.unwrap_or_default(),
            optimizer_model: read(training_api::OPTIMIZER_MODEL_FILE)?,
            spec,
        };
        let open = |accumulation| MicroBatches::open(&source, &with_kernels(ASSIGN_STEP_FILE)?, accumulation, queue.as_mut());
        let micro_batches = accumulation.map(open).transpose()?;
        let weights = source.tensors().map(|spec| (spec.name.clone(), WeightTensor::zeros(&spec.shape))).collect();
        let trainer = source.create(&checkpoint_of(&source.manifest, weights, None))?;
        Ok(TrainingApiEngine { trainer, source, crops, queue, micro_batches, updates: 0 })
    }

    /// The state as the training API saves it: the way to its moments.
    fn saved(&self) -> Result<TrainingCheckpoint, EngineError> {
        let state = |problem: String| EngineError::State { name: "checkpoint of the training API".into(), problem };
        let folder = tempfile::tempdir().map_err(|error| state(format!("no temporary folder for it: {error}")))?;
        let file = folder.path().join(training_api::CHECKPOINT_FILE);
        self.trainer.checkpoint().save(&file, true).map_err(EngineError::run("saving the training API's state"))?;
        let checkpoint = std::fs::read(&file).map_err(|error| state(error.to_string()))?;
        let data = std::fs::read(file.with_extension("data")).ok();
        TrainingCheckpoint::read(&checkpoint, data.as_deref()).map_err(|error| state(error.to_string()))
    }

    /// The moments of a saved state, as the training API has them.
    fn moments(&self, state: &OptimizerState) -> Result<BTreeMap<String, [WeightTensor; 2]>, EngineError> {
        let has_variance = self.source.has_variance();
        let expected = self.source.manifest.parameters.len() * if has_variance { 2 } else { 1 };
        if state.step.is_some() != has_variance || state.moments.len() != expected {
            return Err(EngineError::State { name: "momentum".into(), problem: "the saved state belongs to another optimizer".into() });
        }
        let moment = |prefix: &str, spec: &TensorSpec| {
            let name = format!("{prefix}{}", spec.name);
            checked(&name, state.moments.get(&name), &spec.shape).cloned()
        };
        let both = |spec: &TensorSpec| {
            let variance = if has_variance { moment("variance/", spec)? } else { WeightTensor::zeros(&spec.shape) };
            Ok((spec.name.clone(), [moment("momentum/", spec)?, variance]))
        };
        self.source.manifest.parameters.iter().map(both).collect()
    }
}

/// A tensor of the expected shape.
fn checked<'w>(name: &str, weight: Option<&'w WeightTensor>, shape: &[usize]) -> Result<&'w WeightTensor, EngineError> {
    let problem = match weight {
        None => "missing in what is being loaded".to_owned(),
        Some(weight) if weight.shape != shape => format!("expected shape {shape:?}, got {:?}", weight.shape),
        Some(weight) => return Ok(weight),
    };
    Err(EngineError::State { name: name.into(), problem })
}

/// Copies the crops of one micro-batch; [`check_crops`] has checked the sizes.
fn load_crops(tensors: &mut [Tensor<u8>], crops: &[&[u8]], micro: usize) {
    for (tensor, bytes) in tensors.iter_mut().zip(crops) {
        let (_, pixels) = tensor.extract_tensor_mut();
        pixels.copy_from_slice(&bytes[micro * pixels.len()..][..pixels.len()]);
    }
}

/// What TrainStep takes, in its order. `codes`: those of a micro-batch.
fn step_inputs<'a>(source: &Source, crops: &'a [Tensor<u8>], queue: Option<&'a Queue>, codes: Option<&'a Tensors>) -> Result<Vec<AnyTensor<'a>>, EngineError> {
    let mut crops = crops.iter();
    let mut input = |name: &str| match (name, queue) {
        ("queue/embeddings", Some(queue)) => Some(queue.embeddings() as AnyTensor<'a>),
        ("queue/filled", Some(queue)) => Some(queue.filled_rows() as AnyTensor<'a>),
        _ if name.starts_with("crops/") => crops.next().map(|crops| crops as AnyTensor<'a>),
        _ => codes.and_then(|codes| codes.iter().find(|(codes, _)| *codes == name)).map(|(_, codes)| codes as AnyTensor<'a>),
    };
    let required = |spec: &TensorSpec| input(&spec.name).ok_or_else(|| source.contract(format!("input {} is none of the contract's", spec.name)));
    source.spec.inputs.iter().map(required).collect()
}

/// The one element of an f32 output.
fn scalar(value: &DynValue) -> ort::Result<f32> {
    value.try_extract_tensor::<f32>()?.1.first().copied().ok_or_else(|| ort::Error::new("expected one element, got none"))
}

impl Engine for TrainingApiEngine {
    fn forward_backward(&mut self, crops: &[&[u8]]) -> Result<StepOutput, EngineError> {
        let count = self.micro_batches.as_ref().map_or(1, MicroBatches::count);
        check_crops(&self.crops.iter().map(dimensions).collect::<Vec<_>>(), crops, count)?;
        if let Some(micro_batches) = &mut self.micro_batches {
            for micro in 0..count {
                load_crops(&mut self.crops, crops, micro);
                micro_batches.embed(&mut self.trainer, micro, &self.crops)?;
            }
            micro_batches.assign(&self.source, &self.trainer)?;
        }
        let running = || EngineError::run(format!("running {}", training_api::TRAINING_MODEL_FILE));
        // Gradients are those of this step alone, whether or not the last ones came to an update.
        self.trainer.optimizer().reset_grad().map_err(running())?;
        let mut step = StepOutput { loss: f32::NAN, stats: BTreeMap::new(), overflowed: false };
        let mut loss = 0.0;
        for micro in 0..count {
            load_crops(&mut self.crops, crops, micro);
            let codes = self.micro_batches.as_ref().map(|micro_batches| micro_batches.codes(micro));
            let inputs = step_inputs(&self.source, &self.crops, self.queue.as_ref(), codes)?;
            let outputs = ffi::run_step(&mut self.trainer, Step::Train, &inputs, self.source.spec.outputs.len()).map_err(running())?;
            for (spec, value) in self.source.spec.outputs.iter().zip(&outputs) {
                let name = spec.name.as_str();
                if name == "loss" {
                    loss += f64::from(scalar(value).map_err(running())?);
                } else if let Some(stat) = name.strip_prefix("stats/") {
                    step.stats.insert(stat.to_owned(), scalar(value).map_err(running())?);
                } else if let Some(queue) = &mut self.queue {
                    queue.take_output(name, value).map_err(running())?;
                }
            }
        }
        step.loss = (loss / count as f64) as f32;
        for (name, tensor) in self.micro_batches.iter().flat_map(|micro_batches| micro_batches.stats().iter()) {
            step.stats.insert(name.trim_start_matches("stats/").to_owned(), tensor.extract_tensor().1[0]);
        }
        Ok(step)
    }

    fn advance_queue(&mut self) -> Result<(), EngineError> {
        self.queue.as_mut().map_or(Ok(()), Queue::advance)
    }

    /// The optimizer's graph knows from its own count of updates whether the prototypes are frozen: `train_prototypes` says
    /// the same as long as every step came to an update.
    fn update(&mut self, learning_rate: f32, _train_prototypes: bool) -> Result<(), EngineError> {
        let running = || EngineError::run(format!("running {}", training_api::OPTIMIZER_MODEL_FILE));
        let mut optimizer = self.trainer.optimizer();
        optimizer.set_lr(learning_rate).map_err(running())?;
        optimizer.step().map_err(running())?;
        self.updates += 1;
        Ok(())
    }

    fn queue_filled(&self) -> Option<(i64, usize)> {
        self.queue.as_ref().map(Queue::filled)
    }

    fn weights(&self) -> Result<Weights, EngineError> {
        self.source.tensors().map(|spec| read(&self.trainer, spec)).collect()
    }

    fn load_weights(&mut self, weights: &Weights) -> Result<(), EngineError> {
        for spec in self.source.tensors() {
            checked(&spec.name, weights.get(&spec.name), &spec.shape)?;
        }
        let known = |name: &String| name.ends_with("num_batches_tracked") || self.source.tensors().any(|spec| spec.name == *name);
        if let Some(unknown) = weights.keys().find(|name| !known(name)) {
            return Err(EngineError::State { name: unknown.clone(), problem: "the network has no tensor of this name".into() });
        }
        self.source.tensors().try_for_each(|spec| write(&mut self.trainer, spec, &weights[&spec.name]))
    }

    fn running_statistics(&self) -> Result<Weights, EngineError> {
        self.source.manifest.running_statistics.iter().map(|spec| read(&self.trainer, spec)).collect()
    }

    fn load_running_statistics(&mut self, statistics: &Weights) -> Result<(), EngineError> {
        let specs = &self.source.manifest.running_statistics;
        for spec in specs {
            checked(&spec.name, statistics.get(&spec.name), &spec.shape)?;
        }
        specs.iter().try_for_each(|spec| write(&mut self.trainer, spec, &statistics[&spec.name]))
    }

    /// The moments come through a checkpoint of the training API: they are copies.
    fn state(&self) -> Result<EngineState<'_>, EngineError> {
        let has_variance = self.source.has_variance();
        let group = self.saved()?.optimizer.ok_or_else(|| self.source.contract("the training API saved no optimizer state"))?;
        let mut moments = StateTensors::new();
        for (parameter, [momentum, variance]) in group.moments {
            if has_variance {
                moments.insert(format!("variance/{parameter}"), Box::new(variance));
            }
            moments.insert(format!("momentum/{parameter}"), Box::new(momentum));
        }
        let weight = |spec| Box::new(Weight { trainer: &self.trainer, spec }) as Box<dyn StateTensor>;
        let weights = self.source.tensors().map(|spec| (spec.name.clone(), weight(spec))).collect();
        Ok(EngineState { weights, moments, step: has_variance.then_some(self.updates), queue: self.queue.as_ref().map(Queue::view) })
    }

    fn load_optimizer_state(&mut self, state: &OptimizerState, updates: u64) -> Result<(), EngineError> {
        let moments = self.moments(state)?;
        let step = state.step.unwrap_or_else(|| i64::try_from(updates).unwrap_or(i64::MAX));
        let group = OptimizerGroup { step, learning_rate: 0.0, moments };
        self.trainer = self.source.create(&checkpoint_of(&self.source.manifest, self.weights()?, Some(group)))?;
        self.updates = step;
        Ok(())
    }

    fn loss_scaling(&self) -> Result<Option<LossScaling>, EngineError> {
        Ok(None)
    }

    fn load_queue(&mut self, state: Option<&QueueState>) -> Result<(), EngineError> {
        Queue::load_into(self.queue.as_mut(), state)
    }
}
