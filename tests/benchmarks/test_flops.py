"""Counting arithmetic in a graph: by hand on single nodes, and against torch's own counter on a whole UNet."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.flops import count_flops


def graph(node: onnx.NodeProto, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A network of one node whose input is (B, 6, 8, 8) `x`, or (B, 5, 6) for a product."""
    shape = ("B", 6, 8, 8) if node.op_type in ("Conv", "ConvTranspose") else ("B", 5, 6)
    tensors = [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph([node], "g", [x], [y], tensors))


def test_a_convolution_is_outputs_times_kernel_times_channels_twice() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    assert count_flops(graph(node, w=(4, 6, 3, 3))) == {"Conv": 2 * (4 * 4 * 4) * (6 * 3 * 3)}


def test_a_grouped_convolution_sums_over_its_own_channels_only() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1], group=3)
    assert count_flops(graph(node, w=(6, 2, 1, 1))) == {"Conv": 2 * (6 * 8 * 8) * 2}


def test_a_matrix_product_counts_every_row_of_the_batch() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert count_flops(graph(node, w=(6, 7)), batch=3) == {"MatMul": 2 * (3 * 5 * 7) * 6}


def test_an_operator_whose_arithmetic_is_unknown_is_refused() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"])
    with pytest.raises(ValueError, match="ConvTranspose"):
        count_flops(graph(node, w=(6, 4, 2, 2)))


def test_a_whole_unet_has_the_operations_that_torch_counts(micro_bundle, micro_checkpoint) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.network import of_bundle

    network = of_bundle(micro_bundle, micro_checkpoint)
    denoise = network.torch()
    # Its counter does not know the CPU's fused attention, which is the same products in one operator.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        denoise(*(torch.from_numpy(array) for array in network.inputs(2).values()))
    assert sum(count_flops(onnx.load(network.onnx), 2).values()) == counter.get_total_flops()
