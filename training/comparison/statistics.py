"""How sure a figure is, and whether two rows differ: bootstrap over people (of the differences, picture by picture).

People are what is sampled: the pictures of one, and the same picture under several training seeds, are alike. Letters: N values, of
pictures under seeds; they may be NaN (not measured).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign is certain."""
        return self.low > 0 or self.high < 0


def interval(values: np.ndarray, people: np.ndarray, level: float = 0.95) -> Interval | None:
    """Of the mean of those (N,) `values` that were measured, `people` (N,) saying of whom each is; None with fewer than two people."""
    is_measured = np.isfinite(values)
    measured = values[is_measured]
    found, whose = np.unique(people[is_measured], return_inverse=True)
    if len(found) < 2:
        return None
    sums, counts = np.bincount(whose, measured), np.bincount(whose)
    drawn = np.random.default_rng(0).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(measured.mean()), float(low), float(high))
