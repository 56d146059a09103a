//! Where the real CUDA provider puts the nodes of the training graphs, and whether `graphgen check` says the same.
//!
//! Needs the CUDA build of ONNX Runtime and either a GPU or the stand-in libraries: `scripts/test.sh --cuda-placement`.

use std::collections::BTreeMap;
use std::path::Path;

use graphgen::artifacts::{OPTIMIZER_FILE, TRAIN_STEP_FILE, export, initial_weights};
use graphgen::check::{ExecutionProvider, check};
use graphgen::onnx::proto::tensor_proto::DataType;
use graphgen::onnx::proto::{ModelProto, NodeProto, type_proto};
use graphgen::onnx::{encode, inspect, read_model};
use graphgen::preset::{Preset, Provider};
use runtime::session::environment::environment;
use runtime::session::{Engine, Placement, ProviderOptions, SessionOptions};
use runtime::train::open_engine;

const CUDA: &str = "CUDAExecutionProvider";
const CPU: &str = "CPUExecutionProvider";

/// Placement of a graph as it stands in its file, without optimisations.
fn placement(file: &Path) -> Placement {
    let environment = environment().expect("the CUDA build of ONNX Runtime");
    let provider = ProviderOptions { provider: Provider::Cuda, ..ProviderOptions::default() };
    SessionOptions { threads: 1, provider, ..SessionOptions::default() }.placement(&environment, file).expect("a session over CUDA")
}

/// A node that CUDA has no kernel for, beside the graph: with nodes on two providers ONNX Runtime logs every one.
fn with_max_unpool(model: &ModelProto) -> ModelProto {
    let mut model = model.clone();
    let graph = model.graph.as_mut().expect("a graph");
    let tensor = |name: &str, like: &str, graph: &graphgen::onnx::proto::GraphProto| {
        let mut info = graph.value_info.iter().chain(&graph.input).find(|info| info.name() == like).expect("a value of that type").clone();
        info.name = Some(name.to_owned());
        // ONNX Runtime puts casts around 16-bit nodes on the CPU.
        if let Some(type_proto::Value::TensorType(ty)) = info.r#type.as_mut().and_then(|ty| ty.value.as_mut())
            && ty.elem_type == Some(DataType::Float16.into())
        {
            ty.elem_type = Some(DataType::Float.into());
        }
        info
    };
    // A pooling of the graph lends its types: outputs are values and indices.
    let pooling = graph.node.iter().find(|node| node.op_type() == "MaxPool").expect("max pooling").clone();
    let (values, indices) = (tensor("unpool/values", &pooling.output[0], graph), tensor("unpool/indices", &pooling.output[1], graph));
    graph.input.extend([values, indices]);
    graph.output.push(tensor("unpool/output", &pooling.input[0], graph));
    graph.node.push(NodeProto {
        name: Some("unpool/MaxUnpool".into()),
        op_type: Some("MaxUnpool".into()),
        input: vec!["unpool/values".into(), "unpool/indices".into()],
        output: vec!["unpool/output".into()],
        attribute: pooling.attribute.iter().filter(|attribute| ["kernel_shape", "pads", "strides"].contains(&attribute.name())).cloned().collect(),
        ..NodeProto::default()
    });
    model
}

fn counts<'a>(operators: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    operators.fold(BTreeMap::new(), |mut counts, operator| {
        *counts.entry(operator.to_owned()).or_default() += 1;
        counts
    })
}

#[test]
#[ignore = "needs the CUDA build of ONNX Runtime: scripts/test.sh --cuda-placement"]
fn cuda_takes_the_nodes_that_the_check_says_it_takes() {
    for arch in ["resnet18", "resnet50"] {
        for precision in ["f32", "mixed-f16"] {
            let settings = [format!("model.arch={arch}"), format!("train.precision={precision}"), "train.provider=cuda".into(), "train.batch_size=8".into()];
            let preset = Preset::from_toml("", &settings).expect("a valid preset");
            let directory = tempfile::tempdir().expect("a temporary directory");
            export(&preset, &directory.path().join("graphs")).expect("exported");
            for file in [TRAIN_STEP_FILE, OPTIMIZER_FILE] {
                let path = directory.path().join("graphs").join(file);
                let model = read_model(&std::fs::read(&path).expect("read")).expect("a model");
                let report = check(&model, ExecutionProvider::Cuda, &[]);
                assert_eq!(report.refusals, [], "{arch} {precision} {file}");
                let placed = placement(&path);
                println!("{arch} {precision} {file}: {:?}, the check takes {}", placed.counts, report.nodes);
                assert_eq!(placed.counts, BTreeMap::from([(CUDA.to_owned(), report.nodes)]), "{arch} {precision} {file}");
            }

            let path = directory.path().join("with_max_unpool.onnx");
            let train_step = std::fs::read(directory.path().join("graphs").join(TRAIN_STEP_FILE)).expect("read");
            let model = with_max_unpool(&read_model(&train_step).expect("a model"));
            std::fs::write(&path, encode(&model).expect("encoded")).expect("written");
            let report = check(&model, ExecutionProvider::Cuda, &[]);
            let placed = placement(&path);
            let on = |provider: &str| counts(placed.nodes.get(provider).into_iter().flatten().map(|node| node.operator.as_str()));
            let refused = counts(report.refusals.iter().map(|refusal| refusal.operator.as_str()));
            assert_eq!(on(CPU), refused, "{arch} {precision}");
            assert_eq!(refused, BTreeMap::from([("MaxUnpool".to_owned(), 1)]));
            let mut taken = inspect(&model).expanded;
            taken.retain(|operator, _| operator != "Constant" && operator != "MaxUnpool");
            assert_eq!(on(CUDA), taken, "{arch} {precision}: node by node");
        }
    }
}

#[test]
#[ignore = "needs the CUDA build of ONNX Runtime: scripts/test.sh --cuda-placement"]
fn the_state_goes_to_the_device_and_comes_back() {
    for precision in ["f32", "mixed-f16"] {
        let settings = ["model.arch=resnet10", "model.width=16", "train.provider=cuda", "train.batch_size=8", "optim.name=adam", "loss.queue_length=16"];
        let precision = format!("train.precision={precision}");
        let settings: Vec<String> = settings.into_iter().map(String::from).chain([precision.clone()]).collect();
        let preset = Preset::from_toml("", &settings).expect("a valid preset");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let manifest = export(&preset, directory.path()).expect("exported");
        let environment = environment().expect("the CUDA build of ONNX Runtime");
        let mut engine = open_engine(&environment, directory.path(), &manifest, 1).expect("every node is on CUDA");
        let weights = initial_weights(&preset).expect("initial weights");
        engine.load_weights(&weights).expect("the weights fit");
        assert_eq!(engine.weights().expect("read"), weights, "{precision}");

        let mut state = engine.optimizer_state().expect("read");
        assert_eq!(state.moments.get("loss_scaling/scale").map(|scale| scale.data[0]), manifest.initial_loss_scale.map(|scale| scale as f32));
        state.step = Some(41);
        state.moments.values_mut().for_each(|moment| moment.data.fill(0.25));
        engine.load_optimizer_state(&state).expect("it fits");
        assert_eq!(engine.optimizer_state().expect("read"), state, "{precision}");

        let mut queue = engine.queue_state().expect("read").expect("a queue");
        (queue.filled, queue.embeddings.data[3]) = (8, 0.5);
        engine.load_queue(Some(&queue)).expect("it fits");
        assert_eq!(engine.queue_state().expect("read").as_ref(), Some(&queue), "{precision}");
    }
}
