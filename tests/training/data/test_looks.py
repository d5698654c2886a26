"""Which words for looks are true of the world's pictures, beside pictures of which nobody knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data.cache import CacheKey, DataCache, build
from training.data.looks import SEX, Looks, prompted_looks, world_looks
from training.data.synthetic.looks import looks
from training.data.synthetic.world import World

SEED = 42


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> DataCache:
    folder: Path = tmp_path_factory.mktemp("looks") / "world"
    return build(folder, CacheKey(SEED, people=3, shots=2, voices=0, image_size=32, split="test"), processes=1)


def true_of(known: Looks, row: int) -> set[tuple[str, str]]:
    return {known.phrases[n] for n in np.flatnonzero(known.true[row] == 1)}


def test_each_picture_has_what_is_true_of_it(cache: DataCache) -> None:
    known, world = world_looks(cache), World(SEED)
    for row, person in enumerate(cache.person):
        found = looks(world.person(int(person)), world.shot(int(person), int(row - cache.first_picture[row])))
        assert true_of(known, row) == {(topic, phrase) for topic, phrases in found.items() for phrase in phrases}


def test_other_sources_pictures_are_unknown(cache: DataCache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world_looks(cache)
    monkeypatch.setattr(cache, "sources", (*cache.sources, "folder"))
    source = cache.source.copy()
    source[-2:] = len(cache.sources) - 1
    monkeypatch.setattr(cache, "source", source)
    after = world_looks(cache)
    assert np.isnan(after.true[-2:]).all() and np.isfinite(after.true[:-2]).all()
    assert true_of(after, 0) == true_of(before, 0)


def test_the_sex_is_one_of_two_or_unknown(cache: DataCache, monkeypatch: pytest.MonkeyPatch) -> None:
    known = world_looks(cache)
    monkeypatch.setattr(cache, "sex", np.array([0, 1, -1, 0, 0, 1]))
    whole = prompted_looks(cache)
    assert whole.phrases == (*known.phrases, (SEX, "woman"), (SEX, "man"))
    assert np.array_equal(whole.true[:, :-2], known.true, equal_nan=True)
    unknown = [np.nan, np.nan]
    assert np.array_equal(whole.true[:, -2:], [[1, 0], [0, 1], unknown, [1, 0], [1, 0], [0, 1]], equal_nan=True)


def test_phrases_are_picked_by_name_and_unknown_ones_are_not_known() -> None:
    known = Looks((("hair", "red hair"), ("glasses", "glasses")), np.array([[1, 0], [0, np.nan]], np.float32))
    picked = known.among((("glasses", "glasses"), ("hair", "a wig"), ("hair", "red hair")))
    assert picked.phrases[1] == ("hair", "a wig")
    nobody = np.nan
    assert np.array_equal(picked.true, np.float32([[0, nobody, 1], [nobody, nobody, 0]]), equal_nan=True)
