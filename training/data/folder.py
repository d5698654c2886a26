"""A folder of one's own: pictures, and what is known of them in `metadata.jsonl` or `metadata.csv`.

The layout is Hugging Face's ImageFolder: a table in the folder, or in folders below it, names files relative to itself. Columns:
`file_name`, and optionally `text` (a caption, or a list of them), `age` (years), `sex` (female, male), `emotion` (one of
EMOTIONS), `emotion_intensity` (0..1), `valence` and `arousal` (-1..1, both), `audio` (a sound file) and `identity`. A folder
without a table is a folder of plain pictures.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.data.faults import Fault, Tell, tell_nobody
from training.data.record import FEMALE, MALE, Record
from training.data.tree import AUDIO_SUFFIXES, IMAGE_SUFFIXES, files, relative

TABLES = ("metadata.jsonl", "metadata.csv")
COLUMNS = (
    "file_name",
    "text",
    "age",
    "sex",
    "emotion",
    "emotion_intensity",
    "valence",
    "arousal",
    "audio",
    "identity",
)
SEX = {"female": FEMALE, "f": FEMALE, "male": MALE, "m": MALE}
# The first folder of a path prescribes a split where it has one of these names.
SPLIT = {"train": "train", "test": "test", "validation": "test", "valid": "test", "val": "test", "dev": "test"}


def read(root: Path, tell: Tell = tell_nobody) -> Iterator[Record]:
    """One record a row in the tables' order, then one a picture that no row names. A row may have a sound and no picture."""
    tables: list[Path] = []
    pictures: list[Path] = []
    sounds: list[Path] = []
    for path in files(root, tell):
        suffix = path.suffix.lower()
        for kind, belongs in ((tables, path.name in TABLES), (pictures, suffix in IMAGE_SUFFIXES)):
            if belongs:
                kind.append(path)
        if suffix in AUDIO_SUFFIXES:
            sounds.append(path)
    named: set[Path] = set()
    heard: set[Path] = set()
    for table in tables:
        unknown: set[str] = set()
        for place, row in _rows(table, tell):
            for column in sorted(set(row) - set(COLUMNS) - unknown):
                unknown.add(column)
                tell(Fault(table, "unknown column", f"{column[:40]!r}, known are {', '.join(COLUMNS)}"))
            record = _record(root, table, place, row, named, tell)
            if record is not None:
                heard |= {record.audio} if record.audio else set()
                yield record
    for path in pictures:
        if path not in named:
            if tables:
                tell(Fault(path, "unlisted picture", f"no row of {relative(tables[0], root)} names it"))
            name = relative(path, root)
            yield Record(source="folder", key=name, image=path, split=_split(name))
    for path in sounds:
        if path not in heard:
            tell(Fault(path, "unlisted", "give it a row with the column audio"))


def _rows(table: Path, tell: Tell) -> Iterator[tuple[str, dict[str, Any]]]:
    """("line n", row) of every row that is a mapping. Read as it is asked for."""
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            if table.suffix == ".csv":
                rows = csv.DictReader(file)
                for row in rows:
                    if None in row:
                        tell(Fault(table, "bad row", f"line {rows.line_num}: more values than columns"))
                    else:
                        yield f"line {rows.line_num}", {name: value for name, value in row.items() if value}
                return
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    tell(Fault(table, "bad row", f"line {number}, column {error.colno}: {error.msg}"))
                    continue
                except (ValueError, RecursionError):  # figures or brackets without end
                    tell(Fault(table, "bad row", f"line {number}: beyond what JSON can hold"))
                    continue
                if isinstance(row, dict):
                    yield f"line {number}", {name: value for name, value in row.items() if value is not None}
                else:
                    tell(Fault(table, "bad row", f"line {number}: no JSON object"))
    except (OSError, csv.Error) as error:
        tell(Fault(table, "unreadable" if isinstance(error, OSError) else "bad row", str(error)[:60]))


def _record(root: Path, table: Path, place: str, row: dict[str, Any], named: set[Path], tell: Tell) -> Record | None:
    """The record of one row, or None if neither its picture nor its sound can be used; `named` grows by its picture."""
    found: dict[str, Path] = {}
    for column in ("file_name", "audio"):
        if column not in row:
            continue
        path = _inside(root, table.parent, row[column])
        if path is None:
            tell(Fault(table, "outside", f"{place}: {column} {str(row[column])[:60]!r}"))
            continue
        # Hugging Face's AudioFolder calls the sound file_name, too.
        found["audio" if path.suffix.lower() in AUDIO_SUFFIXES else column] = path
    image, audio = found.get("file_name"), found.get("audio")
    first = image or audio
    if first is None:
        if not {"file_name", "audio"} & set(row):
            tell(Fault(table, "bad row", f"{place}: no file_name"))
        return None
    if first in named:
        tell(Fault(table, "listed twice", f"{place}: {relative(first, root)}"))
        return None
    named.add(first)
    key = relative(first, root)
    return Record(
        source="folder", key=key, image=image, audio=audio, split=_split(key), **_labels(table, place, row, tell)
    )


def _inside(root: Path, folder: Path, name: Any) -> Path | None:
    """`name` below `folder` if that stays below `root`. Links are the owner's own and may lead anywhere."""
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        return None
    below = os.path.normpath(os.path.join(relative(folder, root), name))
    return None if os.path.isabs(below) or below.split("/")[0] in ("..", ".") else root / below


def _labels(table: Path, place: str, row: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """The row's labels as arguments of Record; a value that cannot be read is told and left out."""
    found: dict[str, Any] = {}
    for column, (argument, parse) in _PARSE.items():
        if column in row:
            try:
                value = parse(row[column])
                Record(source="folder", key=place, image=table, **{argument: value})
                found[argument] = value
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                tell(Fault(table, "bad label", f"{place}: {column} {str(row[column])[:40]}"))
    if "valence" in row or "arousal" in row:
        try:
            both = (float(row["valence"]), float(row["arousal"]))
            Record(source="folder", key=place, image=table, valence_arousal=both)
            found["valence_arousal"] = both
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            told = ", ".join(f"{name} {str(row.get(name, 'missing'))[:20]}" for name in ("valence", "arousal"))
            tell(Fault(table, "bad label", f"{place}: {told}"))
    return found


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else (None,)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("text must be a caption or a list of captions")
    return texts


def _identity(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("identity must be a name or a number")
    return str(value)


def _emotion(value: Any) -> str:
    return str(value).strip().lower()


_PARSE: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "text": ("text", _texts),
    "age": ("age", float),
    "sex": ("sex", lambda value: SEX[value.strip().lower()]),
    "emotion": ("emotion", _emotion),
    "emotion_intensity": ("intensity", float),
    "identity": ("identity", _identity),
}


def _split(name: str) -> str | None:
    first, slash, _ = name.partition("/")
    return SPLIT.get(first.lower()) if slash else None
