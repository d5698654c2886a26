"""FER2013 (Goodfellow et al. 2013): 35,887 grey faces of 48×48 pixels with an emotion, for the emotion estimator.

Layout: `fer2013.csv` with the header `emotion,pixels,Usage`; pixels are 2,304 numbers 0..255 separated by blanks.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.data.faults import DataError, Fault, Tell, tell_nobody
from training.data.record import Record
from training.data.tree import files, relative

NAME = re.compile(r"(?:^|/)fer2013\.csv$")
SIDE = 48
COLUMNS = ("emotion", "pixels", "Usage")
LABELS = ("angry", "disgust", "fearful", "happy", "sad", "surprised", "neutral")  # by the number in the table
# Both held-out parts of the contest are kept from training.
SPLIT = {"Training": "train", "PublicTest": "test", "PrivateTest": "test"}


def read(root: Path, tell: Tell = tell_nobody) -> Iterator[Record]:
    """One record a row, read as it is asked for. Rows without a picture are "blank". Raises DataError without the table."""
    path = next((path for path in files(root, tell) if NAME.search(relative(path, root))), None)
    if path is None:
        raise DataError(f"{root}: has no fer2013.csv")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = csv.DictReader(file, skipinitialspace=True)
        try:
            missing = set(COLUMNS) - set(rows.fieldnames or ())
            if missing:
                raise DataError(f"{path.name}: lacks the columns {', '.join(sorted(missing))}")
            for number, row in enumerate(rows):
                try:
                    yield _record(number, row)
                except _RowError as error:
                    tell(Fault(path, error.reason, f"row {number}: {error}"))
        except csv.Error as error:
            tell(Fault(path, "bad row", f"line {rows.line_num}: {error}; what follows is not read"))


class _RowError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _record(number: int, row: dict[str, str | None]) -> Record:
    emotion, pixels, usage = (row[column] or "" for column in COLUMNS)
    if emotion not in map(str, range(len(LABELS))):
        raise _RowError("bad row", f"emotion {emotion[:20]!r}, allowed 0..{len(LABELS) - 1}")
    if usage not in SPLIT:
        raise _RowError("bad row", f"Usage {usage[:20]!r}, allowed {', '.join(SPLIT)}")
    try:
        values = np.array(pixels.split(), np.int64)
    except (ValueError, OverflowError):
        raise _RowError("bad row", "pixels that are no whole numbers") from None
    if values.size != SIDE * SIDE or values.min() < 0 or values.max() > 255:
        raise _RowError("bad row", f"{values.size} pixels, expected {SIDE * SIDE} of 0..255")
    if not values.any():
        raise _RowError("blank", "every pixel is black")
    image = values.astype(np.uint8).reshape(SIDE, SIDE)
    return Record(source="fer2013", key=f"{number:05d}", image=image, emotion=LABELS[int(emotion)], split=SPLIT[usage])
