"""CACD, the Cross-Age Celebrity Dataset (Chen, Chen & Hsu 2014): photos of 2,000 celebrities aged 16 to 62.

Layout: `CACD2000/{age}_{Name_With_Underscores}_{nnnn}.jpg`, or the pictures anywhere below the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.data.faults import Fault, Tell, tell_nobody
from training.data.record import MAX_AGE, Record
from training.data.tree import files, relative, tell_unknown

NAME = re.compile(r"(?:^|/)(\d{1,3})_([^/]+)_(\d{4})\.jpg$")


def read(root: Path, tell: Tell = tell_nobody) -> Iterator[Record]:
    """One record a photo: the age, and the celebrity as identity. `root` as `training.data.readers.Reader` says."""
    seen: set[str] = set()
    for path in files(root, tell):
        match = NAME.search(relative(path, root))
        if match is None:
            tell_unknown(path, "{age}_{Name}_{nnnn}.jpg", tell)
            continue
        if path.stem in seen:
            tell(Fault(path, "same name", "another folder has it, too"))
            continue
        seen.add(path.stem)
        age: float | None = float(match[1])
        if float(match[1]) > MAX_AGE:
            tell(Fault(path, "bad label", f"age {match[1]}, at most {MAX_AGE}"))
            age = None
        yield Record(source="cacd", key=path.stem, identity=match[2], image=path, age=age)
