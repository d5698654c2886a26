"""Data sets of a few random rows, written in the cache's own format, with only the labels that a test gives them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.cache import DataCache
from training.data.cache_writer import description
from training.model import ClipFaceFusion
from training.presets import MICRO
from training.tokenizer import train_tokenizer

SIZE, VOICES = 32, 8
TOKENIZER = train_tokenizer(["a face"], 600, 77)


@pytest.fixture
def model() -> ClipFaceFusion:
    torch.manual_seed(0)
    return ClipFaceFusion(MICRO, TOKENIZER)


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., DataCache]:
    """`make_cache(person, age=…, audio_emotion=…)`: a picture per entry of `person`; labels not given are unknown."""

    def make(person: list[int], source: str = "photos", size: int = SIZE, **labels: list) -> DataCache:
        rng, count = np.random.default_rng(0), len(person)
        whole, real = np.full(count, -1), np.full(count, np.nan, np.float32)
        truth = {"sex": whole, "emotion": whole, "age": real, "intensity": real}
        truth["valence_arousal"] = np.full((count, 2), np.nan, np.float32)
        strangers, unsaid = np.full(VOICES, -1), np.full(VOICES, np.nan, np.float32)
        truth |= {f"audio_{name}": strangers for name in ("person", "sex", "emotion", "picture")}
        truth |= {"audio_age": unsaid, "audio_intensity": unsaid, "audio_length": np.full(VOICES, 16000)}
        truth |= {name: np.array(values, truth[name].dtype) for name, values in labels.items()}
        folder = tmp_path / f"{source}.partial"
        folder.mkdir()
        np.savez(folder / "truth.npz", person=np.array(person), **truth)
        np.save(folder / "images.npy", rng.integers(0, 256, (count, size, size, 3), np.uint8))
        np.save(folder / "audio.npy", rng.integers(-9000, 9000, (VOICES, 24000), np.int16))
        (folder / "captions.json").write_text(json.dumps([[] for _ in person]))
        (folder / "cache.json").write_text(json.dumps(description(source, {"seed": 42})))
        folder.rename(tmp_path / source)
        return DataCache(tmp_path / source)

    return make
