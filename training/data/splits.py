"""Who is trained on and who is kept for tests: decided by person, never by file, and kept in a JSON file with its own hash.

A person's side depends on a hash of the name and the seed alone, so that new people change nobody else's side. A record without
an identity is a person of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.faults import DataError
from training.data.record import SPLITS, Record

FORMAT = 1
TRAIN, TEST = SPLITS


@dataclass(frozen=True)
class Splits:
    """Side by source and key. `seed` and `test_fraction` are what `divide` was asked for."""

    seed: int
    test_fraction: float
    sides: Mapping[str, Mapping[str, str]]

    def side(self, record: Record) -> str:
        """ "train" or "test". Raises DataError for a record that was not there when the split was made."""
        side = self.sides.get(record.source, {}).get(record.key)
        if side is None:
            raise DataError(f"split: {record.source} {record.key!r} is in neither part; make the split again")
        return side

    def counts(self) -> dict[str, dict[str, int]]:
        """How many records each source has on each side."""
        return {
            source: {side: list(sides.values()).count(side) for side in SPLITS} for source, sides in self.sides.items()
        }


def divide(records: Iterable[Record], seed: int = 42, test_fraction: float = 0.1) -> Splits:
    """Deal the people of each source to its two sides, `test_fraction` of them to the test's.

    A data set's own division counts wherever it leaves records on both sides; a part of FFHQ below number 60,000, for one, is
    dealt anew. A person whom it puts on both sides is a test person. A source of at least two people has one on each side.
    """
    if not 0 < test_fraction < 1:
        raise DataError(f"test fraction {test_fraction}, must be between 0 and 1")
    people: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        # A key can equal another record's identity; the kind in front keeps them apart.
        person = f"key {record.key}" if record.identity is None else f"identity {record.identity}"
        people[record.source][person].append(record)
    return Splits(
        seed,
        test_fraction,
        {source: _sides(source, persons, seed, test_fraction) for source, persons in sorted(people.items())},
    )


def _sides(source: str, people: Mapping[str, list[Record]], seed: int, test_fraction: float) -> dict[str, str]:
    """Side by key."""
    chance = {person: _chance(f"{seed} {source} {person}") for person in people}
    dealt = {person: TEST if chance[person] < test_fraction else TRAIN for person in people}
    if len(people) > 1 and len(set(dealt.values())) == 1:
        lonely = min(people, key=chance.__getitem__) if TRAIN in dealt.values() else max(people, key=chance.__getitem__)
        dealt[lonely] = TEST if TRAIN in dealt.values() else TRAIN
    own = {
        person: TEST if any(record.split == TEST for record in records) else TRAIN
        for person, records in people.items()
        if any(record.split is not None for record in records)
    }
    if set(own.values()) == set(SPLITS):
        dealt |= own
    return {record.key: dealt[person] for person, records in people.items() for record in records}


def _chance(name: str) -> float:
    """Uniform in [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def save(splits: Splits, path: Path) -> None:
    """Write the split with its counts and the sha256 of its content."""
    content = {
        "format": FORMAT,
        "seed": splits.seed,
        "test_fraction": splits.test_fraction,
        "counts": splits.counts(),
        "records": {
            source: {side: sorted(key for key, its in sides.items() if its == side) for side in SPLITS}
            for source, sides in splits.sides.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "sha256": _sha256(content)}, indent=1) + "\n", encoding="ascii")


def load(path: Path) -> Splits:
    """Read what `save` wrote. Raises DataError if the file was changed, cut or made by another program."""
    try:
        content = json.loads(path.read_bytes())
        claimed = content.pop("sha256")
        if content["format"] != FORMAT:
            raise DataError(f"{path}: format {content['format']!r}, this program reads {FORMAT}")
        if claimed != _sha256(content):
            raise DataError(f"{path}: content and sha256 differ; the file was changed. Make the split again")
        sides = {
            source: {key: side for side, keys in parts.items() for key in keys}
            for source, parts in content["records"].items()
        }
        return Splits(content["seed"], content["test_fraction"], sides)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no split file ({type(error).__name__})") from None


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()
