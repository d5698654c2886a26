"""The questions: from what is what to be readable, and from what is nothing.

A claim expects one of four things: `NOTHING` R² at most 0.02, `CHANCE` no more than luck, `SIGNAL` at least 0.1 (a control: a probe that
finds nothing anywhere proves nothing), `MEASURED` whatever it is. The synthetic world promises the first three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.synthetic.traits import TRAITS
from training.leaks.predict import Parts, guess
from training.leaks.sample import NUISANCE, Sample
from training.leaks.score import Score, score

NOTHING, CHANCE, SIGNAL, MEASURED = "nothing", "chance", "signal", "measured"
NOTHING_R2, SIGNAL_R2 = 0.02, 0.1
SHARED = ("sex", "age", "emotion")  # what a voice may tell of a face
# Where a picture is background whoever is on it, whatever the hair: the outer eighths, down to this share of the height.
BACKGROUND_WIDTH, BACKGROUND_HEIGHT = 1 / 8, 5 / 16


@dataclass(frozen=True)
class Finding:
    """What a probe read of `truth` from `source`, against what the world promises."""

    source: str
    truth: str
    expected: str
    score: Score

    @property
    def bar(self) -> float | None:
        """The R² that the promise allows at most, of a signal at least."""
        return {NOTHING: NOTHING_R2, CHANCE: self.score.floor, SIGNAL: SIGNAL_R2}.get(self.expected)

    @property
    def holds(self) -> bool | None:
        """Whether the promise is kept; None where there is none."""
        if self.bar is None:
            return None
        return self.score.r2 >= self.bar if self.expected == SIGNAL else self.score.r2 <= self.bar + 1e-9


def ask(
    source: str,
    observed: np.ndarray,
    truth: Mapping[str, np.ndarray],
    expected: Mapping[str, str],
    seed: int,
    rows: np.ndarray | None = None,
) -> list[Finding]:
    """Probe `observed` (N, …) for every truth in `expected` (truth → what is expected), among `rows` (default: everyone).

    Truths that a voice or a picture shows plainly are probed apart from those that they should hide, so that one network does
    not spend itself on the former.
    """
    rows = np.arange(len(observed)) if rows is None else rows
    parts = Parts.of(rows, seed)
    findings = []
    for together in ((NOTHING, CHANCE), (SIGNAL, MEASURED)):
        names = [name for name, expectation in expected.items() if expectation in together]
        if not names:
            continue
        widths = [truth[name].shape[1] for name in names]
        guesses = guess(
            observed,
            np.concatenate([truth[name] for name in names], axis=1),
            parts,
            seed,
            np.repeat(np.arange(len(names)), widths),
        )
        split = dict(zip(names, np.split(guesses, np.cumsum(widths)[:-1], axis=1), strict=True))
        scores = score({name: truth[name][parts.judge] for name in names}, split, seed)
        findings += [Finding(source, name, expected[name], scores[name]) for name in names]
    return findings


def voice(sample: Sample, observed: np.ndarray, source: str, seed: int) -> list[Finding]:
    """A voice tells sex, age and emotion, and nothing else: no trait, no hair, no glasses, no light, no background.

    Only men from 18 years wear beards, so what a voice says of a beard is asked among them.
    """
    hidden = [*TRAITS, *(name for name in NUISANCE if name != "beard")]
    expected = dict.fromkeys(SHARED, SIGNAL) | dict.fromkeys(hidden, NOTHING)
    men = np.flatnonzero(sample.is_adult_man)
    return ask(source, observed, sample.truth, expected, seed) + ask(
        source, observed, sample.truth, {"beard": NOTHING}, seed, men
    )


def person(sample: Sample, seed: int) -> list[Finding]:
    """Who somebody is tells neither age nor emotion nor anything else of a picture; it does tell the colour of a cheek."""
    vector = np.concatenate([sample.truth["sex"][:, :1], *(sample.truth[trait] for trait in TRAITS)], axis=1)
    truth = sample.truth | {"cheek_colour": _cheek(sample.images)}
    hidden = ["age", "emotion", "intensity", *(name for name in NUISANCE if name != "beard")]
    return ask("identity", vector, truth, {"cheek_colour": SIGNAL} | dict.fromkeys(hidden, CHANCE), seed)


def background(sample: Sample, seed: int) -> list[Finding]:
    """What is behind a person tells nothing of the person, the age or the emotion; it does tell its own colours."""
    hidden = ["sex", "age", "emotion", "intensity", *TRAITS]
    expected = {"background_colours": SIGNAL} | dict.fromkeys(hidden, CHANCE)
    return ask("background", background_of(sample.images), sample.truth, expected, seed)


def picture(sample: Sample, seed: int) -> list[Finding]:
    """Control: the same probe, given a whole small picture, does find the person, the age and the emotion."""
    plain = {"skin_tone": SIGNAL, "age": SIGNAL, "emotion": SIGNAL, "hair_colour": SIGNAL, "background_colours": SIGNAL}
    rest = {trait: MEASURED for trait in TRAITS if trait not in plain}
    return ask("picture", smaller(sample.images, 24), sample.truth, plain | rest, seed)


def embedding(sample: Sample, vectors: np.ndarray, seed: int) -> list[Finding]:
    """What a trained identity network tells: the traits, one hopes, and of age, emotion and nuisance as little as it has learned."""
    told = ("sex", "age", "emotion", *NUISANCE, *TRAITS)
    return ask("identity network", vectors, sample.truth, dict.fromkeys(told, MEASURED), seed)


def background_of(images: np.ndarray) -> np.ndarray:
    """(N, H', W', 3) of pictures (N, S, S, 3): the upper outer strips of both sides, where no hair, ear or shoulder reaches."""
    size = images.shape[1]
    width, height = int(size * BACKGROUND_WIDTH), int(size * BACKGROUND_HEIGHT)
    return np.concatenate([images[:, :height, :width], images[:, :height, -width:]], axis=2)


def smaller(images: np.ndarray, size: int) -> np.ndarray:
    """(N, size, size, 3) float32: averages over equal tiles of as much of the picture as divides into them."""
    tile = images.shape[1] // size
    cut = images[:, : tile * size, : tile * size].reshape(len(images), size, tile, size, tile, 3)
    return cut.mean(axis=(2, 4), dtype=np.float32)


def holds(findings: Sequence[Finding]) -> bool:
    """Whether no promise is broken."""
    return all(finding.holds is not False for finding in findings)


def _cheek(images: np.ndarray) -> np.ndarray:
    """(N, 3) mean colour beside the nose, in 0 … 1."""
    size = images.shape[1]
    low, high = size * 9 // 16, size * 10 // 16
    return images[:, low:high, size * 5 // 16 : size * 6 // 16].mean(axis=(1, 2), dtype=np.float32) / 255
