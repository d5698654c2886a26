"""`python -m training.samples OUT`: a photo and voices of people that no training has met, to try a bundle with.

The first test pictures and clips of the synthetic world that fit what a demonstration wants: a calm portrait, and voices that
differ in sex, age and emotion. Format: photo.jpg (JPEG), voice-EMOTION.wav (16 kHz mono PCM16), samples.json with the truth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from runtime.spec import SAMPLING_RATE_HZ
from training.data.synthetic.shot import Shot
from training.data.synthetic.traits import SEXES, Person
from training.data.synthetic.world import TEST_EVERY, World
from training.presets import PRESETS

PHOTO_SIZE = 256
JPEG_QUALITY = 92
MAX_SECONDS = 3.0
SHOTS_PER_PERSON = 8  # pictures of one person that are looked at before the next person
AGE_TOLERANCE = 5.0  # years; the truth that is recorded is exact
LICENCE = (
    "Apache-2.0. Photo and voices were made by this project's own code (training/samples.py): the photo is drawn, the voices are "
    "spoken by espeak-ng and then changed by numpy. espeak-ng is GPL-3 software; its licence covers the program, not the sound it "
    "outputs, and no part of the program is included here. Nobody real is shown or heard."
)


@dataclass(frozen=True)
class WantedVoice:
    """A voice of `SEXES[sex]`, about `age` years old, clearly in this emotion."""

    sex: int
    age: float
    emotion: str


VOICES = (
    WantedVoice(0, 30.0, "happy"),
    WantedVoice(1, 65.0, "sad"),
    WantedVoice(1, 40.0, "angry"),
    WantedVoice(0, 20.0, "fearful"),
)


def write_samples(folder: Path, seed: int) -> dict[str, Any]:
    """Write the samples of the world of `seed` into `folder`; returns what samples.json holds. Needs espeakng-loader."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(seed)
    place = next(_test_shots(world, _is_calm_portrait))
    Image.fromarray(world.portrait(*place, PHOTO_SIZE)).save(folder / "photo.jpg", quality=JPEG_QUALITY)
    described = {
        "licence": LICENCE,
        "world_seed": seed,
        "photo": {"file": "photo.jpg", **_truth(world, place)},
        "voices": [_write_voice(world, wanted, folder) for wanted in VOICES],
    }
    (folder / "samples.json").write_text(json.dumps(described, indent=1) + "\n")
    return described


def _write_voice(world: World, wanted: WantedVoice, folder: Path) -> dict[str, Any]:
    """The first fitting test clip that is short enough; its entry in samples.json."""

    def fits(person: Person, shot: Shot) -> bool:
        is_speaker = person.sex == wanted.sex and abs(shot.age - wanted.age) <= AGE_TOLERANCE
        return is_speaker and shot.emotion == wanted.emotion and shot.intensity >= 0.85

    clips = ((place, world.voice(*place)) for place in _test_shots(world, fits))
    place, clip = next((place, clip) for place, clip in clips if len(clip) <= MAX_SECONDS * SAMPLING_RATE_HZ)
    file = f"voice-{wanted.emotion}.wav"
    soundfile.write(folder / file, np.clip(clip, -1, 1), SAMPLING_RATE_HZ, subtype="PCM_16")
    return {"file": file, **_truth(world, place)}


def _test_shots(world: World, fits: Callable[[Person, Shot], bool]) -> Iterator[tuple[int, int]]:
    """Places (person, shot) of the test half that fit, without end."""
    i = TEST_EVERY - 1
    while True:
        person = world.person(i)
        for j in range(SHOTS_PER_PERSON):
            if fits(person, world.shot(i, j)):
                yield i, j
        i += TEST_EVERY


def _is_calm_portrait(person: Person, shot: Shot) -> bool:
    """About 30 years, neutral, and looking at us without glasses: so that every change a request asks for is seen."""
    faces_us = abs(shot.pose.yaw) < 0.06 and abs(shot.pose.roll) < 0.05
    return 28 <= shot.age <= 32 and shot.emotion == "neutral" and shot.glasses == "none" and faces_us


def _truth(world: World, place: tuple[int, int]) -> dict[str, Any]:
    """What the sample is: where it lies in the world, and what a model may be asked about."""
    shot = world.shot(*place)
    return {
        "person": place[0],
        "shot": place[1],
        "sex": SEXES[world.person(place[0]).sex],
        "age": round(shot.age, 1),
        "emotion": shot.emotion,
        "intensity": round(shot.intensity, 2),
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the samples that the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(
        "python -m training.samples",
        description="Write a synthetic photo and voices, with their truth and licence, for a bundle to carry.",
        epilog="example: python -m training.samples out/samples; python -m export CHECKPOINT BUNDLE --samples out/samples",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write, made if needed")
    parser.add_argument(
        "--seed",
        type=int,
        default=PRESETS["demo"].seed,
        help="seed of the world that training used, or people it knows may be among them (default: the demo preset's, %(default)s)",
    )
    options = parser.parse_args(arguments)
    described = write_samples(options.out, options.seed)
    files = [described["photo"]["file"], *(voice["file"] for voice in described["voices"])]
    print(f"wrote {', '.join(files)} and samples.json to {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
