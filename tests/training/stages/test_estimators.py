"""Each head learns from the labels that a data set has, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.errors import BundleError
from training.data.cache import DataCache
from training.model import ClipFaceFusion
from training.pictures import disturbed, to_model
from training.stages.estimators import EstimatorsStage

MakeCache = Callable[..., DataCache]
ALONE = list(range(6))  # six pictures of six persons


def gradients(stage: EstimatorsStage) -> dict[str, float]:
    """Summed absolute gradient per head, and the loss itself, of one batch."""
    torch.manual_seed(0)
    stage.module.zero_grad()
    losses = stage.loss(np.random.default_rng(0), 6)
    losses["loss"].backward()
    heads = {"age": stage.age.head, "labels": stage.emotion.labels, "values": stage.emotion.values}
    return {name: head.weight.grad.abs().sum().item() for name, head in heads.items()} | {
        "loss": losses["loss"].item(),
        "age_mae": losses["age_mae"].item(),
        "emotion_accuracy": losses["emotion_accuracy"].item(),
    }


def test_pictures_with_only_an_emotion_teach_the_label_head_alone(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    """As FER2013's: no age, no valence/arousal, nobody twice."""
    found = gradients(EstimatorsStage(model, make_cache(ALONE, emotion=[0, 2, 3, 4, 5, 7])))
    assert found["age"] == found["values"] == 0 and found["labels"] > 0
    assert np.isfinite(found["loss"]) and np.isnan(found["age_mae"]) and 0 <= found["emotion_accuracy"] <= 1


def test_pictures_with_only_an_age_teach_the_age_head_alone(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    """As CACD's."""
    found = gradients(EstimatorsStage(model, make_cache(ALONE, age=[16, 20, 30, 40, 50, 62])))
    assert found["labels"] == found["values"] == 0 and found["age"] > 0
    assert found["age_mae"] > 0 and np.isnan(found["emotion_accuracy"])


def test_valence_and_arousal_alone_are_a_label(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    found = gradients(EstimatorsStage(model, make_cache(ALONE, valence_arousal=[[0.5, -0.5]] * 6)))
    assert found["age"] == found["labels"] == 0 and found["values"] > 0


def test_a_batch_mixes_what_one_set_knows_with_what_another_does(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    nan = float("nan")
    cache = make_cache(ALONE, age=[20, 30, nan, nan, nan, nan], emotion=[-1, -1, -1, -1, 2, 4])
    found = gradients(EstimatorsStage(model, cache))
    assert found["age"] > 0 and found["labels"] > 0 and found["values"] == 0


def test_the_age_error_is_that_of_known_ages(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    """A head that always says 60: the mean error over ages 50 and 66 is 8 years, whatever the rest."""
    with torch.no_grad():
        model.age_estimator.head.weight.zero_()
        model.age_estimator.head.bias.zero_()
    nan = float("nan")
    cache = make_cache(ALONE, age=[50, nan, 66, nan, nan, nan], emotion=[-1, 1, -1, 1, 1, 1])
    stage = EstimatorsStage(model, cache)
    stage.labelled.draw = lambda rng, count: np.arange(6)  # type: ignore[method-assign]  # every row once
    losses = stage.loss(np.random.default_rng(0), 6)
    assert losses["age_mae"].item() == pytest.approx(8.0)


def test_pictures_without_any_label_are_refused(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    with pytest.raises(BundleError, match="estimators: no row of the data has a label of age or emotion"):
        EstimatorsStage(model, make_cache(ALONE, sex=[0, 1, 0, 1, 0, 1]))


def test_a_trained_autoencoder_is_in_the_pictures_path_and_an_untrained_one_is_not(
    model: ClipFaceFusion, make_cache: MakeCache
) -> None:
    cache = make_cache(ALONE, age=[16, 20, 30, 40, 50, 62])
    assert EstimatorsStage(model, cache).autoencoder is None
    assert model.autoencoder is not None
    model.autoencoder.std.fill_(2.0)
    assert EstimatorsStage(model, cache).autoencoder is model.autoencoder


def test_about_a_quarter_of_the_pictures_goes_through_the_autoencoder(model: ClipFaceFusion) -> None:
    image = to_model(np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8))
    both = []
    for autoencoder in (None, model.autoencoder):
        torch.manual_seed(0)
        both.append(disturbed(image.clone(), np.random.default_rng(0), autoencoder))
    changed = (both[0] != both[1]).flatten(1).any(1).float().mean()
    assert 0.1 < changed < 0.4


def test_the_preview_shows_sixteen_pictures(model: ClipFaceFusion, make_cache: MakeCache, tmp_path: Path) -> None:
    EstimatorsStage(model.eval(), make_cache(ALONE, age=[16, 20, 30, 40, 50, 62])).preview(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").size == (8 * 32, 2 * 32)


def test_an_estimator_that_is_not_to_be_trained_stays(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    cache = make_cache(ALONE, age=[16, 20, 30, 40, 50, 62], emotion=[0, 2, 3, 4, 5, 7])
    stage = EstimatorsStage(model, cache, trained=["emotion"])
    assert list(stage.module) == ["emotion"]
    losses = stage.loss(np.random.default_rng(0), 6)
    losses["loss"].backward()
    assert "age_mae" not in losses and all(p.grad is None for p in model.age_estimator.parameters())
    with pytest.raises(BundleError, match="no row of the data has a label of emotion;"):
        EstimatorsStage(model, make_cache(ALONE, source="ages", age=[20] * 6), trained=["emotion"])


def test_a_head_without_any_label_is_warned_of(
    model: ClipFaceFusion, make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    EstimatorsStage(model, make_cache(ALONE, age=[20] * 6))
    assert "no picture has a label of emotion" in caplog.text and "label of age" not in caplog.text
