"""Which form of the angular margin the data gets, and who is in a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training.angular_margin import AngularMargin
from training.data.cache import DataCache
from training.model import ClipFaceFusion
from training.stages.identity import CLASSES, PAIRS, IdentityStage, person_traits

MakeCache = Callable[..., DataCache]
FEW = [0, 0, 1, 1, 2, 2, 3, 4]  # two pictures of three persons, one of two
MANY = [0] * 9 + [1] * 8 + [2] + [3] * 8
ALONE = list(range(6))


def step(stage: IdentityStage, batch_size: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    stage.module.train()
    losses = dict(stage.loss(np.random.default_rng(0), batch_size))
    losses["loss"].backward()
    return losses


def test_few_pictures_of_each_person_make_pairs_and_many_make_classes(
    model: ClipFaceFusion, make_cache: MakeCache
) -> None:
    few, many = IdentityStage(model, make_cache(FEW, "few")), IdentityStage(model, make_cache(MANY, "many"))
    assert few.classes is None and few.margin == PAIRS
    assert many.classes is not None and many.margin == CLASSES
    assert len(many.classes.weight) == 3, "a person with one picture has no direction of its own"
    for stage in (few, many):
        losses = step(stage)
        assert losses["loss"].isfinite() and "traits" not in losses
        assert stage.identity.trunk.project.weight.grad.abs().sum() > 0
        stage.identity.zero_grad()
    assert many.classes.weight.grad is not None and many.classes.weight.grad.abs().sum() > 0


def test_a_person_with_one_picture_is_never_drawn_where_others_have_two(
    model: ClipFaceFusion, make_cache: MakeCache
) -> None:
    stage = IdentityStage(model, make_cache(FEW))
    rows = stage.cache.draw(np.random.default_rng(0), 500, stage.usable)
    assert set(rows) == set(range(6))


def test_where_nobody_has_two_pictures_a_crop_stands_for_the_second(
    model: ClipFaceFusion, make_cache: MakeCache
) -> None:
    """As FFHQ: without crops both halves of the batch would differ in noise and mirroring alone."""
    stage = IdentityStage(model, make_cache(ALONE))
    assert stage.usable.all() and stage.classes is None
    seen: list[torch.Tensor] = []
    stage.identity.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    assert step(stage)["loss"].isfinite()
    first, second = seen[0].chunk(2)
    nearest = torch.minimum(
        (first - second).abs().flatten(1).mean(1), (first - second.flip(3)).abs().flatten(1).mean(1)
    )
    assert (nearest > 0.1).all()


def test_faces_are_seen_at_the_size_of_the_identity_network(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    """Pictures of a larger model are made smaller, as a request's photo is."""
    stage = IdentityStage(model, make_cache(FEW, size=64))
    seen: list[torch.Size] = []
    stage.identity.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    step(stage)
    assert seen == [torch.Size([8, 3, 32, 32])]


@pytest.mark.parametrize("person", [FEW, MANY], ids=["pairs", "classes"])
def test_margin_and_scale_change_the_loss(model: ClipFaceFusion, make_cache: MakeCache, person: list[int]) -> None:
    cache = make_cache(person)
    losses = []
    for margin in (AngularMargin(0.1, 8.0), AngularMargin(0.6, 8.0), AngularMargin(0.1, 16.0)):
        torch.manual_seed(1)
        losses.append(step(IdentityStage(model, cache, margin))["loss"].item())
    assert losses[0] < losses[1] and losses[0] != losses[2]


def test_the_trait_head_exists_where_the_world_does(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    photos, world = make_cache(FEW), make_cache(FEW, "world")
    mixed = DataCache(*(Path(c.images.filename).parent for c in (photos, world)))
    assert "traits" not in IdentityStage(model, photos).module
    assert {"loss", "traits"} <= step(IdentityStage(model, world)).keys()
    traits = person_traits(mixed)
    is_world = mixed.source == mixed.sources.index("world")
    assert np.isfinite(traits[is_world]).all() and np.isnan(traits[~is_world]).all()
    assert (traits[is_world] == person_traits(world)).all()
    losses = step(IdentityStage(model, mixed))
    assert losses["loss"].isfinite() and losses["traits"].isfinite()


@pytest.mark.parametrize("person", [FEW, ALONE], ids=["pairs", "single photos"])
def test_the_preview_has_a_row_of_people_and_a_row_of_answers(
    model: ClipFaceFusion, make_cache: MakeCache, person: list[int], tmp_path: Path
) -> None:
    stage = IdentityStage(model.eval(), make_cache(person))
    stage.preview(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").size[1] == 2 * 32


def test_a_source_without_a_share_lends_nobody(
    model: ClipFaceFusion, make_cache: Callable[..., DataCache], tmp_path: Path
) -> None:
    """Its persons have second pictures, but are never drawn: the others' crops are learned from, not nothing."""
    for name, person in (("shared", [0, 1, 2]), ("labels", [0, 0, 1, 1])):
        make_cache(person, source=name)
    cache = DataCache(tmp_path / "shared", tmp_path / "labels", mixture={"shared": 1.0, "labels": 0.0})
    stage = IdentityStage(model, cache)
    assert not stage.has_seconds and stage.usable.tolist() == [True] * 3 + [False] * 4
    assert stage.loss(np.random.default_rng(0), 4)["loss"].isfinite()
