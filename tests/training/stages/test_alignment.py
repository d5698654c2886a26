"""Alignment: what it learns, what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.data.cache import DataCache
from training.features import FeatureCache
from training.labels import UnlabelledError
from training.model import ClipFaceFusion
from training.stages.alignment import AlignmentStage, was_aligned
from training.stages.diffusion import DiffusionStage

TERMS = ("age", "emotion", "audio_visual", "contrast")


@pytest.fixture
def stage(little_model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache) -> AlignmentStage:
    return AlignmentStage(little_model, little_world, little_features)


def train(stage: AlignmentStage, steps: int) -> dict[str, list[float]]:
    optimizer = torch.optim.Adam(stage.module.parameters(), lr=3e-3)
    history: dict[str, list[float]] = {name: [] for name in (*TERMS, "found")}
    for step in range(steps):
        terms = stage.loss(np.random.default_rng(step), 48)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        for name, values in history.items():
            values.append(terms[name].item())
    return history


def test_data_that_says_nothing_of_age_mood_or_voice_is_refused(
    little_model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache
) -> None:
    never = ("text", "audio", "age", "emotion")
    with pytest.raises(UnlabelledError, match="leave the stage out"):
        AlignmentStage(little_model, little_world, little_features, never)
    AlignmentStage(little_model, little_world, little_features, never[1:])  # its captions speak of age and mood


def test_every_distance_shrinks(stage: AlignmentStage) -> None:
    history = train(stage, 40)
    for name in TERMS:
        assert np.mean(history[name][-5:]) < 0.9 * np.mean(history[name][:5]), name


def test_only_the_attribute_modules_learn_mixing_weights_included(
    stage: AlignmentStage, little_model: ClipFaceFusion
) -> None:
    stage.loss(np.random.default_rng(0), 48)["loss"].backward()
    learned = {name for name, p in little_model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name.split(".")[1] for name in learned} == {"age", "emotion", "audio_visual"}
    assert {"conditioner.age.mix.logit", "conditioner.emotion.mix.logit"} <= learned
    assert {"conditioner.audio_visual.eta_logit", "conditioner.audio_visual.gamma_logit"} <= learned
    assert {id(p) for p in stage.module["attributes"].parameters()} == {
        id(p) for n, p in little_model.named_parameters() if n in learned
    }


def test_the_diffusion_stage_takes_them_as_they_are(
    stage: AlignmentStage, little_model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache
) -> None:
    diffusion = DiffusionStage(little_model, little_world, little_features)
    diffusion.loss(np.random.default_rng(0), 8)["loss"].backward()
    assert not any(p.requires_grad or p.grad is not None for p in little_model.conditioner.attributes.parameters())
    assert little_model.conditioner.fusion.query_key_value.weight.grad is not None


def test_a_batch_without_voices_has_nothing_to_contrast(
    little_model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache
) -> None:
    terms = AlignmentStage(little_model, little_world, little_features, never=("audio",)).loss(
        np.random.default_rng(0), 16
    )
    terms["loss"].backward()
    assert terms["contrast"] == 0 and terms["audio_visual"] == 0 and terms["found"].isnan()


def test_the_preview_shows_three_rows_of_eight(stage: AlignmentStage, tmp_path: Path) -> None:
    stage.preview(tmp_path / "preview.png")
    assert Image.open(tmp_path / "preview.png").size == (8 * 32, 3 * 32)


def test_a_checkpoint_was_aligned_if_it_or_what_it_started_from_was() -> None:
    aligned = {"stages": {"alignment": {}}}
    assert was_aligned(aligned) and not was_aligned({"stages": {"diffusion": {}}})
    assert was_aligned({"stages": {"consistency": {}}, "started_from": {"provenance": aligned}})
    assert was_aligned({})  # not made by the recipe: it names no stages, and is believed
