"""Two real processes under `accelerate launch` train what one process trains with two micro-batches."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from training import recipe
from training.presets import PRESETS
from training.recipe import Start

ROOT = Path(__file__).resolve().parents[2]
# Batch statistics in the one, every loss and a moving average in the other.
STAGES = ("identity", "consistency")
SETTINGS = ["*.steps=4", "preview=false"]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
QUIET = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def runs(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The folder of one process, that of two, and what the two printed."""
    folder = tmp_path_factory.mktemp("distributed")
    one, two = folder / "one", folder / "two"
    config = PRESETS["micro"].with_settings([*SETTINGS, "*.micro_batches=2"])
    recipe.run(config, "micro", one, stages=STAGES, start=Start(base=micro_checkpoint))
    shutil.copytree(one / "data", two / "data")
    arguments = ["--preset", "micro", "--from", str(micro_checkpoint), "--out", str(two), "--workers", "1"]
    command = [sys.executable, *LAUNCH, *QUIET, "-m", "training", *arguments, "--stages", *STAGES, "--set", *SETTINGS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return one, two, done.stdout


def test_the_batch_is_cut_for_the_processes_and_one_of_them_says_so(runs: tuple[Path, Path, str]) -> None:
    for stage in STAGES:
        assert runs[2].count(f"{stage}: 2 micro-batches instead of 1, for 2 processes") == 1


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_have_the_loss_curve_of_one(runs: tuple[Path, Path, str], stage: str) -> None:
    one, two = ([json.loads(line) for line in (out / stage / "log.jsonl").read_text().splitlines()] for out in runs[:2])
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        figures = a.keys() - {"samples_per_s", "eta_s", "peak_gib"}
        assert figures == b.keys() - {"samples_per_s", "eta_s", "peak_gib"}
        for name in figures:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_end_with_the_weights_and_statistics_of_one(runs: tuple[Path, Path, str], stage: str) -> None:
    one, two = (load_file(out / stage / "final.safetensors") for out in runs[:2])
    assert one.keys() == two.keys()
    for name in one:
        # Not per number: AdamW divides a gradient of 1e-8 by itself, so its rounding error becomes a whole step.
        difference = (one[name].float() - two[name].float()).norm()
        assert difference <= 1e-3 * one[name].float().norm() + 1e-6, name


def test_only_process_0_writes(runs: tuple[Path, Path, str]) -> None:
    for stage in STAGES:
        assert len(list((runs[1] / stage).glob("events.out.tfevents.*"))) == 1
    assert (runs[1] / "checkpoint" / "clipfacefusion.json").is_file()
