"""LPIPS (Zhang et al. 2018): distance of pictures in VGG-16's maps, weighed by published heads. Only with weights of the user's own.

Two safetensors files: VGG-16 with torchvision's names (`training.vgg`; here up to conv5_3), and the five heads of LPIPS v0.1
under their authors' names, `lin0.model.1.weight` … `lin4.model.1.weight`. Letters: B batch, S picture size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from runtime.errors import BundleError
from training.pictures import to_model
from training.vgg import VGG16

TAPS = {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}  # layer number → channels: relu1_2 … relu5_3
_CHUNK = 16


class LPIPS(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1], twice → distance (B,), 0 for equal pictures."""

    def __init__(self) -> None:
        super().__init__()
        vgg = VGG16()
        fifth = [layer for _ in range(3) for layer in (nn.Conv2d(512, 512, 3, padding=1), nn.ReLU())]
        self.features = nn.Sequential(*vgg.features, nn.MaxPool2d(2), *fifth)
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(width)) for width in TAPS.values())
        self.register_buffer("mean", vgg.mean, persistent=False)
        self.register_buffer("std", vgg.std, persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """`Σ_l mean over places of Σ_c w_lc (f_lc - f'_lc)²`, maps at unit length over channels."""
        distance = torch.zeros(len(first))
        for head, a, b in zip(self.heads, self._maps(first), self._maps(second), strict=True):
            distance = distance + ((a - b).square() * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))
        return distance

    def _maps(self, image: Tensor) -> list[Tensor]:
        maps, hidden = [], ((image + 1) / 2 - self.mean) / self.std
        for number, layer in enumerate(self.features):
            hidden = layer(hidden)
            if number in TAPS:
                maps.append(hidden / (hidden.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps


def load(vgg: Path, heads: Path) -> LPIPS:
    """Read both files, frozen and in eval mode. Raises BundleError naming what is missing in which."""
    network = LPIPS()
    trunk, published = _read(vgg), _read(heads)
    state = {name: _tensor(trunk, name, vgg) for name in network.state_dict() if name.startswith("features.")}
    for number in range(len(TAPS)):
        state[f"heads.{number}"] = _tensor(published, f"lin{number}.model.1.weight", heads).flatten()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise BundleError(
            f"lpips: {vgg.name} and {heads.name} do not fit VGG-16 and its five heads: {error}"
        ) from error
    return network.requires_grad_(False).eval()


@torch.no_grad()
def lpips(network: LPIPS, made: np.ndarray, target: np.ndarray) -> float:
    """Mean distance of pictures (N, S, S, 3) uint8 in the same order."""
    parts = [slice(start, start + _CHUNK) for start in range(0, len(made), _CHUNK)]
    return float(torch.cat([network(to_model(made[part]), to_model(target[part])) for part in parts]).mean())


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"lpips: cannot read {path} as safetensors: {error}") from error


def _tensor(tensors: dict[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in tensors:
        raise BundleError(f"lpips: {path.name} has no {name}; it needs VGG-16 to conv5_3, and the heads of LPIPS v0.1")
    return tensors[name].float()
