"""Pictures as tensors: uint8 (B, H, W, 3) ↔ model space (B, 3, H, W) in [-1, 1] and the encoders' own normalisations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from runtime.preprocess.image import CLIP_MEAN, CLIP_STD

MAX_NOISE = 0.12  # half width; pictures from a decoder are never as clean as renders


def to_model(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [-1, 1]; for identity features too, whose rule is the same."""
    owned = np.array(images)  # a memory map may be read-only, which torch refuses
    return torch.from_numpy(owned).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_clip(image: Tensor) -> Tensor:
    """Model space → CLIP's mean and deviation, at the same size."""
    mean, std = (torch.tensor(values, dtype=image.dtype).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((image + 1) / 2 - mean) / std


def disturbed(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the batch slightly blurred, all of it slightly noisy, mirrored at random: what an estimator meets later.

    Changes `image` (B, 3, H, W) in place and returns it.
    """
    blurred, mirrored = np.flatnonzero(rng.random(len(image)) < 0.5), np.flatnonzero(rng.random(len(image)) < 0.5)
    image[blurred] = F.avg_pool2d(F.pad(image[blurred], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    image[mirrored] = image[mirrored].flip(3)
    return image.add_(2 * torch.rand_like(image) - 1, alpha=MAX_NOISE * rng.random())


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Model-space pictures (B, 3, H, W) as one PNG, row by row."""
    rows = -(-len(images) // columns)
    _, _, height, width = images.shape
    grid = np.zeros((rows * height, columns * width, 3), np.uint8)
    for n, picture in enumerate(((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()):
        row, column = divmod(n, columns)
        grid[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    Image.fromarray(grid).save(path)
