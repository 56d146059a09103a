"""Writes the first cases of the corpora: small valid files of every kind, and hostile ones made by hand.

Usage: python tests/corpus/generate.py    (torch, onnx, safetensors, pillow, numpy)

What the fuzz targets find is added under the SHA-1 of its bytes and stays.
"""

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image
from safetensors.numpy import save

HERE = Path(__file__).parent


def write(kind: str, name: str, data: bytes) -> None:
    (HERE / kind).mkdir(exist_ok=True)
    (HERE / kind / name).write_bytes(data)


def write_onnx() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 2, 2])
    w = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 3, 3], np.zeros(54, np.float32).tobytes(), raw=True)

    def model(nodes, functions=(), **kw):
        graph = helper.make_graph(nodes, "g", [x], [y], [w])
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        return helper.make_model(graph, opset_imports=imports, functions=list(functions), **kw).SerializeToString()

    write("onnx", "conv", model([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])]))
    write("onnx", "huge-dilation", model([helper.make_node("Conv", ["x", "w"], ["y"], dilations=[2**62, -1], strides=[0, 0])]))
    body = helper.make_function("f", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="f")], [helper.make_opsetid("f", 1)])
    write("onnx", "recursive-function", model([helper.make_node("F", ["x"], ["y"], domain="f")], [body]))
    chain = [
        helper.make_function("f", f"F{i}", ["a"], ["b"], [helper.make_node(f"F{i + 1}", [x], [y], domain="f") for x, y in ("ac", "cb")], [helper.make_opsetid("f", 1)])
        for i in range(40)
    ]
    write("onnx", "exponential-functions", model([helper.make_node("F0", ["x"], ["y"], domain="f")], chain))
    huge = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2**62, 2**62, -5])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "g", [huge], [y])
    write("onnx", "huge-shape", helper.make_model(graph).SerializeToString())
    write("onnx", "cycle", model([helper.make_node("Relu", ["y"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]))


def write_safetensors() -> None:
    write("safetensors", "f32-f16", save({"a": np.ones((2, 3), np.float32), "b": np.ones(2, np.float16), "c": np.ones((), np.int64)}))
    write("safetensors", "empty", save({"a": np.ones((0, 3), np.float32)}))
    for name, header in {
        "huge-shape": '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}',
        "backwards": '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        "overlap": '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        "deep": '{"a":' + "[" * 2000,
    }.items():
        write("safetensors", name, struct.pack("<Q", len(header)) + header.encode() + b"\0" * 4)
    write("safetensors", "huge-header", struct.pack("<Q", 2**32 - 1) + b"{}")


def write_pth() -> None:
    state = {"conv1.weight": torch.ones(2, 3), "bn.num_batches_tracked": torch.tensor(3), "half": torch.ones(2).half()}
    for name, zipped in {"zip": True, "legacy": False}.items():
        buffer = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
        write("pth", name, buffer.getvalue())

    class Evil:
        def __reduce__(self):
            return os.system, ("touch /tmp/evil",)

    buffer = io.BytesIO()
    torch.save({"state_dict": {"a": Evil()}}, buffer)
    write("pth", "runs-code", buffer.getvalue())
    write("pth", "pickle", pickle.dumps({"a": [1, 2, (3, None)]}, protocol=2))
    write("pth", "memo-bomb", b"\x80\x02" + b"(" + b"]q\x00" + b"h\x00" * 200 + b"t" + b"0" * 3 + b".")
    write("pth", "long-string", b"\x80\x02X\xff\xff\xff\x7fabc.")


def write_tar() -> None:
    def picture(size: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (size, size), (9, 99, 199)).save(buffer, "PNG")
        return buffer.getvalue()

    def archive(members, form=tarfile.GNU_FORMAT) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    plain = archive([("cats/tom.png", picture(4)), ("dogs/rex.png", picture(5))])
    write("tar", "classes", plain[:4096])
    write("tar", "outside", archive([("../../evil.png", picture(4)), ("/etc/evil.png", picture(4))])[:4096])
    write("tar", "cls", archive([("0001.png", picture(4)), ("0001.cls", b"7")])[:4096])
    write("tar", "long-name", archive([("d" * 150 + "/" + "n" * 150 + ".png", picture(4))])[:5120])
    write("tar", "pax", archive([("é" * 80 + ".png", picture(4))], tarfile.PAX_FORMAT)[:5120])
    lies = bytearray(plain[:4096])
    lies[124:136] = b"\x80" + b"\0" * 3 + struct.pack(">Q", 2**62)
    checksum = sum(lies[:148]) + 8 * 32 + sum(lies[156:512])
    lies[148:156] = f"{checksum:06o}\0 ".encode()
    write("tar", "huge-size", bytes(lies))


def write_preset() -> None:
    models = HERE.parent.parent / "models"
    for name in ["cifar10-small", "imagenet-resnet50-200ep-bs256"]:
        text = (models / f"{name}.toml").read_text()
        write("preset", name, "\n".join(line for line in text.splitlines() if not line.startswith(("#", "base"))).encode())
    write("preset", "override", b"model.arch=resnet18\0[optim]\nbase_lr = 1e308\n")
    write("preset", "huge", b"[train]\nbatch_size = 9223372036854775807\nepochs = 9223372036854775807\n[loss]\nqueue_length = 9223372036854775807\n")
    write("preset", "not-a-number", b"[optim]\nbase_lr = nan\nwarmup_epochs = inf\n[guards]\nstall_secs = inf\n")
    write("preset", "deep", b"a = " + b"[" * 5000)
    write("preset", "heads", b"[model]\nnmb_prototypes = [2, 3]\n[crops]\nnmb_crops = [9223372036854775807, 9223372036854775807]\n")


for job in (write_onnx, write_safetensors, write_pth, write_tar, write_preset):
    job()
