"""What FP16 hardware would compute, on a CPU: the FP16 graph in FP32 with every FP16 tensor rounded to FP16.

ONNX Runtime has few FP16 kernels for the CPU. It runs the others in FP32 and removes the rounding between them, so neither an overflow nor
a lost digit shows. Here each FP16 tensor passes through two explicit casts, which the library keeps: what is between two nodes is FP16, and sums
inside a node are FP32, as in the matrix units of a GPU. A fused kernel rounds less often. For measuring only, never written to a bundle.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from export.graph import FLOAT, FLOAT16, LAYOUT_OPERATIONS, tensor_types


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """An FP32 model that computes as `model`, which `to_fp16` made, would with FP16 kernels."""
    types = tensor_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:]
    for initializer in graph.initializer:
        if initializer.data_type == FLOAT16:
            initializer.CopyFrom(numpy_helper.from_array(_widened(initializer), initializer.name))
    for original in model.graph.node:
        node = graph.node.add()
        node.CopyFrom(original)
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT16:
                attribute.i = FLOAT
            elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type == FLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(_widened(attribute.t), attribute.t.name))
        if node.op_type in LAYOUT_OPERATIONS:
            continue
        for slot, name in enumerate(original.output):
            if types.get(name) == FLOAT16:
                exact, half = f"{name}.exact", f"{name}.half"
                node.output[slot] = exact
                graph.node.append(helper.make_node("Cast", [exact], [half], name=f"{half}.cast", to=FLOAT16))
                graph.node.append(helper.make_node("Cast", [half], [name], name=f"{name}.widen", to=FLOAT))
    onnx.checker.check_model(result, full_check=True)
    return result


def _widened(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor).astype(np.float32)
