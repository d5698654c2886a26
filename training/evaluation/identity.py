"""Is it the same person? Cosines of identity vectors, and how well they tell a person from impostors.

Letters: N pictures, K impostors of each, D features; vectors are unit length.
"""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.classification import binary_auroc, binary_roc

FALSE_ACCEPT_RATE = 0.01
FEWEST_IMPOSTORS = 100  # below this, one in a hundred is less than one


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) cosines of vectors (N, D) in pairs; they need not be unit length."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(-1) / np.maximum(lengths, 1e-12)


def auc(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Area under the ROC: the chance that a genuine score lies above an impostor's, a tie counting half."""
    return float(binary_auroc(*_scores(genuine, impostor)))


def accept_rate(genuine: np.ndarray, impostor: np.ndarray, false_accept_rate: float = FALSE_ACCEPT_RATE) -> float:
    """Share of genuine scores above the lowest threshold that at most `false_accept_rate` of impostors pass (TAR at FAR)."""
    false, true, _ = binary_roc(*_scores(genuine, impostor))
    return float(true[false <= false_accept_rate].max())


def roc(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true accept rates, for drawing."""
    false, true, _ = binary_roc(*_scores(genuine, impostor))
    return false.numpy(), true.numpy()


def rank1(made: np.ndarray, references: np.ndarray, people: np.ndarray) -> float:
    """Share of made vectors (N, D) whose nearest of all references (N, D) shows the same of `people` (N,)."""
    nearest = (made @ references.T).argmax(1)
    return float((people[nearest] == people).mean())


def rank1_among(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Share of genuine scores (N,) above all impostor scores (N, K) of the same picture: found first among K + 1."""
    return float((genuine > impostor.max(axis=1)).mean())


def _scores(genuine: np.ndarray, impostor: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    genuine, impostor = np.ravel(genuine), np.ravel(impostor)
    if not len(genuine) or not len(impostor):
        raise ValueError(f"{len(genuine)} genuine and {len(impostor)} impostor scores; both are needed")
    # torchmetrics puts scores outside 0..1 through a sigmoid, which keeps their order, and in double precision every difference.
    scores = np.concatenate([genuine, impostor])
    return torch.from_numpy(scores).double(), torch.arange(len(scores)) < len(genuine)
