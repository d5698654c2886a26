"""Contrast with several right answers, and attribute heads that know a part of the labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data.cache import DataCache
from training.data.looks import world_looks
from training.data.synthetic.looks import looks
from training.data.synthetic.world import World
from training.labels import UnlabelledError
from training.model import ClipFaceFusion
from training.stages import clip
from training.stages.clip import ClipStage, contrastive_loss

MakeCache = Callable[..., DataCache]
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.3, 1.0, -2.0], [-0.5, 0.0, 1.5]])
HEADS = {"emotion": slice(0, 8), "age": 8, "sex": 9}


def test_with_one_right_answer_each_it_is_clips_loss() -> None:
    expected = [torch.nn.functional.cross_entropy(side, torch.arange(3)) for side in (LOGITS, LOGITS.T)]
    assert contrastive_loss(LOGITS, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(sum(expected).item() / 2)


def test_which_of_two_pictures_with_the_same_caption_is_which_does_not_matter() -> None:
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    swapped = LOGITS[:, [1, 0, 2]]
    assert contrastive_loss(swapped, same).item() == pytest.approx(contrastive_loss(LOGITS, same).item())
    apart = torch.eye(3, dtype=torch.bool)
    assert contrastive_loss(swapped, apart) > contrastive_loss(LOGITS, apart) + 0.5


def test_its_optimum_shares_the_probability_among_the_right_answers() -> None:
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    best = contrastive_loss(same.float() * 50, same).item()
    assert best == pytest.approx((2 * math.log(2) + 0) / 3, abs=1e-5)


def test_pictures_with_the_same_caption_fit_each_others(
    model: ClipFaceFusion, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, seen = make_cache([0, 1, 2]), []
    cache.captions = [["a face"], ["a smile"], ["a face"]]
    monkeypatch.setattr(cache, "draw", lambda *arguments: np.array([0, 1, 2, 1]))
    monkeypatch.setattr(clip, "contrastive_loss", lambda logits, fits: seen.append(fits) or logits.sum())
    ClipStage(model, cache).loss(np.random.default_rng(0), 4)
    # The stage sorts the rows: pictures 0, 1, 1, 2.
    assert seen[0].int().tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]


def attribute_gradients(model: ClipFaceFusion, cache: DataCache) -> dict[str, float]:
    stage = ClipStage(model, cache)
    losses = stage.loss(np.random.default_rng(0), 6)
    assert all(loss.isfinite() for loss in losses.values())
    losses["loss"].backward()
    gradient: Tensor = stage.module["attributes"].weight.grad
    assert gradient.isfinite().all()
    return {name: gradient[rows].abs().sum().item() for name, rows in HEADS.items()}


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        ({"age": [20, 30, 40, 50]}, {"age"}),
        ({"sex": [0, 1, -1, 0], "emotion": [-1, -1, 2, 3]}, {"sex", "emotion"}),
        ({}, set()),
    ],
)
def test_only_labels_that_are_known_are_asked_for(
    model: ClipFaceFusion, make_cache: MakeCache, labels: dict[str, list], known: set[str]
) -> None:
    cache = make_cache([0, 1, 2, 3], **labels)
    cache.captions = [["a face"], ["a smile"], ["a face"], ["old"]]
    found = attribute_gradients(model, cache)
    assert {name for name, size in found.items() if size > 0} == known


def test_pictures_without_a_caption_are_not_drawn(
    model: ClipFaceFusion, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache([0, 1, 2, 3])
    with pytest.raises(UnlabelledError, match="clip: no picture has a caption"):
        ClipStage(model, cache)
    cache.captions = [[], ["a smile"], [], ["old", "a face"]]
    stage, seen = ClipStage(model, cache), []
    monkeypatch.setattr(stage, "_pictures", lambda rows: seen.extend(rows) or ClipStage._pictures(stage, rows))
    stage.loss(np.random.default_rng(0), 20)
    assert set(seen) == {1, 3}


def test_the_looks_of_the_world_are_asked_of_words_and_pictures(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    photos, world = make_cache([0, 1, 1]), make_cache([0, 0, 1, 2], "world")
    photos.captions = [["a face"]] * 3
    assert "looks" not in ClipStage(model, photos).module
    mixed = DataCache(*(Path(c.images.filename).parent for c in (photos, world)))
    for cache in (world, mixed):
        cache.captions = [["a face"]] * len(cache)
        losses = ClipStage(model, cache).loss(np.random.default_rng(0), 8)
        told = losses["contrast"] + losses["attributes_text"] + losses["attributes_image"]
        asked = clip.LOOKS_WEIGHT * (losses["looks_text"] + losses["looks_image"])
        assert losses["loss"].item() == pytest.approx((told + asked).item(), rel=1e-5) and asked > 1


@pytest.mark.parametrize("tower", ["text", "image"])
def test_either_tower_learns_from_the_looks(model: ClipFaceFusion, make_cache: MakeCache, tower: str) -> None:
    """By the looks alone: with one picture in the batch there is nothing to contrast, and no other label is known."""
    cache = make_cache([0], "world")
    cache.captions = [["a face"]]
    stage = ClipStage(model, cache)
    stage.loss(np.random.default_rng(0), 1)["loss"].backward()
    assert sum(weight.grad.abs().sum() for weight in stage.module[tower].parameters() if weight.grad is not None) > 0


def test_which_phrases_are_true_of_which_picture(make_cache: MakeCache) -> None:
    photos, world = make_cache([0, 1, 1]), make_cache([0, 0, 1, 2], "world")
    true = world_looks(DataCache(*(Path(c.images.filename).parent for c in (photos, world)))).true
    phrases = sorted({pair for i, j in ((0, 0), (0, 1), (1, 0), (2, 0)) for pair in said(i, j)})
    assert np.isnan(true[4:]).all(), "the world's rows come first"
    for row, place in enumerate(((0, 0), (0, 1), (1, 0), (2, 0))):
        assert {phrases[n] for n in np.flatnonzero(true[row])} == said(*place)


def said(i: int, j: int) -> set[tuple[str, str]]:
    world = World(42)
    found = looks(world.person(i), world.shot(i, j))
    return {(topic, phrase) for topic, phrases in found.items() for phrase in phrases}
