"""What several passes over an ONNX graph need: the type of each tensor, which nodes only move data, and a graph that tells numbers of its tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

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


# Shapes follow from small constants: the target of a reshape, the scales of a resize. Larger ones are weights.
LARGEST_CONSTANT = 1024
Figure = tuple[str, str]


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that a node or the graph's caller gives, by name; weights are not among them."""
    weights = {i.name for i in model.graph.initializer}
    graph = shape_inference.infer_shapes(_without_weights(model)).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values if v.name not in weights}


def telling(model: onnx.ModelProto, figures: Sequence[Figure], output: str, data_type: int) -> onnx.ModelProto:
    """A copy of `model` with one more output (F,): of each figure (operation, tensor) the one number that the operation makes of the tensor.

    Only F numbers leave the graph: keeping every activation of a large network would take many times its memory. A figure's nodes stand right
    behind the one that makes its tensor, so that whoever runs nodes in the order of the file (`OrtEngine(in_order=True)`) frees it at once.
    Behind all others they would keep every activation alive to the end, 20 GB in a UNet at 256 × 256.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), f"{output}.one"))
    parts: list[str] = []
    behind: dict[str, list[onnx.NodeProto]] = {}
    for number, (operation, tensor) in enumerate(figures):
        scalar, part = f"{output}.{number}", f"{output}.{number}.part"
        whole = {} if operation == "Size" else {"keepdims": 0}
        behind.setdefault(tensor, []).extend(
            [
                helper.make_node(operation, [tensor], [scalar], **whole),
                helper.make_node("Reshape", [scalar, f"{output}.one"], [part]),
            ]
        )
        parts.append(part)
    del graph.node[:]
    for node in model.graph.node:
        graph.node.append(node)
        for tensor in node.output:
            graph.node.extend(behind.get(tensor, ()))
    graph.node.append(helper.make_node("Concat", parts, [output], axis=0))
    graph.output.append(helper.make_tensor_value_info(output, data_type, [len(figures)]))
    return result


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights as inputs: all that types and shapes follow from, in a hundredth of the bytes."""
    graph = onnx.GraphProto(
        name=model.graph.name, node=model.graph.node, input=model.graph.input, output=model.graph.output
    )
    given = {value.name for value in graph.input}
    for initializer in model.graph.initializer:
        if np.prod(initializer.dims) <= LARGEST_CONSTANT:
            graph.initializer.append(initializer)
        elif initializer.name not in given:
            graph.input.append(
                helper.make_tensor_value_info(initializer.name, initializer.data_type, list(initializer.dims))
            )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
