"""FP16 storage is lossless or does not happen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.storage import SMALL_ELEMENTS, is_exact, store_as_fp16, widen


def add_constant(weight: np.ndarray) -> onnx.ModelProto:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, weight.shape) for name in ("x", "y")]
    node = helper.make_node("Add", ["x", "weight"], ["y"])
    graph = helper.make_graph([node], "add", tensors[:1], tensors[1:], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_an_exact_weight_is_halved_and_cast_back() -> None:
    weight = np.arange(1000, dtype=np.float32)
    model = add_constant(weight)
    assert store_as_fp16(model) == 1
    onnx.checker.check_model(model, full_check=True)
    (stored,) = model.graph.initializer
    assert stored.data_type == TensorProto.FLOAT16 and len(stored.raw_data) == 2000
    (result,) = ReferenceEvaluator(model).run(None, {"x": np.zeros(1000, np.float32)})
    np.testing.assert_array_equal(result, weight)


@pytest.mark.parametrize("value", [0.1, 70_000.0, 1e-9], ids=["rounded", "too large", "too small"])
def test_one_inexact_element_keeps_the_whole_weight_in_fp32(value: float) -> None:
    weight = np.ones(1000, np.float32)
    weight[500] = value
    assert not is_exact(weight)
    model = add_constant(weight)
    before = model.SerializeToString()
    assert store_as_fp16(model) == 0
    assert model.SerializeToString() == before


def test_small_weights_stay_readable() -> None:
    assert store_as_fp16(add_constant(np.ones(SMALL_ELEMENTS, np.float32))) == 0
    assert store_as_fp16(add_constant(np.ones(SMALL_ELEMENTS + 1, np.float32))) == 1


def test_storing_can_be_undone_to_the_byte() -> None:
    model = add_constant(np.arange(1000, dtype=np.float32))
    before = model.SerializeToString(deterministic=True)
    store_as_fp16(model)
    assert model.SerializeToString(deterministic=True) != before
    widen(model)
    assert model.SerializeToString(deterministic=True) == before
