"""The autoencoder's stage: latents of unit variance at its end, pictures by the mixture, no stage without an autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training.autoencoder import Autoencoder
from training.data.cache import DataCache
from training.model import ClipFaceFusion
from training.pictures import to_model
from training.presets import MICRO_PIXEL
from training.stages.autoencoder import AutoencoderStage

MakeCache = Callable[..., DataCache]


def test_at_the_end_latents_have_mean_zero_and_unit_variance(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    cache = make_cache(list(range(20)))
    stage = AutoencoderStage(model, cache)
    stage.finish(count=200)
    rows = cache.draw(np.random.default_rng(0), 200)
    assert isinstance(model.autoencoder, Autoencoder)
    with torch.no_grad():
        latents = model.autoencoder.encode(to_model(cache.images[rows]))
    assert latents.mean(dim=(0, 2, 3)).numpy() == pytest.approx(np.zeros(4), abs=1e-3)
    assert latents.std(dim=(0, 2, 3)).numpy() == pytest.approx(np.ones(4), abs=1e-3)


def test_the_gate_is_the_psnr_of_whole_decoded_pictures(
    model: ClipFaceFusion, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of 0.02 of [-1, 1] in every pixel is 10 log10(4 / 0.0004) = 40 dB; of 0.2, 20 dB."""
    cache = make_cache(list(range(20)))
    stage, said = AutoencoderStage(model, cache), []
    monkeypatch.setattr(stage.module, "encode", lambda image: image)
    for error, decibels in ((0.02, 40.0), (0.2, 20.0)):
        monkeypatch.setattr(stage.module, "decode", lambda latents, error=error: latents + error)
        caplog.clear()
        assert stage.finish(count=40) == pytest.approx(decibels, abs=1e-3)
        said.append(caplog.text)
    assert said[0] == "" and "20.0 dB PSNR, and should have at least 33" in said[1]


def test_crops_are_of_pictures_with_a_share(model: ClipFaceFusion, make_cache: MakeCache, tmp_path: Path) -> None:
    for source in ("ffhq", "fer2013"):
        make_cache([0, 1, 2], source=source)
    cache = DataCache(tmp_path / "ffhq", tmp_path / "fer2013", mixture={"ffhq": 1.0})
    stage, seen = AutoencoderStage(model, cache), []
    cache.draw = lambda *arguments: seen.append(DataCache.draw(cache, *arguments)) or seen[-1]  # type: ignore[method-assign]
    losses = stage.loss(np.random.default_rng(0), 50)
    stage.preview(tmp_path / "preview.png")
    assert losses["loss"].isfinite() and set(np.concatenate(seen)) == {0, 1, 2}
    assert (tmp_path / "preview.png").stat().st_size > 0


def test_a_model_of_pixels_has_no_such_stage(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    pixel_model = ClipFaceFusion(MICRO_PIXEL, model.tokenizer)
    with pytest.raises(ValueError, match="works on pixels"):
        AutoencoderStage(pixel_model, make_cache([0]))
