"""Which data sets can be read, and which of them a folder is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from training.data import cacd, fer2013, ffhq, folder, ravdess, voxceleb
from training.data.faults import DataError, Tell, tell_nobody
from training.data.record import Record
from training.data.tree import files, relative


class Reader(Protocol):
    """Records of the data set in `root`, the same in the same order every time; nothing is decoded.

    Files and rows that become no record, or a poorer one, go to `tell`.
    """

    def __call__(self, root: Path, tell: Tell = tell_nobody) -> Iterator[Record]: ...


READERS: dict[str, Reader] = {
    "ffhq": ffhq.read,
    "cacd": cacd.read,
    "ravdess": ravdess.read,
    "voxceleb": voxceleb.read,
    "fer2013": fer2013.read,
    "folder": folder.read,
}
_NAMES: dict[str, re.Pattern[str]] = {
    "ffhq": ffhq.NAME,
    "cacd": cacd.NAME,
    "ravdess": ravdess.NAME,
    "voxceleb": voxceleb.NAME,
    "fer2013": fer2013.NAME,
}
ENOUGH = 1000  # files that are looked at to tell one data set from another


def detect(root: Path) -> str:
    """The data set that `root` holds: a folder of one's own if it has a metadata file, else the one whose rule most names follow.

    Looks at names only, of the first ENOUGH files; "folder" where no name follows any rule.
    """
    _check_folder(root)
    if any(path.is_file() for name in folder.TABLES for path in (root / name, *root.glob(f"*/{name}"))):
        return "folder"
    votes = Counter(
        name
        for path in islice(files(root), ENOUGH)
        for name, pattern in _NAMES.items()
        if pattern.search(relative(path, root))
    )
    return max(votes, key=lambda name: votes[name], default="folder")


def records(name: str, root: Path, tell: Tell = tell_nobody) -> Iterator[Record]:
    """What the reader `name` finds in `root`. Raises DataError for an unknown name or a missing folder."""
    if name not in READERS:
        raise DataError(f"data set {name!r} is not known; known are {', '.join(READERS)}")
    _check_folder(root)
    return READERS[name](root, tell)


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
