"""Writes the small graphs of the kernel tests. Needs the Python package `onnx`; the files it writes are checked in.

Every graph calls the function swav::SinkhornKnopp, whose body here is deliberately wrong (all zeros): the result shows
whether the native kernel ran.
"""

from pathlib import Path

from onnx import TensorProto, helper, save

HERE = Path(__file__).parent
B, K, L = 8, 4, 16
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("swav", 1)]


def tensor(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def function(overload):
    zero = helper.make_node("Sub", ["scores", "scores"], ["codes"])
    inputs = ["scores", "queue_scores", "filled"]
    result = helper.make_function("swav", "SinkhornKnopp", inputs, ["codes"], [zero], OPSETS[:1], ["epsilon", "iterations"])
    result.overload = overload
    return result


def call(inputs, output, overload):
    node = helper.make_node("SinkhornKnopp", inputs, [output], domain="swav", epsilon=0.05, iterations=3)
    node.overload = overload
    return node


def write(name, nodes, inputs, overloads):
    graph = helper.make_graph(nodes, name, inputs, [tensor("codes", [B, K])])
    model = helper.make_model(graph, opset_imports=OPSETS, functions=[function(overload) for overload in overloads])
    model.ir_version = 10 if any(overloads) else 8
    save(model, HERE / f"{name}.onnx")


scores = tensor("scores", [B, K])
queue = [tensor("queue_scores", [L, K]), tensor("filled", [1], TensorProto.INT64)]
for suffix, overload in [("", ""), ("_overload", "b8_k4")]:
    write(f"sinkhorn{suffix}", [call(["scores"], "codes", overload)], [scores], [overload])
    names = ["scores", "queue_scores", "filled"]
    write(f"sinkhorn_queue{suffix}", [call(names, "codes", overload)], [scores, *queue], [overload])
write("sinkhorn_two_overloads", [call(["scores"], "first", "a"), call(["first"], "codes", "b")], [scores], ["a", "b"])
