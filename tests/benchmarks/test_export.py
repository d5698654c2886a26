"""The export benchmark: a real export of a small model, timed piece by piece."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import export
from runtime.errors import ClipFaceFusionError


def arguments(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"preset": "micro", "checkpoint": None, "targets": "onnx", **changes})


def test_every_piece_of_work_has_a_time_and_they_add_up_to_no_more_than_the_total(capsys) -> None:
    document = export.run(arguments())
    pieces = document["pieces_s"]
    assert {"onnx unet", "onnx fusion", "onnx walks the ladder"} <= set(pieces)
    assert 0 < sum(pieces.values()) <= document["total_s"] + 0.1 * len(pieces)
    assert document["peak_memory_gb"] > 0.1 and document["bundle_mb"] > 0
    assert "onnx unet" in capsys.readouterr().out


def test_an_export_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(ClipFaceFusionError, match="the export failed: error: "):
        export.run(arguments(preset=None, checkpoint=tmp_path))


def test_a_preset_that_does_not_exist_is_named() -> None:
    with pytest.raises(ClipFaceFusionError, match="preset 'huge' does not exist; available: micro"):
        export.run(arguments(preset="huge"))
