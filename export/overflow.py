"""How large do activations get? Ranges of every tensor of an engine, gathered while it runs on something real.

The ranges decide what leaves FP16 (`export/precision.py`) and go into the manifest. Where the inputs come from is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from export.graph import FLOAT, LAYOUT_OPERATIONS, telling, tensor_types
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
        tensors = (*spec.outputs, TensorSpec(RANGES, "float32", (2 * len(self._names),)))
        self._engine = OrtEngine(watched.SerializeToString(), replace(spec, outputs=tensors), in_order=True)
        self.ranges = dict.fromkeys(self._names, 0.0)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._engine(inputs)
        extremes = np.abs(outputs.pop(RANGES)).reshape(-1, 2)
        for name, seen in zip(self._names, extremes.max(1).tolist(), strict=True):
            self.ranges[name] = max(seen, self.ranges[name])
        return outputs

    def close(self) -> None:
        self._engine.close()


def watch(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of `model` with one more output, `ranges` (2 R,), and the names of the R tensors whose largest and smallest values it holds in turn."""
    floats = {name for name, kind in tensor_types(model).items() if kind == FLOAT}
    names = [
        n for node in model.graph.node if node.op_type not in LAYOUT_OPERATIONS for n in node.output if n in floats
    ]
    figures = [(operation, name) for name in names for operation in ("ReduceMax", "ReduceMin")]
    return telling(model, figures, RANGES, FLOAT), names
