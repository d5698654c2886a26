"""Our own differentiable face networks: age, emotion and identity. They export to ONNX and give gradients.

One convolutional trunk, three heads. Letters: B batch, D features, S picture size. Pictures are (B, 3, S, S) in [-1, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.emotions import EMOTIONS


class FaceTrunk(nn.Module):
    """Picture → features (B, D): a stride-4 stem, then two convolutions per entry of `channels`, halving between entries.

    The last map is averaged over a coarse 4×4 grid for the head: where a mouth corner is matters more than that there is one.
    """

    LAYOUT = 4

    def __init__(self, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.Conv2d(3, channels[0], 7, stride=4, padding=3)]
        previous = channels[0]
        for depth, width in enumerate(channels):
            for stride in (1 if depth == 0 else 2, 1):
                stages += [nn.Conv2d(previous, width, 3, stride=stride, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
                previous = width
        self.stages = nn.Sequential(*stages)
        self.narrow = nn.Conv2d(previous, 32, 1)
        self.project = nn.Linear(32 * self.LAYOUT**2, features)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, D). Raises ValueError unless the last map divides into the 4×4 grid."""
        maps = self.narrow(self.stages(image))
        cell, rest = divmod(maps.shape[-1], self.LAYOUT)
        if rest or not cell:
            raise ValueError(
                f"picture size {image.shape[-1]} leaves a map of {maps.shape[-1]} cells; it must divide into {self.LAYOUT}"
            )
        pooled = F.avg_pool2d(maps, cell)  # adaptive pooling would not export
        return self.project(pooled.flatten(1))


class AgeEstimator(nn.Module):
    """`AgeEst(image)` of eqs 4, 18-21: features in the age space and the age in years."""

    def __init__(self, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.trunk = FaceTrunk(channels, features)
        self.head = nn.Linear(features, 1)

    def features(self, image: Tensor) -> Tensor:
        """(B, D) features before the head."""
        return self.trunk(image)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1) age in years, softly kept within 0..120."""
        return 120.0 * torch.sigmoid(self.head(F.silu(self.features(image))))


class EmotionEstimator(nn.Module):
    """`EmoEst(image)` of eqs 22-24: features in the emotion space, label probabilities, valence/arousal."""

    def __init__(self, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.trunk = FaceTrunk(channels, features)
        self.labels = nn.Linear(features, len(EMOTIONS))
        self.values = nn.Linear(features, 2)

    def features(self, image: Tensor) -> Tensor:
        """(B, D) features before the heads."""
        return self.trunk(image)

    def logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Label logits (B, 8) and valence/arousal (B, 2) in [-1, 1]."""
        hidden = F.silu(self.features(image))
        return self.labels(hidden), torch.tanh(self.values(hidden))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Label probabilities (B, 8) and valence/arousal (B, 2) in [-1, 1]."""
        labels, values = self.logits(image)
        return labels.softmax(dim=1), values


class IdentityEncoder(nn.Module):
    """The ArcFace slot: a unit-length identity vector (B, D), alike for two pictures of one person."""

    def __init__(self, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.trunk = FaceTrunk(channels, features)
        # As in ArcFace: without it what all faces have in common dominates the direction, and all vectors are alike.
        self.center = nn.BatchNorm1d(features)

    def forward(self, face: Tensor) -> Tensor:
        """(B, 3, S, S) as `(pixel - 127.5) / 127.5` → (B, D), unit length."""
        return F.normalize(self.center(self.trunk(face)), dim=1)
