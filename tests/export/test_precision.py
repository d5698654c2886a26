"""What stays in FP32, each for its reason; and an overflow that would blacken the picture is caught before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export import precision
from export.overflow import WatchedEngine
from export.precision import FP16_MAX, LARGEST_ALLOWED, kept_in_fp32, summary
from export.rounded import rounded
from export.storage import widen
from export.to_fp16 import to_fp16
from runtime.engines.ort import OrtEngine
from runtime.ladder import to_picture
from runtime.manifest import Manifest, onnx_file
from runtime.similarity import psnr_db
from runtime.spec import EngineSpec
from tests.export.graphs import network, square

CHAIN = network(
    [("MatMul", ["x", "w"], "a"), ("Mul", ["a", "a"], "b"), ("MatMul", ["b", "w"], "c"), ("Tanh", ["c"], "y")],
    {"w": square(0.5)},
)


def test_without_a_reason_only_what_follows_the_last_product_stays() -> None:
    assert kept_in_fp32(CHAIN.graph, "decoder", {}) == {3: precision.TAIL}


def test_a_wide_tensor_keeps_its_maker_and_its_readers() -> None:
    assert kept_in_fp32(CHAIN.graph, "decoder", {"b": LARGEST_ALLOWED * 1.01, "a": LARGEST_ALLOWED}) == {
        1: precision.OVERFLOW,
        2: precision.OVERFLOW,
        3: precision.TAIL,
    }


def test_a_wide_tensor_is_still_wide_when_it_was_only_moved() -> None:
    nodes = [
        ("MatMul", ["x", "w"], "a"),
        ("Transpose", ["a"], "b"),
        ("Identity", ["b"], "c"),
        ("MatMul", ["c", "w"], "d"),
        ("MatMul", ["d", "w"], "y"),
    ]
    model = network(nodes, {"w": square(1)})
    assert set(kept_in_fp32(model.graph, "decoder", {"a": 1e5, "d": 1.0, "y": 1.0})) == {0, 1, 2, 3}


@pytest.mark.parametrize("largest", [float("inf"), float("nan")])
def test_what_is_not_finite_is_wide(largest: float) -> None:
    assert kept_in_fp32(CHAIN.graph, "decoder", {"a": largest})[0] == precision.OVERFLOW


def test_half_of_the_range_is_kept_free() -> None:
    assert LARGEST_ALLOWED == FP16_MAX / 2 == 32752


@pytest.mark.parametrize(("value", "reason"), [(40_000.0, precision.OVERFLOW), (1e-12, precision.UNDERFLOW)])
def test_a_constant_that_fp16_cannot_hold_keeps_its_node(value: float, reason: str) -> None:
    model = network([("Add", ["x", "c"], "a"), ("MatMul", ["a", "w"], "y")], {"c": square(value), "w": square(1)})
    assert kept_in_fp32(model.graph, "decoder", {}) == {0: reason}


def test_phases_stay_with_everything_that_they_are_computed_from() -> None:
    model = network(
        [
            ("Mul", ["x", "c"], "a"),
            ("Sin", ["a"], "b"),
            ("Mul", ["x", "c"], "d"),
            ("Add", ["b", "d"], "e"),
            ("MatMul", ["e", "c"], "y"),
        ],
        {"c": square(1)},
    )
    assert kept_in_fp32(model.graph, "unet", {}) == {0: precision.PHASE, 1: precision.PHASE}


def test_in_fusion_only_matrix_products_are_half() -> None:
    model = network(
        [("Mul", ["x", "w"], "a"), ("MatMul", ["a", "w"], "b"), ("Relu", ["b"], "c"), ("MatMul", ["c", "w"], "y")],
        {"w": square(1)},
    )
    assert set(kept_in_fp32(model.graph, "fusion", {})) == {0, 2}
    assert set(kept_in_fp32(model.graph, "unet", {})) == set()


def test_statistics_and_quotients_stay_in_every_engine(full_bundle: Path) -> None:
    for engine in Manifest.read(full_bundle).engines:
        graph = onnx.load(full_bundle / onnx_file(engine, "onnx-fp16")).graph
        halves = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT16}
        for node in graph.node:
            if node.op_type in precision.KEPT_OPERATIONS:
                assert not halves.intersection(node.input), f"{engine}: {node.name}"


def test_summary_counts_reasons_and_names_the_largest_activation() -> None:
    ranges = {"a": 12.345678, "b": 5e4}
    kept = kept_in_fp32(CHAIN.graph, "decoder", ranges)
    assert summary(CHAIN.graph, kept, ranges) == {
        "nodes": 4,
        "kept": {"outputs": 1, "overflow": 2},
        "largest": 12.35,
        "tensor": "a",
        "overflowing": ["b"],
    }


@pytest.fixture(scope="module")
def decoder(micro_bundle: Path) -> tuple[onnx.ModelProto, EngineSpec]:
    model = onnx.load(micro_bundle / onnx_file("decoder"))
    widen(model)
    return model, Manifest.read(micro_bundle).engines["decoder"]


def planted(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The same function, with activations `factor`² times as large around its third ReLU."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    relu = [index for index, node in enumerate(graph.node) if node.op_type == "Relu"][2]
    inside, outside = graph.node[relu].input[0], graph.node[relu].output[0]
    for name, value in (("up", factor), ("down", 1 / factor)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph.node[relu].input[0], graph.node[relu].output[0] = "huge", "huge.relu"
    chain = [
        (inside, "up", "large"),
        ("large", "up", "huge"),
        ("huge.relu", "down", "small"),
        ("small", "down", outside),
    ]
    for step, (source, weight, target) in enumerate(chain):
        graph.node.insert(relu + step + step // 2, helper.make_node("Mul", [source, weight], [target], name=target))
    return result


def test_a_layer_with_huge_activations_is_kept_and_without_the_guard_the_picture_breaks(
    decoder: tuple[onnx.ModelProto, EngineSpec],
) -> None:
    model, spec = planted(decoder[0], 1000), decoder[1]
    latents = {"latents": np.random.default_rng(0).standard_normal(spec.shape(spec.inputs[0], 1)).astype(np.float32)}
    watched = WatchedEngine(model, spec)
    expected = to_picture(watched(latents)["image"][0])
    wide = {name for name, largest in watched.ranges.items() if largest > FP16_MAX}
    assert wide, "nothing was planted"

    def picture(ranges: dict[str, float]) -> np.ndarray:
        half = to_fp16(model, kept_in_fp32(model.graph, "decoder", ranges))
        return to_picture(OrtEngine(rounded(half).SerializeToString(), spec)(latents)["image"][0])

    kept = kept_in_fp32(model.graph, "decoder", watched.ranges)
    reasons = {name: kept.get(index) for index, node in enumerate(model.graph.node) for name in node.output}
    assert {reasons[name] for name in wide} == {precision.OVERFLOW}
    assert psnr_db(expected, picture(watched.ranges)) > 40
    assert psnr_db(expected, picture({})) < 20
