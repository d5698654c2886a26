"""Made or real? What share a classifier gets right that was trained for this one question (C2ST, Lopez-Paz & Oquab 2017).

A linear discriminant with a ridge, judged on pictures that it was not fitted to: 0.5 is a guess, 1 says that every picture gives itself away.
It sees what the look judge sees, and each picture's power spectrum. Letters: N pictures, S picture size, D features.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve

from training.evaluation.spectrum import radial_powers

FOLDS = 5
RIDGE = 0.03  # of the features' mean variance
_FLOOR = 1e-9


def clues(pictures: np.ndarray, look: np.ndarray) -> np.ndarray:
    """(N, D) of pictures (N, S, S, 3) uint8 and what the look judge sees in them."""
    return np.concatenate([look, np.log10(radial_powers(pictures) + _FLOOR)], axis=1)


def accuracy(made: np.ndarray, real: np.ndarray) -> float:
    """Mean of the share of made (N, D) and the share of real (N', D) that are told right, each by a classifier of the other folds."""
    if min(len(made), len(real)) < 2 * FOLDS:
        raise ValueError(f"{len(made)} made and {len(real)} real pictures; {FOLDS} folds need {2 * FOLDS} of each")
    right: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    folds = [np.random.default_rng(0).permutation(len(these)) % FOLDS for these in (made, real)]
    for fold in range(FOLDS):
        told_made, told_real = _classify(
            made[folds[0] != fold], real[folds[1] != fold], made[folds[0] == fold], real[folds[1] == fold]
        )
        right[0].append(told_made)
        right[1].append(~told_real)
    return float(np.mean([np.concatenate(side).mean() for side in right]))


def _classify(
    made: np.ndarray, real: np.ndarray, unseen_made: np.ndarray, unseen_real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the unseen pictures are taken for made ones, after learning from the others: Fisher's discriminant."""
    everything = np.concatenate([made, real])
    centre, scale = everything.mean(0), everything.std(0) + 1e-6
    made, real, unseen_made, unseen_real = (
        (these - centre) / scale for these in (made, real, unseen_made, unseen_real)
    )
    within = np.concatenate([made - made.mean(0), real - real.mean(0)])
    covariance = within.T @ within / len(within)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    direction = solve(covariance, made.mean(0) - real.mean(0), assume_a="pos")
    threshold = (made.mean(0) + real.mean(0)) @ direction / 2
    return unseen_made @ direction > threshold, unseen_real @ direction > threshold
