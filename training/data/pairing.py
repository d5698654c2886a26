"""Which voice may be heard with which picture.

The recording of the very moment, where the data has it (RAVDESS); else another recording of the same person in a mood that is not
known to be another one (VoxCeleb); else a stranger of the same sex and emotion, nearest in age and intensity. Nothing else connects
a stranger's voice to a face, so it tells sex, age and emotion and no more.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from runtime.emotions import EMOTIONS
from training.data.cache import DataCache

ALIKE_VOICES = 4  # a picture is paired with one of this many clips
YEARS_PER_INTENSITY = 25.0
OLDEST = 100.0


def match_voices(cache: DataCache) -> np.ndarray:
    """(N, ALIKE_VOICES) int64 clips that could be heard from each picture, repeated where there are fewer; -1 where none fits.

    A stranger fits only where the sex of both is known and the emotion is known of both or of neither. An age or intensity
    that is not known is drawn from those of the other side, so that it decides nothing.
    """
    rng = np.random.default_rng(0)
    matches = np.full((len(cache), ALIKE_VOICES), -1)
    for sex in (0, 1):
        for emotion in range(-1, len(EMOTIONS)):
            rows = np.flatnonzero((cache.sex == sex) & (cache.emotion == emotion))
            clips = np.flatnonzero((cache.audio_sex == sex) & (cache.audio_emotion == emotion))
            if len(rows) and len(clips):
                matches[rows] = clips[_nearest(cache, rows, clips, rng)]
    for rows, clips in _same_person(cache):
        mood, heard = cache.emotion[rows, None], cache.audio_emotion[clips]
        fits = (mood == heard) | (mood < 0) | (heard < 0)
        exact = cache.audio_picture[clips] == rows[:, None]
        fits = np.where(exact.any(1, keepdims=True), exact, fits)
        for row, mine in zip(rows, fits, strict=True):
            if mine.any():
                matches[row] = np.resize(rng.permutation(clips[mine]), ALIKE_VOICES)
    return matches


def _nearest(cache: DataCache, rows: np.ndarray, clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(rows, ALIKE_VOICES) places in `clips`, nearest in years and intensity first."""
    ages, clip_ages = _filled(cache.age[rows], cache.audio_age[clips], OLDEST, rng)
    intensities, clip_intensities = _filled(cache.intensity[rows], cache.audio_intensity[clips], 1.0, rng)
    tree = cKDTree(np.stack([clip_ages, YEARS_PER_INTENSITY * clip_intensities], axis=1))
    wanted = np.stack([ages, YEARS_PER_INTENSITY * intensities], axis=1)
    nearest = tree.query(wanted, k=range(1, min(ALIKE_VOICES, len(clips)) + 1), p=1)[1]
    return nearest[:, np.arange(ALIKE_VOICES) % nearest.shape[1]]


def _filled(first: np.ndarray, second: np.ndarray, largest: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Both with their NaN replaced by values of the other, or by any in 0..`largest` where the other has none."""
    filled = []
    for values, others in ((first, second), (second, first)):
        known = others[~np.isnan(others)]
        drawn = rng.choice(known, len(values)) if len(known) else rng.uniform(0, largest, len(values))
        filled.append(np.where(np.isnan(values), drawn, values).astype(np.float64))
    return filled


def _same_person(cache: DataCache) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per person who has both: the rows of the pictures and the clips."""
    order = np.argsort(cache.audio_person, kind="stable")
    speakers, starts = np.unique(cache.audio_person[order], return_index=True)
    clips = dict(zip(speakers.tolist(), np.split(order, starts)[1:], strict=True))
    people, firsts = np.unique(cache.person, return_index=True)
    return [
        (first + np.arange(cache.pictures[first]), clips[person])
        for person, first in zip(people.tolist(), firsts.tolist(), strict=True)
        if person in clips
    ]
