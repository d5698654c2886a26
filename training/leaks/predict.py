"""A probe: guesses truths from observations of people it has not met, as well as ridge regression and a small network can.

People are in three parts: to fit on, to choose by (strength of the penalty, when to stop, whom of the two to believe and how far), and to
judge by, which nothing is ever fitted to. Choosing also shrinks: a probe that has found nothing guesses the mean.
Letters: N people, F observed features, K columns of truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.optimize import nnls
from torch import nn

PENALTIES = 10.0 ** np.arange(-1, 7)
EPOCHS, BATCH, HIDDEN = 25, 128, 256


@dataclass(frozen=True)
class Parts:
    """Row numbers of the three parts; no person is in two."""

    fit: np.ndarray
    choose: np.ndarray
    judge: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, seed: int) -> Parts:
        """`rows` in random order: half to fit on, a fifth to choose by, the rest to judge by."""
        rows = np.random.default_rng(seed).permutation(rows)
        first, second = len(rows) // 2, len(rows) * 7 // 10
        return cls(rows[:first], rows[first:second], rows[second:])


def guess(observed: np.ndarray, truth: np.ndarray, parts: Parts, seed: int, groups: np.ndarray) -> np.ndarray:
    """(judge, K) float64 guesses of `truth` (N, K) from `observed` (N, F), in the unit of `truth`.

    Columns of one entry of `groups` (K,) int belong to one choice and are believed equally.
    """
    x = _standardised(observed, parts.fit)
    mean, scale = truth[parts.fit].mean(axis=0), truth[parts.fit].std(axis=0) + 1e-6
    y = (truth - mean) / scale
    guesses = [_ridge(x, y, parts), _network(x, y, parts, seed)]
    result = np.empty((len(parts.judge), truth.shape[1]))
    for group in np.unique(groups):
        columns = groups == group
        chosen = np.stack([choose[:, columns].ravel() for choose, _ in guesses], axis=1)
        # How far to believe each, never less than not at all.
        weights, _ = nnls(chosen.astype(np.float64), y[parts.choose][:, columns].ravel().astype(np.float64))
        result[:, columns] = sum(
            weight * judged[:, columns] for weight, (_, judged) in zip(weights, guesses, strict=True)
        )
    return result * scale + mean


def _standardised(observed: np.ndarray, fit: np.ndarray) -> np.ndarray:
    x = observed.reshape(len(observed), -1).astype(np.float32)
    return np.clip((x - x[fit].mean(axis=0)) / (x[fit].std(axis=0) + 1e-6), -6, 6)


def _ridge(x: np.ndarray, y: np.ndarray, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Guesses for the choosing and the judging part; each column with the penalty that serves it best in the choosing part."""
    values, vectors = eigh(x[parts.fit].T @ x[parts.fit])
    turned = vectors.T @ (x[parts.fit].T @ y[parts.fit])
    choose, judge = x[parts.choose] @ vectors, x[parts.judge] @ vectors
    best = np.full(y.shape[1], np.inf)
    guesses = np.zeros((len(choose), y.shape[1])), np.zeros((len(judge), y.shape[1]))
    for penalty in PENALTIES:
        weights = turned / (np.maximum(values, 0) + penalty)[:, None]
        _keep_better(best, guesses, choose @ weights, judge @ weights, y[parts.choose])
    return guesses


def _network(x: np.ndarray, y: np.ndarray, parts: Parts, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same from two hidden layers; each column from the epoch that serves it best in the choosing part."""
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN),
            nn.SiLU(),
            nn.Dropout(0.2),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, y.shape[1]),
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
        best = np.full(y.shape[1], np.inf)
        guesses = np.zeros((len(parts.choose), y.shape[1])), np.zeros((len(parts.judge), y.shape[1]))
        for _ in range(EPOCHS):
            network.train()
            order = torch.from_numpy(parts.fit)[torch.randperm(len(parts.fit))]
            for rows in order.split(BATCH):
                optimizer.zero_grad(set_to_none=True)
                (network(inputs[rows]) - targets[rows]).square().mean().backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                choose, judge = network(inputs[parts.choose]).numpy(), network(inputs[parts.judge]).numpy()
            _keep_better(best, guesses, choose, judge, y[parts.choose])
    return guesses


def _keep_better(
    best: np.ndarray, guesses: tuple[np.ndarray, np.ndarray], choose: np.ndarray, judge: np.ndarray, truth: np.ndarray
) -> None:
    """Replace the columns in which `choose` is nearer to the truth than the `best` squared error so far."""
    error = ((choose - truth) ** 2).mean(axis=0)
    better = error < best
    best[better] = error[better]
    guesses[0][:, better], guesses[1][:, better] = choose[:, better], judge[:, better]
