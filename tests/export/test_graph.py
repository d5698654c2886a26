"""What a graph tells of its tensors, without its weights being read and without its activations being kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from export.graph import telling, tensor_types
from export.overflow import WatchedEngine
from export.storage import widen
from export.to_fp16 import to_fp16
from runtime.manifest import Manifest, onnx_file
from runtime.spec import EngineSpec, TensorSpec
from tests.export.graphs import network, square

CHAIN = network([("MatMul", ["x", "w"], "a"), ("Neg", ["a"], "b"), ("Abs", ["b"], "y")], {"w": square(10)})
TENSORS, ROWS, WIDTH = 64, 4, 1 << 18  # of 4 MiB each


def test_a_number_is_made_right_behind_the_tensor_that_it_is_of() -> None:
    told = telling(CHAIN, [("ReduceMax", "b"), ("Size", "a"), ("ReduceMin", "b")], "numbers", TensorProto.FLOAT)
    operations = [node.op_type for node in told.graph.node]
    assert operations == [
        "MatMul", "Size", "Reshape", "Neg", "ReduceMax", "Reshape", "ReduceMin", "Reshape", "Abs", "Concat",
    ]  # fmt: skip
    assert [value.name for value in told.graph.output] == ["y", "numbers"]
    assert [value.name for value in CHAIN.graph.output] == ["y"], "the model itself is not changed"


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_types_need_no_weights(half: bool, micro_bundle: Path) -> None:
    for engine in Manifest.read(micro_bundle).engines:
        model = onnx.load(micro_bundle / onnx_file(engine))
        if half:
            widen(model)
            model = to_fp16(model, ())
        graph = shape_inference.infer_shapes(model).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        assert tensor_types(model) == {v.name: v.type.tensor_type.elem_type for v in values}, engine


def test_watching_a_deep_network_keeps_few_activations_alive() -> None:
    """A tensor is freed when its numbers are made: behind the last node they would keep all 256 MiB to the end."""
    nodes = [helper.make_node("Mul", [f"t{i}", "c"], [f"t{i + 1}"], name=f"t{i + 1}") for i in range(TENSORS)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", WIDTH]) for n in ("t0", f"t{TENSORS}")]
    graph = helper.make_graph(nodes, "deep", values[:1], values[1:], [numpy_helper.from_array(np.float32(2), "c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    t0, last = (TensorSpec(name, "float32", ("B", WIDTH)) for name in ("t0", f"t{TENSORS}"))
    engine = WatchedEngine(model, EngineSpec("deep", (t0,), (last,)))
    inputs = {"t0": np.ones((ROWS, WIDTH), np.float32)}
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    engine(inputs)
    whole = TENSORS * inputs["t0"].nbytes / 2**20
    assert resident_mb("VmHWM") - before < whole / 4
    assert engine.ranges == {f"t{i + 1}": 2.0 ** (i + 1) for i in range(TENSORS)}


def resident_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10
