"""Asked and judged age, in years: error, slope and share within five years. Arrays are (N,)."""

from __future__ import annotations

import numpy as np
from scipy import stats

TOLERANCE_YEARS = 5.0


def age_figures(asked: np.ndarray, judged: np.ndarray) -> dict[str, float]:
    """`age_mae`, `age_rmse`, `age_slope`, `age_within_5`. The slope needs two different ages; else it is NaN."""
    error = np.asarray(judged, float) - np.asarray(asked, float)
    spread = np.ptp(asked) > 0
    return {
        "age_mae": float(np.abs(error).mean()),
        "age_rmse": float(np.sqrt((error**2).mean())),
        "age_slope": float(stats.linregress(asked, judged).slope) if spread else float("nan"),
        "age_within_5": float((np.abs(error) <= TOLERANCE_YEARS).mean()),
    }


def decades(asked: np.ndarray) -> dict[str, np.ndarray]:
    """Places of the ages of each decade, by name ("20-29"), youngest first; only decades that occur."""
    tens = np.floor(np.asarray(asked, float) / 10).astype(int)
    return {f"{10 * ten}-{10 * ten + 9}": np.flatnonzero(tens == ten) for ten in np.unique(tens)}


def age_chance(asked: np.ndarray) -> dict[str, float]:
    """The same of who always says the best single age, whatever is asked: another one for each figure."""
    asked = np.asarray(asked, float)
    best = max(float((np.abs(asked - middle) <= TOLERANCE_YEARS).mean()) for middle in asked)
    return {
        "age_mae": float(np.abs(asked - np.median(asked)).mean()),
        "age_rmse": float(asked.std()),
        "age_slope": 0.0,
        "age_within_5": best,
    }
