"""Which modalities a training sample gets to see (the paper is silent; the rates are ours).

A tenth sees nothing (the unconditional branch of guidance), three tenths exactly one modality, the rest each with
probability 0.6. So every subset occurs, the single ones often.
"""

from __future__ import annotations

import numpy as np

MODALITIES = ("text", "audio", "reference", "age", "emotion")
NOTHING, ONE, KEEP = 0.1, 0.3, 0.6


def sample_modalities(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Per modality a (count,) bool array: given or dropped."""
    kind = rng.random(count)
    given = rng.random((count, len(MODALITIES))) < KEEP
    only = np.arange(len(MODALITIES)) == rng.integers(0, len(MODALITIES), (count, 1))
    given = np.where((kind < NOTHING + ONE)[:, None], only, given)
    given[kind < NOTHING] = False
    return dict(zip(MODALITIES, given.T, strict=True))
