"""Weights stored in half the bytes, computed in FP32. It changes how numbers lie in a file and never which numbers.

A weight goes into the file as an FP16 initialiser followed by a Cast to FP32, and only if every element survives the round
trip exactly. Engines fold that Cast when they load the file, so the network that runs is bit for bit the FP32 one. Checkpoints
saved in FP16 pass with all their weights; what the exporter folds from several weights (the weight normalisation of Wav2Vec 2.0's
position convolution, the normalisation behind the identity network's last layer), and every weight of an FP32 checkpoint, stay as
they are.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Below this a Cast node takes more bytes than it saves, and scalars stay readable.
SMALL_ELEMENTS = 64


def store_as_fp16(model: onnx.ModelProto) -> int:
    """Halve `model`'s exactly representable FP32 initialisers of more than SMALL_ELEMENTS elements, in place; returns how many."""
    graph, casts = model.graph, []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initializer)
        if values.size <= SMALL_ELEMENTS or not is_exact(values):
            continue
        name, stored = initializer.name, f"{initializer.name}.fp16"
        initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return len(casts)


def is_exact(values: np.ndarray) -> bool:
    """Whether FP16 represents every element of the float32 array."""
    with np.errstate(over="ignore"):  # beyond 65504 becomes infinity, which then differs
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))


def widen(model: onnx.ModelProto) -> None:
    """Undo `store_as_fp16`, in place: the same FP32 initialisers under the same names, in the same order."""
    graph = model.graph
    stored = {initializer.name: initializer for initializer in graph.initializer}
    nodes = []
    for node in graph.node:
        initializer = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if initializer is None or initializer.name != f"{node.output[0]}.fp16":
            nodes.append(node)
            continue
        values = numpy_helper.to_array(initializer).astype(np.float32)
        initializer.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
