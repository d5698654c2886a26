"""What can be wrong with a data set's files: one short, named reason each.

`SKIPPED` reasons make a picture, a sound or a row unusable; `NOTED` ones do not, the sample is used all the same. A count of
reasons is how the check, the build of a cache and the documentation speak about faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ClipFaceFusionError

SKIPPED = {
    "missing": "a label or a table names a file that is not there",
    "unreadable": "the operating system refuses to open the file",
    "empty": "the file has no bytes, or the sound no samples",
    "not an image": "the content is of no picture format that is read here",
    "not audio": "the content is of no sound format that is read here",
    "not a video": "the content is of no video format that is read here",
    "damaged": "the format is known, but the content ends early or is broken",
    "too small": "a side of the picture is shorter than the minimum",
    "too large": "the picture has more pixels than the maximum",
    "blank": "all pixels of the picture are alike",
    "too short": "the sound is shorter than the audio encoder needs",
    "silent": "nothing can be heard in the part of the sound that is used",
    "not finite": "the sound holds NaN or infinite samples",
    "no face": "alignment was asked for, and no face is found in the picture",
    "bad landmarks": "the five points are no face: not finite, all in one place, or far outside the picture",
    "unknown name": "the file's name does not follow the data set's rule",
    "bad row": "a row of a table cannot be read",
    "listed twice": "a table has a row for this file already; the first one counts",
    "unlisted": "a sound that no table names, so that nothing is known about it",
    "outside": "a table names a file outside the data set's folder",
    "crashed": "the library that decodes the file brought its process down",
}
NOTED = {
    "wrong extension": "the name promises another format than the content has; the content counts",
    "bad label": "a label cannot be read or is out of range; the sample is used without it",
    "unknown column": "a table has a column of a name that is not read",
    "same name": "the file lies in the folder twice, in different places; the first one counts",
    "duplicate": "the content equals that of another file",
    "no label file": "a picture without its label file, in a data set that has label files",
    "unlisted picture": "a picture that no table names, in a folder that has one; used without labels",
}


class FaultyFileError(ClipFaceFusionError):
    """One file, or one row, that cannot be used. `reason` is a key of `SKIPPED`, `detail` says what was found in it.

    Survives the way back from another process.
    """

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in SKIPPED, reason
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class DataError(ClipFaceFusionError):
    """A data set as a whole cannot be used: no such folder, no table, a split file of another data set."""


@dataclass(frozen=True)
class Fault:
    """A reason (key of `SKIPPED` or `NOTED`) with the file it is about, and what was found."""

    path: Path
    reason: str
    detail: str

    def __post_init__(self) -> None:
        assert self.reason in SKIPPED or self.reason in NOTED, self.reason


# What a reader tells of files and rows that become no record, or a poorer one.
Tell = Callable[[Fault], None]


def tell_nobody(fault: Fault) -> None:
    """For callers that want records only."""
