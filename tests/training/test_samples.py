"""The sample files: they decode as a request would have them, and what is recorded about them is the world's truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.preprocess.audio import decode_audio
from runtime.preprocess.image import decode_image
from training.data.synthetic.traits import SEXES
from training.data.synthetic.world import World, split_of
from training.samples import MAX_SECONDS, PHOTO_SIZE, VOICES, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "out"
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "samples.json").read_text())


def test_the_photo_is_a_jpeg_of_the_recorded_picture(folder, described):
    with Image.open(folder / described["photo"]["file"]) as photo:
        assert (photo.format, photo.size) == ("JPEG", (PHOTO_SIZE, PHOTO_SIZE))
    drawn = World(described["world_seed"]).portrait(
        described["photo"]["person"], described["photo"]["shot"], PHOTO_SIZE
    )
    pixels = decode_image((folder / "photo.jpg").read_bytes())
    assert np.abs(pixels.astype(int) - drawn).mean() < 3  # JPEG's loss


def test_the_photo_shows_a_neutral_person_of_about_thirty(described):
    assert described["photo"]["emotion"] == "neutral"
    assert 28 <= described["photo"]["age"] <= 32


def test_voices_are_short_pcm16_files_that_a_request_takes(folder, described):
    for voice in described["voices"]:
        info = soundfile.info(folder / voice["file"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.duration <= MAX_SECONDS
        assert np.abs(decode_audio((folder / voice["file"]).read_bytes())).max() > 0.1


def test_voices_are_those_wanted(described):
    found = [(voice["sex"], voice["emotion"]) for voice in described["voices"]]
    assert found == [(SEXES[wanted.sex], wanted.emotion) for wanted in VOICES]
    assert [voice["file"] for voice in described["voices"]] == [f"voice-{wanted.emotion}.wav" for wanted in VOICES]


def test_recorded_truth_is_the_worlds_and_nobody_was_trained_on(described):
    world = World(described["world_seed"])
    for sample in (described["photo"], *described["voices"]):
        shot = world.shot(sample["person"], sample["shot"])
        assert split_of(sample["person"]) == "test"
        assert (sample["emotion"], sample["age"]) == (shot.emotion, round(shot.age, 1))
        assert sample["sex"] == SEXES[world.person(sample["person"]).sex]


def test_the_licence_names_this_project_and_the_speech_program(described):
    assert described["licence"].startswith("Apache-2.0")
    assert "espeak-ng" in described["licence"]
