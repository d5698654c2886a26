"""The sample files: they decode as a request would have them, and what is recorded about them is the world's truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.emotions import EMOTIONS
from runtime.preprocess.audio import decode_audio
from runtime.preprocess.image import decode_image
from training.data.synthetic.traits import SEXES
from training.data.synthetic.world import World, split_of
from training.samples import (
    MAX_FILE_BYTES,
    PHOTO_AGE_TOLERANCE,
    PHOTO_SIZE,
    PHOTOS,
    VOICE_AGE_TOLERANCE,
    VOICE_AGES,
    VOICES,
    main,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "out"
    assert main([str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "samples.json").read_text())


def _photos(described: dict[str, Any]) -> list[dict[str, Any]]:
    return [described["photo"], *described["more_photos"]]


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


def test_photos_show_several_calm_people_of_the_wanted_ages(folder, described):
    photos = _photos(described)
    assert len({photo["person"] for photo in photos}) == len(PHOTOS)
    for photo, wanted in zip(photos, PHOTOS, strict=True):
        assert (photo["file"], photo["emotion"]) == (wanted.file, "neutral")
        assert wanted.sex is None or photo["sex"] == SEXES[wanted.sex]
        assert abs(photo["age"] - wanted.age) <= PHOTO_AGE_TOLERANCE
        assert decode_image((folder / photo["file"]).read_bytes()).shape == (PHOTO_SIZE, PHOTO_SIZE, 3)


def test_every_bundle_can_carry_the_files(folder):
    assert all(path.stat().st_size <= MAX_FILE_BYTES for path in folder.iterdir())


def test_voices_are_pcm16_files_that_a_request_takes(folder, described):
    for voice in described["voices"]:
        info = soundfile.info(folder / voice["file"])
        assert (info.format, info.samplerate, info.channels, info.subtype) == ("FLAC", 16_000, 1, "PCM_16")
        assert np.abs(decode_audio((folder / voice["file"]).read_bytes())).max() > 0.1


def test_voices_are_those_wanted(described):
    for voice, wanted in zip(described["voices"], VOICES, strict=True):
        assert (voice["sex"], voice["emotion"]) == (SEXES[wanted.sex], wanted.emotion)
        assert voice["file"] == f"voice-{wanted.emotion}-{SEXES[wanted.sex]}.flac"
        assert abs(voice["age"] - wanted.age) <= VOICE_AGE_TOLERANCE


def test_each_sex_speaks_in_each_emotion_and_the_first_of_each_make_a_row_of_both():
    assert {(voice.sex, voice.emotion) for voice in VOICES} == {(sex, label) for sex in (0, 1) for label in EMOTIONS}
    firsts = VOICES[: len(EMOTIONS)]
    assert tuple(voice.emotion for voice in firsts) == EMOTIONS
    assert [voice.sex for voice in firsts] == [0, 1] * 4
    assert {(voice.sex, voice.age) for voice in VOICES} == {(sex, age) for sex in (0, 1) for age in VOICE_AGES}


def test_recorded_truth_is_the_worlds_and_nobody_was_trained_on(described):
    world = World(described["world_seed"])
    for sample in (*_photos(described), *described["voices"]):
        shot = world.shot(sample["person"], sample["shot"])
        assert split_of(sample["person"]) == "test"
        assert (sample["emotion"], sample["age"]) == (shot.emotion, round(shot.age, 1))
        assert sample["sex"] == SEXES[world.person(sample["person"]).sex]


def test_the_licence_names_this_project_and_the_speech_program(described):
    assert described["licence"].startswith("Apache-2.0")
    assert "espeak-ng" in described["licence"]
