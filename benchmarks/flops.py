"""How much arithmetic an ONNX network is: multiplications and additions of its convolutions and matrix products, attention included.

Norms, activations and resizing are left out, as in every count of this kind: they cost memory traffic rather than arithmetic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import ModelProto, NodeProto, shape_inference

Shapes = Mapping[str, tuple[int, ...]]
COUNTED = ("Conv", "Gemm", "MatMul")


def count_flops(model: ModelProto, batch: int = 1) -> dict[str, int]:
    """Floating-point operations of one call by operator type, two per multiplication with its addition.

    Raises ValueError where a size stays unknown once the batch is given, or for a product that this file does not know.
    """
    shapes = infer_shapes(model, batch)
    flops: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in COUNTED:
            flops[node.op_type] += 2 * _multiplications(node, shapes)
        elif node.op_type in ("ConvTranspose", "Einsum", "Attention", "LSTM", "GRU"):
            raise ValueError(f"flops: node '{node.name}' is {node.op_type}; counted are {', '.join(COUNTED)}")
    return dict(flops)


def infer_shapes(model: ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by name when each free dimension is `batch`; tensors with a size that stays unknown are left out."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for tensor in (*fixed.graph.input, *fixed.graph.output):
        for dimension in tensor.type.tensor_type.shape.dim:
            if dimension.WhichOneof("value") != "dim_value":
                dimension.dim_value = batch
    graph = shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for tensor in (*graph.input, *graph.output, *graph.value_info):
        dimensions = tensor.type.tensor_type.shape.dim
        if all(dimension.WhichOneof("value") == "dim_value" for dimension in dimensions):
            shapes[tensor.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes


def _multiplications(node: NodeProto, shapes: Shapes) -> int:
    """Outputs times the length of the sum behind each."""
    outputs = math.prod(_shape(node.output[0], node, shapes))
    if node.op_type == "Conv":
        return outputs * math.prod(_shape(node.input[1], node, shapes)[1:])  # input channels of a group, kernel
    first = _shape(node.input[0], node, shapes)
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return outputs * first[-2 if transposed else -1]


def _shape(tensor: str, node: NodeProto, shapes: Shapes) -> tuple[int, ...]:
    if tensor not in shapes:
        raise ValueError(f"flops: the shape of '{tensor}' at {node.op_type} '{node.name}' is unknown")
    return shapes[tensor]
