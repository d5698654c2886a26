"""An FP32 ONNX model → the same network in FP16, with the nodes of the precision policy left in FP32.

Types are decided per tensor: a tensor has the type of the node that makes it, and is cast, once, for the consumers that compute in the
other. Two neighbours in FP32 therefore exchange FP32, which is what a value beyond FP16's range needs. Inputs and outputs of the network keep
the types of the spec. It knows no ranges and no reasons: `export/precision.py` does.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from export.graph import FLOAT, FLOAT16, tensor_types
from export.precision import FP16_MAX

# Inputs whose type ONNX does not tie to the data's: scales of a resize are float whatever is resized.
ALWAYS_FLOAT = {"Resize": (1, 2)}
SUFFIX = {FLOAT: "fp32", FLOAT16: "fp16"}


def to_fp16(model: onnx.ModelProto, kept: Collection[int]) -> onnx.ModelProto:
    """A copy of `model` (FP32, opset 20, weights inside) that computes in FP16 except at the node indices in `kept`.

    Finite weights beyond FP16's range are clipped to it; the policy keeps their nodes in FP32, so none should remain.
    Raises onnx.checker.ValidationError if the result is not a valid graph, ValueError for a graph with subgraphs.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    types = _Types(model)
    nodes: list[onnx.NodeProto] = []
    for index, original in enumerate(model.graph.node):
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in original.attribute):
            raise ValueError(
                f"to_fp16: node '{original.name}' ({original.op_type}) has a subgraph; export without control flow"
            )
        node = onnx.NodeProto()
        node.CopyFrom(original)
        wanted = FLOAT if index in kept else FLOAT16
        for slot, name in enumerate(node.input):
            if node.op_type == "Cast" or types.of(name) is None:  # a Cast reads any type; integers and booleans stay
                continue
            fixed = FLOAT if slot in ALWAYS_FLOAT.get(node.op_type, ()) else wanted
            node.input[slot] = types.as_type(name, fixed, nodes)
        if wanted == FLOAT16:
            _retype_attributes(node)
        for name in node.output:
            types.made(name, wanted)
        nodes.append(node)
    for output in graph.output:
        types.restore(output.name, nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    types.write_initializers(graph)
    del graph.value_info[:]
    onnx.checker.check_model(result, full_check=True)
    return result


class _Types:
    """The present type of every float tensor of a graph, and the casts made so far."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._floats = {name for name, kind in tensor_types(model).items() if kind == FLOAT}
        self._weights = {i.name: i for i in graph.initializer if i.data_type == FLOAT}
        self._type = {v.name: FLOAT for v in graph.input if v.name in self._floats}
        self._cast: set[str] = set()
        self._used: dict[str, None] = {}  # a weight and a type -> nothing, in order of first use

    def of(self, name: str) -> int | None:
        """FLOAT or FLOAT16; None for what is no float."""
        return FLOAT if name in self._weights else self._type.get(name)

    def as_type(self, name: str, wanted: int, nodes: list[onnx.NodeProto]) -> str:
        """The name under which `name` can be read as `wanted`; appends a Cast where there is none yet."""
        if name in self._weights:
            stored = name if wanted == FLOAT else f"{name}.fp16"
            self._used[stored] = None
            return stored
        if self._type[name] == wanted:
            return name
        cast = f"{name}.{SUFFIX[wanted]}"
        if cast not in self._cast:
            self._cast.add(cast)
            nodes.append(helper.make_node("Cast", [name], [cast], name=f"{cast}.cast", to=wanted))
        return cast

    def made(self, name: str, type_: int) -> None:
        """A node of that type has written `name`."""
        if name in self._floats:
            self._type[name] = type_

    def restore(self, output: str, nodes: list[onnx.NodeProto]) -> None:
        """Make the graph's output FP32 again, by a Cast behind what makes it."""
        if self._type.get(output) != FLOAT16:
            return
        inner = f"{output}.fp16"
        for node in nodes:
            for names in (node.input, node.output):
                for slot, name in enumerate(names):
                    if name == output:
                        names[slot] = inner
        nodes.append(helper.make_node("Cast", [inner], [output], name=f"{output}.cast", to=FLOAT))

    def write_initializers(self, graph: onnx.GraphProto) -> None:
        """Replace the float weights by the versions that are used, in the order of their first use."""
        others = [i for i in graph.initializer if i.name not in self._weights]
        kept = []
        for stored in self._used:
            if stored in self._weights:
                kept.append(self._weights[stored])
            else:
                values = numpy_helper.to_array(self._weights[stored.removesuffix(".fp16")])
                kept.append(numpy_helper.from_array(_rounded(values), stored))
        copies = [onnx.TensorProto.FromString(i.SerializeToString()) for i in (*others, *kept)]
        del graph.initializer[:]
        graph.initializer.extend(copies)


def _rounded(values: np.ndarray) -> np.ndarray:
    """float16, finite values clipped to its range."""
    finite = np.isfinite(values)
    return np.where(finite, np.clip(values, -FP16_MAX, FP16_MAX), values).astype(np.float16)


def _retype_attributes(node: onnx.NodeProto) -> None:
    """Float constants and cast targets of a node become FP16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
            attribute.i = FLOAT16
        elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == FLOAT:
            values = _rounded(numpy_helper.to_array(attribute.t))
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
