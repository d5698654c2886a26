"""`--targets`: what it may name, and what follows from it."""

from __future__ import annotations

import pytest

from export.targets import EXAMPLE, RTX_TARGETS, Targets
from runtime.errors import BundleError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnx", Targets()),
        ("onnx-fp16", Targets(fp16=True)),
        ("onnx,onnx-fp16", Targets(fp16=True)),
        ("tensorrt", Targets(fp16=True, tensorrt=True)),
        ("tensorrt-rtx", Targets(fp16=True, rtx=RTX_TARGETS)),
        ("tensorrt-rtx:sm120+sm75+sm75,onnx", Targets(fp16=True, rtx=("sm75", "sm120"))),
        (EXAMPLE, Targets(fp16=True, rtx=("sm86", "sm89", "sm120"))),
    ],
)
def test_targets_are_read_with_what_they_imply(text: str, expected: Targets) -> None:
    assert Targets.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpu", "unknown target 'tpu'; known: onnx"),
        ("", "unknown target ''"),
        ("onnx:sm89", "unknown target 'onnx:sm89'"),
        ("tensorrt-rtx:sm90", "cannot compile for sm90; it knows sm75.* use the target tensorrt on the machine"),
        ("tensorrt-rtx:", "cannot compile for "),
        ("onnx,onnx", "onnx is named twice"),
    ],
)
def test_what_is_unknown_is_named_with_what_is_known(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Targets.parse(text)


def test_plans_without_their_source_cannot_be_asked_for() -> None:
    with pytest.raises(BundleError, match="plans are built from onnx-fp16"):
        Targets(rtx=("sm89",))


def test_the_table_of_gpus_is_the_librarys() -> None:
    library = pytest.importorskip("tensorrt_rtx")
    assert tuple(n.lower() for n in library.ComputeCapability.__members__ if n.startswith("SM")) == RTX_TARGETS
