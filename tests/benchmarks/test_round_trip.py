"""The round-trip benchmark on an untrained bundle: whose networks are walked, and what the figures are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.__main__ import main
from benchmarks.round_trip import ITERATIONS


def test_torch_and_every_network_of_the_bundle_lose_the_same(
    micro_bundle: Path, micro_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "trip.json"
    flags = ["--checkpoint", str(micro_checkpoint), "--people", "1", "--steps", "8", "--json", str(out)]
    assert main(["round-trip", str(micro_bundle), *flags]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row.pop("computed by") for row in rows] == ["torch", "onnx"]
    np.testing.assert_allclose(*(list(row.values()) for row in rows), atol=0.01)
    assert len(rows[0]) == 1 + 2 * len(ITERATIONS) and rows[0]["autoencoder dB"] > 0


def test_another_checkpoint_is_refused(micro_bundle: Path, tmp_path: Path) -> None:
    assert main(["round-trip", str(micro_bundle), "--checkpoint", str(tmp_path)]) == 1
