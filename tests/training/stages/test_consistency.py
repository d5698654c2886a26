"""The stage of all losses: three steps through every one, what each weight does, and which networks learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import LossConfig
from training.consistency import TERMS
from training.data.cache import DataCache
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.stages import consistency
from training.stages.consistency import ConsistencyStage

EVERYTHING = LossConfig(part=1.0, max_timestep=999, ramp_steps=0, scale=1.0)
ONLY_SIMPLE = replace(EVERYTHING, scale=0.0, cross_modal=0.0)
BATCH = 8

Make = Callable[..., ConsistencyStage]


@pytest.fixture
def make(little_model: ClipFaceFusion, little_world: DataCache, little_features: FeatureCache) -> Make:
    def make(config: LossConfig, **settings: object) -> ConsistencyStage:
        torch.manual_seed(0)  # the heads of L_CM
        return ConsistencyStage(little_model, little_world, little_features, config, **settings)  # type: ignore[arg-type]

    return make


def loss(stage: ConsistencyStage, seed: int = 0) -> Mapping[str, Tensor]:
    """The loss with everything drawn from `seed`, dropout off."""
    stage.module.eval()
    torch.manual_seed(seed)
    return stage.loss(np.random.default_rng(seed), BATCH)


def learning(stage: ConsistencyStage) -> set[str]:
    """The networks of the model that the last backward pass left a gradient in."""
    return {name.split(".")[0] for name, p in stage.model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("settings", [{}, {"chain_steps": 2}, {"cross_modal_form": "literal"}, {"simple": 0.0}])
def test_three_steps_through_every_loss_are_finite_and_change_the_weights(
    make: Make, settings: dict[str, object]
) -> None:
    stage = make(replace(EVERYTHING, **settings))
    before = [p.detach().clone() for p in stage.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for p in stage.module.parameters() if p.requires_grad], lr=1e-3)
    stage.module.train()
    for step in range(3):
        terms = stage.loss(np.random.default_rng(step), 24)
        optimizer.zero_grad()
        terms["loss"].backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in stage.module.parameters())
        optimizer.step()
        assert terms["loss"].isfinite() and all(terms[name].isfinite() for name in (*TERMS, "cross_modal"))
    after = [p for p in stage.module.parameters() if p.requires_grad]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > 0.8 * len(after)


@pytest.mark.parametrize("name", ["simple", *TERMS, "cross_modal"])
def test_switching_a_term_off_changes_the_loss_and_takes_its_name_away(make: Make, name: str) -> None:
    on, off = loss(make(EVERYTHING)), loss(make(replace(EVERYTHING, **{name: 0.0})))
    assert on["loss"] != off["loss"] and name in on and name not in off


@pytest.mark.parametrize("name", [*TERMS, "simple", "cross_modal", "scale"])
def test_twice_the_weight_is_twice_the_term(make: Make, name: str) -> None:
    weight = getattr(EVERYTHING, name)
    off, once, twice = (loss(make(replace(EVERYTHING, **{name: w})))["loss"] for w in (0.0, weight, 2 * weight))
    assert torch.isclose(twice - off, 2 * (once - off), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", TERMS)
def test_each_image_term_trains_unet_and_fusion_and_nothing_else(make: Make, name: str) -> None:
    others = {other: 0.0 for other in ("simple", "cross_modal", *TERMS) if other != name}
    stage = make(replace(EVERYTHING, **others))
    loss(stage)["loss"].backward()
    assert learning(stage) == {"unet", "conditioner"}


def test_attributes_stay_where_alignment_left_them(make: Make) -> None:
    stage = make(EVERYTHING)
    loss(stage)["loss"].backward()
    attributes = {id(p) for p in stage.model.conditioner.attributes.parameters()}
    learned = {id(p) for p in stage.module.parameters() if p.grad is not None and p.grad.any()}
    assert attributes and not attributes & learned
    assert {id(p) for p in stage.model.conditioner.fusion.parameters()} <= learned


def test_cross_modal_trains_the_fusions_norms_and_its_heads(make: Make) -> None:
    only = replace(ONLY_SIMPLE, simple=0.0, cross_modal=1.0)
    for form, has_heads in (("present_pairs", True), ("literal", False)):
        stage = make(replace(only, cross_modal_form=form))
        loss(stage)["loss"].backward()
        assert learning(stage) == {"conditioner"} and ("heads" in stage.module) == has_heads
        assert stage.model.conditioner.fusion.norms[0].weight.grad is not None
        if has_heads:
            assert all(p.grad is not None and p.grad.any() for p in stage.module["heads"].parameters())
        stage.module.zero_grad()


def test_the_identity_token_is_left_out_of_cross_modal(make: Make) -> None:
    """Eq. 14 runs over text, audio-visual, age, emotion and image."""
    assert [consistency.TOKENS[n] for n in consistency.ALIGNED] == ["text", "audio_visual", "age", "emotion", "image"]


def test_image_terms_read_only_small_timesteps_and_a_part_of_the_batch(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    timesteps = torch.tensor([900, 10, 331, 20, 330, 30, 40, 700])
    monkeypatch.setattr(consistency, "sample_timesteps", lambda *_: timesteps)
    for part, expected in ((1.0, [1, 3, 4, 5, 6]), (0.25, [1, 3]), (0.3, [1, 3, 4])):
        stage = make(replace(EVERYTHING, max_timestep=330, part=part))
        judged: list[list[int]] = []
        original = stage.consistency.wanted

        def noted(examples, batch, tokens, rows, rng, original=original, judged=judged):  # type: ignore[no-untyped-def]
            judged.append(rows.tolist())
            return original(examples, batch, tokens, rows, rng)

        monkeypatch.setattr(stage.consistency, "wanted", noted)
        loss(stage)
        assert judged == [expected]


def test_without_l_simple_a_part_with_no_picture_to_judge_has_a_gradient_of_zero(make: Make) -> None:
    stage = make(replace(EVERYTHING, simple=0.0, cross_modal=0.0, max_timestep=0))
    found = loss(stage)["loss"]
    found.backward()
    assert found == 0 and not learning(stage)


def test_no_picture_to_judge_leaves_l_simple_and_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency, "sample_timesteps", lambda count, _: torch.full((count,), 900))
    terms = loss(make(replace(EVERYTHING, max_timestep=330, cross_modal=0.0)))
    assert terms["loss"] == terms["simple"] and all(terms[name].isnan() for name in TERMS)


def test_image_terms_are_weighted_by_how_much_of_the_picture_is_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows at one timestep: the term's share of the loss is its value times ᾱ."""
    monkeypatch.setattr(consistency, "sample_timesteps", lambda count, _: torch.full((count,), 200))
    others = {other: 0.0 for other in ("simple", "cross_modal", *TERMS) if other != "age"}
    stage = make(replace(EVERYTHING, age=1.0, **others))
    terms = loss(stage)
    assert torch.isclose(terms["loss"], terms["age"] * stage.model.schedule.alphas_cumprod[200], rtol=1e-4)
    chained = loss(make(replace(EVERYTHING, age=1.0, chain_steps=2, **others)))
    assert torch.isclose(chained["loss"], chained["age"], rtol=1e-4)  # the end of a chain is a whole picture


def test_image_terms_are_ramped_in_step_by_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {other: 0.0 for other in ("simple", "cross_modal", *TERMS) if other != "age"}
    stage = make(replace(EVERYTHING, ramp_steps=4, **others))
    values = [loss(stage)["loss"].item() for _ in range(6)]
    assert [round(value / values[-1], 3) for value in values] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_resumed_stage_goes_on_with_its_ramp(make: Make) -> None:
    stage, again = make(EVERYTHING), make(EVERYTHING)
    loss(stage)
    again.module.load_state_dict(stage.module.state_dict())
    assert again.module.get_buffer("steps") == 1


def test_a_chain_of_one_step_is_the_plain_prediction_and_of_three_another_picture(make: Make) -> None:
    values = [loss(make(replace(EVERYTHING, chain_steps=steps)))["loss"].item() for steps in (0, 1, 3)]
    assert values[0] == pytest.approx(values[1], rel=1e-5) and values[0] != pytest.approx(values[2], rel=1e-3)


@pytest.mark.parametrize("name", TERMS)
def test_a_term_can_be_lowered_by_training(make: Make, name: str) -> None:
    """On one batch again and again, a term alone falls: its gradient points the right way through everything."""
    others = {other: 0.0 for other in ("simple", "cross_modal", *TERMS) if other != name}
    stage = make(replace(EVERYTHING, **others))
    optimizer = torch.optim.Adam([p for p in stage.module.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(16):
        terms = loss(stage)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        values.append(terms[name].item())
    assert values[-1] < 0.995 * values[0]


def test_modalities_never_seen_have_no_terms(make: Make) -> None:
    terms = loss(make(EVERYTHING, never=("audio", "reference")))
    assert terms["audio_visual"].isnan() and terms["identity"].isnan() and terms["age"].isfinite()


def test_no_term_leaks_a_gradient_into_the_ramp_or_the_log(make: Make) -> None:
    terms = loss(make(EVERYTHING))
    assert not any(value.requires_grad for name, value in terms.items() if name in TERMS or name in TERMS.values())
