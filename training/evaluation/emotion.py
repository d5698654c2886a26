"""Asked and judged emotion: label, and valence and arousal as numbers (paper, eq. 33 and "Continuous attribute metrics").

Letters: N pictures; valence/arousal (N, 2) in [-1, 1]; labels (N,) are places in `runtime.emotions.EMOTIONS`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torchmetrics.functional.regression import concordance_corrcoef

from runtime.emotions import EMOTIONS


def accuracy(asked: np.ndarray, judged: np.ndarray) -> float:
    """Share of equal labels."""
    return float((np.asarray(asked) == np.asarray(judged)).mean())


def confusion(asked: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """(8, 8) int: rows asked, columns judged."""
    counts = np.zeros((len(EMOTIONS), len(EMOTIONS)), int)
    np.add.at(counts, (np.asarray(asked), np.asarray(judged)), 1)
    return counts


def avd(asked: np.ndarray, judged: np.ndarray) -> float:
    """`AVD = ‖(v, a)_made - (v, a)_target‖`, mean over pictures, eq. 33."""
    return float(np.linalg.norm(np.asarray(judged, float) - np.asarray(asked, float), axis=1).mean())


def emd(asked: np.ndarray, judged: np.ndarray) -> float:
    """Earth mover's distance of two equally large clouds (N, 2): the least mean way from judged to asked, whoever it was for."""
    cost = cdist(judged, asked)
    return float(cost[linear_sum_assignment(cost)].mean())


def value_figures(asked: np.ndarray, judged: np.ndarray) -> dict[str, float]:
    """Pearson and concordance correlation of valence and arousal, `avd` and `emotion_emd`. A constant correlates with nothing: 0."""
    figures = {}
    for column, name in enumerate(("valence", "arousal")):
        wanted, got = np.asarray(asked[:, column], float), np.asarray(judged[:, column], float)
        varies = min(np.ptp(wanted), np.ptp(got)) > 0
        figures[f"{name}_pearson"] = float(stats.pearsonr(wanted, got).statistic) if varies else 0.0
        figures[f"{name}_ccc"] = (
            float(concordance_corrcoef(torch.from_numpy(got), torch.from_numpy(wanted))) if varies else 0.0
        )
    return {**figures, "avd": avd(asked, judged), "emotion_emd": emd(asked, judged)}


def value_chance(asked: np.ndarray) -> dict[str, float]:
    """The same of who always answers with the mean."""
    return value_figures(asked, np.broadcast_to(asked.mean(0), asked.shape))


def label_chance(asked: np.ndarray) -> float:
    """Accuracy of who always says the most frequent label."""
    return float(np.bincount(asked).max() / len(asked))
