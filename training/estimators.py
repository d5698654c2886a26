"""Our own differentiable face networks: age, emotion and identity, and what every estimator offers (`Estimator`).

One convolutional trunk, three heads; the fourth estimator, of emotion in a voice, is `training.encoders.AudioEncoder`. Each
starts from nothing or from a user's own weights (`load_estimator`).

Letters: B batch, D features, S picture size. Pictures are (B, 3, S, S) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from runtime.errors import BundleError


class Estimator(Protocol):
    """What reads something off a picture, or off a clip. `inputs` is what the engine of that name takes.

    Any torch module with these three may stand in an estimator's place: losses, reports and the exporter ask for nothing else.
    """

    def features(self, inputs: Tensor, /) -> Tensor:
        """(B, D) features in the space that losses compare, differentiable down to `inputs` (eqs 17-28)."""
        ...

    def read(self, inputs: Tensor, /) -> dict[str, Tensor]:
        """What was read, by the name of the field and in its unit, without gradient: what a report needs."""
        ...

    def __call__(self, inputs: Tensor, /) -> Tensor | tuple[Tensor, ...]:
        """The outputs of the engine's spec, in its order: what the exporter needs."""
        ...


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

    def maps(self, image: Tensor) -> list[Tensor]:
        """The map (B, C, H, W) after every convolution's activation, from fine to coarse: two per entry of `channels`."""
        maps = []
        for layer in self.stages:
            image = layer(image)
            if isinstance(layer, nn.SiLU):
                maps.append(image)
        return maps


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

    @torch.no_grad()
    def read(self, image: Tensor) -> dict[str, Tensor]:
        """`age` (B,) in years."""
        return {"age": self(image)[:, 0]}


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

    @torch.no_grad()
    def read(self, image: Tensor) -> dict[str, Tensor]:
        """`emotion` (B, 8) probabilities in the order of EMOTIONS, `valence_arousal` (B, 2) in [-1, 1]."""
        emotion, valence_arousal = self(image)
        return {"emotion": emotion, "valence_arousal": valence_arousal}


class IdentityEncoder(nn.Module):
    """The ArcFace slot: a unit-length identity vector (B, D), alike for two pictures of one person."""

    def __init__(self, channels: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.trunk = FaceTrunk(channels, features)
        # As in ArcFace: without it what all faces have in common dominates the direction, and all vectors are alike.
        self.center = nn.BatchNorm1d(features)

    def features(self, face: Tensor) -> Tensor:
        """(B, D), unit length: identity is compared by cosine, so the features are the vector itself."""
        return F.normalize(self.center(self.trunk(face)), dim=1)

    def maps(self, face: Tensor) -> list[Tensor]:
        """The trunk's two last maps (B, C, H, W): what the perceptual loss compares where no VGG-16 is given."""
        return self.trunk.maps(face)[-2:]

    def forward(self, face: Tensor) -> Tensor:
        """(B, 3, S, S) as `(pixel - 127.5) / 127.5` → (B, D), unit length."""
        return self.features(face)

    @torch.no_grad()
    def read(self, face: Tensor) -> dict[str, Tensor]:
        """`identity` (B, D), unit length."""
        return {"identity": self(face)}


def load_estimator(slot: str, module: nn.Module, path: Path) -> None:
    """Fill `module` with a user's own weights: one safetensors file with our names and shapes, of any float precision.

    `slot` is what messages call it. A checkpoint's `estimators/*.safetensors` is such a file. Raises BundleError when the file
    is missing, is no safetensors, holds other tensors than the module has, or numbers that are not finite; the module is then
    as it was.
    """
    if not path.is_file():
        raise BundleError(f"{slot}: {path} is not a file; expected one .safetensors file with this model's tensors")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise BundleError(f"{slot}: {path.name} is not a safetensors file: {error}") from error
    wanted = module.state_dict()
    for problem, names in (("lacks", wanted.keys() - found.keys()), ("has unknown", found.keys() - wanted.keys())):
        if names:
            raise BundleError(
                f"{slot}: {path.name} {problem} {', '.join(sorted(names)[:3])} ({len(names)} in all); "
                f"a checkpoint's estimators/ folder shows the names that are expected"
            )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise BundleError(
                f"{slot}: {path.name} has {name} of shape {tuple(tensor.shape)}, this model needs {tuple(wanted[name].shape)}; "
                "choose a preset with the features and face_channels that the file was trained with"
            )
        if not tensor.isfinite().all():
            raise BundleError(f"{slot}: {path.name} has numbers in {name} that are not finite; train it again")
    module.load_state_dict(found)
