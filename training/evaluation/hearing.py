"""What can be heard in a voice: the emotion that a probe names, which was trained for it on voices of other people.

Nobody can obey what cannot be heard, so a picture that follows a voice is held against this. The probe is that of `training.leaks`: voice
statistics, no trained encoder; it learns from the judges' own world, of whose voices no training has heard any. Letters: V voices.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.emotions import EMOTIONS
from training.data.cache import DataCache
from training.data.synthetic.world import World
from training.leaks.hearing import voice_statistics
from training.leaks.predict import Parts, guess
from training.leaks.sample import in_parallel, training_people

VOICES = 1500
CHOSEN_BY = 0.25  # of the voices that it learns from


def heard(cache: DataCache, file: Path, world_seed: int, processes: int, voices: int = VOICES) -> np.ndarray:
    """(V,) place in EMOTIONS that the probe names for each clip of `cache`. What it learns from is kept in `file` (.npz)."""
    if not file.is_file():
        _draw(file, world_seed, processes, voices)
    with np.load(file) as known:
        statistics, emotion = known["statistics"], known["emotion"]
    clips = [cache.audio[row, :length].astype(np.float32) / 32767 for row, length in enumerate(cache.audio_length)]
    return name(statistics, emotion, np.stack([voice_statistics(clip) for clip in clips]))


def name(statistics: np.ndarray, emotion: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """The emotion of each of `unknown` (V, F), after learning from `statistics` (N, F) and their `emotion` (N,)."""
    kept = round(len(statistics) * (1 - CHOSEN_BY))
    places = np.arange(len(statistics) + len(unknown))
    parts = Parts(places[:kept], places[kept : len(statistics)], places[len(statistics) :])
    labels = np.zeros((len(places), len(EMOTIONS)), np.float32)
    labels[np.arange(len(statistics)), emotion] = 1
    told = guess(np.concatenate([statistics, unknown]), labels, parts, 0, np.zeros(len(EMOTIONS), int))
    return np.asarray(told.argmax(axis=1))


def _draw(file: Path, world_seed: int, processes: int, voices: int) -> None:
    people = training_people(voices)
    world = World(world_seed)
    statistics = in_parallel(_Listener(world_seed), people, processes, "voices for the probe")
    emotion = [EMOTIONS.index(world.shot(person, 0).emotion) for person in people]
    partial = file.with_name(file.name + ".partial.npz")
    np.savez(partial, statistics=np.stack(statistics), emotion=np.array(emotion))
    partial.rename(file)


class _Listener:
    """Statistics of a person's voice, (F,); a process can be handed one."""

    def __init__(self, world_seed: int) -> None:
        self.world_seed = world_seed

    def __call__(self, person: int) -> np.ndarray:
        return voice_statistics(World(self.world_seed).voice(person, 0))
