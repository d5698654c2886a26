"""Every stage, and what measures its result, computes where the weights are: on a pretended GPU, as no machine needs to have one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import pretended_gpu
from tests.training.pretended_gpu import OnGPU, moved
from training import effects, features
from training.config import LossConfig
from training.data.cache import DataCache
from training.evaluation.making import MeasureSettings
from training.evaluation.measure import evaluate
from training.evaluation.panel import Panel, PanelConfig
from training.examples import Examples
from training.features import FeatureCache
from training.loop import Stage
from training.model import ClipFaceFusion
from training.stages.alignment import AlignmentStage
from training.stages.autoencoder import AutoencoderStage
from training.stages.clip import ClipStage
from training.stages.consistency import ConsistencyStage
from training.stages.decoder import DecoderStage
from training.stages.diffusion import DiffusionStage
from training.stages.estimators import EstimatorsStage
from training.stages.identity import IdentityStage
from training.stages.voice import VoiceStage

LOSSES = LossConfig(part=1.0, max_timestep=999, ramp_steps=0)
Make = Callable[[ClipFaceFusion, DataCache, FeatureCache], Stage]
STAGES: dict[str, Make] = {
    "autoencoder": lambda model, cache, _: AutoencoderStage(model, cache),
    "decoder": lambda model, cache, _: DecoderStage(model, cache),
    "estimators": lambda model, cache, _: EstimatorsStage(model, cache),
    "identity": lambda model, cache, _: IdentityStage(model, cache),
    "clip": lambda model, cache, _: ClipStage(model, cache),
    "voice": lambda model, cache, _: VoiceStage(model, cache),
    "alignment": AlignmentStage,
    "diffusion": DiffusionStage,
    "consistency": lambda *of: ConsistencyStage(*of, LOSSES),
    "consistency, chain": lambda *of: ConsistencyStage(*of, replace(LOSSES, chain_steps=2, cross_modal_form="literal")),
}


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretended_gpu.session():
        yield


@pytest.fixture
def model(little_model: ClipFaceFusion, little_features: FeatureCache, gpu: None) -> ClipFaceFusion:
    assert little_model.autoencoder is not None
    little_model.autoencoder.std.fill_(1.1)  # trained, so that other stages show pictures through it
    moved(little_model)
    return little_model


def test_every_stage_computes_and_draws_where_its_weights_are(
    model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache, tmp_path: Path
) -> None:
    for name, make in STAGES.items():
        stage = make(model, little_world, little_features)
        moved(stage.module)
        found = stage.loss(np.random.default_rng(0), 8)
        assert {type(value) for value in found.values()} == {OnGPU}, name
        if not isinstance(stage, ConsistencyStage):  # whose look is the diffusion stage's
            stage.preview(tmp_path / "preview.png")
        if isinstance(stage, AutoencoderStage):
            stage.finish(8)


def test_features_are_kept_in_main_memory(model: ClipFaceFusion, little_world: DataCache, tmp_path: Path) -> None:
    found = features.build(tmp_path / "again.safetensors", model, little_world)
    assert not any(isinstance(value, OnGPU) for value in vars(found).values())


def test_an_evaluation_and_a_comparison_of_losses_run_there(
    model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache, tmp_path: Path
) -> None:
    panel = Panel(PanelConfig(image_size=32, channels=(8, 12), features=16, look=8)).eval()
    moved(panel)
    settings = MeasureSettings(count=5, seeds=(1,), steps=1, conditions=("all",))
    assert evaluate(Examples(model, little_world, little_features), panel, settings).figures["fid"].count == 5
    few = effects.Settings(held_out=6, sampling_steps=1)
    assert len(effects.measured(model, little_world, tmp_path / "features.safetensors", few)["id_sim"]) == 6


def test_the_pretended_gpu_refuses_what_a_real_one_would(
    model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache
) -> None:
    there = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(2)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises((RuntimeError, TypeError)):
        torch.ones(2)[torch.zeros(1, dtype=torch.int64, device="cuda")]
    stage = ConsistencyStage(model, little_world, little_features, LOSSES)
    moved(stage.module)
    model.age_estimator = type(model.age_estimator)(model.config.face_channels, model.config.features)
    with pytest.raises(RuntimeError, match="two devices"):  # the loop moves what it trains; the rest is the caller's
        stage.loss(np.random.default_rng(0), 8)
