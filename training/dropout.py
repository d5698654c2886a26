"""Which modalities a training sample gets to see (the paper is silent; the rates are ours).

A tenth sees nothing (the unconditional branch of guidance), three tenths exactly one modality of those it has, the rest each of
them with probability 0.6. So every subset occurs, the single ones often.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MODALITIES = ("text", "audio", "reference", "age", "emotion")
NOTHING, ONE, KEEP = 0.1, 0.3, 0.6


def sample_modalities(
    rng: np.random.Generator, count: int, available: Mapping[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Per modality a (count,) bool array: given or dropped. What is not `available` to a sample is never given (default: all)."""
    can = np.ones((count, len(MODALITIES)), bool)
    if available is not None:
        can = np.stack([available[name] for name in MODALITIES], axis=1)
    kind = rng.random(count)
    given = rng.random((count, len(MODALITIES))) < KEEP
    lot = np.where(can, rng.random((count, len(MODALITIES))), -1)
    only = np.arange(len(MODALITIES)) == lot.argmax(1)[:, None]
    given = np.where((kind < NOTHING + ONE)[:, None], only, given) & can
    given[kind < NOTHING] = False
    return dict(zip(MODALITIES, given.T, strict=True))
