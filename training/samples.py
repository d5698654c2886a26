"""`python -m training.samples OUT`: photos and voices of people that no training has met, to try a bundle with.

The first test pictures and clips of the synthetic world that fit what a demonstration wants: calm portraits, and a voice of either
sex in every emotion. Format: photo.jpg, photo-woman.jpg, photo-girl.jpg (JPEG), voice-EMOTION-SEX.flac (16 kHz mono PCM16), samples.json with
the truth. Each file is small, because every bundle carries them.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from runtime.emotions import EMOTIONS
from runtime.spec import SAMPLING_RATE_HZ
from training.data.synthetic.shot import Shot
from training.data.synthetic.traits import SEXES, Person
from training.data.synthetic.world import TEST_EVERY, World
from training.presets import PRESETS

PHOTO_SIZE = 256
JPEG_QUALITY = 92
MAX_FILE_BYTES = 60_000
SHOTS_PER_PERSON = 8  # pictures of one person that are looked at before the next person
PHOTO_AGE_TOLERANCE, VOICE_AGE_TOLERANCE = 2.0, 5.0  # years; the truth that is recorded is exact
LICENCE = (
    "Apache-2.0. Photos and voices were made by this project's own code (training/samples.py): the photos are drawn, the voices are "
    "spoken by espeak-ng and then changed by numpy. espeak-ng is GPL-3 software; its licence covers the program, not the sound it "
    "outputs, and no part of the program is included here. Nobody real is shown or heard."
)


@dataclass(frozen=True)
class WantedVoice:
    """A voice of `SEXES[sex]`, about `age` years old, clearly in this emotion."""

    sex: int
    age: float
    emotion: str


@dataclass(frozen=True)
class WantedPhoto:
    """A calm portrait of somebody of `SEXES[sex]`, or of anybody, about `age` years old, and the file that it goes to."""

    file: str
    sex: int | None
    age: float

    def fits(self, person: Person, shot: Shot) -> bool:
        is_wanted = self.sex in (None, person.sex) and abs(shot.age - self.age) <= PHOTO_AGE_TOLERANCE
        return is_wanted and _is_calm(shot)


PHOTOS = (
    WantedPhoto("photo.jpg", None, 30.0),
    WantedPhoto("photo-woman.jpg", 0, 45.0),
    WantedPhoto("photo-girl.jpg", 0, 9.0),
)
VOICE_AGES = (65.0, 30.0, 40.0, 20.0)  # of the emotions two by two
# The sexes take turns, so that the first voice of each emotion makes a row of both; then the other sex of each.
VOICES = tuple(
    WantedVoice((n + turn) % 2, VOICE_AGES[n // 2], emotion) for turn in (0, 1) for n, emotion in enumerate(EMOTIONS)
)


def write_samples(folder: Path, seed: int) -> dict[str, Any]:
    """Write the samples of the world of `seed` into `folder`; returns what samples.json holds. Needs espeakng-loader."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(seed)
    photo, *more_photos = (_write_photo(world, wanted, folder) for wanted in PHOTOS)
    described = {
        "licence": LICENCE,
        "world_seed": seed,
        "photo": photo,
        "more_photos": more_photos,
        "voices": [_write_voice(world, wanted, folder) for wanted in VOICES],
    }
    (folder / "samples.json").write_text(json.dumps(described, indent=1) + "\n")
    return described


def _write_photo(world: World, wanted: WantedPhoto, folder: Path) -> dict[str, Any]:
    """The first fitting test picture; its entry in samples.json."""
    place = next(_test_shots(world, wanted.fits))
    Image.fromarray(world.portrait(*place, PHOTO_SIZE)).save(folder / wanted.file, quality=JPEG_QUALITY)
    return {"file": wanted.file, **_truth(world, place)}


def _write_voice(world: World, wanted: WantedVoice, folder: Path) -> dict[str, Any]:
    """The first fitting test clip that is short enough; its entry in samples.json."""

    def fits(person: Person, shot: Shot) -> bool:
        is_speaker = person.sex == wanted.sex and abs(shot.age - wanted.age) <= VOICE_AGE_TOLERANCE
        return is_speaker and shot.emotion == wanted.emotion and shot.intensity >= 0.85

    encoded = ((place, _to_flac(world.voice(*place))) for place in _test_shots(world, fits))
    place, flac = next((place, flac) for place, flac in encoded if len(flac) <= MAX_FILE_BYTES)
    file = f"voice-{wanted.emotion}-{SEXES[wanted.sex]}.flac"
    (folder / file).write_bytes(flac)
    return {"file": file, **_truth(world, place)}


def _to_flac(clip: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.clip(clip, -1, 1), SAMPLING_RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _test_shots(world: World, fits: Callable[[Person, Shot], bool]) -> Iterator[tuple[int, int]]:
    """Places (person, shot) of the test half that fit, without end."""
    i = TEST_EVERY - 1
    while True:
        person = world.person(i)
        for j in range(SHOTS_PER_PERSON):
            if fits(person, world.shot(i, j)):
                yield i, j
        i += TEST_EVERY


def _is_calm(shot: Shot) -> bool:
    """Neutral, and looking at us without glasses: so that every change a request asks for is seen."""
    faces_us = abs(shot.pose.yaw) < 0.06 and abs(shot.pose.roll) < 0.05
    return shot.emotion == "neutral" and shot.glasses == "none" and faces_us


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
        description="Write synthetic photos and voices, with their truth and licence, for a bundle to carry.",
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
    files = [each["file"] for each in (described["photo"], *described["more_photos"], *described["voices"])]
    print(f"wrote {', '.join(files)} and samples.json to {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
