"""What `inspect` says of a bundle: nothing that matters is left out, and what is bad stands out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from runtime.batcher import BUCKETS
from runtime.inspection import bundle_lines, memory_lines
from runtime.manifest import Manifest


@pytest.fixture(scope="module")
def manifest(full_bundle: Path) -> Manifest:
    return Manifest.read(full_bundle)


def test_every_engine_has_its_error_in_both_precisions(manifest: Manifest) -> None:
    lines = bundle_lines(manifest)
    for engine in manifest.engines:
        errors = [manifest.parity[kind]["engines"][engine]["relative_error"] for kind in ("onnx", "onnx-fp16")]
        (line, *_) = (line for line in lines if line.startswith(f"{engine} "))
        assert [f"{error:.1e}" for error in errors] == line.split()[2:4]


def test_plans_are_listed_with_how_far_they_were_tried(manifest: Manifest) -> None:
    if not manifest.plans:
        pytest.skip("tensorrt_rtx is not installed, so the bundle has no plans")
    text = "\n".join(bundle_lines(manifest))
    assert "-sm75+sm89+sm120: 10 engines" in text and " built\n" in text
    assert "no plan is known to compute the right thing" in text
    executed = tuple(dataclasses.replace(plan, verified="executed") for plan in manifest.plans)
    assert "no plan is known" not in "\n".join(bundle_lines(dataclasses.replace(manifest, plans=executed)))


def test_a_missed_limit_stands_out_and_no_number_is_not_a_number(manifest: Manifest) -> None:
    parity = {
        **manifest.parity,
        "onnx-fp16": {**manifest.parity["onnx-fp16"], "step": {"timesteps": [9], "relative_error": [None]}},
    }
    broken = dataclasses.replace(manifest, parity=parity, parity_missed=["onnx-fp16: step t=9: not finite"])
    text = "\n".join(bundle_lines(broken))
    assert "DOES NOT COMPUTE WHAT TORCH DOES  onnx-fp16: step t=9" in text and "one UNet step not finite" in text


def test_a_chaotic_model_is_marked_and_a_calm_one_is_not(manifest: Manifest) -> None:
    own = {"rounding": 1.2e-7, "multiple": 10, "trajectory": 1.5, "inversion": 2e-5, "restored": None}
    parity = {**manifest.parity, "onnx": {**manifest.parity["onnx"], "sensitivity": own}}
    text = "\n".join(bundle_lines(dataclasses.replace(manifest, parity=parity)))
    assert (
        "CHAOTIC: torch itself, started 1.2e-07 off, ends 1.5e+00 away (inversion 2.0e-05, and back not finite)" in text
    )
    assert "CHAOTIC" not in "\n".join(bundle_lines(manifest))


def test_memory_adds_up_and_grows_with_the_rows(manifest: Manifest) -> None:
    lines = memory_lines(manifest, BUCKETS)
    (total,) = (line.split()[2:] for line in lines if line.startswith("all weights"))
    for kind, megabytes in zip(manifest.kinds, total, strict=True):
        expected = sum(need["weight_bytes"][kind] for need in manifest.memory.values()) / 1e6
        assert float(megabytes) == pytest.approx(expected, abs=0.05)
    assert float(total[1]) < 0.6 * float(total[0]), "FP16 weights take about half"
    (contexts,) = (line.split()[2:] for line in lines if line.startswith("context MB"))
    assert float(contexts[-1]) == pytest.approx(manifest.memory["unet"]["context_bytes"]["max"] / 1e6, abs=0.05)
