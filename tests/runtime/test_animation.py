"""Frames in the order in which they play, and what made them, in both formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from runtime.animation import FRAME_MS, animation_format, save_animation
from runtime.provenance import read_provenance
from runtime.report import join_reports

SHADES = (10, 90, 170, 250)
FRAMES = [np.full((24, 16, 3), shade, np.uint8) for shade in SHADES]
REPORT = join_reports(
    {"timings_ms": {}, "conditions": ["reference", "age"], "inferred": {"text": "what a person wrote"}},
    {"timings_ms": {}, "seed": 5, "edit": {"t0": 500}, "sweep": {"age": [20, 70]}},
)
BOTH = pytest.mark.parametrize("name", ["strip.webp", "strip.gif"])


def played(path: Path) -> list[int]:
    """The shade of each frame."""
    with Image.open(path) as file:
        assert file.info["loop"] == 0, "it plays without end"
        return [int(np.asarray(frame.convert("RGB")).mean().round()) for frame in ImageSequence.Iterator(file)]


@BOTH
def test_it_plays_forth_and_back_so_that_no_step_is_a_jump(tmp_path, name):
    save_animation(FRAMES, tmp_path / name, REPORT)
    assert played(tmp_path / name) == pytest.approx([10, 90, 170, 250, 170, 90], abs=3)


@BOTH
def test_a_cycle_plays_round(tmp_path, name):
    save_animation(FRAMES, tmp_path / name, REPORT, is_cycle=True)
    assert played(tmp_path / name) == pytest.approx(SHADES, abs=3)


@BOTH
def test_every_frame_stays_as_long(tmp_path, name):
    save_animation(FRAMES, tmp_path / name, REPORT)
    with Image.open(tmp_path / name) as file:
        durations = []
        for frame in ImageSequence.Iterator(file):
            frame.load()
            durations.append(frame.info["duration"])
    assert durations == [FRAME_MS] * 6


@BOTH
def test_a_single_picture_is_an_animation_that_stands_still(tmp_path, name):
    save_animation(FRAMES[:1], tmp_path / name, REPORT)
    with Image.open(tmp_path / name) as file:
        assert getattr(file, "n_frames", 1) == 1


@BOTH
def test_the_file_says_what_made_it_and_nothing_that_a_person_wrote(tmp_path, name):
    save_animation(FRAMES, tmp_path / name, REPORT)
    found = read_provenance(tmp_path / name)
    assert (found["seed"], found["edit"], found["sweep"]) == (5, {"t0": 500}, {"age": [20, 70]})
    assert found["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert b"what a person wrote" not in (tmp_path / name).read_bytes()


def test_a_gif_of_somebody_else_says_nothing(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.gif", comment=b"holiday")
    assert read_provenance(tmp_path / "photo.gif") is None


def test_another_suffix_and_no_frame_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.webp, \.gif"):
        animation_format(Path("strip.png"))
    with pytest.raises(ValueError, match="needs a frame"):
        save_animation([], tmp_path / "strip.gif", REPORT)
