"""What the pipeline benchmark compares: parity comes first, weights must be the same, and a whole run on the micro bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.contenders import Contender
from benchmarks.pipeline import OURS, Parity, compare, per_step
from benchmarks.timing import Meter, Summary
from runtime.errors import ClipFaceFusionError

LATENTS = np.ones((4, 2, 2), np.float32)
PICTURE = np.full((8, 8, 3), 100, np.uint8)


def contender(latents: np.ndarray, picture: np.ndarray) -> Contender:
    return Contender(lambda: (latents, picture), Meter(lambda: None), Meter(lambda: None))


def summary(ms: float) -> Summary:
    return Summary(median=ms, p95=ms, min=ms, count=1)


def test_parity_is_the_largest_level_and_the_relative_norm():
    picture = PICTURE.copy()
    picture[0, 0, 0] = 90
    assert Parity.between((LATENTS * 1.5, picture), (LATENTS, PICTURE)) == Parity(levels=10, latents=0.5)


@pytest.mark.parametrize(
    ("latents", "picture"), [(LATENTS * 1.01, PICTURE), (LATENTS * np.nan, PICTURE), (LATENTS, PICTURE + 3)]
)
def test_another_picture_is_not_timed(latents, picture):
    with pytest.raises(ClipFaceFusionError, match="'peer' makes another picture"):
        compare({OURS: contender(LATENTS, PICTURE), "peer": contender(latents, picture)})


def test_a_step_is_what_remains_without_decoding_and_outside_what_remains_without_the_unet():
    parts = {"total": summary(120.0), "unet": summary(80.0), "decode": summary(20.0)}
    assert per_step(parts, 10) == {
        "image": 120.0,
        "step": 10.0,
        "unet_per_step": 8.0,
        "outside_unet_per_step": 2.0,
        "decode": 20.0,
    }


def test_a_whole_run_ends_with_a_document_that_says_parity_and_settings(
    micro_bundle: Path, micro_checkpoint: Path, capsys
):
    flags = ["--checkpoint", str(micro_checkpoint), "--steps", "3", "--repeats", "1", "--threads", "1"]
    assert main(["pipeline", str(micro_bundle), *flags]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["num_inference_steps"] == 3
    assert document["threads"] == 1
    assert all(reached["levels"] <= 1 for reached in document["parity"].values())
    assert document["sampling_medians_ms"].keys() == document["sampling_ms"].keys() == {OURS, *document["parity"]}
    assert "everything" in document["conditioning_ms"]


def test_another_checkpoint_than_the_bundles_is_refused(micro_bundle: Path, tmp_path: Path, capsys):
    (tmp_path / "clipfacefusion.json").write_text("{}")
    assert main(["pipeline", str(micro_bundle), "--checkpoint", str(tmp_path)]) == 1
    assert "was exported from checkpoint" in capsys.readouterr().err
