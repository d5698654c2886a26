"""A person is on one side only, the same one everywhere, and a split file that was touched is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.faults import DataError
from training.data.record import Record
from training.data.splits import divide, load, save


def record(key: str, identity: str | None = None, split: str | None = None, source: str = "cacd") -> Record:
    return Record(source=source, key=key, identity=identity, audio=Path(key), split=split)


def crowd(people: int, shots: int) -> list[Record]:
    return [record(f"{i}_{j}", f"person {i}") for i in range(people) for j in range(shots)]


def test_no_identity_is_on_two_sides() -> None:
    records = crowd(300, 4)
    splits = divide(records)
    for i in range(300):
        assert len({splits.side(r) for r in records if r.identity == f"person {i}"}) == 1
    assert {splits.side(r) for r in records} == {"train", "test"}


def test_share_of_test_people_is_the_fraction_asked_for() -> None:
    assert divide(crowd(2000, 1), test_fraction=0.1).counts()["cacd"]["test"] == pytest.approx(200, abs=45)
    assert divide(crowd(2000, 1), test_fraction=0.3).counts()["cacd"]["test"] == pytest.approx(600, abs=65)


def test_side_depends_on_the_name_and_the_seed_not_on_order_or_company() -> None:
    records = crowd(200, 2)
    sides = divide(records).sides["cacd"]
    assert divide(records[::-1]).sides["cacd"] == sides
    assert divide(records[:100]).sides["cacd"].items() <= sides.items()
    assert divide(records, seed=1).sides["cacd"] != sides


def test_record_without_identity_is_a_person_of_its_own() -> None:
    sides = set(divide([record(str(i)) for i in range(100)]).sides["cacd"].values())
    assert sides == {"train", "test"}


def test_same_name_in_two_sources_is_two_people() -> None:
    splits = divide([*crowd(300, 1), *(record(f"{i}_0", f"person {i}", source="folder") for i in range(300))])
    assert splits.sides["cacd"] != splits.sides["folder"]


@pytest.mark.parametrize("people", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_few_people_still_fill_both_sides(people: int, fraction: float) -> None:
    counts = divide(crowd(people, 2), test_fraction=fraction).counts()["cacd"]
    assert min(counts.values()) == 2


def test_a_data_sets_own_split_is_honoured() -> None:
    records = [record(str(i), split="test" if i % 3 == 0 else "train") for i in range(60)]
    splits = divide(records)
    assert all(splits.side(r) == r.split for r in records)


def test_own_split_that_leaves_a_side_empty_is_dealt_anew() -> None:
    counts = divide([record(str(i), split="train") for i in range(100)]).counts()["cacd"]
    assert counts["test"] > 0


def test_person_whom_the_own_split_puts_on_both_sides_is_never_trained_on() -> None:
    splits = divide([record("a", "ann", "train"), record("b", "ann", "test"), record("c", "bob", "train")])
    assert splits.sides["cacd"] == {"a": "test", "b": "test", "c": "train"}


def test_file_holds_counts_and_reads_back_equal(tmp_path: Path) -> None:
    splits = divide([*crowd(50, 2), record("caf\udce9.jpg", source="folder"), record("other", source="folder")])
    save(splits, tmp_path / "new" / "splits.json")
    assert load(tmp_path / "new" / "splits.json") == splits
    assert json.loads((tmp_path / "new" / "splits.json").read_text())["counts"] == splits.counts()


@pytest.mark.parametrize("change", ["move", "cut", "count", "format", "other"])
def test_touched_file_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "splits.json"
    save(divide(crowd(50, 1)), path)
    content = json.loads(path.read_text())
    if change == "move":
        content["records"]["cacd"]["test"].append(content["records"]["cacd"]["train"].pop())
    if change == "count":
        content["counts"]["cacd"]["test"] += 1
    if change == "format":
        content["format"] = 2
    path.write_text({"cut": path.read_text()[:-40], "other": '{"a": 1}'}.get(change, json.dumps(content)))
    with pytest.raises(DataError, match=r"splits\.json"):
        load(path)


def test_unknown_record_missing_file_and_bad_fraction_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'new'"):
        divide(crowd(5, 1)).side(record("new"))
    with pytest.raises(DataError, match=r"none\.json"):
        load(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"1\.5"):
        divide(crowd(5, 1), test_fraction=1.5)
