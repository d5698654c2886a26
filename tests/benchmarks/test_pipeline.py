"""What the pipeline benchmark compares: parity comes first, weights must be the same, and a whole run on the micro bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import front
from benchmarks.__main__ import main
from benchmarks.contenders import Contender
from benchmarks.pipeline import (
    ONNX_LOOP,
    OURS,
    TORCH,
    TORCH_BF16,
    TORCH_COMPILE,
    Parity,
    compare,
    engines,
    make,
    per_step,
)
from benchmarks.samplers import Mode
from benchmarks.timing import Meter, Summary
from runtime.engines.backends import BACKENDS, resolve
from runtime.errors import ClipFaceFusionError

LATENTS = np.ones((4, 2, 2), np.float32)
PICTURE = np.full((8, 8, 3), 100, np.uint8)


def contender(made: tuple[np.ndarray, np.ndarray] | Exception) -> Contender:
    def made_or_raised() -> tuple[np.ndarray, np.ndarray]:
        if isinstance(made, Exception):
            raise made
        return made

    return Contender(made_or_raised, Meter(lambda: None), Meter(lambda: None))


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
        compare({OURS: (LATENTS, PICTURE), "peer": (latents, picture)}, (LATENTS, PICTURE))


def test_only_a_compiler_that_is_missing_may_keep_a_contender_away():
    ours = contender((LATENTS, PICTURE))
    made, running, missing = make({OURS: ours, TORCH_COMPILE: contender(RuntimeError("no C++ compiler"))})
    assert made.keys() == running.keys() == {OURS}
    assert missing == {TORCH_COMPILE: "RuntimeError: no C++ compiler"}
    with pytest.raises(RuntimeError):
        make({OURS: ours, TORCH: contender(RuntimeError("anything"))})


def test_the_engine_that_auto_means_is_what_all_are_held_against():
    exact, reduced = engines([])
    assert exact[0] == resolve("auto") and all(BACKENDS[name].is_exact for name in exact)
    assert not any(BACKENDS[name].is_exact for name in reduced)
    assert exact[0] not in engines([exact[0]])[0] if len(exact) > 1 else True
    with pytest.raises(ClipFaceFusionError, match="no exact engine is left"):
        engines(exact)


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
    micro_bundle: Path, micro_checkpoint: Path, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr(front, "MODES", (Mode("unipc", 2),))
    flags = ["--checkpoint", str(micro_checkpoint), "--steps", "3", "--repeats", "1", "--threads", "1", "--seeds", "1"]
    outputs = ["--markdown", str(tmp_path / "p.md"), "--plot", str(tmp_path / "p.png")]
    assert main(["pipeline", str(micro_bundle), *flags, *outputs, "--without", TORCH_COMPILE]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["num_inference_steps"] == 3
    assert document["threads"] == 1
    exact, reduced = engines([])
    own = {f"{OURS}, {name}" for name in exact}
    assert document["parity"].keys() == {*own, TORCH, ONNX_LOOP}
    assert all(reached["levels"] <= 1 for reached in document["parity"].values())
    assert document["reduced_psnr_db"].keys() == {TORCH_BF16, *(f"{OURS}, {name}" for name in reduced)}
    everybody = {*document["parity"], *document["reduced_psnr_db"]}
    assert document["sampling_medians_ms"].keys() == document["sampling_ms"].keys() == everybody
    assert "everything" in document["conditioning_ms"]
    assert document["front"][0]["times_faster"] == 1 and document["front"][0]["id_sim"] == 1
    assert f"| {OURS}, {exact[0]} |" in (tmp_path / "p.md").read_text()
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_another_checkpoint_than_the_bundles_is_refused(micro_bundle: Path, tmp_path: Path, capsys):
    (tmp_path / "clipfacefusion.json").write_text("{}")
    assert main(["pipeline", str(micro_bundle), "--checkpoint", str(tmp_path)]) == 1
    assert "was exported from checkpoint" in capsys.readouterr().err
