"""The precision policy of FP16 graphs: which nodes stay in FP32, and why. The only file that decides it.

Everything else computes in FP16. The policy is about nodes of an ONNX graph, so what it says is what every engine runs: TensorRT and
TensorRT-RTX take the types of the graph as they are. `export/to_fp16.py` carries it out, `export/overflow.py` measures the ranges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.graph import LAYOUT_OPERATIONS

FP16_MAX = float(np.finfo(np.float16).max)  # 65504
FP16_SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)  # 6.1e-5
# A range was seen on some trajectories; another face may go beyond it. Half of FP16's range leaves a factor of two.
LARGEST_ALLOWED = FP16_MAX / 2

STATISTICS = "statistics: sums of squares over thousands of elements lose their last digits, and overflow first"
QUOTIENT = "quotients: a denominator near zero magnifies its rounding"
PHASE = "phases: FP16 tells timesteps above 512 apart only by halves, so sine and cosine of them would be noise"
MIXING = "fusion's mixing (eqs 5, 7, 16): runs once per picture, and its rounding would be in every step"
TAIL = "outputs: nothing behind the last matrix product averages its rounding out, and years are read in tenths"
OVERFLOW = "overflow: beyond half of FP16's range on a measured trajectory"
UNDERFLOW = "underflow: a constant that FP16 cannot hold"

KEPT_OPERATIONS: Mapping[str, str] = {
    "InstanceNormalization": STATISTICS,  # group norm, as opset 20 writes it
    "GroupNormalization": STATISTICS,
    "LayerNormalization": STATISTICS,
    "ReduceMean": STATISTICS,
    "ReduceL2": STATISTICS,
    "LpNormalization": STATISTICS,
    "Div": QUOTIENT,
    "Sin": PHASE,
    "Cos": PHASE,
}
PHASES = ("Sin", "Cos")  # with everything that they are computed from
MATRIX_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MIXING_ENGINES = ("fusion",)  # in these, all but the matrix products


def kept_in_fp32(graph: onnx.GraphProto, engine: str, ranges: Mapping[str, float]) -> dict[int, str]:
    """The nodes of `graph` that stay in FP32: index in `graph.node` -> reason, one of the sentences above.

    ranges  tensor -> largest absolute value seen; a node that reads or writes more than LARGEST_ALLOWED, or what is not finite,
            stays in FP32. So a large value never passes through FP16 between two such nodes. Data that was only moved is as large as it
            was before; other tensors that are not listed count as small
    """
    reasons: dict[int, str] = {}
    wide = {name for name, largest in ranges.items() if not largest <= LARGEST_ALLOWED}
    weights = {i.name: _largest(i) for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    wide |= {name for name, largest in weights.items() if not largest <= LARGEST_ALLOWED}
    tiny = {name for name, largest in weights.items() if 0 < largest < FP16_SMALLEST_NORMAL}
    for node in graph.node:
        if node.op_type in LAYOUT_OPERATIONS and wide.intersection(node.input):
            wide.update(node.output)
    phases = _ancestors(graph, PHASES)
    tail = _tail(graph)
    for index, node in enumerate(graph.node):
        if wide.intersection((*node.input, *node.output)):
            reasons[index] = OVERFLOW
        elif node.op_type in KEPT_OPERATIONS:
            reasons[index] = KEPT_OPERATIONS[node.op_type]
        elif index in phases:
            reasons[index] = PHASE
        elif engine in MIXING_ENGINES and node.op_type not in MATRIX_PRODUCTS:
            reasons[index] = MIXING
        elif tiny.intersection(node.input):
            reasons[index] = UNDERFLOW
        elif index in tail:
            reasons[index] = TAIL
    return reasons


def summary(graph: onnx.GraphProto, kept: Mapping[int, str], ranges: Mapping[str, float]) -> dict[str, Any]:
    """What the manifest says of one engine: how many nodes stay in FP32 for which reason, and the largest activation with its tensor.

    overflowing  tensors beyond LARGEST_ALLOWED. Where one is 3.4e38 or None (infinite), it is the fill of an attention mask
    """
    counts = Counter(reason.partition(":")[0] for reason in kept.values())
    overflowing = [name for name, largest in ranges.items() if not largest <= LARGEST_ALLOWED]
    inside = {name: largest for name, largest in ranges.items() if largest <= LARGEST_ALLOWED}
    tensor = max(inside, key=lambda name: inside[name], default="")
    return {
        "nodes": len(graph.node),
        "kept": dict(sorted(counts.items())),
        "largest": float(f"{inside.get(tensor, 0.0):.4g}"),
        "tensor": tensor,
        "overflowing": overflowing,
    }


def _largest(initializer: onnx.TensorProto) -> float:
    values = numpy_helper.to_array(initializer)
    return max(abs(float(values.max())), abs(float(values.min()))) if values.size else 0.0


def _ancestors(graph: onnx.GraphProto, operations: Sequence[str]) -> set[int]:
    """Indices of all nodes that a node of one of these operations is computed from."""
    needed: set[str] = set()
    found: set[int] = set()
    for index in reversed(range(len(graph.node))):  # stored in topological order, so one pass suffices
        node = graph.node[index]
        if needed.intersection(node.output):
            found.add(index)
        if index in found or node.op_type in operations:
            needed.update(node.input)
    return found


def _tail(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes that no matrix product follows, matrix products excepted."""
    before_product = _ancestors(graph, MATRIX_PRODUCTS)
    products = {index for index, node in enumerate(graph.node) if node.op_type in MATRIX_PRODUCTS}
    return set(range(len(graph.node))) - before_product - products
