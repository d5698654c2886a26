"""Facts of an ONNX graph that several passes need: what type each tensor has, and which nodes only move data."""

from __future__ import annotations

import onnx
from onnx import TensorProto, shape_inference

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
# Their outputs hold elements of their inputs: no new range, no new rounding.
LAYOUT_OPERATIONS = frozenset(
    {
        "Reshape",
        "Transpose",
        "Slice",
        "Split",
        "Concat",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "Gather",
        "GatherND",
        "Identity",
    }
)


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that a node or the graph's caller gives, by name; weights are not among them."""
    graph = shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
