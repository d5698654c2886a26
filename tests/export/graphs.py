"""Small ONNX graphs for tests of the passes over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.to_onnx import OPSET

Node = tuple[str, Sequence[str], str]


def network(nodes: Sequence[Node], weights: Mapping[str, np.ndarray], shape: Sequence[int] = (4, 4)) -> onnx.ModelProto:
    """A checked model from `x` to `y`, both float32 of `shape`; a node is (operation, inputs, output)."""
    made = [helper.make_node(operation, list(inputs), [output], name=output) for operation, inputs, output in nodes]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in ("x", "y"))
    stored = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph(made, "network", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """`y` for `x`, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def square(value: float) -> np.ndarray:
    return np.full((4, 4), value, np.float32)
