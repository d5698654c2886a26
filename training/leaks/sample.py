"""What probes look at: training people of a world, one picture and one voice each, with everything that is true of them.

Letters: N people, S picture size, F voice statistics, K columns of a truth. A truth is (N, K) float32: a number is one column, a
choice is one column per option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from runtime.emotions import EMOTIONS
from runtime.spec import MAX_AUDIO_SAMPLES
from training.data.parallel import process_pool
from training.data.synthetic.shot import (
    ADULT,
    BACKGROUNDS,
    BEARDS,
    CLOTHES,
    GLASSES,
    HAIR_COLOURS,
    HAIR_STYLES,
    Shot,
)
from training.data.synthetic.traits import SEXES, TRAITS, Person
from training.data.synthetic.voice import MIN_SECONDS, SAMPLE_RATE_HZ
from training.data.synthetic.world import World, split_of
from training.leaks.hearing import voice_statistics

P = TypeVar("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """N training people. `images` (N, S, S, 3) uint8 · `statistics` (N, F) of the voices · `clips` (N, T) int16, the start of every
    voice, equally long · `truth` by name, see `truth_of` · `is_adult_man` (N,) bool, who may wear a beard."""

    images: np.ndarray
    statistics: np.ndarray
    clips: np.ndarray
    truth: dict[str, np.ndarray]
    is_adult_man: np.ndarray

    def __len__(self) -> int:
        return len(self.is_adult_man)


def draw(world: World, people: int, image_size: int, processes: int) -> Sample:
    """The first `people` training people of `world`, each in picture 0 with its voice."""
    places = [(i, 0) for i in training_people(people)]
    images = np.stack(in_parallel(partial(_portrait, world, image_size), places, processes, "portraits"))
    heard = in_parallel(partial(_hear, world), places, processes, "voices")
    who = [(world.person(i), world.shot(i, j)) for i, j in places]
    return Sample(
        images=images,
        statistics=np.stack([statistics for statistics, _ in heard]),
        clips=np.stack([clip for _, clip in heard]),
        truth=truths(who),
        is_adult_man=np.array([person.sex == 1 and shot.age >= ADULT for person, shot in who]),
    )


def training_people(count: int) -> list[int]:
    """The numbers of the first `count` people whom training may meet."""
    people: list[int] = []
    i = 0
    while len(people) < count:
        if split_of(i) == "train":
            people.append(i)
        i += 1
    return people


def truths(who: Sequence[tuple[Person, Shot]]) -> dict[str, np.ndarray]:
    """Every truth of those pictures, (N, K) float32 by name."""
    rows = [truth_of(person, shot) for person, shot in who]
    return {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}


def truth_of(person: Person, shot: Shot) -> dict[str, tuple[float, ...]]:
    """All that a picture was drawn from, by name: sex, each trait, age, emotion, intensity, and the nuisance variables."""
    light, pose = shot.light, shot.pose
    return {
        "sex": _choice(SEXES[person.sex], SEXES),
        **{trait: (person[trait],) for trait in TRAITS},
        "age": (shot.age,),
        "emotion": _choice(shot.emotion, EMOTIONS),
        "intensity": (shot.intensity,),
        "hair_style": _choice(shot.hair_style, HAIR_STYLES),
        "hair_colour": _choice(shot.hair_colour, tuple(HAIR_COLOURS)),
        "dyed": (float(shot.dyed),),
        "beard": _choice(shot.beard, BEARDS),
        "glasses": _choice(shot.glasses, GLASSES),
        "glasses_colour": shot.glasses_colour,
        "clothes": _choice(shot.clothes, CLOTHES),
        "clothes_colour": shot.clothes_colour,
        "background": _choice(shot.background, BACKGROUNDS),
        "background_colours": (*shot.background_colours[0], *shot.background_colours[1]),
        "light": (light.side, light.height, light.warmth, light.contrast),
        "pose": (pose.yaw, pose.roll, pose.scale, pose.shift_x, pose.shift_y, pose.gaze_x, pose.gaze_y),
    }


NUISANCE = (
    "hair_style",
    "hair_colour",
    "dyed",
    "beard",
    "glasses",
    "glasses_colour",
    "clothes",
    "clothes_colour",
    "background",
    "background_colours",
    "light",
    "pose",
)


def _choice(value: str, options: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(float(value == option) for option in options)


def _portrait(world: World, size: int, place: tuple[int, int]) -> np.ndarray:
    return world.portrait(*place, size)


def _hear(world: World, place: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    clip = world.voice(*place)[:MAX_AUDIO_SAMPLES]
    start = clip[: int(MIN_SECONDS * SAMPLE_RATE_HZ)]
    return voice_statistics(clip), np.round(start * 32767).astype(np.int16)


def in_parallel(function: Callable[[P], T], places: Sequence[P], processes: int, what: str) -> list[T]:
    """`function` of every place in order, with a progress bar; in this process where there is only one."""

    def counted(results: Iterable[T]) -> list[T]:
        return list(tqdm(results, total=len(places), desc=what, unit="", mininterval=5))

    if processes == 1:
        return counted(map(function, places))
    with process_pool(processes) as pool:
        return counted(pool.map(function, places, chunksize=32))
