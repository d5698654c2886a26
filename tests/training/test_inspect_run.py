"""What `inspect` says of a run's folder, at every point of its life."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from training import inspect_run
from training.presets import PRESETS
from training.recipe import RUN_FILE, Start, remembered


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / RUN_FILE).write_text(json.dumps(remembered("micro", PRESETS["micro"], Start())))
    clip, voice, identity = (tmp_path / name for name in ("clip", "voice", "identity"))
    (clip / "state-00000003").mkdir(parents=True)
    (clip / "state-00000003" / "state.safetensors").write_bytes(b"x" * 2**20)
    (clip / "log.jsonl").write_text(
        '{"step": 3, "loss": 2.5, "samples_per_s": 12.5, "eta_s": 90, "peak_gib": 1.5}\n{"step": 4, "lo'
    )
    voice.mkdir()
    (voice / "final.safetensors").write_bytes(b"")
    identity.mkdir()
    return tmp_path


def test_each_stage_says_how_far_it_is(out: Path) -> None:
    text = inspect_run.describe(out)
    lines = {line.split()[0]: line for line in text.splitlines() if line and line[0] != " "}
    assert "saved at step 3 of 6" in lines["clip"] and "1.0 MiB in 2 files" in lines["clip"]
    assert "finished" in lines["voice"] and "not begun" in lines["diffusion"]
    assert "begun, nothing saved yet of 6 steps" in lines["identity"]
    assert "step 3: loss 2.5" in text and "12.5 samples/s, 90 s were left, at most 1.5 GiB" in text
    assert [n for n in lines if n in PRESETS["micro"].stages] == list(PRESETS["micro"].stages)


def test_curves_are_drawn_of_every_stage_that_has_a_log(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = out / "plots" / "curves.png"
    assert inspect_run.main([str(out), "--plot", str(path)]) == 0
    one = Image.open(path).size
    (out / "voice" / "log.jsonl").write_text((out / "clip" / "log.jsonl").read_text())
    inspect_run.curves(out, path)
    assert Image.open(path).size[0] == 2 * one[0] and one[1] > 100


def test_a_folder_that_is_no_run_is_an_error_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect_run.main([str(tmp_path)]) == 1
    assert "it has no run.json" in capsys.readouterr().err


def test_the_files_it_looks_for_are_those_that_training_writes() -> None:
    from training import progress, recipe

    assert (inspect_run.FINAL, inspect_run.RUN_FILE, inspect_run.LOG) == (recipe.FINAL, recipe.RUN_FILE, progress.LOG)
