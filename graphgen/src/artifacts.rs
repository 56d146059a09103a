//! A preset → a directory of files; trained weights → an encoder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::backbones::resnet::ResNet;
use crate::functions::normalize_pixels::normalize_pixels;
use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::manifest::{AccumulationSpec, GraphSpec, MANIFEST_VERSION, Manifest, TensorSpec};
use crate::methods::accumulation::{assign_step, embed_step};
use crate::methods::loss_scaling::INITIAL_SCALE;
use crate::methods::supervised::{FineTuning, fine_tuning_optimizer, fine_tuning_step};
use crate::methods::swav::{TrainStep, project, train_step};
use crate::nn::{InferenceLayers, initialize};
use crate::onnx::{Dim, FileError, ModelOptions, OPSET, emulate_f16, encode, write_model};
use crate::ops::Domain;
use crate::optim::optimizer_step;
use crate::preset::{Precision, Preset, Target};
use crate::training_api;
use crate::weights::{ElementType, Import, ImportReport, Shapes, Weights, WeightsError, WeightsFile, to_safetensors, write_atomically};

/// File of the manifest.
pub const MANIFEST_FILE: &str = "manifest.json";
/// File of the training step.
pub const TRAIN_STEP_FILE: &str = "train_step.onnx";
/// File of the optimizer step.
pub const OPTIMIZER_FILE: &str = "optimizer.onnx";
/// File of the forward pass of a micro-batch.
pub const EMBED_STEP_FILE: &str = "embed_step.onnx";
/// File of the codes of all micro-batches.
pub const ASSIGN_STEP_FILE: &str = "assign_step.onnx";
/// File of the initial weights.
pub const INIT_FILE: &str = "init.safetensors";

/// Why artifacts could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A file could not be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The graph could not be built.
    #[error("the network cannot be built: {0}")]
    Graph(#[from] GraphError),
    /// The graph does not fit a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory exists and holds something else, or is not what was expected.
    #[error("{path}: {problem}")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

fn directory_error(path: &Path, problem: impl Into<String>) -> ArtifactError {
    ArtifactError::Directory { path: path.into(), problem: problem.into() }
}

/// Writes `train_step.onnx`, `optimizer.onnx`, `init.safetensors` and, last, `manifest.json` into `out`, which is created
/// if it is absent and may hold an earlier export. With `train.accumulate` above 1 also `embed_step.onnx` and
/// `assign_step.onnx`. Everything is built before the first byte is written.
///
/// # Errors
/// Files that cannot be written, presets whose graph cannot be built, a directory that holds something else.
pub fn export(preset: &Preset, out: &Path) -> Result<Manifest, ArtifactError> {
    export_from(preset, out, None)
}

/// As [`export`]; `init.safetensors` holds the tensors of `init` where it has them. The manifest holds its report.
///
/// # Errors
/// As [`export`].
pub fn export_from(preset: &Preset, out: &Path, init: Option<Import>) -> Result<Manifest, ArtifactError> {
    let target = preset.train.resolved_target();
    let mut step = train_step(preset)?;
    let optimizer = optimizer_step(preset, &step.parameters)?;
    let mut graphs = vec![(TRAIN_STEP_FILE, std::mem::take(&mut step.graph)), (OPTIMIZER_FILE, optimizer)];
    if preset.train.accumulate > 1 {
        graphs.push((EMBED_STEP_FILE, embed_step(preset)?));
        graphs.push((ASSIGN_STEP_FILE, assign_step(preset)?));
    }
    if preset.train.emulate_f16 {
        for (_, graph) in &mut graphs {
            *graph = emulate_f16(graph, target)?;
        }
    }
    let mut weights = initial_weights(preset)?;
    let init_report = init.map(|init| {
        weights.extend(init.weights);
        init.report
    });
    let init = to_safetensors(&weights, &BTreeMap::new());
    let (manifest, mut files) = encoded(preset, &step, &graphs, init_report)?;

    claim(out)?;
    files.push((INIT_FILE, init));
    // An earlier export's, which another setting may have left.
    for file in [EMBED_STEP_FILE, ASSIGN_STEP_FILE].into_iter().filter(|file| manifest.graphs().all(|graph| graph.file != *file)) {
        remove_if_there(&out.join(file))?;
    }
    let training_api = out.join(training_api::FOLDER);
    if training_api.exists() {
        std::fs::remove_dir_all(&training_api).map_err(|error| directory_error(&training_api, format!("cannot be removed: {error}")))?;
    }
    write_all(out, &files, &manifest)?;
    Ok(manifest)
}

/// Writes `train_step.onnx`, `optimizer.onnx` and `manifest.json` of supervised fine-tuning into `out`, which is created if it
/// is absent. The manifest's preset computes in f32, without micro-batches.
///
/// # Errors
/// As [`export`].
pub fn export_fine_tuning(preset: &Preset, settings: &FineTuning, out: &Path) -> Result<Manifest, ArtifactError> {
    let mut preset = preset.clone();
    (preset.train.precision, preset.train.emulate_f16, preset.train.accumulate) = (Precision::F32, false, 1);
    preset.train.batch_size = settings.batch_size;
    let mut step = fine_tuning_step(&preset, settings)?;
    let optimizer = fine_tuning_optimizer(settings, &step.parameters)?;
    let graphs = [(TRAIN_STEP_FILE, std::mem::take(&mut step.graph)), (OPTIMIZER_FILE, optimizer)];
    let (manifest, files) = encoded(&preset, &step, &graphs, None)?;
    claim(out)?;
    write_all(out, &files, &manifest)?;
    Ok(manifest)
}

/// Files by name.
type NamedFiles<'f> = Vec<(&'f str, Vec<u8>)>;

/// The graphs as files, and the manifest that describes them. The first two are the training step and the optimizer, those
/// of accumulation follow.
fn encoded<'f>(
    preset: &Preset,
    step: &TrainStep,
    graphs: &[(&'f str, Graph)],
    init: Option<ImportReport>,
) -> Result<(Manifest, NamedFiles<'f>), ArtifactError> {
    let target = preset.train.resolved_target();
    let options = ModelOptions::new(target);
    let mut files = Vec::new();
    for (file, graph) in graphs {
        files.push((*file, encode(&write_model(graph, file.trim_end_matches(".onnx"), &options)?)?));
    }
    let preset_json = serde_json::to_vec(preset).expect("a preset has only JSON types");
    let hash = files.iter().fold(Sha256::new().chain_update(&preset_json), |hash, (_, bytes)| hash.chain_update(bytes)).finalize();
    let (functions, microsoft_operators) = domains(graphs.iter().map(|(_, graph)| graph), target)?;
    let mut specs = graphs.iter().zip(&files).map(|((file, graph), (_, bytes))| graph_spec(graph, file, bytes));
    let mut next_spec = || specs.next().expect("one for each graph");
    let tensor = |name: &str, shape: &[usize]| TensorSpec { name: name.to_owned(), dtype: DType::F32.to_string(), shape: shape.to_vec() };
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        preset: preset.clone(),
        target,
        opset: OPSET,
        microsoft_operators,
        functions,
        parameters: step.parameters.iter().map(|parameter| tensor(&parameter.name, &parameter.shape)).collect(),
        running_statistics: step.running_statistics.iter().map(|statistic| tensor(&statistic.name, &[statistic.channels])).collect(),
        train_step: next_spec(),
        optimizer: next_spec(),
        accumulation: (preset.train.accumulate > 1).then(|| AccumulationSpec { embed_step: next_spec(), assign_step: next_spec() }),
        initial_loss_scale: (preset.train.precision == Precision::MixedF16).then_some(INITIAL_SCALE),
        training_api: None,
        hash: hex(&hash),
        init,
    };
    Ok((manifest, files))
}

/// Writes files, and the manifest last.
fn write_all(out: &Path, files: &[(&str, Vec<u8>)], manifest: &Manifest) -> Result<(), ArtifactError> {
    for (file, bytes) in files {
        write_atomically(&out.join(file), bytes)?;
    }
    let json = serde_json::to_vec_pretty(manifest).expect("a manifest has only JSON types");
    Ok(write_atomically(&out.join(MANIFEST_FILE), &json)?)
}

fn remove_if_there(path: &Path) -> Result<(), ArtifactError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(directory_error(path, format!("cannot be removed: {error}"))),
        _ => Ok(()),
    }
}

/// Creates the directory, or makes sure that an existing one is empty or an earlier export.
fn claim(out: &Path) -> Result<(), ArtifactError> {
    if out.exists() && !out.join(MANIFEST_FILE).is_file() {
        let mut entries = out.read_dir().map_err(|error| directory_error(out, format!("expected a directory to write to: {error}")))?;
        if entries.next().is_some() {
            return Err(directory_error(out, format!("holds files but no {MANIFEST_FILE}; choose an empty or new directory")));
        }
    }
    std::fs::create_dir_all(out).map_err(|error| directory_error(out, format!("cannot be created: {error}")))
}

/// Reads `manifest.json` of an artifact directory and checks the graph files against it.
///
/// # Errors
/// A missing or damaged manifest, another format version, a graph file that is missing or differs.
pub fn open(directory: &Path) -> Result<Manifest, ArtifactError> {
    let path = directory.join(MANIFEST_FILE);
    let text = std::fs::read(&path).map_err(|error| directory_error(&path, format!("cannot be read ({error}); write the graphs with graphgen export")))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| directory_error(&path, format!("is damaged ({error}); write the graphs again with graphgen export")))?;
    if value["version"] != MANIFEST_VERSION {
        let problem = format!("has format version {}, expected {MANIFEST_VERSION}; write the graphs again with graphgen export", value["version"]);
        return Err(directory_error(&path, problem));
    }
    let manifest: Manifest =
        serde_json::from_value(value).map_err(|error| directory_error(&path, format!("is damaged ({error}); write the graphs again with graphgen export")))?;
    manifest.preset.validate().map_err(|error| directory_error(&path, error.to_string()))?;
    let training_api = manifest.training_api.iter().flat_map(|spec| &spec.sha256).map(|(file, sha256)| (Path::new(training_api::FOLDER).join(file), sha256));
    for (file, expected) in manifest.graphs().map(|graph| (PathBuf::from(&graph.file), &graph.sha256)).chain(training_api) {
        let file = directory.join(file);
        let bytes = std::fs::read(&file).map_err(|error| directory_error(&file, format!("cannot be read: {error}")))?;
        if sha256(&bytes) != *expected {
            return Err(directory_error(&file, format!("differs from what {MANIFEST_FILE} says; write the graphs again with graphgen export")));
        }
    }
    Ok(manifest)
}

/// Checks that `init.safetensors` of an artifact directory holds the network's tensors in their shapes, which [`open`] leaves to
/// those who need it. Their elements are not read.
///
/// # Errors
/// A missing or damaged file, and a tensor that is missing, of another shape or not f32.
pub fn check_init(directory: &Path, manifest: &Manifest) -> Result<(), ArtifactError> {
    let path = directory.join(INIT_FILE);
    let way_out = "write the graphs again with graphgen export";
    let file = WeightsFile::open(&path).map_err(|error| directory_error(directory, format!("the initial weights cannot be read ({error}); {way_out}")))?;
    for TensorSpec { name, shape, .. } in manifest.parameters.iter().chain(&manifest.running_statistics) {
        let found = file.tensors().get(name);
        if !found.is_some_and(|found| found.shape == *shape && found.element == ElementType::F32) {
            let found = found.map_or("none".into(), |found| format!("{} {:?}", found.element, found.shape));
            return Err(directory_error(&path, format!("{name}: expected F32 {shape:?}, found {found}; {way_out}")));
        }
    }
    Ok(())
}

/// Shapes of the parameters and running statistics of a preset's network.
///
/// # Errors
/// Presets whose graph cannot be built.
pub fn network_shapes(preset: &Preset) -> Result<Shapes, ArtifactError> {
    let step = train_step(preset)?;
    let parameters = step.parameters.into_iter().map(|parameter| (parameter.name, parameter.shape));
    Ok(parameters.chain(step.running_statistics.into_iter().map(|statistic| (statistic.name, vec![statistic.channels]))).collect())
}

/// Initial parameters and running statistics of a preset, seeded by `train.seed`.
///
/// # Errors
/// Presets whose graph cannot be built.
pub fn initial_weights(preset: &Preset) -> Result<Weights, ArtifactError> {
    let step = train_step(preset)?;
    let parameters = step.parameters.iter().map(|parameter| (&parameter.name, parameter.shape.clone(), parameter.init));
    let statistics = step.running_statistics.iter().map(|statistic| (&statistic.name, vec![statistic.channels], statistic.init));
    Ok(parameters.chain(statistics).map(|(name, shape, init)| (name.clone(), initialize(preset.train.seed, name, &shape, init))).collect())
}

/// Element type of the exported encoder's input `image`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EncoderInput {
    /// 8-bit pixels.
    #[default]
    U8,
    /// Pixels in 0…255 as f32.
    F32,
}

/// Options of [`encoder`].
#[derive(Debug, Clone, Default)]
pub struct EncoderOptions {
    /// Element type of `image`.
    pub input: EncoderInput,
    /// Static N, H, W; symbolic when absent.
    pub static_shape: Option<[usize; 3]>,
}

/// `encoder.onnx` as bytes: `image` [N, 3, H, W] → `features` f32 [N, F], `embedding` f32 [N, D]; BatchNorm folded,
/// normalisation inside, only `ai.onnx` operators. Equal weights give equal bytes.
///
/// # Errors
/// Weights that do not belong to the preset's network, by name and shape; a static shape too small for the network.
pub fn encoder(preset: &Preset, weights: &Weights, options: &EncoderOptions) -> Result<Vec<u8>, ArtifactError> {
    // Any size does where the shape is symbolic: no operator of the graph holds it.
    let [batch, height, width] = options.static_shape.unwrap_or([1, 64, 64]);
    let dtype = match options.input {
        EncoderInput::U8 => DType::U8,
        EncoderInput::F32 => DType::F32,
    };
    let mut g = Graph::new();
    let mut layers = InferenceLayers::new(weights);
    let image = g.input("image", TensorType::new(dtype, vec![batch, 3, height, width]));
    let pixels = if dtype == DType::F32 { image } else { g.cast(image, DType::F32)? };
    let x = normalize_pixels(&mut g, pixels, &preset.data)?;
    let features = ResNet::new(&preset.model).forward(&mut g, &mut layers, x)?;
    let embedding = project(&mut g, &mut layers, &preset.model, features)?;
    g.output("features", features);
    g.output("embedding", embedding);

    let mut model = ModelOptions { target: Target::Portable, ..ModelOptions::default() };
    if options.static_shape.is_none() {
        let symbol = |name: &str| Dim::Symbolic(name.to_owned());
        model.symbolic.insert("image".into(), vec![symbol("N"), Dim::Static(3), symbol("H"), symbol("W")]);
        for (name, value) in [("features", features), ("embedding", embedding)] {
            model.symbolic.insert(name.into(), vec![symbol("N"), Dim::Static(g.shape(value)[1])]);
        }
    }
    model.metadata.insert("preset".into(), serde_json::to_string(preset).expect("a preset has only JSON types"));
    Ok(encode(&write_model(&g, "encoder", &model)?)?)
}

fn graph_spec(g: &Graph, file: &str, bytes: &[u8]) -> GraphSpec {
    let tensor = |name: &str, value: ValueId| TensorSpec { name: name.to_owned(), dtype: g.dtype(value).to_string(), shape: g.shape(value).to_vec() };
    GraphSpec {
        file: file.to_owned(),
        sha256: sha256(bytes),
        inputs: g.inputs().iter().map(|&input| tensor(g.input_name(input), input)).collect(),
        outputs: g.outputs().iter().map(|(name, value)| tensor(name, *value)).collect(),
    }
}

/// The functions that graphs call, and the `com.microsoft` operators in them.
fn domains<'a>(graphs: impl Iterator<Item = &'a Graph>, target: Target) -> Result<(Vec<String>, Vec<String>), GraphError> {
    let (mut functions, mut microsoft) = (BTreeSet::new(), BTreeSet::new());
    for graph in graphs {
        for node in graph.nodes() {
            let inputs: Vec<&TensorType> = node.inputs.iter().map(|&input| graph.ty(input)).collect();
            if let Some(body) = node.op.body(&inputs, target)? {
                functions.insert(node.op.name().to_owned());
                microsoft.extend(body.nodes().iter().filter(|node| node.op.domain() == Domain::Microsoft).map(|node| node.op.name().to_owned()));
            }
        }
    }
    Ok((functions.into_iter().collect(), microsoft.into_iter().collect()))
}

/// SHA-256, hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
