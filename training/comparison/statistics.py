"""How sure a figure is, and whether two rows differ: bootstrap over pictures (of the differences, picture by picture). Letters: N pictures, values may be NaN (not measured)."""

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


def interval(values: np.ndarray, level: float = 0.95) -> Interval | None:
    """Of the mean of those (N,) `values` that were measured; None with fewer than two."""
    measured = values[np.isfinite(values)]
    if len(measured) < 2:
        return None
    rng = np.random.default_rng(0)
    means = measured[rng.integers(0, len(measured), (RESAMPLES, len(measured)))].mean(axis=1)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(measured.mean()), float(low), float(high))
