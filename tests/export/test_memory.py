"""The memory estimate, from arithmetic: what lives at the same time is counted, and nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.memory import budget, context_bytes, element_counts, weight_bytes
from export.reference import ReferenceInputs
from export.to_fp16 import to_fp16
from runtime.manifest import Manifest, onnx_file
from runtime.spec import EngineSpec, TensorSpec
from tests.export.graphs import Node, network, square

TENSOR = np.float32().itemsize * 16  # bytes of one 4×4 tensor
SPEC = EngineSpec("chain", (TensorSpec("x", "float32", (4, 4)),), (TensorSpec("y", "float32", (4, 4)),))


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        ([("Relu", ["x"], "a"), ("Neg", ["a"], "b"), ("Abs", ["b"], "y")], 2),  # one is read, one is made
        (
            [("Relu", ["x"], "a"), ("Neg", ["a"], "b"), ("Abs", ["b"], "c"), ("Add", ["c", "x"], "y")],
            3,
        ),  # x is needed again
        ([("Relu", ["x"], "y"), ("Neg", ["y"], "a"), ("Abs", ["a"], "b")], 3),  # an output stays to the end
    ],
)
def test_a_tensor_lives_until_its_last_reader(nodes: list[Node], tensors: int) -> None:
    model = network(nodes, {})
    assert context_bytes(model, element_counts(model, SPEC, {"x": square(1)})) == tensors * TENSOR


def test_weights_count_in_the_type_that_computes() -> None:
    model = network([("MatMul", ["x", "w"], "a"), ("MatMul", ["a", "v"], "y")], {"w": square(1), "v": square(2)})
    assert weight_bytes(model) == 2 * TENSOR and weight_bytes(to_fp16(model, ())) == TENSOR


def test_budget_of_an_engine_is_measured_at_both_ends(micro_bundle: Path) -> None:
    specs, draw = Manifest.read(micro_bundle).engines, ReferenceInputs(600, 0, 1, 1000)
    found = {e: budget(onnx.load(micro_bundle / onnx_file(e)), specs[e], draw) for e in ("unet", "audio_encoder")}
    assert found["unet"]["max"] == 16 * found["unet"]["opt"]
    low, high = (specs["audio_encoder"].ranges["T"][bound] for bound in (1, 2))
    assert 1.5 < found["audio_encoder"]["max"] / found["audio_encoder"]["opt"] < (high / low) ** 2
