"""A part of the synthetic world drawn once to disk: pictures, truth, captions and voices as plain arrays.

Drawing is the slow part of an epoch; a cache makes it a memory map. A cache is valid only with its `cache.json`.
Letters: N pictures, S picture size, V voices, T samples.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from runtime.emotions import EMOTIONS
from runtime.spec import MAX_AUDIO_SAMPLES, SAMPLING_RATE_HZ
from training.data.synthetic.expression import valence_arousal
from training.data.synthetic.world import World, split_of

CAPTIONS = 3  # wordings per picture


@dataclass(frozen=True)
class CacheKey:
    """What a cache holds: `people` persons of the training split with `shots` pictures each, `voices` clips of shots (i, 0)."""

    seed: int
    people: int
    shots: int
    voices: int
    image_size: int


class WorldCache:
    """The arrays of one cache folder, memory-mapped, with the world's `seed` and the `shots` of each person.

    `images` (N, S, S, 3) uint8 · `person` (N,) int64, pictures of one person are neighbours · `sex`, `age` (N,) ·
    `emotion` (N,) int64 index · `intensity` (N,) · `valence_arousal` (N, 2) · `captions` list of N lists of str ·
    `audio` (V, T) int16 zero-padded at the end, `audio_length` (V,), `audio_picture` (V,) the picture whose truth it speaks.
    """

    def __init__(self, folder: Path) -> None:
        key = CacheKey(**json.loads((folder / "cache.json").read_text()))
        self.seed, self.shots = key.seed, key.shots
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.audio = np.load(folder / "audio.npy", mmap_mode="r")
        truth = np.load(folder / "truth.npz")
        self.person, self.sex, self.age = truth["person"], truth["sex"], truth["age"]
        self.emotion, self.intensity, self.valence_arousal = (
            truth["emotion"],
            truth["intensity"],
            truth["valence_arousal"],
        )
        self.audio_length, self.audio_picture = truth["audio_length"], truth["audio_picture"]
        self.captions: list[list[str]] = json.loads((folder / "captions.json").read_text())

    def __len__(self) -> int:
        return len(self.person)


def build(folder: Path, key: CacheKey, processes: int) -> WorldCache:
    """Open the cache of `key` in `folder`, drawing it first if it is not there or is of another key."""
    done = folder / "cache.json"
    if done.is_file() and json.loads(done.read_text()) == asdict(key):
        return WorldCache(folder)
    # Drawn beside its final place: a second process must never find, or overwrite, a half-drawn cache.
    final, folder = folder, folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    folder.mkdir(parents=True)
    people = _training_people(key.people)
    places = [(i, j) for i in people for j in range(key.shots)]
    images = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.uint8, (len(places), key.image_size, key.image_size, 3)
    )
    audio = np.lib.format.open_memmap(folder / "audio.npy", "w+", np.int16, (key.voices, MAX_AUDIO_SAMPLES))
    audio_length = np.zeros(key.voices, np.int64)
    spoken = [n * key.shots for n in range(key.people)][: key.voices]
    if len(spoken) < key.voices:
        spoken = [n % len(places) for n in range(key.voices)]
    world = World(key.seed)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for n, image in enumerate(_progress(pool.map, partial(_portrait, key), places, "portraits")):
            images[n] = image
        for n, clip in enumerate(_progress(pool.map, partial(_voice, key), [places[n] for n in spoken], "voices")):
            audio[n, : len(clip)] = clip
            audio_length[n] = len(clip)
    shots = [world.shot(i, j) for i, j in places]
    np.savez(
        folder / "truth.npz",
        person=np.array([i for i, _ in places]),
        sex=np.array([world.person(i).sex for i, _ in places]),
        age=np.array([shot.age for shot in shots], np.float32),
        emotion=np.array([EMOTIONS.index(shot.emotion) for shot in shots]),
        intensity=np.array([shot.intensity for shot in shots], np.float32),
        valence_arousal=np.array([valence_arousal(shot.emotion, shot.intensity) for shot in shots], np.float32),
        audio_length=audio_length,
        audio_picture=np.array(spoken),
    )
    captions = [[world.caption(i, j, k) for k in range(CAPTIONS)] for i, j in places]
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "cache.json").write_text(json.dumps(asdict(key)))
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return WorldCache(final)


def _training_people(count: int) -> list[int]:
    people: list[int] = []
    i = 0
    while len(people) < count:
        if split_of(i) == "train":
            people.append(i)
        i += 1
    return people


def _progress(
    map_: Callable[..., Iterable[np.ndarray]],
    function: Callable[[tuple[int, int]], np.ndarray],
    places: list[tuple[int, int]],
    what: str,
) -> Iterable[np.ndarray]:
    return tqdm(map_(function, places, chunksize=16), total=len(places), desc=what, unit="", mininterval=5)


def _portrait(key: CacheKey, place: tuple[int, int]) -> np.ndarray:
    return World(key.seed).portrait(*place, key.image_size)


def _voice(key: CacheKey, place: tuple[int, int]) -> np.ndarray:
    """(T,) int16, at most the five seconds that a model hears."""
    clip = World(key.seed).voice(*place)[:MAX_AUDIO_SAMPLES]
    assert len(clip) >= SAMPLING_RATE_HZ
    return np.round(clip * 32767).astype(np.int16)
