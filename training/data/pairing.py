"""Which voice may be heard with which picture.

The recording of the very moment, where the data has it (RAVDESS); else another recording of the same person in a mood that is not
known to be another one (VoxCeleb); else a stranger who contradicts nothing that is known of the picture and shares its sex or its
emotion, nearest in age and intensity. Nothing else connects a stranger's voice to a face, so it tells sex, age and emotion and no
more; one that shares neither would teach the model not to listen.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from runtime.emotions import EMOTIONS
from training.data.cache import DataCache

ALIKE_VOICES = 4  # a picture is paired with one of this many clips
YEARS_PER_INTENSITY = 25.0
OLDEST = 100.0
MOODLESS = 1  # of the ALIKE_VOICES of a picture whose emotion is known: VoxCeleb has 7,000 speakers, RAVDESS 24


def match_voices(cache: DataCache) -> np.ndarray:
    """(N, ALIKE_VOICES) int64 clips that could be heard from each picture, repeated where there are fewer; -1 where none fits.

    A stranger's voice of unknown emotion fits any picture of its sex, and any voice one of unknown emotion; of several the same
    emotion, or none on both sides, comes first, except for `MOODLESS` places. Where no voice is known to be of the picture's sex,
    one of unknown sex, or any if the picture's is unknown, must have its emotion. An age or intensity that is not known is drawn
    from those of the other side, so that it decides nothing.
    """
    rng = np.random.default_rng(0)
    matches = np.full((len(cache), ALIKE_VOICES), -1)
    for sex in (0, 1, -1):
        for emotion in range(-1, len(EMOTIONS)):
            rows = np.flatnonzero((cache.sex == sex) & (cache.emotion == emotion))
            if not len(rows):
                continue
            alike, moodless = _strangers(cache, sex, emotion)
            if len(alike):
                matches[rows] = alike[_nearest(cache, rows, alike, rng)]
            if len(moodless):
                places = slice(ALIKE_VOICES - MOODLESS if len(alike) else 0, None)
                matches[rows, places] = moodless[_nearest(cache, rows, moodless, rng)][:, places]
    for rows, clips in _same_person(cache):
        mood, heard = cache.emotion[rows, None], cache.audio_emotion[clips]
        fits = (mood == heard) | (mood < 0) | (heard < 0)
        exact = cache.audio_picture[clips] == rows[:, None]
        fits = np.where(exact.any(1, keepdims=True), exact, fits)
        for row, mine in zip(rows, fits, strict=True):
            if mine.any():
                matches[row] = np.resize(rng.permutation(clips[mine]), ALIKE_VOICES)
    return matches


def _strangers(cache: DataCache, sex: int, emotion: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips that fit a picture of that sex and emotion, -1 unknown: the best, and those of unknown emotion to be mixed in."""
    same_sex, same_emotion = cache.audio_sex == sex, cache.audio_emotion == emotion
    untold = cache.audio_emotion < 0
    alike, moodless = np.zeros_like(untold), np.zeros_like(untold)
    if sex >= 0:
        alike = same_sex & same_emotion
        if emotion >= 0:
            moodless = same_sex & untold
        elif not alike.any():
            alike = same_sex
    if emotion >= 0 and not (alike | moodless).any():
        alike = same_emotion & ((cache.audio_sex < 0) | (sex < 0))
    return np.flatnonzero(alike), np.flatnonzero(moodless)


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
