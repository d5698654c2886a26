"""Picture against picture: structural similarity (Wang et al. 2004), torchmetrics'.

Layout: pictures (N, S, S, 3) uint8.
"""

from __future__ import annotations

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

_CHUNK = 64


def ssim(made: np.ndarray, target: np.ndarray) -> float:
    """Mean structural similarity of pictures in the same order: 1 is equal. Pictures are at least 16 pixels wide."""
    if made.shape != target.shape:
        raise ValueError(f"pictures of shape {made.shape} and {target.shape}; they must be pairs of one size")
    scores = [
        structural_similarity_index_measure(_float(made[part]), _float(target[part]), data_range=1.0, reduction="none")
        for part in (slice(start, start + _CHUNK) for start in range(0, len(made), _CHUNK))
    ]
    return float(torch.cat([torch.as_tensor(score).reshape(-1) for score in scores]).mean())


def _float(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
