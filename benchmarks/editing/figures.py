"""The figures of an editing experiment, from its records: means over pictures, intervals over people, wishes and how far they are.

People are what is sampled, and the edits of one person are alike, so intervals are 95 % bootstraps over people. Knows no pictures and no tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.editing.score import MEASURES, Measure
from benchmarks.editing.subject import OWN_PICTURES, SAME_PICTURE
from benchmarks.editing.trials import (
    AGE,
    EDIT,
    EMOTION,
    MASKED,
    ROUND_TRIP,
    ROUND_TRIPS,
    SWEEPS,
    VOICE,
    WITH_PHOTO,
    WITHOUT_PHOTO,
    WORDS,
)
from runtime.emotions import EMOTIONS

UNEDITED, AUTOENCODED, TRUTH = "unedited photo", "truth, autoencoded", "truth"
WHO = (EDIT, UNEDITED, WITH_PHOTO, WITHOUT_PHOTO, AUTOENCODED, TRUTH)
PERCENTILE = 0.99  # of different people
RESAMPLES = 2000
DIGITS = 4

Record = Mapping[str, Any]
"""One person: "person" (number), "impostors" (kind -> identity cosines), "heard" (label -> whether its voice was understood), "scores" (`score.Score` as dicts)."""
Values = Callable[[Mapping[str, Any]], float | None]
"""From a score, as a dict, to the number that is averaged; None where it does not count."""

CHANGES = ("age", "emotion")
KEPT: Mapping[str, Measure] = {
    "kept": Measure("kept", "higher", "share whose identity is above the 99th percentile of impostors who stand in the photo's place"),
    "kept_own": Measure("kept, own pictures", "higher", "the same against impostors in pictures of their own"),
}  # fmt: skip
ALL_MEASURES: Mapping[str, Measure] = {**MEASURES, **KEPT}

# Title -> series, and what else a score must have.
BLOCKS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "age ±30": (AGE, {}),
    "age ±30, with a mask": (MASKED, {}),
    "age ±30 in words alone": (WORDS, {"change": "age"}),
    "eight emotions": (EMOTION, {}),
    "emotion in words alone": (WORDS, {"change": "emotion"}),
    "emotion from a voice alone": (VOICE, {}),
}


@dataclass(frozen=True)
class Figure:
    """A mean over all pictures and its interval over people; `pictures` of `people` people."""

    mean: float
    low: float
    high: float
    people: int
    pictures: int


@dataclass(frozen=True)
class Goal:
    """What is wished for, and how far it is: the edit's `figure`, and the `ceiling` that the truth through the autoencoder has."""

    wish: str
    limit: float
    direction: str
    figure: Figure | None
    ceiling: Figure | None

    @property
    def reached(self) -> bool:
        """Whether the mean is on the right side of the limit."""
        if self.figure is None:
            return False
        return self.figure.mean >= self.limit if self.direction == "higher" else self.figure.mean <= self.limit


def figure(per_person: Sequence[Sequence[float]]) -> Figure | None:
    """Of one list of numbers per person, each number one picture's; None where nobody has any."""
    counted = [values for values in per_person if len(values)]
    if not counted:
        return None
    sums, counts = np.array([sum(values) for values in counted]), np.array([len(values) for values in counted])
    drawn = np.random.default_rng(0).integers(0, len(counted), (RESAMPLES, len(counted)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), (0.025, 0.975))
    mean, low, high = (round(float(each), DIGITS) for each in (sums.sum() / counts.sum(), low, high))
    return Figure(mean, low, high, len(counted), int(counts.sum()))


def measured(
    records: Sequence[Record], value: Values, series: str | Iterable[str], who: str = EDIT, **where: str
) -> Figure | None:
    """The figure of all scores of `series` (one, or several) by `who` whose other entries are as in `where`."""
    wanted = (series,) if isinstance(series, str) else tuple(series)
    per_person = []
    for record in records:
        values = [
            value(score)
            for score in record["scores"]
            if score["series"] in wanted and score["who"] == who and all(score[k] == v for k, v in where.items())
        ]
        per_person.append([each for each in values if each is not None])
    return figure(per_person)


def thresholds(records: Sequence[Record]) -> dict[str, float]:
    """Kind of impostors -> the identity cosine that one in a hundred of them exceeds."""
    kinds = (SAME_PICTURE, OWN_PICTURES)
    cosines = {kind: [cosine for record in records for cosine in record["impostors"][kind]] for kind in kinds}
    return {kind: round(float(np.quantile(cosines[kind], PERCENTILE)), DIGITS) for kind in kinds}


def values_of(records: Sequence[Record]) -> dict[str, Values]:
    """How each of `ALL_MEASURES` is read from a score, with the thresholds of these records."""
    limits = thresholds(records)

    def reads(name: str) -> Values:
        return lambda score: score["values"][name]

    def above(kind: str) -> Values:
        return lambda score: float(score["values"]["identity"] > limits[kind])

    return {**{name: reads(name) for name in MEASURES}, "kept": above(SAME_PICTURE), "kept_own": above(OWN_PICTURES)}


def round_trip_loss_db(records: Sequence[Record], row: str) -> Figure | None:
    """PSNR of the autoencoder alone less that of the round trip, person by person."""
    losses = []
    for record in records:
        found = {
            score["who"]: score["values"]["psnr_db"]
            for score in record["scores"]
            if score["series"] == ROUND_TRIP and score["row"] == row
        }
        losses.append([found[AUTOENCODED] - found[EDIT]] if {AUTOENCODED, EDIT} <= found.keys() else [])
    return figure(losses)


def heard(records: Sequence[Record], *labels: str) -> Figure | None:
    """Share of the voices of these labels (none: all) in which the model's own recogniser hears the label: what a voice can tell at best."""
    wanted = labels or EMOTIONS
    return figure([[float(hit) for label, hit in record["heard"].items() if label in wanted] for record in records])


def goals(records: Sequence[Record]) -> list[Goal]:
    """What editing should reach, in the order of the report."""
    values = values_of(records)

    def share(wish: str, limit: float, measure: str, *series: str) -> Goal:
        pair = (measured(records, values[measure], series, who) for who in (EDIT, AUTOENCODED))
        return Goal(wish, limit, "higher", *pair)

    def loss(wish: str, limit: float, row: str) -> Goal:
        return Goal(wish, limit, "lower", round_trip_loss_db(records, row), None)

    return [
        loss("round trip, dB below the autoencoder", 3.0, "plain"),
        loss("the same with two fixed-point iterations", 1.0, "2 fixed-point iterations"),
        share("age ±30: share of the years moved", 0.8, "moved", AGE),
        share("eight emotions: share recognised", 0.85, "emotion", EMOTION),
        share("emotion from a voice alone: share recognised", 0.7, "emotion", VOICE),
        share("identity kept, age, emotion and voice: share of edits", 0.9, "kept", AGE, EMOTION, VOICE),
        share("the same against impostors in pictures of their own", 0.9, "kept_own", AGE, EMOTION, VOICE),
    ]


def all_figures(records: Sequence[Record]) -> dict[str, Any]:
    """Everything, JSON-serialisable."""
    values = values_of(records)

    def table(series: str, who: str = EDIT, **where: str) -> dict[str, Any]:
        found = {name: measured(records, value, series, who, **where) for name, value in values.items()}
        return {name: asdict(each) for name, each in found.items() if each is not None}

    def read_as_asked(series: str, who: str) -> dict[str, Any]:
        found = {label: measured(records, values["emotion"], series, who, row=label) for label in EMOTIONS}
        return {label: asdict(each) for label, each in found.items() if each is not None}

    return {
        "people": len(records),
        "thresholds": thresholds(records),
        "goals": [{**asdict(goal), "reached": goal.reached} for goal in goals(records)],
        "round_trip": {
            "the autoencoder alone": table(ROUND_TRIP, AUTOENCODED, row="plain"),
            **{row: table(ROUND_TRIP, row=row) for row in ROUND_TRIPS},
        },
        "edits": {
            title: {who: found for who in WHO if (found := table(series, who, **where))}
            for title, (series, where) in BLOCKS.items()
        },
        "emotions": {
            series: {who: found for who in WHO if (found := read_as_asked(series, who))} for series in (EMOTION, VOICE)
        },
        "heard": None if (voices := heard(records)) is None else asdict(voices),
        "sweeps": {
            series: {row: {change: table(series, row=row, change=change) for change in CHANGES} for row in rows}
            for series, rows in SWEEPS.items()
            if measured(records, values["identity"], series)
        },
    }
