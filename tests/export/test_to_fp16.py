"""The pass to FP16: types per tensor, casts only where two types meet, and a file that any engine reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.graph import tensor_types
from export.to_fp16 import to_fp16
from tests.export.graphs import network, run, square

CHAIN = network(
    [("MatMul", ["x", "w"], "a"), ("Relu", ["a"], "b"), ("MatMul", ["b", "v"], "y")], {"w": square(0.5), "v": square(2)}
)


def operations(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def weights(model: onnx.ModelProto) -> dict[str, int]:
    return {initializer.name: initializer.data_type for initializer in model.graph.initializer}


def test_inputs_and_outputs_keep_their_types_and_all_between_is_half() -> None:
    half = to_fp16(CHAIN, ())
    assert operations(half) == ["Cast", "MatMul", "Relu", "MatMul", "Cast"]
    assert weights(half) == {"w.fp16": TensorProto.FLOAT16, "v.fp16": TensorProto.FLOAT16}
    types = tensor_types(half)
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {"x", "y"}
    np.testing.assert_array_equal(run(half, square(1)), run(CHAIN, square(1)))


def test_two_kept_neighbours_exchange_fp32() -> None:
    """A value beyond FP16's range must not pass through FP16 on its way from one to the other."""
    kept = to_fp16(CHAIN, (0, 1))
    assert operations(kept) == ["MatMul", "Relu", "Cast", "MatMul", "Cast"]
    assert tensor_types(kept)["a"] == tensor_types(kept)["b"] == TensorProto.FLOAT


def test_everything_kept_is_the_network_itself() -> None:
    assert to_fp16(CHAIN, range(3)).SerializeToString() == CHAIN.SerializeToString()


def test_the_original_is_not_touched() -> None:
    before = CHAIN.SerializeToString()
    to_fp16(CHAIN, (1,))
    assert CHAIN.SerializeToString() == before


def test_one_cast_serves_all_consumers_of_a_tensor() -> None:
    model = network([("Relu", ["x"], "a"), ("Neg", ["x"], "b"), ("Add", ["a", "b"], "y")], {})
    assert operations(to_fp16(model, ())).count("Cast") == 2


def test_a_weight_that_both_types_read_is_stored_in_both() -> None:
    model = network([("MatMul", ["x", "w"], "a"), ("MatMul", ["a", "w"], "y")], {"w": square(0.5)})
    assert weights(to_fp16(model, (1,))) == {"w.fp16": TensorProto.FLOAT16, "w": TensorProto.FLOAT}


def test_scales_of_a_resize_stay_float_as_onnx_demands() -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, s, s]) for n, s in (("x", 2), ("y", 4))]
    graph = helper.make_graph(
        [node], "resize", tensors[:1], tensors[1:], [onnx.numpy_helper.from_array(scales, "scales")]
    )
    half = to_fp16(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), ())
    assert weights(half) == {"scales": TensorProto.FLOAT}
    assert run(half, np.ones((1, 1, 2, 2), np.float32)).shape == (1, 1, 4, 4)


def test_finite_weights_are_clipped_and_infinite_ones_stay() -> None:
    mask = np.array([1e6, -1e6, -np.inf, 1], np.float32)
    (stored,) = to_fp16(network([("Add", ["x", "mask"], "y")], {"mask": mask}), ()).graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), np.array([65504, -65504, -np.inf, 1], np.float16))


def test_an_output_that_another_node_reads_is_still_the_output() -> None:
    model = network([("Relu", ["x"], "y"), ("Neg", ["y"], "z"), ("Abs", ["z"], "unused")], {})
    half = to_fp16(model, ())
    assert [output.name for output in half.graph.output] == ["y"]
    np.testing.assert_array_equal(run(half, square(3)), square(3))


def test_control_flow_is_refused_by_name() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 4])],
    )
    model = network([("Relu", ["x"], "y")], {})
    model.graph.node.insert(0, helper.make_node("If", ["c"], ["z"], name="branch", then_branch=body, else_branch=body))
    with pytest.raises(ValueError, match=r"node 'branch' \(If\) has a subgraph"):
        to_fp16(model, ())
