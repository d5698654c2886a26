"""The speech-emotion stage on clips that know a part of what it asks."""

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
from training.stages.voice import CROP_S, VoiceStage

MakeCache = Callable[..., DataCache]
RAVDESS = {"audio_emotion": list(range(8)), "audio_sex": [0, 1] * 4}


def gradients(stage: VoiceStage) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    losses = dict(stage.loss(np.random.default_rng(0), 8))
    losses["loss"].backward()
    heads = {"emotion": stage.encoder.emotion_labels, "sex": stage.module["sex"], "age": stage.module["age"]}
    return {name: head.weight.grad.abs().sum().item() for name, head in heads.items()}, losses


def test_labelled_speech_teaches_emotion_and_sex(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    found, losses = gradients(VoiceStage(model, make_cache([0], **RAVDESS)))
    assert found["emotion"] > 0 and found["sex"] > 0 and found["age"] == 0
    assert losses["loss"].isfinite() and losses["age_mae"].isnan()


def test_clips_of_known_sex_alone_leave_the_emotion_head_as_it_is(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    found, losses = gradients(VoiceStage(model, make_cache([0], audio_sex=[0, 1] * 4)))
    assert found["emotion"] == 0 and found["sex"] > 0
    assert losses["emotion_accuracy"].isnan()


def test_half_of_a_batch_knows_its_emotion_however_rare_that_is(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    stage = VoiceStage(model, make_cache([0], audio_emotion=[-1] * 7 + [3], audio_sex=[1] * 7 + [-1]))
    assert (stage.labelled.draw(np.random.default_rng(0), 8) == 7).sum() == 4


def test_clips_without_any_label_are_refused(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    with pytest.raises(BundleError, match="voice: no row of the data has a label"):
        VoiceStage(model, make_cache([0]))


def test_a_faint_emotion_weighs_less_and_an_unknown_intensity_weighs_fully(
    model: ClipFaceFusion, make_cache: MakeCache
) -> None:
    """Two clips: the second one's error counts 1/3 as much at intensity 0.5 beside 1, and as much when nothing is known."""
    nan = float("nan")
    model.eval()
    found = []
    for n, intensity in enumerate(([1.0, 0.5], [1.0, nan])):
        emotion = [1, 6] + [-1] * 6
        cache = make_cache([0], f"p{n}", audio_emotion=emotion, audio_intensity=intensity + [nan] * 6)
        stage = VoiceStage(model, cache)
        stage.labelled.draw = lambda rng, count: np.arange(2)  # type: ignore[method-assign]
        with torch.no_grad():
            clips = stage._clips(np.arange(2), np.random.default_rng(0))
            errors = -stage.encoder.read(clips)["emotion"].log()[[0, 1], [1, 6]]
            loss = stage.loss(np.random.default_rng(0), 2)["loss"].item()
        weight = torch.tensor([1.0, 0.5 if n == 0 else 1.0])
        assert loss == pytest.approx(((errors * weight).sum() / weight.sum()).item(), rel=1e-4)
        found.append(loss)
    assert found[0] != found[1]


def test_crops_end_with_the_shortest_clip_so_that_no_padding_is_heard(
    model: ClipFaceFusion, make_cache: MakeCache
) -> None:
    cache = make_cache([0], **RAVDESS, audio_length=[24000] * 7 + [9000])
    stage, rng = VoiceStage(model, cache), np.random.default_rng(0)
    assert stage._clips(np.arange(8), rng).shape == (8, 9000)
    clips = stage._clips(np.arange(7), rng)
    assert clips.shape == (7, int(CROP_S * 16000))
    torch.testing.assert_close(clips.mean(1), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(clips.var(1, unbiased=False), torch.ones(7), atol=1e-4, rtol=0)


@pytest.mark.parametrize("labels", [RAVDESS, {"audio_sex": [0, 1] * 4}], ids=["emotions", "no emotions"])
def test_the_preview_is_a_table_of_eight_by_eight(
    model: ClipFaceFusion, make_cache: MakeCache, labels: dict, tmp_path: Path
) -> None:
    VoiceStage(model.eval(), make_cache([0], **labels)).preview(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").size == (570, 180)
