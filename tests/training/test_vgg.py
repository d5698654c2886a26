"""VGG-16 from a file in the published layout, with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from runtime.errors import BundleError
from training import vgg

# features.N: output and input channels, as torchvision publishes configuration D, and timm after it
PUBLISHED = {
    0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256),
    17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512),
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tensors = {"head.fc.weight": torch.zeros(10, 16)}
    for number, (out, into) in PUBLISHED.items():
        tensors[f"features.{number}.weight"] = (torch.randn(out, into, 3, 3) * (2 / (9 * into)) ** 0.5).half()
        tensors[f"features.{number}.bias"] = (0.1 * torch.randn(out)).half()
    path = tmp_path_factory.mktemp("vgg") / "model.safetensors"
    save_file(tensors, path)
    return path


def test_maps_are_those_of_conv3_3_and_conv4_3(weights: Path) -> None:
    """Against the layers written out: 2, 2, 3 and 3 convolutions with a pooling between, the picture normalised as for ImageNet."""
    from safetensors.torch import load_file

    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    torch.manual_seed(1)
    image = 2 * torch.rand(2, 3, 16, 16) - 1
    hidden = (image + 1) / 2
    hidden = (hidden - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    expected = []
    for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21)):
        for number in block:
            weight, bias = tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"]
            hidden = F.conv2d(hidden, weight, bias, padding=1).relu()
        expected.append(hidden)
        hidden = F.max_pool2d(hidden, 2)
    found = vgg.load(weights).maps(image)
    assert [tuple(m.shape) for m in found] == [(2, 256, 4, 4), (2, 512, 2, 2)]
    for ours, theirs in zip(found, expected[2:], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_it_is_frozen_and_passes_the_pictures_gradient(weights: Path) -> None:
    network, image = vgg.load(weights), torch.rand(1, 3, 16, 16, requires_grad=True)
    sum(m.sum() for m in network.maps(image)).backward()
    assert image.grad is not None and image.grad.any()
    assert not any(p.requires_grad for p in network.parameters()) and not network.training


def test_a_file_without_the_layers_is_refused_by_name(weights: Path, tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "cut.safetensors")
    with pytest.raises(BundleError, match=r"has no features\.0\.bias"):
        vgg.load(tmp_path / "cut.safetensors")
    (tmp_path / "pickle.pth").write_bytes(b"\x80\x04 not safetensors")
    for path in (tmp_path / "pickle.pth", tmp_path / "missing.safetensors"):
        with pytest.raises(BundleError, match=f"cannot read .*{path.name}"):
            vgg.load(path)


def test_a_network_of_other_widths_is_refused(tmp_path: Path) -> None:
    tensors = {}
    for number in (n for n in PUBLISHED if n < 24):
        tensors |= {f"features.{number}.weight": torch.zeros(8, 8, 3, 3), f"features.{number}.bias": torch.zeros(8)}
    save_file(tensors, tmp_path / "small.safetensors")
    with pytest.raises(BundleError, match="VGG-16"):
        vgg.load(tmp_path / "small.safetensors")
