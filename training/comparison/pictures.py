"""A metric's value for every single picture, so that rows can be compared picture by picture.

The same arithmetic as `training.evaluation.rating`, not averaged: the mean of a column is the row's figure. Metrics of a whole set
(`fid`, `id_auc`, correlations) have no such column. Letters: N pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from runtime.spec import TOKENS
from training.evaluation import consistency, emotion, identity, likeness, words
from training.evaluation.age import TOLERANCE_YEARS
from training.evaluation.making import ALL
from training.evaluation.measure import Evaluation


@torch.no_grad()
def per_picture(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Columns (N,) by metric, in the order of the targets; NaN where a picture has none. Of requests that give everything."""
    scene, made, reading = evaluation.scene, evaluation.evidence.made[ALL], evaluation.evidence.readings[ALL]
    asked, cache = made.asked, scene.cache
    target, age, label = cache.images[asked.rows], cache.age[asked.rows], cache.emotion[asked.rows]
    error = np.where(asked.tells_age(), np.abs(reading.age - age), np.nan)
    columns = {
        "age_mae": error,
        "age_within_5": np.where(np.isfinite(error), error <= TOLERANCE_YEARS, np.nan),
        "emotion_accuracy": np.where(asked.tells_emotion() & (label >= 0), reading.emotion == label, np.nan),
        "avd": np.where(
            asked.tells_values(), _each(emotion.avd, cache.valence_arousal[asked.rows], reading.valence_arousal), np.nan
        ),
        "cmc": _agreement(evaluation),
    }
    if "ssim" in evaluation.figures:
        columns["ssim"] = _each(likeness.ssim, made.pictures, target)
    if ALL in evaluation.evidence.trials:
        columns["id_sim"] = evaluation.evidence.trials[ALL].genuine
    if asked.told["text"].any():
        columns |= _words(evaluation)
    return {name: np.asarray(column, np.float64) for name, column in columns.items()}


def _words(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """`text_image_cosine`, and where a reference was shown `s_dir`."""
    scene, made = evaluation.scene, evaluation.evidence.made[ALL]
    asked, features = made.asked, scene.examples.features
    text, image = asked.inputs["text_features"].cpu().numpy(), scene.clip_features(made.pictures)
    said = asked.told["text"]
    columns = {"text_image_cosine": np.where(said, identity.cosines(image, text), np.nan)}
    shown = said & asked.told["image"] & asked.has_other & scene.examples.available["text"][asked.reference]
    rows = np.flatnonzero(shown)
    if len(rows):
        only_words = {name: np.full(len(rows), name == "text") for name in scene.examples.available}
        source = scene.examples.describe(asked.reference[rows], np.random.default_rng(0), only_words)
        source_text = source.inputs["text_features"].cpu().numpy()
        reference = features.image[torch.from_numpy(asked.reference[rows])].float().numpy()
        columns["s_dir"] = np.full(len(said), np.nan)
        columns["s_dir"][rows] = _each(words.directional, image[rows], reference, text[rows], source_text)
    return columns


def _agreement(evaluation: Evaluation) -> np.ndarray:
    conditioner, asked = evaluation.scene.model.conditioner, evaluation.evidence.made[ALL].asked
    tokens, present = conditioner.tokens(*asked.inputs.values())
    used = conditioner.fusion(tokens, present)[1].float().cpu().numpy()
    compared = [place for place, name in enumerate(TOKENS) if name != "identity"]
    return _each(consistency.cmc, used[:, compared], present[:, compared].float().cpu().numpy())


def _each(metric: Callable[..., float | np.ndarray], *columns: np.ndarray) -> np.ndarray:
    """`metric` of each picture alone; NaN where it says nothing (an empty result)."""
    values = [np.asarray(metric(*(column[n : n + 1] for column in columns))).ravel() for n in range(len(columns[0]))]
    return np.array([value[0] if len(value) else np.nan for value in values])
