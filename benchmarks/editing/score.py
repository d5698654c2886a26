"""How a picture stands to what was asked: numbers of one picture, read by the judges and by pixels.

Everybody is scored by the same function: the edit, the unedited photo, the true counterfactual, and that one through the autoencoder.
Pictures (S, S, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.editing.subject import Subject
from benchmarks.editing.trials import Trial
from runtime.emotions import EMOTIONS
from runtime.similarity import psnr_db, ssim
from training.evaluation.identity import cosines
from training.evaluation.panel import Panel, Reading


@dataclass(frozen=True)
class Measure:
    """`direction` is "higher" or "lower", whichever is better."""

    title: str
    direction: str
    meaning: str


MEASURES: Mapping[str, Measure] = {
    "identity": Measure("identity", "higher", "cosine of the identity judge, picture and photo"),
    "moved": Measure("moved", "higher", "share of the asked years by which the age judge's reading moves from its reading of the photo"),
    "age_error": Measure("age error", "lower", "mean |judged age - age of the truth|, years"),
    "age_error_to_truth": Measure("age error to the truth's reading", "lower", "mean |judged age - judged age of the truth|, years"),
    "emotion": Measure("emotion", "higher", "share in which the emotion judge reads the truth's label"),
    "psnr_db": Measure("PSNR", "higher", "to the truth, dB"),
    "ssim": Measure("SSIM", "higher", "to the truth"),
    "look": Measure("look", "lower", "distance to the truth in the features of the look judge"),
    "background": Measure("background", "lower", "mean |change| from the photo where photo and truth show only background, levels of 255"),
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """One picture's numbers, by the keys of `MEASURES`; None where there is nothing to measure (no years asked, no background)."""

    series: str
    row: str
    change: str
    who: str
    values: Mapping[str, float | None]


def score(
    judges: Panel, subject: Subject, answered: Sequence[Trial], pictures: Mapping[str, Sequence[np.ndarray]]
) -> list[Score]:
    """Scores of `pictures`, who -> one for each of the trials `answered`; who "" stands for the trial's own `who`.

    The truth of a trial that changes nothing is the photo.
    """
    truths = [subject.photo if trial.change == "nothing" else subject.truth(trial.shot) for trial in answered]
    papers = [subject.background(trial.shot) for trial in answered]
    of_truth, (of_photo,) = judges.read(np.stack(truths)), _rows(judges.read(subject.photo[None]))
    scores = []
    for who, shown in pictures.items():
        for k, reading in enumerate(_rows(judges.read(np.stack(shown)))):
            truth = of_truth.of(np.array([k]))
            values = _values(subject, answered[k], shown[k], truths[k], papers[k], reading, truth, of_photo)
            scores.append(
                Score(answered[k].series, answered[k].row, answered[k].change, who or answered[k].who, values)
            )
    return scores


def similarities(judges: Panel, photo: np.ndarray, others: np.ndarray) -> list[float]:
    """Identity cosines of a photo and other pictures (N, S, S, 3)."""
    reading = judges.read(np.concatenate([photo[None], others]))
    return [float(cosine) for cosine in cosines(reading.identity[:1], reading.identity[1:])]


def _values(
    subject: Subject,
    trial: Trial,
    picture: np.ndarray,
    truth: np.ndarray,
    paper: np.ndarray,
    seen: Reading,
    of_truth: Reading,
    of_photo: Reading,
) -> dict[str, float | None]:
    age, years = float(seen.age[0]), trial.shot.age - subject.shot.age
    change = np.abs(picture.astype(float) - subject.photo)
    return {
        "identity": float(cosines(seen.identity, of_photo.identity)[0]),
        "moved": (age - float(of_photo.age[0])) / years if trial.change == "age" else None,
        "age_error": abs(age - trial.shot.age),
        "age_error_to_truth": abs(age - float(of_truth.age[0])),
        "emotion": float(EMOTIONS[int(seen.emotion[0])] == trial.shot.emotion),
        "psnr_db": psnr_db(picture, truth),
        "ssim": ssim(picture, truth),
        "look": float(np.linalg.norm(seen.look - of_truth.look)),
        "background": float(change[paper].mean()) if paper.any() else None,
    }


def _rows(reading: Reading) -> list[Reading]:
    return [reading.of(np.array([k])) for k in range(len(reading))]
