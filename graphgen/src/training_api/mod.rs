//! Artifacts of ONNX Runtime's training API, for any program that has it: `training_model.onnx`, `eval_model.onnx`,
//! `optimizer_model.onnx` and `checkpoint`, in the folder `training_api` of an artifact directory, with several micro-batches
//! also `embed_step.onnx` and `assign_step.onnx`. `docs/training-api.md` describes them.

mod checkpoint;
mod eval_model;
mod optimizer_model;
mod training_model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use checkpoint::{CheckpointError, CheckpointFiles, OptimizerGroup, TrainingCheckpoint};

use crate::artifacts::{self, ASSIGN_STEP_FILE, ArtifactError, EMBED_STEP_FILE, INIT_FILE, MANIFEST_FILE, sha256};
use crate::ir::{Graph, GraphError, ValueId};
use crate::manifest::{Manifest, TensorSpec, TrainingApiSpec};
use crate::methods::accumulation::assign_step;
use crate::methods::swav::{TrainStep, train_step};
use crate::nn::Parameter;
use crate::onnx::{FileError, FunctionNames, ModelOptions, NUMBER_SEPARATOR, encode, read_model, write_model};
use crate::preset::{Precision, Preset, Provider};
use crate::weights::{Weights, WeightsError, load_safetensors, write_atomically};

/// The folder inside an artifact directory.
pub const FOLDER: &str = "training_api";
/// File of the training step.
pub const TRAINING_MODEL_FILE: &str = "training_model.onnx";
/// File of the encoder.
pub const EVAL_MODEL_FILE: &str = "eval_model.onnx";
/// File of the update.
pub const OPTIMIZER_MODEL_FILE: &str = "optimizer_model.onnx";
/// File of the initial weights.
pub const CHECKPOINT_FILE: &str = "checkpoint";

/// Why the artifacts could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TrainingApiError {
    /// A setting that the training API cannot follow.
    #[error("{setting}: {problem}; change it, or train with --engine stock")]
    Unsupported {
        /// The setting, as `section.key`.
        setting: &'static str,
        /// What stands against it.
        problem: String,
    },
    /// The graph could not be built.
    #[error("the network cannot be built: {0}")]
    Graph(#[from] GraphError),
    /// The graph does not fit a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weights do not fit a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The artifact directory is not one.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// A file could not be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The folder could not be created or replaced.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Whether the training API can follow a preset.
///
/// # Errors
/// [`TrainingApiError::Unsupported`], naming the setting; a network that cannot be built.
pub fn check(preset: &Preset) -> Result<(), TrainingApiError> {
    if preset.train.provider != Provider::Cpu {
        let problem = format!("expected cpu with the training API, got {}: its artifacts were tried there only", preset.train.provider);
        return Err(TrainingApiError::Unsupported { setting: "train.provider", problem });
    }
    if preset.train.precision != Precision::F32 {
        let problem = "expected f32 with the training API, whose optimizer cannot skip a step".to_owned();
        return Err(TrainingApiError::Unsupported { setting: "train.precision", problem });
    }
    if preset.optim.freeze_prototypes_niters > 0 { check_shapes(preset, &train_step(preset)?.parameters) } else { Ok(()) }
}

/// Frozen prototypes are known by their shape, which no other parameter may have.
fn check_shapes(preset: &Preset, parameters: &[Parameter]) -> Result<(), TrainingApiError> {
    let prototypes = preset.model.nmb_prototypes.parameter_names();
    let (prototypes, others): (Vec<_>, Vec<_>) = parameters.iter().partition(|parameter| prototypes.contains(&parameter.name));
    match others.iter().find(|other| prototypes.iter().any(|prototypes| prototypes.shape == other.shape)) {
        Some(other) => {
            let problem = format!("expected 0 where another parameter, here {}, has the shape of the prototypes, {:?}", other.name, other.shape);
            Err(TrainingApiError::Unsupported { setting: "optim.freeze_prototypes_niters", problem })
        }
        None => Ok(()),
    }
}

/// The files of the training API for a preset, without the checkpoint, and their description.
struct Models {
    files: Vec<(&'static str, Vec<u8>)>,
    spec: TrainingApiSpec,
}

fn models(preset: &Preset) -> Result<Models, TrainingApiError> {
    check(preset)?;
    let training = training_model::training_model(preset)?;
    let options = ModelOptions { function_names: FunctionNames::Numbered, ..ModelOptions::new(preset.train.resolved_target()) };
    let mut files = vec![
        (TRAINING_MODEL_FILE, encode(&write_model(&training.graph, "training_model", &options)?)?),
        (EVAL_MODEL_FILE, encode(&eval_model::eval_model(preset, &training)?)?),
        (OPTIMIZER_MODEL_FILE, encode(&optimizer_model::optimizer_model(preset, &training.parameters)?)?),
    ];
    if preset.train.accumulate > 1 {
        files.push((EMBED_STEP_FILE, encode(&eval_model::embed_model(preset, &training, &options)?)?));
        files.push((ASSIGN_STEP_FILE, encode(&write_model(&assign_step(preset)?, "assign_step", &options)?)?));
    }
    let spec = TrainingApiSpec {
        inputs: user_inputs(&training),
        outputs: user_outputs(&training.graph),
        sha256: files.iter().map(|(file, bytes)| ((*file).to_owned(), sha256(bytes))).collect(),
    };
    Ok(Models { files, spec })
}

fn tensor(g: &Graph, name: &str, value: ValueId) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype: g.dtype(value).to_string(), shape: g.shape(value).to_vec() }
}

/// Whether an input is a tensor of the checkpoint: a parameter or a running statistic.
fn of_checkpoint(training: &TrainStep, name: &str) -> bool {
    training.parameters.iter().any(|parameter| parameter.name == name) || training.running_statistics.iter().any(|statistic| statistic.name == name)
}

fn user_inputs(training: &TrainStep) -> Vec<TensorSpec> {
    let g = &training.graph;
    // As the training API tells them apart: what is neither of the checkpoint nor its own.
    let is_user = |name: &str| !of_checkpoint(training, name) && !name.ends_with("_grad.accumulation.buffer") && name != training_model::LAZY_RESET_GRAD;
    g.inputs().iter().map(|&input| (g.input_name(input), input)).filter(|(name, _)| is_user(name)).map(|(name, input)| tensor(g, name, input)).collect()
}

fn user_outputs(g: &Graph) -> Vec<TensorSpec> {
    g.outputs().iter().filter(|(name, _)| !name.ends_with("_grad.accumulation.out")).map(|(name, value)| tensor(g, name, *value)).collect()
}

/// Adds the training API's artifacts to an artifact directory, written for its target; its manifest names them afterwards. An
/// earlier folder is replaced.
///
/// # Errors
/// Settings that the training API cannot follow; a directory that holds no artifacts; files that cannot be written.
pub fn add(directory: &Path) -> Result<Manifest, TrainingApiError> {
    let mut manifest = artifacts::open(directory)?;
    // The graphs that are there decide, whatever the provider's target is today.
    let mut preset = manifest.preset.clone();
    preset.train.target = Some(manifest.target);
    let Models { mut files, spec } = models(&preset)?;
    let checkpoint = checkpoint_of(&manifest, load_safetensors(&directory.join(INIT_FILE))?, None).to_files()?;
    let data = format!("{CHECKPOINT_FILE}.data");
    files.push((CHECKPOINT_FILE, checkpoint.checkpoint));
    files.extend(checkpoint.data.map(|bytes| (data.as_str(), bytes)));

    let folder = directory.join(FOLDER);
    let io = |source| TrainingApiError::Io { path: folder.clone(), source };
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(io)?;
    }
    std::fs::create_dir_all(&folder).map_err(io)?;
    for (file, bytes) in &files {
        write_atomically(&folder.join(file), bytes)?;
    }
    manifest.training_api = Some(spec);
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest has only JSON types");
    write_atomically(&directory.join(MANIFEST_FILE), &json)?;
    Ok(manifest)
}

/// A model for a program with native kernels of the functions `native`: they are called by their plain name, as in our own
/// graphs, and have no body any more.
///
/// # Errors
/// Bytes that are no model.
pub fn with_native_kernels(model: &[u8], native: &[&str]) -> Result<Vec<u8>, FileError> {
    let mut model = read_model(model)?;
    let plain = |name: &str| name.split_once(NUMBER_SEPARATOR).and_then(|(name, _)| native.iter().find(|native| **native == name).copied());
    for node in model.graph.iter_mut().flat_map(|graph| &mut graph.node) {
        if let (Some("swav"), Some(name)) = (node.domain.as_deref(), node.op_type.as_deref().and_then(plain)) {
            node.op_type = Some(name.to_owned());
        }
    }
    model.functions.retain(|function| function.name.as_deref().and_then(plain).is_none());
    encode(&model)
}

/// Splits a network's weights as the checkpoint has them: parameters, and running statistics.
pub fn checkpoint_of(manifest: &Manifest, mut weights: Weights, optimizer: Option<OptimizerGroup>) -> TrainingCheckpoint {
    let frozen: BTreeMap<_, _> = manifest.running_statistics.iter().filter_map(|spec| weights.remove_entry(&spec.name)).collect();
    TrainingCheckpoint { parameters: weights, frozen, optimizer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Target;

    fn preset(changes: &[&str]) -> Preset {
        let changes: Vec<String> =
            ["model.arch=resnet10", "model.width=8", "model.hidden_mlp=16", "model.feat_dim=8", "model.nmb_prototypes=12", "train.batch_size=4"]
                .iter()
                .chain(changes)
                .map(|&change| change.to_owned())
                .collect();
        Preset::from_toml("", &changes).expect("valid")
    }

    #[test]
    fn the_artifacts_are_part_of_the_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let preset = preset(&["loss.queue_length=8"]);
        artifacts::export(&preset, directory.path()).expect("exported");
        let manifest = add(directory.path()).expect("added");
        assert_eq!(artifacts::open(directory.path()).expect("whole"), manifest);
        let spec = manifest.training_api.expect("described");
        let names = |specs: &[TensorSpec]| specs.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&spec.inputs), ["crops/0", "crops/1", "queue/embeddings", "queue/filled"]);
        assert_eq!(spec.outputs[0].name, "loss");
        assert!(names(&spec.outputs).iter().any(|name| name == training_model::STATE_WRITTEN));

        let checkpoint = std::fs::read(directory.path().join(FOLDER).join(CHECKPOINT_FILE)).expect("written");
        let checkpoint = TrainingCheckpoint::read(&checkpoint, None).expect("whole");
        let mut all = checkpoint.parameters;
        assert!(all.contains_key("prototypes.weight") && checkpoint.frozen.contains_key("bn1.running_mean"));
        all.extend(checkpoint.frozen);
        assert_eq!(all, load_safetensors(&directory.path().join(INIT_FILE)).expect("weights"));

        std::fs::write(directory.path().join(FOLDER).join(TRAINING_MODEL_FILE), b"else").expect("write");
        assert!(artifacts::open(directory.path()).expect_err("damaged").to_string().contains(TRAINING_MODEL_FILE));
        let manifest = artifacts::export(&preset, directory.path()).expect("exported again");
        assert!(manifest.training_api.is_none() && !directory.path().join(FOLDER).exists(), "what belongs to no manifest is gone");
    }

    /// Which values the attribute `channels_last` has in a directory's training model.
    fn layouts(directory: &Path) -> Vec<i64> {
        let model = std::fs::read(directory.join(FOLDER).join(TRAINING_MODEL_FILE)).expect("written");
        let nodes = read_model(&model).expect("a model").graph.expect("a graph").node;
        let attributes = nodes.iter().flat_map(|node| &node.attribute).filter(|attribute| attribute.name() == "channels_last");
        attributes.map(|attribute| attribute.i()).collect()
    }

    #[test]
    fn the_models_are_written_for_the_target_of_the_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let manifest = artifacts::export(&preset(&[]), directory.path()).expect("exported");
        assert_eq!(manifest.target, Target::Native);
        add(directory.path()).expect("added");
        assert!(layouts(directory.path()).contains(&1));
        // As if the provider had had another target when the graphs were written.
        let earlier = serde_json::to_vec(&Manifest { target: Target::Cpu, ..manifest }).expect("JSON");
        std::fs::write(directory.path().join(MANIFEST_FILE), earlier).expect("write");
        add(directory.path()).expect("added");
        assert!(!layouts(directory.path()).contains(&1));
    }

    #[test]
    fn several_micro_batches_bring_two_more_models() {
        let preset = preset(&["train.accumulate=2", "loss.queue_length=8"]);
        let Models { files, spec } = models(&preset).expect("valid");
        let names = |specs: &[TensorSpec]| specs.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&spec.inputs), ["crops/0", "crops/1", "codes"], "the queue belongs to the assignment");
        let inputs = |file: &str| -> Vec<String> {
            let (_, bytes) = files.iter().find(|(name, _)| *name == file).expect("written");
            let graph = read_model(bytes).expect("a model").graph.expect("a graph");
            graph.input.into_iter().filter_map(|input| input.name).collect()
        };
        let (training, embed) = (inputs(TRAINING_MODEL_FILE), inputs(EMBED_STEP_FILE));
        assert!(training.iter().all(|name| !name.starts_with("accumulated/") && name != "first_micro_batch"), "{training:?}");
        let step = training_model::training_model(&preset).expect("valid");
        let of_checkpoint = |names: &[String]| names.iter().filter(|name| of_checkpoint(&step, name)).cloned().collect::<Vec<_>>();
        assert_eq!(of_checkpoint(&embed), of_checkpoint(&training), "by their place");
        assert_eq!(embed.len(), 2 + of_checkpoint(&embed).len());
        assert!(inputs(ASSIGN_STEP_FILE).contains(&"micro/1/embeddings".to_owned()));
    }

    #[test]
    fn what_the_training_api_cannot_follow_is_refused() {
        for (changes, setting) in [
            (&["train.provider=cuda"][..], "train.provider"),
            (&["train.precision=mixed-f16", "train.emulate_f16=true"], "train.precision"),
            // projection_head.3.weight is [8, 16], the prototypes [8, 8]; with a hidden layer of 8 both are.
            (&["model.nmb_prototypes=8", "model.hidden_mlp=8"], "optim.freeze_prototypes_niters"),
        ] {
            let error = models(&preset(changes)).err().expect("refused").to_string();
            assert!(error.starts_with(setting) && error.contains("--engine stock"), "{error}");
        }
        for changes in [&["optim.name=adamw"][..], &["optim.name=sgd"], &["model.nmb_prototypes=[12, 9]"]] {
            assert!(models(&preset(changes)).is_ok(), "{changes:?}");
        }
    }
}
