"""How much a probe has found: R² on people it has not met, with an interval, and what luck alone would have reached.

R² of a choice is that of its one-hot columns, each scaled to unit variance: 0 is guessing the shares, 1 is knowing. The floor shuffles
whose truth is whose among the judged people, the same way for all truths of one source, and takes the best R² of all of
them: 999 shuffles out of 1000 stay below the largest.
Letters: n judged people, K columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SHUFFLES, RESAMPLES = 1000, 1000


@dataclass(frozen=True)
class Score:
    """`r2` with its 95 % bootstrap interval `low` … `high`; `floor` the best that luck reached and `p` the share of shuffles in which
    luck reached `r2`; of a choice also the share of people guessed right, and what always guessing the commonest gives."""

    r2: float
    low: float
    high: float
    floor: float
    p: float
    people: int
    accuracy: float | None = None
    chance: float | None = None


def score(truth: Mapping[str, np.ndarray], guess: Mapping[str, np.ndarray], seed: int) -> dict[str, Score]:
    """One `Score` per truth (n, K) of one source, from its guess (n, K)."""
    rng = np.random.default_rng(seed)
    people = len(next(iter(truth.values())))
    shuffles = [rng.permutation(people) for _ in range(SHUFFLES)]
    weights = rng.multinomial(people, np.full(people, 1 / people), RESAMPLES).astype(np.float64)
    scaled = {name: _scaled(truth[name], guess[name]) for name in truth}
    lucky = np.array([[_r2(y[order], y_hat) for order in shuffles] for y, y_hat in scaled.values()]).max(axis=0)
    scores = {}
    for name, (y, y_hat) in scaled.items():
        r2 = _r2(y, y_hat)
        resampled = 1 - (weights @ ((y - y_hat) ** 2).mean(axis=1)) / (weights @ (y**2).mean(axis=1))
        accuracy = chance = None
        if _is_choice(truth[name]):
            right = truth[name].argmax(axis=1)
            accuracy = float((guess[name].argmax(axis=1) == right).mean())
            chance = float(np.bincount(right).max() / people)
        scores[name] = Score(
            r2=r2,
            low=float(np.quantile(resampled, 0.025)),
            high=float(np.quantile(resampled, 0.975)),
            floor=float(lucky.max()),
            p=float((1 + (lucky >= r2 - 1e-9).sum()) / (1 + SHUFFLES)),
            people=people,
            accuracy=accuracy,
            chance=chance,
        )
    return scores


def _r2(truth: np.ndarray, guess: np.ndarray) -> float:
    """Of columns with zero mean and unit variance."""
    return float(1 - ((truth - guess) ** 2).mean())


def _scaled(truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in units of the truth's deviation. A column that never varies is left out: there is nothing to know."""
    truth, guess = truth.astype(np.float64), guess.astype(np.float64)
    mean, deviation = truth.mean(axis=0), truth.std(axis=0)
    varies = deviation > 1e-9
    return ((truth - mean) / np.where(varies, deviation, 1))[:, varies], (
        (guess - mean) / np.where(varies, deviation, 1)
    )[:, varies]


def _is_choice(truth: np.ndarray) -> bool:
    return truth.shape[1] > 1 and bool(np.isin(truth, (0, 1)).all()) and bool((truth.sum(axis=1) == 1).all())
