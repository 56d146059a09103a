"""Writes the kernel tables in graphgen/kernels that `graphgen check` judges graphs by.

    python scripts/kernel_tables.py operators            since versions of ai.onnx operators, from the onnx package
    python scripts/kernel_tables.py cpu                  kernels of the installed onnxruntime, as it lists them itself
    python scripts/kernel_tables.py cuda                 kernels of the CUDA provider: every operator and element type in a
                                                         session of its own, placed by the real provider. Needs
                                                         onnxruntime-gpu and, without a GPU, the stand-in libraries of
                                                         scripts/cuda_stand_ins.py in LD_LIBRARY_PATH
    python scripts/kernel_tables.py ort-training         kernels of the training build's CPU provider, found in the same way. Needs
                                                         onnxruntime-training-cpu
    python scripts/kernel_tables.py directml FILE        kernels of DirectML, from docs/OperatorKernels.md of ONNX Runtime

Needs onnx. Rows are tab-separated: operator, since version, tensor (in0, out0, ...), element types.
"""

import collections
import itertools
import pathlib
import re
import sys

import onnx
from onnx import TensorProto, helper

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "graphgen" / "kernels"
OPERATORS = """Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat ConstantOfShape Conv ConvTranspose
CumSum DepthToSpace Div Dropout Einsum Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool
GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity IsInf IsNaN LayerNormalization Less LessOrEqual Log LogSoftmax MatMul
Max MaxPool MaxUnpool Min Mul Neg Not OneHot Or Pad Pow Range Reciprocal ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin
ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Shape Sigmoid Sign Slice Softmax SpaceToDepth Split
Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where Xor""".split()
MICROSOFT = ["FusedConv", "FusedMatMul"]
# Those of the training build alone; MaxPoolGrad calls itself an operator of ai.onnx.
TRAINING = [("ConvGrad", "com.microsoft"), ("BatchNormalizationGrad", "com.microsoft"), ("InPlaceAccumulatorV2", "com.microsoft"), ("MaxPoolGrad", "")]
TYPES = ["float", "float16", "double", "int32", "int64", "bool", "uint8"]
TENSOR_TYPE = {
    "float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "double": TensorProto.DOUBLE, "int32": TensorProto.INT32,
    "int64": TensorProto.INT64, "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8,
}
OPEN_ENDED = 2**31 - 1
# Opsets that the CUDA provider is probed with, and the last of the training build.
FIRST_OPSET, LAST_OPSET, LAST_TRAINING_OPSET = 13, 25, 21


def since_versions():
    versions = collections.defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in OPERATORS:
            versions[schema.name].add(schema.since_version)
    return {name: sorted(versions[name]) for name in OPERATORS}


def write(name, source, lines):
    text = "".join(f"# {line}\n" for line in source) + "".join("\t".join(map(str, line)) + "\n" for line in lines)
    (FOLDER / f"{name}.tsv").write_text(text)


def tensors_of(name, since, domain=""):
    """First tensor, as in0 or out0, of each type parameter."""
    if domain:
        return {"T": "in0"}
    schema = onnx.defs.get_schema(name, since, "")
    tensors = {}
    for kind, formals in (("in", schema.inputs), ("out", schema.outputs)):
        for index, formal in enumerate(formals):
            tensors.setdefault(formal.type_str, f"{kind}{index}")
    return tensors


def operators():
    rows = [(name, ",".join(map(str, versions))) for name, versions in since_versions().items()]
    write("operators", [f"Since versions of ai.onnx operators, from onnx {onnx.__version__}."], rows)


def cpu():
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    versions, found = since_versions(), collections.defaultdict(set)
    for kernel in state.get_all_opkernel_def():
        first, last = kernel.version_range
        if kernel.provider != "CPUExecutionProvider" or kernel.domain not in ("", "com.microsoft"):
            continue
        if kernel.domain == "" and kernel.op_name in versions:
            name, covered = kernel.op_name, [since for since in versions[kernel.op_name] if first <= since <= last]
            covered = [since for since in covered if since == first] if last == OPEN_ENDED else covered
        elif kernel.domain and kernel.op_name in MICROSOFT:
            name, covered = f"com.microsoft::{kernel.op_name}", [1]
        else:
            continue
        for since in covered:
            tensors = tensors_of(kernel.op_name, since, kernel.domain)
            found[name, since, "-"].add("-")
            for parameter, types in kernel.type_constraints.items():
                if parameter in tensors:
                    found[name, since, tensors[parameter]].update(t.removeprefix("tensor(").removesuffix(")") for t in types)
    source = [f"Kernels of the CPU provider, as onnxruntime {onnxruntime.__version__} lists them; written by scripts/kernel_tables.py."]
    write("cpu", source, rows(found))


def rows(found):
    """A row without tensors stands only where no type parameter is checked."""
    typed = {key[:2] for key in found if key[2] != "-"}
    order = {t: i for i, t in enumerate(TYPES)}
    for key in sorted(found):
        if key[2] == "-" and key[:2] in typed:
            continue
        yield *key, ",".join(sorted((t for t in found[key] if "(" not in t), key=lambda t: (order.get(t, 99), t)))


def directml(path):
    text = pathlib.Path(path).read_text().split("### DmlExecutionProvider")[-1]
    versions, found, name, domain = since_versions(), collections.defaultdict(set), None, ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "Operator Domain" in line:
            domain = re.search(r"\*Operator Domain:\*\* \*(.*?)\*", line).group(1)
        if len(cells) < 4 or not re.match(r"(\[\d+, \d+\]|\d+\+?)$", cells[2]):
            continue
        name = cells[0] or name
        if domain == "ai.onnx" and name in versions:
            key, since = name, int(re.search(r"\d+", cells[2]).group())
        elif domain == "com.microsoft" and name in MICROSOFT:
            key, since = f"com.microsoft::{name}", 1
        else:
            continue
        tensors = tensors_of(name, since, "" if domain == "ai.onnx" else domain)
        found[key, since, "-"].add("-")
        for parameter, types in re.findall(r"\*\*(\w+)\*\* = ([^<|]*)", cells[3]):
            if parameter in tensors:
                found[key, since, tensors[parameter]].update(re.findall(r"tensor\((\w+)\)", types))
    write("directml", ["Kernels of the DirectML provider, from docs/OperatorKernels.md of ONNX Runtime; written by scripts/kernel_tables.py."], rows(found))


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, TENSOR_TYPE[dtype], shape)


def ints(name, values):
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def probe(name, since, dtype):
    """A model of one node: (inputs, initializers, attributes, output type and rank), or None where there is none."""
    same, shape = [("x", dtype, [2, 4, 6, 6])], [2, 4, 6, 6]
    binary = same + [("y", dtype, shape)]
    axes = lambda *values: ([ints("axes", values)], {}) if since >= (13 if name in ("ReduceSum", "Squeeze", "Unsqueeze") else 18) else ([], {"axes": values})
    no, matrix = ([], {}), [("x", dtype, [4, 6]), ("y", dtype, [6, 4])]
    table = {
        "And": (binary, *no), "Or": (binary, *no), "Xor": (binary, *no), "Not": (same, *no),
        "ArgMax": (same, [], {"axis": 1}), "AveragePool": (same, [], {"kernel_shape": [2, 2]}), "CumSum": (same, [ints("axis", [1])], {}),
        "BatchNormalization": (same + [(n, dtype, [4]) for n in "sbmv"], *no),
        "Clip": (same, *no), "Concat": (binary, [], {"axis": 1}), "Conv": (same + [("w", dtype, [3, 4, 3, 3])], *no),
        "ConvTranspose": (same + [("w", dtype, [4, 3, 3, 3])], *no), "DepthToSpace": (same, [], {"blocksize": 2}),
        "Einsum": (matrix, [], {"equation": "ij,jk->ik"}), "Expand": (same, [ints("s", [3, 2, 4, 6, 6])], {}),
        "Gather": (same, [ints("i", [0, 1])], {"axis": 1}), "GatherElements": (same + [("i", "int64", shape)], *no),
        "GatherND": (same + [("i", "int64", [2, 2])], *no), "Gemm": (matrix, *no), "MatMul": (matrix, *no),
        "FusedMatMul": (matrix, *no), "FusedConv": (same + [("w", dtype, [3, 4, 3, 3])], *no),
        "LayerNormalization": (same + [("s", dtype, [6])], *no), "MaxPool": (same, [], {"kernel_shape": [2, 2]}),
        "MaxUnpool": (same + [("i", "int64", shape)], [], {"kernel_shape": [2, 2]}),
        "OneHot": ([("i", "int64", [4]), ("v", dtype, [2])], [ints("d", [3])], {}), "Pad": (same, [ints("p", [0, 0, 1, 1, 0, 0, 1, 1])], {}),
        "Range": None, "Resize": None, "Reshape": (same, [ints("s", [8, 36])], {}), "Pow": (binary, *no),
        "ScatterElements": (same + [("i", "int64", [1, 4, 6, 6]), ("u", dtype, [1, 4, 6, 6])], *no),
        "ScatterND": (same + [("i", "int64", [2, 1]), ("u", dtype, [2, 4, 6, 6])], *no), "SpaceToDepth": (same, [], {"blocksize": 2}),
        "Slice": (same, [ints("a", [0]), ints("b", [1])], {}), "Split": (same, [ints("a", [1, 3])], {"axis": 1}),
        "Squeeze": ([("x", dtype, [1, 4])], *axes(0)), "Unsqueeze": (same, *axes(0)), "Tile": (same, [ints("r", [1, 2, 1, 1])], {}),
        "TopK": (same, [ints("k", [2])], {}), "Transpose": (same, *no), "Where": ([("c", "bool", shape)] + binary, *no),
        "Dropout": (same, *no), "InPlaceAccumulatorV2": (binary + [("r", "bool", [1])], *no),
        "ConvGrad": ([("y", dtype, [2, 3, 4, 4]), ("x", dtype, shape), ("w", dtype, [3, 4, 3, 3])], [], {"kernel_shape": [3, 3]}),
        "BatchNormalizationGrad": (binary + [(n, dtype, [4]) for n in "smi"], [], {"epsilon": 1e-5}),
        "MaxPoolGrad": ([("y", dtype, [2, 4, 3, 3]), ("i", "int64", [2, 4, 3, 3])], [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    }
    for reduction in ("L2", "LogSumExp", "Max", "Mean", "Min", "Sum", "SumSquare"):
        table["Reduce" + reduction] = (same, *axes(0, 2, 3)) if reduction != "Max" and reduction != "Min" else (same, *axes(1))
    for operator in ("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Sub", "Sum"):
        table[operator] = (binary, *no)
    return table.get(name, (same, *no))


def build(name, since, dtype, domain, target=None):
    if name == "ConstantOfShape":
        fill = helper.make_tensor("value", TENSOR_TYPE[dtype], [1], [0])
        node, inputs, initializers = helper.make_node(name, ["s"], ["o"], value=fill), [("s", "int64", [2])], []
    else:
        parts = probe(name, since, dtype)
        # The process crashes where it casts from and to float around a pooling's gradient, whose shape is not known then.
        if parts is None or (name, dtype) == ("MaxPoolGrad", "float16"):
            return None
        inputs, initializers, attributes = parts
        if target:
            attributes = {**attributes, "to": TENSOR_TYPE[target]}
        outputs = ["o", "o2"] if name in ("Split", "TopK", "MaxPool") else ["o", "o2", "o3"] if name == "BatchNormalizationGrad" else ["o"]
        node = helper.make_node(name, [n for n, *_ in inputs] + [i.name for i in initializers], outputs, domain=domain, **attributes)
    infos = [value(n, t, s) for n, t, s in inputs]
    # The process crashes without the shape of a pooling's gradient.
    outs = [value("o", dtype, [2, 4, 6, 6])] if name == "MaxPoolGrad" else [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "probe", infos, outs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", since), helper.make_opsetid("com.microsoft", 1)], ir_version=10)


def probed(placed, last_opset, more=()):
    """Kernels of all operators, and of `more`, that `placed` finds from the first opset on."""
    found, versions = collections.defaultdict(set), since_versions()
    # Of the versions up to opset 13 the one that opset 13 has.
    current = {name: max((v for v in all_versions if v <= FIRST_OPSET), default=0) for name, all_versions in versions.items()}
    cases = [(name, since, "") for name, all_versions in versions.items() for since in all_versions if current[name] <= since <= last_opset]
    cases += [(name, 1, "com.microsoft") for name in MICROSOFT] + [(name, 1, domain) for name, domain in more]
    for name, since, domain in cases:
        key = f"{domain}::{name}" if domain else name
        pairs = itertools.product(TYPES, TYPES) if name == "Cast" else ((t, None) for t in TYPES)
        for dtype, target in pairs:
            model = build(name, 17 if domain else max(since, FIRST_OPSET), dtype, domain, target)
            if model is None:
                continue
            if placed(model):
                tensor = "out0" if name == "ConstantOfShape" else "in1" if name in ("Where", "OneHot") else "in0"
                found[key, since, tensor].add(dtype)
                if target:
                    found[key, since, "out0"].add(target)
    return rows(found)


def cuda():
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    source = [
        f"Kernels of the CUDA provider of onnxruntime-gpu {onnxruntime.__version__}, from opset 13 on: where the provider itself placed a",
        "node of each operator and element type; written by scripts/kernel_tables.py. Operators that are not here were not probed.",
    ]
    write("cuda", source, probed(lambda model: placed_on_cuda(onnxruntime, model), LAST_OPSET))


def ort_training():
    import onnxruntime

    def loads(model):
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            return True
        except Exception:
            return False

    onnxruntime.set_default_logger_severity(4)
    source = [
        f"Kernels of the CPU provider of onnxruntime-training-cpu {onnxruntime.__version__}, from opset 13 to {LAST_TRAINING_OPSET}: where a session took a",
        "node of each operator and element type; written by scripts/kernel_tables.py. Operators that are not here were not probed.",
    ]
    write("ort-training", source, probed(loads, LAST_TRAINING_OPSET, TRAINING))


def placed_on_cuda(onnxruntime, model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CUDAExecutionProvider"])
        return True
    except Exception:
        return False


if __name__ == "__main__":
    {"operators": operators, "cpu": cpu, "cuda": cuda, "ort-training": ort_training, "directml": directml}[sys.argv[1]](*sys.argv[2:])
