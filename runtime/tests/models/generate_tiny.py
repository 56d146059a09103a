"""Writes tiny_train_step.onnx, tiny_optimizer.onnx and two tiny encoders: the contract of the training graphs, with arithmetic that a test can
follow by hand. Needs the Python package `onnx`; the files it writes are checked in.

x = crops / 256, y = x·w, loss = mean(y²); the running statistic moves by 0.1 towards mean(y); the queue takes y in front;
the optimizer is SGD with momentum 0.5 and counts its steps.
"""

from pathlib import Path

from onnx import TensorProto, helper, numpy_helper, save
import numpy as np

HERE = Path(__file__).parent
F, U8, I64, BOOL = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL
N, P, D, L = 4, 12, 3, 8  # rows (2 crops of 2 images), pixels of a crop, embedding, queue


def tensor(name, shape, dtype=F):
    return helper.make_tensor_value_info(name, dtype, shape)


def constants(**values):
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def write(name, nodes, inputs, outputs, initializers):
    nodes = [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    save(model, HERE / f"{name}.onnx")


f32 = np.float32
write(
    "tiny_train_step",
    [
        ("Cast", ["crops/0"], ["pixels"], {"to": F}),
        ("Reshape", ["pixels", "rows"], ["flat"], {}),
        ("Div", ["flat", "c256"], ["x"], {}),
        ("MatMul", ["x", "w"], ["y"], {}),
        ("Mul", ["y", "y"], ["square"], {}),
        ("ReduceMean", ["square"], ["mean"], {"keepdims": 0}),
        ("Reshape", ["mean", "one"], ["loss"], {}),
        ("Mul", ["y", "scale"], ["dy"], {}),
        ("Transpose", ["x"], ["xt"], {"perm": [1, 0]}),
        ("MatMul", ["xt", "dy"], ["grad/w"], {}),
        ("ReduceMean", ["y"], ["mean_y"], {"axes": [0], "keepdims": 0}),
        ("Mul", ["bn.running_mean", "c09"], ["kept"], {}),
        ("Mul", ["mean_y", "c01"], ["new"], {}),
        ("Add", ["kept", "new"], ["next/bn.running_mean"], {}),
        ("Mul", ["grad/w", "grad/w"], ["grad_square"], {}),
        ("ReduceSum", ["grad_square"], ["grad_sum"], {"keepdims": 0}),
        ("Sqrt", ["grad_sum"], ["grad_root"], {}),
        ("Reshape", ["grad_root", "one"], ["stats/grad_norm"], {}),
        ("Unsqueeze", ["y", "axis0"], ["y3"], {}),
        ("Slice", ["queue/embeddings", "axis0", "rest", "axis1"], ["older"], {}),
        ("Concat", ["y3", "older"], ["next/queue/embeddings"], {"axis": 1}),
        ("Add", ["queue/filled", "n"], ["more"], {}),
        ("Min", ["more", "length"], ["next/queue/filled"], {}),
        ("Identity", ["y"], ["embeddings"], {}),
    ],
    [
        tensor("crops/0", [N, 3, 2, 2], U8),
        tensor("w", [P, D]),
        tensor("bn.running_mean", [D]),
        tensor("queue/embeddings", [1, L, D]),
        tensor("queue/filled", [1], I64),
    ],
    [
        tensor("loss", [1]),
        tensor("embeddings", [N, D]),
        tensor("grad/w", [P, D]),
        tensor("next/bn.running_mean", [D]),
        tensor("stats/grad_norm", [1]),
        tensor("next/queue/embeddings", [1, L, D]),
        tensor("next/queue/filled", [1], I64),
    ],
    constants(
        rows=[N, P], one=[1], axis0=[0], axis1=[1], rest=[L - N], n=[N], length=[L],
        c256=f32(256), scale=f32(2 / (N * D)), c09=f32(0.9), c01=f32(0.1),
    ),
)
write(
    "tiny_optimizer",
    [
        ("Cast", ["train_prototypes"], ["on"], {"to": F}),
        ("Mul", ["momentum/w", "half"], ["kept"], {}),
        ("Add", ["kept", "grad/w"], ["next/momentum/w"], {}),
        ("Mul", ["learning_rate", "on"], ["rate"], {}),
        ("Mul", ["next/momentum/w", "rate"], ["delta"], {}),
        ("Sub", ["w", "delta"], ["next/w"], {}),
        ("Add", ["step", "one"], ["next/step"], {}),
    ],
    [
        tensor("learning_rate", [1]),
        tensor("train_prototypes", [1], BOOL),
        tensor("w", [P, D]),
        tensor("grad/w", [P, D]),
        tensor("momentum/w", [P, D]),
        tensor("step", [1], I64),
    ],
    [tensor("next/w", [P, D]), tensor("next/momentum/w", [P, D]), tensor("next/step", [1], I64)],
    constants(half=f32(0.5), one=[1]),
)
write(
    "tiny_encoder",
    [
        ("Cast", ["image"], ["pixels"], {"to": F}),
        ("GlobalAveragePool", ["pixels"], ["pooled"], {}),
        ("Flatten", ["pooled"], ["features"], {"axis": 1}),
        ("Neg", ["features"], ["embedding"], {}),
    ],
    [tensor("image", ["N", 3, "H", "W"], U8)],
    [tensor("features", ["N", 3]), tensor("embedding", ["N", 3])],
    [],
)
write(
    "tiny_encoder_static",
    [
        ("GlobalAveragePool", ["image"], ["pooled"], {}),
        ("Flatten", ["pooled"], ["features"], {"axis": 1}),
        ("Neg", ["features"], ["embedding"], {}),
    ],
    [tensor("image", [4, 3, 2, 2])],
    [tensor("features", [4, 3]), tensor("embedding", [4, 3])],
    [],
)
