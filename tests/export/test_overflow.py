"""Ranges are those of every tensor, over every call, and watching changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx

from export.overflow import WatchedEngine, watch
from runtime.engines.ort import OrtEngine
from runtime.manifest import RANGES, Manifest, onnx_file
from runtime.spec import EngineSpec, TensorSpec
from tests.export.graphs import network, square

SPEC = EngineSpec("chain", (TensorSpec("x", "float32", (4, 4)),), (TensorSpec("y", "float32", (4, 4)),))
CHAIN = network([("MatMul", ["x", "w"], "a"), ("Transpose", ["a"], "b"), ("Neg", ["b"], "y")], {"w": square(10)})


def test_the_largest_absolute_value_of_all_calls_is_remembered() -> None:
    engine = WatchedEngine(CHAIN, SPEC)
    for value in (1, -3, 2):
        np.testing.assert_array_equal(engine({"x": square(value)})["y"], square(-40 * value))
    assert engine.ranges == {"a": 120, "y": 120}, "a transpose has no range of its own"


def test_watching_adds_one_output_and_leaves_the_others_as_they_are(micro_bundle: Path) -> None:
    spec = Manifest.read(micro_bundle).engines["decoder"]
    model = onnx.load(micro_bundle / onnx_file("decoder"))
    watched, names = watch(model)
    assert [output.name for output in watched.graph.output] == [*(t.name for t in spec.outputs), "ranges"]
    assert len(names) == len(set(names)) > 20
    latents = {"latents": np.ones(spec.shape(spec.inputs[0], 0), np.float32)}
    expected = OrtEngine(micro_bundle / onnx_file("decoder"), spec)(latents)["image"]
    np.testing.assert_allclose(WatchedEngine(model, spec)(latents)["image"], expected, atol=1e-6)


def test_every_engine_was_watched_at_real_work(full_bundle: Path) -> None:
    manifest = Manifest.read(full_bundle)
    ranges = json.loads((full_bundle / RANGES).read_text())
    assert ranges.keys() == manifest.fp16.keys() == manifest.engines.keys()
    for engine, found in manifest.fp16.items():
        assert ranges[engine][found["tensor"]] == found["largest"] > 0
        assert min(value for value in ranges[engine].values() if value is not None) >= 0
    # Timesteps are graph inputs, and the largest visited is the last: generation starts and inversion ends there.
    assert max(ranges["unet"].values()) >= 900
