//! Tests of the writer.

use std::collections::BTreeMap;

use super::lower::FILLED_FROM;
use super::proto::{GraphProto, ModelProto};
use super::{Dim, ModelOptions, encode, read_model, write_model};
use crate::functions::batch_norm::BatchNormTrain;
use crate::functions::relu_grad::ReluGrad;
use crate::functions::sinkhorn::SinkhornKnopp;
use crate::ir::{Graph, TensorData, TensorType};
use crate::ops::conv::Window;
use crate::ops::layout::Layout;
use crate::ops::{FusedMatMul, MaxPool, Softmax};
use crate::preset::Target;

fn write(graph: &Graph) -> ModelProto {
    write_model(graph, "test", &ModelOptions::new(Target::Portable)).unwrap()
}

fn body(model: &ModelProto) -> &GraphProto {
    model.graph.as_ref().unwrap()
}

fn node_names(model: &ModelProto) -> Vec<&str> {
    body(model).node.iter().map(|node| node.name()).collect()
}

/// Batch norms of two shapes, one of them twice, then codes.
fn with_functions() -> Graph {
    let mut g = Graph::new();
    let (scale, bias) = (g.input("scale", TensorType::f32(vec![3])), g.input("bias", TensorType::f32(vec![3])));
    for (index, rows) in [8, 4, 8].into_iter().enumerate() {
        let x = g.input(&format!("x{index}"), TensorType::f32(vec![rows, 3]));
        let y = g
            .scoped(&format!("bn{index}"), |g| g.apply_all(BatchNormTrain { epsilon: 1e-5, relu: false, layout: Layout::ChannelsFirst }, &[x, scale, bias]))
            .unwrap();
        let codes = g.apply(SinkhornKnopp { epsilon: 0.05, iterations: 3 }, &[y[0]]).unwrap();
        g.output(&format!("codes{index}"), codes);
    }
    g
}

#[test]
fn equal_graphs_give_equal_bytes() {
    let bytes = || encode(&write(&with_functions())).unwrap();
    assert_eq!(bytes(), bytes());
    assert_eq!(read_model(&bytes()).unwrap(), write(&with_functions()));
}

#[test]
fn one_function_per_distinct_call() {
    let model = write(&with_functions());
    let functions: Vec<_> = model.functions.iter().map(|function| (function.name(), function.overload())).collect();
    assert_eq!(functions, [("BatchNormTrain", "0"), ("SinkhornKnopp", "0"), ("BatchNormTrain", "1"), ("SinkhornKnopp", "1")]);
    let calls: Vec<_> = body(&model).node.iter().map(|node| (node.name(), node.overload())).collect();
    let expected = [
        ("bn0/BatchNormTrain", "0"),
        ("SinkhornKnopp", "0"),
        ("bn1/BatchNormTrain", "1"),
        ("SinkhornKnopp_1", "1"),
        ("bn2/BatchNormTrain", "0"),
        ("SinkhornKnopp_2", "0"),
    ];
    assert_eq!(calls, expected);
    let attributes = &model.functions[1].attribute;
    assert_eq!(attributes, &["epsilon", "iterations"]);
    assert_eq!(model.ir_version(), 10);
    let domains: Vec<_> = model.opset_import.iter().map(|import| (import.domain(), import.version())).collect();
    assert_eq!(domains, [("", 17), ("swav", 1)]);
}

#[test]
fn calls_with_other_attributes_have_another_function() {
    let mut g = Graph::new();
    let scores = g.input("scores", TensorType::f32(vec![4, 3]));
    for epsilon in [0.05, 0.03, 0.05] {
        let codes = g.apply(SinkhornKnopp { epsilon, iterations: 3 }, &[scores]).unwrap();
        g.output(&format!("codes{}", g.outputs().len()), codes);
    }
    let model = write(&g);
    assert_eq!(model.functions.len(), 2);
    assert_eq!(body(&model).node.iter().map(|node| node.overload()).collect::<Vec<_>>(), ["0", "1", "0"]);
}

#[test]
fn functions_have_constant_nodes_and_graphs_have_initializers() {
    let mut g = Graph::new();
    let (dy, y) = (g.input("dy", TensorType::f32(vec![2])), g.input("y", TensorType::f32(vec![2])));
    let dx = g.apply(ReluGrad, &[dy, y]).unwrap();
    let dx = g.scale(dx, 0.5).unwrap();
    g.output("dx", dx);
    let model = write(&g);
    assert_eq!(model.functions[0].node[0].op_type(), "Constant");
    assert_eq!(body(&model).initializer[0].name(), "const/0.5");
    assert_eq!(body(&model).initializer[0].raw_data(), 0.5f32.to_le_bytes());
}

#[test]
fn zero_attributes_survive_a_round_trip() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![1, 1, 4, 4]));
    let y = g.apply_all(MaxPool { window: Window { kernel: 2, stride: 2, padding: 0 } }, &[x]).unwrap();
    g.output("y", y[0]);
    let model = read_model(&encode(&write(&g)).unwrap()).unwrap();
    let attributes = &body(&model).node[0].attribute;
    let find = |name: &str| attributes.iter().find(|attribute| attribute.name() == name).unwrap();
    assert_eq!(find("ceil_mode").i, Some(0));
    assert_eq!(find("storage_order").i, Some(0));
    assert_eq!(find("pads").ints, [0; 4]);
    assert_eq!(attributes.iter().map(|attribute| attribute.name()).collect::<Vec<_>>()[..3], ["kernel_shape", "pads", "strides"]);
}

#[test]
fn dead_nodes_and_unused_outputs_are_not_written() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![1, 1, 4, 4]));
    let dead = g.exp(x).unwrap();
    g.neg(dead).unwrap();
    let y = g.apply_all(MaxPool { window: Window { kernel: 2, stride: 2, padding: 0 } }, &[x]).unwrap();
    g.output("y", y[0]);
    let model = write(&g);
    assert_eq!(node_names(&model), ["MaxPool"]);
    assert_eq!(body(&model).node[0].output, ["y"]);
}

#[test]
fn unused_outputs_of_functions_stay_listed() {
    let model = write(&with_functions());
    assert_eq!(body(&model).node[0].output, ["bn0/BatchNormTrain:0", "", ""]);
}

#[test]
fn equal_constants_are_written_once() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![2, 2]));
    let y = g.scale(x, 2.0).unwrap();
    let y = g.scale(y, 2.0).unwrap();
    let y = g.reshape(y, &[4]).unwrap();
    let y = g.scale(y, 2.0).unwrap();
    let y = g.reshape(y, &[1, 4]).unwrap();
    let y = g.reshape(y, &[4]).unwrap();
    g.output("y", y);
    let names: Vec<_> = body(&write(&g)).initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
    // One 2.0 of each rank; one shape for the two reshapes to [4].
    assert_eq!(names, ["const/2", "const/[4]", "const/2_1", "const/[1,4]"]);
}

#[test]
fn large_constants_of_one_value_take_no_room() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![FILLED_FROM]));
    let zeros = g.constant(vec![FILLED_FROM], TensorData::F32(vec![0.0; FILLED_FROM]));
    let mut values = vec![0.0; FILLED_FROM];
    let negative_zeros = g.constant(vec![FILLED_FROM], TensorData::F32(vec![-0.0; FILLED_FROM]));
    values[7] = 1.0;
    let others = g.constant(vec![FILLED_FROM], TensorData::F32(values));
    let y = [zeros, zeros, negative_zeros, others].into_iter().fold(x, |y, constant| g.add(y, constant).unwrap());
    g.output("y", y);
    let model = write(&g);
    let operators: Vec<_> = body(&model).node.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["ConstantOfShape", "Add", "Add", "ConstantOfShape", "Add", "Add"]);
    let raw_bytes: Vec<_> = body(&model).initializer.iter().map(|tensor| tensor.raw_data().len()).collect();
    assert_eq!(raw_bytes, [8, 4 * FILLED_FROM], "the shape, and the constant that has two values");
    assert_eq!(body(&model).node[3].attribute[0].t.as_ref().unwrap().raw_data(), (-0.0f32).to_le_bytes());
}

#[test]
fn outputs_that_are_inputs_constants_or_named_twice_get_an_identity() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![1]));
    let y = g.neg(x).unwrap();
    let one = g.constant(vec![1], TensorData::I64(vec![1]));
    for (name, value) in [("same", x), ("first", y), ("second", y), ("one", one)] {
        g.output(name, value);
    }
    let model = write(&g);
    let nodes: Vec<_> = body(&model).node.iter().map(|node| (node.op_type(), node.input[0].as_str(), node.output[0].as_str())).collect();
    assert_eq!(nodes, [("Neg", "x", "first"), ("Identity", "x", "same"), ("Identity", "first", "second"), ("Identity", "const/[1]", "one")]);
    assert_eq!((model.ir_version(), model.opset_import.len()), (8, 1));
}

#[test]
fn gradients_share_the_scope_and_are_numbered() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![2, 3]));
    let y = g.scoped("head", |g| {
        let y = g.apply(Softmax, &[x])?;
        g.apply(Softmax, &[y])
    });
    g.output("y", y.unwrap());
    assert_eq!(node_names(&write(&g)), ["head/Softmax", "head/Softmax_1"]);
}

#[test]
fn symbolic_dimensions_replace_static_ones() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![1, 3]));
    let y = g.neg(x).unwrap();
    g.output("y", y);
    let dims = |names: &[&str]| names.iter().map(|&name| name.parse().map_or_else(|_| Dim::Symbolic(name.into()), Dim::Static)).collect::<Vec<_>>();
    let options = |name: &str, names: &[&str]| ModelOptions {
        symbolic: BTreeMap::from([(name.to_owned(), dims(names))]),
        metadata: BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]),
        ..ModelOptions::new(Target::Cpu)
    };
    let model = write_model(&g, "test", &options("x", &["N", "3"])).unwrap();
    assert_eq!(super::tensor::symbolic_value_info("x", crate::ir::DType::F32, &dims(&["N", "3"])), body(&model).input[0]);
    assert_eq!(model.metadata_props.iter().map(|entry| entry.key()).collect::<Vec<_>>(), ["a", "b"]);
    let unknown = write_model(&g, "test", &options("z", &["N", "3"])).unwrap_err().to_string();
    assert_eq!(unknown, "symbolic dimensions: expected the name of a graph input or output, got z");
    let rank = write_model(&g, "test", &options("y", &["N"])).unwrap_err().to_string();
    assert_eq!(rank, "symbolic dimensions: y is f32 [1, 3], got 1 dimensions");
}

#[test]
fn the_portable_target_refuses_operators_of_com_microsoft() {
    let mut g = Graph::new();
    let x = g.input("x", TensorType::f32(vec![2, 2]));
    let y = g.scoped("fc", |g| g.apply(FusedMatMul { trans_a: false, trans_b: true }, &[x, x])).unwrap();
    g.output("y", y);
    let error = write_model(&g, "test", &ModelOptions::new(Target::Portable)).unwrap_err().to_string();
    assert!(error.starts_with("fc: FusedMatMul: the target portable"), "{error}");
    let model = write_model(&g, "test", &ModelOptions::new(Target::Cpu)).unwrap();
    assert_eq!(model.opset_import[1].domain(), "com.microsoft");
}

#[test]
fn other_bytes_are_not_read_as_a_model() {
    for bytes in [b"".as_slice(), b"\x89PNG\r\n\x1a\n", b"\x08\x0a", b"{\"version\": 1}"] {
        let error = read_model(bytes).unwrap_err().to_string();
        assert!(error.starts_with("not an ONNX file"), "{error}");
    }
}
