"""Distances between two sets of pictures, as features: Fréchet (`fid`) and kernel (`kid`), both torchmetrics'.

Letters: N pictures, D features. The features are the judges' own, see `panel`: a thousand pictures cannot fill the 2,048
dimensions of the usual network, and a covariance that is not filled is mostly a measure of the number of pictures.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

KID_SUBSETS, KID_SUBSET_SIZE = 50, 100


class _GivenFeatures(nn.Identity):
    """Stands where torchmetrics wants the network: features are computed once and serve several metrics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width


def fid(made: np.ndarray, real: np.ndarray) -> float:
    """Fréchet distance of features (N, D) and (N', D): `‖μ - μ'‖² + tr(Σ + Σ' - 2 (Σ Σ')^½)` (Heusel et al. 2017)."""
    _check(made, real)
    metric = FrechetInceptionDistance(_GivenFeatures(made.shape[1]))
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(made).double(), real=False)
    return float(metric.compute())


def kid(made: np.ndarray, real: np.ndarray) -> float:
    """Unbiased squared MMD of features under the kernel `(x·y/D + 1)³` (Binkowski et al. 2018), mean over subsets.

    May be slightly below zero. Subsets are drawn from a fixed seed; torch's own generator is left as it was.
    """
    _check(made, real)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=()):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all features in memory
        torch.manual_seed(0)
        size = min(KID_SUBSET_SIZE, len(made), len(real))
        metric = KernelInceptionDistance(_GivenFeatures(made.shape[1]), subsets=KID_SUBSETS, subset_size=size)
        metric.update(torch.from_numpy(real).double(), real=True)
        metric.update(torch.from_numpy(made).double(), real=False)
        return float(metric.compute()[0])


def _check(made: np.ndarray, real: np.ndarray) -> None:
    if made.ndim != 2 or real.ndim != 2 or made.shape[1] != real.shape[1]:
        raise ValueError(f"features of shape {made.shape} and {real.shape}; both must be (pictures, same width)")
    if min(len(made), len(real)) < 2:
        raise ValueError(f"{len(made)} made and {len(real)} real pictures; a distribution needs at least 2 of each")
