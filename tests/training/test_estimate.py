"""The dry run's figures, by arithmetic, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest
import torch

from training.__main__ import main
from training.estimate import FLOAT, Cost, describe, estimate
from training.model import ClipFaceFusion
from training.presets import PRESETS
from training.recipe import Start
from training.tokenizer import train_tokenizer

MICRO = PRESETS["micro"]


@cache
def cost(stage: str, *settings: str) -> Cost:
    return estimate(MICRO.with_settings(settings), Start(), [stage])[stage]


def test_parameters_and_their_bytes_are_counted() -> None:
    tokenizer = train_tokenizer(["a face"], MICRO.vocabulary, 77)
    with torch.device("meta"):
        model = ClipFaceFusion(MICRO.model, tokenizer)
    trained = sum(p.numel() for module in (model.unet, model.conditioner) for p in module.parameters())
    trained -= sum(p.numel() for p in model.conditioner.attributes.parameters())  # aligned in a stage of their own
    found = cost("diffusion")
    assert found.parameters == trained
    assert found.weights == FLOAT * sum(p.numel() for p in model.parameters())
    assert found.optimiser == 4 * FLOAT * trained  # gradient, two moments, moving average
    assert cost("diffusion", "diffusion.ema_decay=0").optimiser == 3 * FLOAT * trained


def test_flops_are_of_the_whole_batch_and_no_fewer_than_its_convolutions() -> None:
    """The stem of each of two estimators: 7×7×3 → 8 channels at 8×8 cells, 2 FLOPs each, forward and backward to the weights."""
    stems = 2 * 2 * (2 * 7 * 7 * 3 * 8 * 8 * 8)
    found = cost("estimators").flops / MICRO.stages["estimators"].batch_size
    assert stems < found < 10 * stems


def test_what_is_given_is_not_trained_and_costs_nothing() -> None:
    given = Start(published={"age_estimator": Path("age.safetensors")})
    half = estimate(MICRO, given, ["estimators"])["estimators"]
    assert 0.4 < half.flops / cost("estimators").flops < 0.6
    assert half.parameters < 0.6 * cost("estimators").parameters


def test_parts_divide_activations_and_leave_the_flops_alone() -> None:
    whole, parts = cost("diffusion"), cost("diffusion", "diffusion.micro_batches=4")
    assert parts.flops == whole.flops
    assert parts.activations < 0.5 * whole.activations


def test_recomputed_activations_take_less_memory_and_more_flops() -> None:
    kept, again = cost("diffusion"), cost("diffusion", "gradient_checkpointing=true")
    assert again.activations < 0.8 * kept.activations and again.flops > 1.2 * kept.flops


def test_every_loss_that_is_on_costs_something() -> None:
    full = cost("consistency").flops
    assert full > cost("consistency", "losses.identity=0").flops > cost("diffusion").flops
    with_vgg = estimate(MICRO, Start(vgg=Path("vgg.safetensors")), ["consistency"])["consistency"]
    assert with_vgg.flops > 2 * full


def test_the_description_holds_every_setting_and_a_row_per_stage() -> None:
    text = describe(MICRO, "micro", Start(), ["estimators", "alignment"])
    settings, _, table = text.partition("\n\n")
    assert json.loads(settings)["losses"] == dataclasses.asdict(MICRO.losses)
    assert [line.split()[0] for line in table.splitlines()[1:3]] == ["estimators", "alignment"]


def test_a_dry_run_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["--preset", "micro", "--out", "run", "--stages", "identity", "--set", "identity.steps=5", "--dry-run"])
        == 0
    )
    assert "identity            5" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
