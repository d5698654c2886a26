"""A small held-out world, an untrained checkpoint and untrained judges, made once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runtime.spec import ModelSpec
from training import checkpoint, features
from training.data.cache import CacheKey, DataCache, build
from training.evaluation.judges import SIZES
from training.evaluation.panel import Panel, load, save
from training.examples import Examples
from training.model import ClipFaceFusion
from training.presets import PRESETS
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def held_out_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "world"
    build(folder, CacheKey(42, people=40, shots=2, voices=16, image_size=32, split="test"), processes=1)
    return folder


@pytest.fixture(scope="session")
def held_out(held_out_folder: Path) -> DataCache:
    return DataCache(held_out_folder)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory, held_out: DataCache) -> Path:
    """A checkpoint of the micro preset whose weights nobody trained."""
    torch.manual_seed(0)
    preset = PRESETS["micro"]
    texts = (text for wordings in held_out.captions for text in wordings)
    model = ClipFaceFusion(preset.model, train_tokenizer(texts, preset.vocabulary, ModelSpec.text_length))
    folder = tmp_path_factory.mktemp("evaluation") / "checkpoint"
    checkpoint.save(model, folder, {"seed": 42, "losses": {"cross_modal": 0.01}})
    return folder


@pytest.fixture(scope="session")
def judges_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("evaluation") / "judges"
    save(Panel(SIZES["mini"].panel), folder, {"seed": 1, "measured": {"clean": {"age_mae": 20.0}}})
    return folder


@pytest.fixture(scope="session")
def judges(judges_folder: Path) -> Panel:
    return load(judges_folder)


@pytest.fixture(scope="session")
def examples(untrained: Path, held_out: DataCache, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    model = checkpoint.load(untrained)
    path = tmp_path_factory.mktemp("evaluation") / "features.safetensors"
    return Examples(model, held_out, features.build(path, model, held_out))
