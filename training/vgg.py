"""VGG-16 up to conv4_3 (Simonyan & Zisserman 2014) for the perceptual loss, from published weights.

The weights are a user's own file: safetensors with torchvision's names (`features.0.weight` ... ), as in `timm/vgg16.tv_in1k` on the
Hugging Face hub. Layers beyond conv4_3 and the classifier may be in the file and are not read. Letters: B batch, S picture size.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from runtime.errors import BundleError

# Width of each convolution, "M" a max pooling: configuration D up to conv4_3. Layer numbers are torchvision's, ReLU included.
LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONV3_3, CONV4_3 = 15, 22  # the ReLU after each


class VGG16(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] → the maps of conv3_3 (B, 256, S/4, S/4) and conv4_3 (B, 512, S/8, S/8), after ReLU."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for layer in LAYERS:
            if isinstance(layer, int):
                layers += [nn.Conv2d(width, layer, 3, padding=1), nn.ReLU()]
                width = layer
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def maps(self, image: Tensor) -> list[Tensor]:
        """See class."""
        maps, hidden = [], ((image + 1) / 2 - self.mean) / self.std
        for number, layer in enumerate(self.features):
            hidden = layer(hidden)
            if number in (CONV3_3, CONV4_3):
                maps.append(hidden)
        return maps


def load(path: Path) -> VGG16:
    """Read the weights, frozen and in eval mode. Raises BundleError if `path` is no safetensors file or not a VGG-16."""
    network = VGG16()
    names = list(network.state_dict())
    try:
        with safe_open(str(path), framework="pt") as file:
            found = set(file.keys())
            missing = [name for name in names if name not in found]
            if missing:
                raise BundleError(
                    f"vgg: {path} has no {missing[0]}; expected torchvision's names, as in timm/vgg16.tv_in1k"
                )
            network.load_state_dict({name: file.get_tensor(name).float() for name in names})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(f"vgg: cannot read {path} as VGG-16 in safetensors: {error}") from error
    return network.requires_grad_(False).eval()
