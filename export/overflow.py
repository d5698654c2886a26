"""How large do activations get? Ranges of every tensor of an engine, gathered while it runs on something real.

The ranges decide what leaves FP16 (`export/precision.py`) and go into the manifest. Where the inputs come from is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.graph import FLOAT, LAYOUT_OPERATIONS, tensor_types
from runtime.engines.ort import OrtEngine
from runtime.spec import EngineSpec, TensorSpec

RANGES = "ranges"


class WatchedEngine:
    """An engine that remembers the largest absolute value of each of its tensors over all calls; see `runtime.engines.Engine`.

    ranges  tensor of the ONNX graph -> largest absolute value so far, infinite for the fill of a mask. Tensors that only move data
            are left out. Not-a-number is not seen: a network that makes any has missed parity before
    """

    provider = "watched"

    def __init__(self, model: onnx.ModelProto, spec: EngineSpec) -> None:
        self.spec = spec
        watched, self._names = watch(model)
        tensors = (*spec.outputs, TensorSpec(RANGES, "float32", (len(self._names),)))
        self._engine = OrtEngine(watched.SerializeToString(), replace(spec, outputs=tensors))
        self.ranges = dict.fromkeys(self._names, 0.0)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._engine(inputs)
        for name, seen in zip(self._names, outputs.pop(RANGES).tolist(), strict=True):
            self.ranges[name] = max(seen, self.ranges[name])
        return outputs

    def close(self) -> None:
        self._engine.close()


def watch(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of `model` with one more output, `ranges` (R,), and the names of the R tensors whose largest absolute values it holds.

    Only R numbers leave the graph: keeping every activation of a large network would take many times its memory.
    """
    floats = {name for name, kind in tensor_types(model).items() if kind == FLOAT}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    names = [n for node in graph.node if node.op_type not in LAYOUT_OPERATIONS for n in node.output if n in floats]
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), f"{RANGES}.one"))
    parts = []
    for number, name in enumerate(names):
        size, largest, part = (f"{RANGES}.{number}.{step}" for step in ("abs", "max", "part"))
        graph.node.append(helper.make_node("Abs", [name], [size]))
        graph.node.append(helper.make_node("ReduceMax", [size], [largest], keepdims=0))
        graph.node.append(helper.make_node("Reshape", [largest, f"{RANGES}.one"], [part]))
        parts.append(part)
    graph.node.append(helper.make_node("Concat", parts, [RANGES], axis=0))
    graph.output.append(helper.make_tensor_value_info(RANGES, FLOAT, [len(names)]))
    return result, names
