"""Pictures as tensors: uint8 (B, H, W, 3) ↔ model space (B, 3, H, W) in [-1, 1] and the encoders' own normalisations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from runtime.preprocess.image import CLIP_MEAN, CLIP_STD
from training.autoencoder import Autoencoder

AUTOENCODED = 0.25  # of a batch: going through the autoencoder costs several times what learning from a picture does
SMALLEST_CROP, LARGEST_TURN = 0.8, 0.15  # share of the side, radians
MAX_NOISE = 0.12  # half width; pictures from a decoder are never as clean as renders


def to_model(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) float32 in [-1, 1]; for identity features too, whose rule is the same."""
    owned = np.array(images)  # a memory map may be read-only, which torch refuses
    return torch.from_numpy(owned).permute(0, 3, 1, 2).float() / 127.5 - 1


def resized(image: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) → (B, 3, size, size), bicubic with antialiasing as a request's photo is resized; the same tensor if it fits."""
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)


def to_clip(image: Tensor) -> Tensor:
    """Model space → CLIP's mean and deviation, at the same size."""
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((image + 1) / 2 - mean) / std


def disturbed(image: Tensor, rng: np.random.Generator, autoencoder: Autoencoder | None = None) -> Tensor:
    """Half of the batch slightly blurred, all of it slightly noisy, mirrored at random: what an estimator meets later.

    With an `autoencoder`, a part of the batch goes through it first, on the pictures' device: what it loses is nothing that blur
    or noise resembles. Changes `image` (B, 3, H, W) in place and returns it.
    """
    rebuilt = np.flatnonzero(rng.random(len(image)) < AUTOENCODED)
    if autoencoder is not None and len(rebuilt):
        with torch.no_grad():
            autoencoder.to(image.device)
            image[rebuilt] = autoencoder.decode(autoencoder.encode(image[rebuilt])).to(image.dtype)
    blurred, mirrored = np.flatnonzero(rng.random(len(image)) < 0.5), np.flatnonzero(rng.random(len(image)) < 0.5)
    image[blurred] = F.avg_pool2d(F.pad(image[blurred], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    image[mirrored] = image[mirrored].flip(3)
    return image.add_(2 * torch.rand_like(image) - 1, alpha=MAX_NOISE * rng.random())


def augmented_crop(image: Tensor, rng: np.random.Generator) -> Tensor:
    """(B, 3, H, W) in [-1, 1] → the same size: cropped, turned, mirrored and relit at random, each picture its own way.

    The person stays, the pixels do not: what a second photo of somebody would do, as far as one photo can show it.
    """
    count = len(image)
    side = rng.uniform(SMALLEST_CROP, 1, count)
    turn = rng.uniform(-LARGEST_TURN, LARGEST_TURN, count)
    mirror = np.where(rng.random(count) < 0.5, -1, 1)
    shift = rng.uniform(-1, 1, (2, count)) * (1 - side)
    rows = [
        [side * np.cos(turn) * mirror, -side * np.sin(turn), shift[0]],
        [side * np.sin(turn) * mirror, side * np.cos(turn), shift[1]],
    ]
    moved = image.new_tensor(np.array(rows, np.float32)).permute(2, 0, 1)
    grid = F.affine_grid(moved, list(image.shape), align_corners=False)
    crop = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = image.new_tensor(rng.uniform((0.75, -0.2), (1.25, 0.2), (count, 2))).T.view(
        2, count, 1, 1, 1
    )
    return (crop * contrast + brightness).clamp(-1, 1)


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Model-space pictures (B, 3, H, W) as one PNG, row by row."""
    rows = -(-len(images) // columns)
    _, _, height, width = images.shape
    grid = np.zeros((rows * height, columns * width, 3), np.uint8)
    for n, picture in enumerate(
        ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    ):
        row, column = divmod(n, columns)
        grid[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    Image.fromarray(grid).save(path)
