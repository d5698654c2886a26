"""LPIPS over random weights: its arithmetic, its files and their errors. Published weights are the user's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from runtime.errors import BundleError
from training.evaluation.lpips import LPIPS, TAPS, load, lpips
from training.vgg import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def network() -> LPIPS:
    torch.manual_seed(0)
    network = LPIPS().eval()
    with torch.no_grad():
        for head in network.heads:
            head.uniform_(0, 1)
    return network


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    vgg = {name: tensor.half() for name, tensor in network.state_dict().items() if name.startswith("features.")}
    heads = {f"lin{n}.model.1.weight": head.detach().view(1, -1, 1, 1) for n, head in enumerate(network.heads)}
    save_file(vgg, folder / "vgg.safetensors")
    save_file(heads, folder / "heads.safetensors")
    return folder


def test_the_taps_are_the_five_relus_of_vgg_16(network):
    assert len(network.features) == 30
    for tap in TAPS:
        assert isinstance(network.features[tap], torch.nn.ReLU)


def test_equal_pictures_have_no_distance_and_noise_has_more_the_more_there_is(network):
    rng = np.random.default_rng(0)
    real = rng.integers(60, 190, (2, 32, 32, 3), dtype=np.uint8)
    noise = rng.normal(size=real.shape)
    near, far = (np.clip(real + scale * noise, 0, 255).astype(np.uint8) for scale in (3, 40))
    assert lpips(network, real, real) == 0
    assert 0 < lpips(network, near, real) < lpips(network, far, real)


def test_the_distance_is_the_weighted_squared_difference_of_unit_maps(network):
    torch.manual_seed(1)
    first, second = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    expected, maps = 0.0, []
    for image in (first, second):
        hidden, taken = (
            ((image + 1) / 2 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1),
            [],
        )
        for number, layer in enumerate(network.features):
            hidden = layer(hidden)
            if number in TAPS:
                taken.append(torch.nn.functional.normalize(hidden, dim=1))
        maps.append(taken)
    for head, a, b in zip(network.heads, *maps, strict=True):
        expected += torch.einsum("c,bchw->b", head, (a - b) ** 2) / a.shape[2] / a.shape[3]
    assert torch.allclose(network(first, second), expected, rtol=1e-4)


def test_weights_are_read_from_two_files_under_their_published_names(network, files):
    loaded = load(files / "vgg.safetensors", files / "heads.safetensors")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.heads[4], network.heads[4])
    assert torch.equal(loaded.features[28].weight, network.features[28].weight.half().float())


def test_a_vgg_without_conv5_is_refused_by_name(network, files, tmp_path):
    short = {
        name: tensor for name, tensor in network.state_dict().items() if name.startswith(("features.0", "features.2."))
    }
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(BundleError, match=r"short.safetensors has no features"):
        load(tmp_path / "short.safetensors", files / "heads.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(files, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"not")
    with pytest.raises(BundleError, match="cannot read"):
        load(files / "vgg.safetensors", tmp_path / "x.safetensors")
