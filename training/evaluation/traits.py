"""What makes a face: the traits of a person of the synthetic world, as the judges read them off pictures.

Columns are those of `training.stages.identity.person_traits`: sex, then the traits, each -1 … 1. Sex is left out of every figure: it
is told by words and voices too. Letters: N pictures, T columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve

FIRST = 1  # the column after sex
RIDGE = 0.1  # of the vectors' mean variance


@dataclass(frozen=True)
class TraitReader:
    """A linear reading of traits off identity vectors, for judges that were not taught to read any."""

    centre: np.ndarray
    weights: np.ndarray
    mean: np.ndarray

    @classmethod
    def fitted(cls, vectors: np.ndarray, truth: np.ndarray) -> TraitReader:
        """Ridge regression of `truth` (N, T) on `vectors` (N, D)."""
        centre, mean = vectors.mean(0), truth.mean(0)
        x = (vectors - centre).astype(np.float64)
        gram = x.T @ x
        gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        return cls(centre, solve(gram, x.T @ (truth - mean), assume_a="pos"), mean)

    def read(self, vectors: np.ndarray) -> np.ndarray:
        """(N, T) of (N, D)."""
        return np.asarray((vectors - self.centre) @ self.weights + self.mean)


def explained(truth: np.ndarray, read: np.ndarray) -> float:
    """Mean over the traits of R² = 1 - Σ(read - truth)² / Σ(truth - mean)², (N, T) each: 1 is all, 0 a guess, below 0 worse than one.

    NaN where a trait does not vary.
    """
    error = np.square(read[:, FIRST:] - truth[:, FIRST:]).sum(0)
    total = np.square(truth[:, FIRST:] - truth[:, FIRST:].mean(0)).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(total > 0, 1 - error / total, np.nan).mean())


def spread(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """(T - 1,) sample deviation of each trait over pictures made, (N, T) as read, over that over real ones, (N', T)."""
    made_spread, real_spread = (read[:, FIRST:].std(axis=0, ddof=1) for read in (made, real))
    return np.asarray(made_spread / np.maximum(real_spread, 1e-9))
