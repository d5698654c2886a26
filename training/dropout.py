"""Which modalities a training sample gets to see (the paper is silent; the rates are ours).

A tenth sees nothing (the unconditional branch of guidance), half exactly one modality of those it has, the rest each of them
with probability 0.6. So every subset occurs, the single ones often, and words most often: they have the most to tell, and beside a
photo of the person little of it is news.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# What it is when it is the only one: of a sample that lacks some, in proportion among the others.
ONLY = {"text": 0.36, "audio": 0.22, "reference": 0.18, "age": 0.1, "emotion": 0.14}
MODALITIES = tuple(ONLY)
NOTHING, ONE, KEEP = 0.1, 0.5, 0.6


def sample_modalities(
    rng: np.random.Generator, count: int, available: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Per modality a (count,) bool array: given or dropped. What is not `available` to a sample is never given (default: all)."""
    can = np.ones((count, len(MODALITIES)), bool)
    if available is not None:
        can = np.stack([available[name] for name in MODALITIES], axis=1)
    kind = rng.random(count)
    given = rng.random((count, len(MODALITIES))) < KEEP
    # The first of exponential waiting times comes from each in proportion to its rate.
    wait = np.where(can, rng.exponential(1 / np.array([*ONLY.values()]), (count, len(MODALITIES))), np.inf)
    only = np.arange(len(MODALITIES)) == wait.argmin(1)[:, None]
    given = np.where((kind < NOTHING + ONE)[:, None], only, given) & can
    given[kind < NOTHING] = False
    return dict(zip(MODALITIES, given.T, strict=True))
