use super::*;
use crate::artifacts::export;
use crate::functions::batch_norm::BatchNormTrain;
use crate::functions::batch_norm_grad::BatchNormTrainGrad;
use crate::functions::conv_grad::ConvWeightGrad;
use crate::functions::l2_normalize::L2Normalize;
use crate::functions::max_pool_grad::MaxPoolGrad;
use crate::ir::{DType, Graph, TensorType};
use crate::onnx::{ModelOptions, read_model, write_model};
use crate::ops::conv::Window;
use crate::ops::layout::Layout;
use crate::ops::{BatchNormalizationTraining, Op, ScatterElements};
use crate::preset::{Preset, Target};
use crate::training_api;

const PROVIDERS: [ExecutionProvider; 4] = [ExecutionProvider::Cpu, ExecutionProvider::Cuda, ExecutionProvider::CudaNhwc, ExecutionProvider::Directml];

/// One operator on inputs of these types.
fn model(op: impl Into<Op>, inputs: &[TensorType], target: Target) -> ModelProto {
    let mut g = Graph::new();
    let inputs: Vec<_> = inputs.iter().enumerate().map(|(index, ty)| g.input(&format!("x{index}"), ty.clone())).collect();
    let outputs = g.apply_all(op, &inputs).expect("shapes fit");
    for (index, output) in outputs.into_iter().enumerate() {
        g.output(&format!("y{index}"), output);
    }
    write_model(&g, "test", &ModelOptions::new(target)).expect("written")
}

fn refusals(model: &ModelProto, provider: ExecutionProvider) -> Vec<Refusal> {
    check(model, provider, &[]).refusals
}

/// Expects one refused operator on `refusing`, and none on the other providers.
fn expect_refused(model: &ModelProto, refusing: &[ExecutionProvider], operator: &str, reason: &str) {
    for provider in PROVIDERS {
        let found = refusals(model, provider);
        if refusing.contains(&provider) {
            assert!(found.iter().any(|refusal| refusal.operator == operator && refusal.reason.contains(reason)), "{provider}: {found:?}");
            assert_eq!(found.len(), 1, "{provider}: {found:?}");
        } else {
            assert_eq!(found, [], "{provider}");
        }
    }
}

const DEVICES: [ExecutionProvider; 3] = [ExecutionProvider::Cuda, ExecutionProvider::CudaNhwc, ExecutionProvider::Directml];

#[test]
fn batch_normalization_in_training_mode_is_refused_on_devices() {
    let (x, c) = (TensorType::f32(vec![2, 3, 4, 4]), TensorType::f32(vec![3]));
    let inputs = [x, c.clone(), c.clone(), c.clone(), c];
    let plain = model(BatchNormalizationTraining { epsilon: 1e-5 }, &inputs, Target::Cpu);
    expect_refused(&plain, &DEVICES, "BatchNormalization", "training_mode is 1");

    let inside = model(BatchNormTrain { epsilon: 1e-5, relu: true, layout: Layout::ChannelsFirst }, &inputs[..3], Target::Cpu);
    expect_refused(&inside, &DEVICES, "BatchNormalization", "training_mode is 1");
    let named = refusals(&inside, ExecutionProvider::Cuda);
    assert!(named[0].node.starts_with("BatchNormTrain › BatchNormalization"), "{named:?}");
}

#[test]
fn scattering_with_addition_is_refused_on_directml() {
    let vector = |dtype, length| TensorType::new(dtype, vec![length]);
    let plain = model(ScatterElements, &[vector(DType::F32, 9), vector(DType::I64, 4), vector(DType::F32, 4)], Target::Cpu);
    expect_refused(&plain, &[ExecutionProvider::Directml], "ScatterElements", "reduction is add");

    let (dy, indices) = (TensorType::f32(vec![1, 2, 4, 4]), TensorType::new(DType::I64, vec![1, 2, 4, 4]));
    let op = MaxPoolGrad { window: Window { kernel: 3, stride: 2, padding: 1 }, input_size: [8, 8] };
    let inside = model(op.clone(), &[dy.clone(), indices.clone()], Target::Cpu);
    expect_refused(&inside, &[ExecutionProvider::Directml], "ScatterElements", "reduction is add");
    for target in [Target::Portable, Target::Cuda, Target::Directml] {
        expect_refused(&model(op.clone(), &[dy.clone(), indices.clone()], target), &[], "", "");
    }
}

#[test]
fn only_the_training_build_takes_its_gradient_kernels() {
    let maps = TensorType::f32(vec![1, 2, 4, 4]);
    let (window, layout) = (Window { kernel: 3, stride: 1, padding: 1 }, Layout::ChannelsFirst);
    let (c, indices) = (TensorType::f32(vec![2]), TensorType::new(DType::I64, vec![1, 2, 4, 4]));
    let norm = BatchNormTrainGrad { epsilon: 1e-5, relu: false, residual: false, layout };
    for (model, operator) in [
        (model(ConvWeightGrad { window, layout }, &[maps.clone(), maps.clone()], Target::OrtTraining), "com.microsoft::ConvGrad"),
        (model(norm, &[maps.clone(), maps.clone(), c.clone(), c.clone(), c], Target::OrtTraining), "com.microsoft::BatchNormalizationGrad"),
        (model(MaxPoolGrad { window, input_size: [4, 4] }, &[maps, indices], Target::OrtTraining), "MaxPoolGrad"),
    ] {
        expect_refused(&model, &PROVIDERS, operator, "only ONNX Runtime's training build");
        assert_eq!(refusals(&model, ExecutionProvider::OrtTraining), []);
    }
}

#[test]
fn the_training_build_takes_whole_training_models() {
    let small = ["model.arch=resnet10", "model.width=8", "model.feat_dim=8", "model.nmb_prototypes=12", "train.batch_size=4", "train.target=ort-training"];
    let preset = Preset::from_toml("", &small.map(String::from)).expect("valid");
    let directory = tempfile::tempdir().expect("a temporary directory");
    export(&preset, directory.path()).expect("exported");
    training_api::add(directory.path()).expect("added");
    let file = directory.path().join(training_api::FOLDER).join(training_api::TRAINING_MODEL_FILE);
    let model = read_model(&std::fs::read(file).expect("written")).expect("a model");
    let report = check(&model, ExecutionProvider::OrtTraining, &[]);
    assert!(report.nodes > 100 && report.refusals.is_empty(), "{:?}", report.refusals);
    let elsewhere = refusals(&model, ExecutionProvider::Cpu);
    assert!(elsewhere.iter().all(|refusal| refusal.reason.contains("training build")) && !elsewhere.is_empty(), "{elsewhere:?}");
}

#[test]
fn the_cpu_provider_takes_whole_channels_last_steps() {
    let small = ["model.arch=resnet10", "model.width=8", "model.feat_dim=8", "model.nmb_prototypes=12", "train.batch_size=4", "train.target=native"];
    let preset = Preset::from_toml("", &small.map(String::from)).expect("valid");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let manifest = export(&preset, directory.path()).expect("exported");
    let model = read_model(&std::fs::read(directory.path().join(manifest.train_step.file)).expect("written")).expect("a model");
    let bodies = check(&model, ExecutionProvider::Cpu, &[]);
    assert!(bodies.nodes > 100 && bodies.refusals.is_empty(), "{:?}", bodies.refusals);
    // Every kind of function with maps is called, and each call has its layout.
    let maps = ["Convolution", "ConvInputGrad", "ConvWeightGrad", "BatchNormTrain", "BatchNormTrainGrad", "MaxPoolTrain", "MaxPoolTrainGrad"];
    let nodes = &model.graph.as_ref().expect("a graph").node;
    for name in maps {
        let layouts: Vec<i64> = nodes
            .iter()
            .filter(|node| node.op_type() == name)
            .flat_map(|node| node.attribute.iter().filter(|attribute| attribute.name() == "channels_last").map(|attribute| attribute.i()))
            .collect();
        assert!(layouts.contains(&1), "{name}: {layouts:?}");
        // Rows behind the projection head's first layer are the only ones that are not maps.
        assert_eq!(layouts.iter().filter(|&&last| last == 0).count(), usize::from(name.starts_with("BatchNorm")), "{name}");
    }
    let native = check(&model, ExecutionProvider::Cpu, &maps.map(String::from));
    assert!(native.native > 50 && native.nodes < bodies.nodes / 2, "{} of {}", native.nodes, bodies.nodes);
}

#[test]
fn max_unpool_is_refused_on_cuda() {
    let mut plain = model(crate::ops::Relu, &[TensorType::f32(vec![1, 2, 4, 4])], Target::Portable);
    let nodes = &mut plain.graph.as_mut().expect("a graph").node;
    nodes[0].op_type = Some("MaxUnpool".into());
    expect_refused(&plain, &[ExecutionProvider::Cuda, ExecutionProvider::CudaNhwc], "MaxUnpool", "no kernel");

    let mut inside = model(L2Normalize { epsilon: 1e-12 }, &[TensorType::f32(vec![2, 3])], Target::Portable);
    let node = inside.functions[0].node.iter_mut().find(|node| node.op_type() == "Sqrt").expect("a square root");
    node.op_type = Some("MaxUnpool".into());
    expect_refused(&inside, &[ExecutionProvider::Cuda, ExecutionProvider::CudaNhwc], "MaxUnpool", "no kernel");
}

#[test]
fn versions_and_types_decide() {
    let x = TensorType::f32(vec![1, 2, 4, 4]);
    let mut pooling = model(crate::ops::MaxPool { window: Window { kernel: 2, stride: 2, padding: 0 } }, &[x], Target::Portable);
    expect_refused(&pooling, &[], "", "");
    // An open-ended kernel takes the version it was registered for; of version 22 CUDA and DirectML have none.
    pooling.opset_import[0].version = Some(22);
    expect_refused(&pooling, &DEVICES, "MaxPool", "version 22");

    let bools = model(crate::ops::Where, &vec![TensorType::new(DType::Bool, vec![2]); 3], Target::Portable);
    let found = refusals(&bools, ExecutionProvider::Cuda);
    assert!(found.len() == 1 && found[0].reason.contains("input 1 is bool"), "{found:?}");
    let half = model(crate::ops::Relu, &[TensorType::new(DType::F16, vec![2])], Target::Portable);
    expect_refused(&half, &[], "", "");
}

#[test]
fn a_shape_that_the_graph_computes_is_refused_on_directml() {
    let mut reshape = model(crate::ops::Reshape { shape: vec![6] }, &[TensorType::f32(vec![2, 3])], Target::Portable);
    expect_refused(&reshape, &[], "", "");
    let graph = reshape.graph.as_mut().expect("a graph");
    graph.initializer.clear();
    expect_refused(&reshape, &[ExecutionProvider::Directml], "Reshape", "input 1 is computed by the graph");
}

#[test]
fn native_functions_and_unknown_domains() {
    let mut calls = model(L2Normalize { epsilon: 1e-12 }, &[TensorType::f32(vec![2, 3])], Target::Portable);
    calls.functions[0].node.iter_mut().for_each(|node| node.op_type = Some("Nonsense".into()));
    let report = check(&calls, ExecutionProvider::Cuda, &["L2Normalize".to_owned()]);
    assert_eq!((report.native, report.nodes, report.refusals), (1, 0, vec![]));
    calls.functions.clear();
    let found = refusals(&calls, ExecutionProvider::Cuda);
    assert!(found[0].operator == "swav::L2Normalize" && found[0].reason.contains("does not know"), "{found:?}");
}

#[test]
fn functions_that_call_themselves_end() {
    let mut calls = model(L2Normalize { epsilon: 1e-12 }, &[TensorType::f32(vec![2, 3])], Target::Portable);
    let call = calls.graph.as_ref().expect("a graph").node[0].clone();
    calls.functions[0].node = vec![call];
    let found = refusals(&calls, ExecutionProvider::Cpu);
    assert!(found.len() == 1 && found[0].reason.contains("deep"), "{found:?}");
}
