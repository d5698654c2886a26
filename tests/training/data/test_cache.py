"""Several sources read as one, the mixture's shares, and the other picture of a person."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.odd import write
from training.data.cache import WORLD, CacheKey, DataCache, build
from training.data.cache_writer import CacheWriter, Truth
from training.data.faults import DataError
from training.data.synthetic.world import World, split_of

SHARES = {"ffhq": 0.5, "cacd": 0.3, "ravdess": 0.1, "voxceleb": 0.1}
DRAWS = 20_000


def mixed(tmp_path: Path, **sizes: int) -> DataCache:
    folders = [write(tmp_path / name, [Truth(n) for n in range(size)]) for name, size in sizes.items()]
    return DataCache(*folders, mixture=SHARES)


def drawn_shares(cache: DataCache, usable: np.ndarray | None = None) -> dict[str, float]:
    rows = cache.draw(np.random.default_rng(0), DRAWS, usable)
    counts = np.bincount(cache.source[rows], minlength=len(cache.sources)) / DRAWS
    return dict(zip(cache.sources, counts.tolist(), strict=True))


def test_sources_are_drawn_by_their_shares_whatever_their_sizes(tmp_path: Path) -> None:
    shares = drawn_shares(mixed(tmp_path, ffhq=3, cacd=40, ravdess=11, voxceleb=2))
    assert shares == pytest.approx(SHARES, abs=0.015)


def test_every_picture_of_a_source_is_drawn_alike(tmp_path: Path) -> None:
    rows = mixed(tmp_path, ffhq=4, cacd=5).draw(np.random.default_rng(0), DRAWS)
    counts = np.bincount(rows, minlength=9) / DRAWS
    assert counts == pytest.approx([0.5 / 0.8 / 4] * 4 + [0.3 / 0.8 / 5] * 5, abs=0.01)


def test_shares_of_sources_without_a_usable_picture_go_to_the_others(tmp_path: Path) -> None:
    cache = mixed(tmp_path, ffhq=3, cacd=4, ravdess=5, voxceleb=0)  # voices only
    assert drawn_shares(cache)["voxceleb"] == 0 and sum(cache.shares.values()) == pytest.approx(1)
    assert drawn_shares(cache) == pytest.approx(cache.shares, abs=0.015)
    usable = np.arange(len(cache)) >= 3  # nothing of FFHQ
    shares = drawn_shares(cache, usable)
    assert shares == pytest.approx({"ffhq": 0, "cacd": 0.75, "ravdess": 0.25, "voxceleb": 0}, abs=0.015)


def test_a_source_that_the_mixture_does_not_name_is_never_drawn(tmp_path: Path) -> None:
    shares = drawn_shares(mixed(tmp_path, ffhq=3, fer2013=500))
    assert shares == {"ffhq": 1.0, "fer2013": 0.0}


def test_a_share_of_nothing_is_never_drawn_and_the_rows_say_so(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, [Truth(n) for n in range(3)]) for name in ("ffhq", "fer2013")]
    cache = DataCache(*folders, mixture={"ffhq": 0.5, "fer2013": 0.0})
    assert drawn_shares(cache) == {"ffhq": 1.0, "fer2013": 0.0}
    assert cache.drawable.tolist() == [True] * 3 + [False] * 3


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = tmp_path / f"ffhq.{gone.pid}.partial", tmp_path / f"ffhq.{os.getppid()}.partial"
    other = tmp_path / f"ffhq2.{gone.pid}.partial"
    for folder in (dead, alive, other):
        folder.mkdir()
    write(tmp_path / "ffhq", [Truth(0)])
    assert {path.name for path in tmp_path.iterdir()} == {"ffhq", alive.name, other.name}


def test_without_a_mixture_every_picture_counts_alike(tmp_path: Path) -> None:
    cache = DataCache(*(write(tmp_path / n, [Truth(k) for k in range(size)]) for n, size in {"a": 1, "b": 3}.items()))
    assert drawn_shares(cache) == pytest.approx({"a": 0.25, "b": 0.75}, abs=0.015)
    assert cache.shares == {"a": 0.25, "b": 0.75}


def test_nothing_to_draw_is_an_error_that_names_the_sources(tmp_path: Path) -> None:
    cache = mixed(tmp_path, ffhq=3, cacd=4)
    with pytest.raises(DataError, match="ffhq, cacd"):
        cache.draw(np.random.default_rng(0), 4, np.zeros(7, bool))
    with pytest.raises(DataError, match="no share"):
        DataCache(tmp_path / "ffhq", mixture={WORLD: 1.0})


def test_the_other_picture_is_of_the_same_person_and_never_the_same(tmp_path: Path) -> None:
    people = [0, 0, 0, 1, 2, 2]
    cache = DataCache(write(tmp_path / "a", map(Truth, people)))
    rows = np.repeat(np.arange(6), 200)
    others, is_other = cache.another(rows, np.random.default_rng(0))
    assert (cache.person[others] == cache.person[rows]).all()
    assert ((others != rows) == is_other).all()
    assert (is_other == (cache.person[rows] != 1)).all(), "only person 1 has a single picture"
    assert set(others[rows == 0]) == {1, 2}, "each of the others"


def test_persons_clips_and_rows_keep_their_owners_when_sources_are_joined(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [Truth(0), Truth(7)], [(Truth(9), None), (Truth(7, sex=1), 1)])
    second = write(tmp_path / "b", [Truth(0), Truth(0)], [(Truth(0), 1), (Truth(None), None)])
    cache = DataCache(first, second)
    assert cache.person.tolist() == [0, 7, 10, 10], "speaker 9 of the first source is nobody of the second"
    assert cache.audio_person.tolist() == [9, 7, 10, -1]
    assert cache.audio_picture.tolist() == [-1, 1, 3, -1]
    assert cache.source.tolist() == [0, 0, 1, 1] and cache.sources == ("a", "b")


def test_joined_arrays_are_indexed_like_one(tmp_path: Path) -> None:
    cache = DataCache(*(write(tmp_path / n, map(Truth, range(3)), [(Truth(None), None)] * 2) for n in "ab"))
    alone = [DataCache(tmp_path / n) for n in "ab"]
    images, audio = (np.concatenate([getattr(part, name)[:] for part in alone]) for name in ("images", "audio"))
    assert cache.images.shape == images.shape and len(cache.audio) == len(audio)
    rows = np.array([5, 0, 3, 3])
    for index in (rows, slice(1, 5), slice(None, None, 2), 4, (rows, slice(2, 4)), (4, slice(0, 8), slice(8, 16))):
        assert (cache.images[index] == images[index]).all()
    assert (cache.audio[np.array([3, 1]), :100] == audio[np.array([3, 1]), :100]).all()


def test_unknown_labels_are_minus_one_and_not_a_number(tmp_path: Path) -> None:
    cache = DataCache(write(tmp_path / "a", [Truth(0)], [(Truth(None), None)]))
    assert cache.sex[0] == cache.emotion[0] == cache.audio_person[0] == cache.audio_emotion[0] == -1
    assert np.isnan([cache.age[0], cache.intensity[0], *cache.valence_arousal[0], cache.audio_age[0]]).all()


def test_a_folder_is_a_cache_only_once_it_is_published(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "a", 32) as writer:
        writer.add_picture(np.zeros((32, 32, 3), np.uint8), Truth(0), [])
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="not a finished data cache"):
        DataCache(tmp_path / "a")
    folder = write(tmp_path / "b", [Truth(0)])
    (folder / "cache.json").write_text(json.dumps({"seed": 1, "people": 6}))  # an older format
    with pytest.raises(DataError, match="build it again"):
        DataCache(folder)


@pytest.mark.parametrize("people", [[0, 1, 0], [None]])
def test_pictures_of_a_person_who_is_not_with_their_own_are_refused(tmp_path: Path, people: list[int | None]) -> None:
    with pytest.raises(ValueError, match="must follow each other"):
        write(tmp_path / "a", map(Truth, people))
    assert not list(tmp_path.iterdir())


def test_pictures_of_two_sizes_are_not_joined(tmp_path: Path) -> None:
    write(tmp_path / "a", [Truth(0)])
    with CacheWriter(tmp_path / "b", 64) as writer:
        writer.add_picture(np.zeros((64, 64, 3), np.uint8), Truth(0), [])
        writer.publish("b", {})
    with pytest.raises(DataError, match="'a': 32, 'b': 64"):
        DataCache(tmp_path / "a", tmp_path / "b")


def test_the_test_part_of_the_world_shares_no_person_with_the_training_part(tmp_path: Path) -> None:
    parts = {s: build(tmp_path / s, CacheKey(5, 12, 2, 2, 32, s), processes=1) for s in ("train", "test")}
    for split, cache in parts.items():
        assert len(np.unique(cache.person)) == 12 and {split_of(int(i)) for i in cache.person} == {split}
        truth = [World(5).person(int(i)).sex for i in cache.person]
        assert cache.sex.tolist() == truth
    assert not set(parts["train"].person) & set(parts["test"].person)
    assert parts["train"].sha256 != parts["test"].sha256
    with pytest.raises(ValueError, match="validation"):
        CacheKey(5, 12, 2, 2, 32, "validation")


def test_the_worlds_voices_are_strangers_with_the_truth_of_their_picture(little_world: DataCache) -> None:
    assert (little_world.audio_person == -1).all()
    for name in ("sex", "age", "emotion", "intensity"):
        spoken = getattr(little_world, name)[little_world.audio_picture]
        assert (getattr(little_world, f"audio_{name}") == spoken).all()


def test_the_worlds_persons_keep_their_numbers_beside_another_source(little_world: DataCache, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no seed"):
        _ = DataCache(write(tmp_path / "photos", [Truth(0)])).seed
    world = build(tmp_path / "world", CacheKey(seed=1, people=2, shots=2, voices=0, image_size=32), processes=1)
    both = DataCache(tmp_path / "photos", tmp_path / "world")
    assert both.sources == (WORLD, "photos") and both.seed == 1
    assert (both.person[:4] == world.person).all() and both.person[4] not in world.person
