"""Session fixtures: a few people of the synthetic world, and what the frozen encoders of a random `micro` model say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import features
from training.data.cache import CacheKey, DataCache, build
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.presets import MICRO
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def little_world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six people, two pictures each, six voices, 32×32."""
    folder = tmp_path_factory.mktemp("little") / "world"
    build(folder, CacheKey(seed=1, people=6, shots=2, voices=6, image_size=32), processes=1)
    return folder


@pytest.fixture(scope="session")
def little_world(little_world_folder: Path) -> DataCache:
    """The data cache in that folder."""
    return DataCache(little_world_folder)


@pytest.fixture
def little_model(little_world: DataCache) -> ClipFaceFusion:
    """`micro` with random weights, the same in every test, whose UNet and W_out do not start at zero."""
    torch.manual_seed(0)
    model = ClipFaceFusion(MICRO, train_tokenizer([c for texts in little_world.captions for c in texts], 500, 77))
    torch.nn.init.normal_(model.conditioner.to_cond.weight, std=0.2)
    return model.eval()


@pytest.fixture
def little_features(little_world: DataCache, little_model: ClipFaceFusion, tmp_path: Path) -> FeatureCache:
    """The features of `little_world` under `little_model`."""
    return features.build(tmp_path / "features.safetensors", little_model, little_world)
