"""How much memory an engine takes: weights as loaded, and the activations that live at the same time.

A tensor lives from the node that makes it to the last one that reads it, nodes in the order of the file. A library that fuses nodes or
reuses a buffer in place needs less; one that keeps a workspace for its convolutions needs more. Sizes are measured by running one row:
rows do not touch each other, so B of them need B times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph import telling, tensor_types
from runtime.engines.ort import OrtEngine
from runtime.spec import EngineSpec, TensorSpec

ELEMENTS = "elements"
Draw = Callable[[EngineSpec, Mapping[str, int]], Mapping[str, np.ndarray]]


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all weights in the types that the graph computes with."""
    return sum(math.prod(i.dims) * _bytes_per_element(i.data_type) for i in model.graph.initializer)


def budget(model: onnx.ModelProto, spec: EngineSpec, draw: Draw) -> dict[str, int]:
    """Bytes of the activations at the profile's optimum and at its maximum; `draw` gives inputs for a spec and sizes."""
    found = {}
    of_one_row: dict[tuple[int, ...], int] = {}
    for name, bound in (("opt", 1), ("max", 2)):
        sizes = {letter: bounds[bound] for letter, bounds in spec.ranges.items()}
        one_row = {**sizes, "B": 1}
        key = tuple(one_row.values())
        if key not in of_one_row:  # most engines have no letter but B, and large ones take seconds
            of_one_row[key] = context_bytes(model, element_counts(model, spec, draw(spec, one_row)))
        found[name] = sizes["B"] * of_one_row[key]
    return found


def context_bytes(model: onnx.ModelProto, counts: Mapping[str, int]) -> int:
    """The largest sum of living activations, inputs and outputs included, for these numbers of elements by tensor."""
    graph, types = model.graph, tensor_types(model)
    size = {name: count * _bytes_per_element(types[name]) for name, count in counts.items()}
    last_use = {name: index for index, node in enumerate(graph.node) for name in node.input}
    last_use |= {output.name: len(graph.node) for output in graph.output}
    alive = peak = sum(size.get(value.name, 0) for value in graph.input)
    for index, node in enumerate(graph.node):
        alive += sum(size.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(size.get(name, 0) for name in {*node.input, *node.output} if last_use.get(name, index) == index)
    return peak


def element_counts(model: onnx.ModelProto, spec: EngineSpec, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many elements each tensor has in a call on these inputs, graph inputs included."""
    types = tensor_types(model)
    names = [name for node in model.graph.node for name in node.output if name in types]
    counted = telling(model, [("Size", name) for name in names], ELEMENTS, TensorProto.INT64)
    tensor = TensorSpec(ELEMENTS, "int64", (len(names),))
    engine = OrtEngine(counted.SerializeToString(), replace(spec, outputs=(*spec.outputs, tensor)), in_order=True)
    try:
        counts = engine(inputs)[ELEMENTS]
    finally:
        engine.close()
    return {
        **{name: int(array.size) for name, array in inputs.items()},
        **dict(zip(names, counts.tolist(), strict=True)),
    }


def _bytes_per_element(data_type: int) -> int:
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)
