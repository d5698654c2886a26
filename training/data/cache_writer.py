"""Writes a cache folder (`training.data.cache`), sample by sample: how many of them are usable is known only at the end.

Nothing of it lies in memory but labels and captions. The folder is written beside its place and moved there whole, so that a reader
never finds half of one. Letters: S picture size, T samples.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from runtime.emotions import EMOTIONS
from runtime.spec import MAX_AUDIO_SAMPLES
from training.durable import publish, write_json

FORMAT = 2
UNKNOWN = -1


@dataclass(frozen=True)
class Truth:
    """What is known of one picture or clip; None is unknown. `person` is a number within the source, None for a stranger."""

    person: int | None
    sex: int | None = None
    age: float | None = None
    emotion: str | None = None
    intensity: float | None = None
    valence_arousal: tuple[float, float] | None = None

    def row(self) -> dict[str, Any]:
        """Numbers, with -1 for an unknown index and NaN for any other unknown."""
        return {
            "person": UNKNOWN if self.person is None else self.person,
            "sex": UNKNOWN if self.sex is None else self.sex,
            "age": np.nan if self.age is None else self.age,
            "emotion": UNKNOWN if self.emotion is None else EMOTIONS.index(self.emotion),
            "intensity": np.nan if self.intensity is None else self.intensity,
            "valence_arousal": (np.nan, np.nan) if self.valence_arousal is None else self.valence_arousal,
        }


class CacheWriter:
    """A context that holds the folder beside `final` open, and removes it unless `publish` was called."""

    def __init__(self, final: Path, image_size: int) -> None:
        self.final = final
        self.folder = final.with_name(f"{final.name}.{os.getpid()}.partial")
        _clear(final)
        self.folder.mkdir(parents=True)
        self._images = _Rows(self.folder / "images.npy", np.uint8, (image_size, image_size, 3))
        self._audio = _Rows(self.folder / "audio.npy", np.int16, (MAX_AUDIO_SAMPLES,))
        self._pictures: list[dict[str, Any]] = []
        self._clips: list[dict[str, Any]] = []
        self._captions: list[list[str]] = []
        self._people: set[int] = set()
        self._last_person: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._images.close()
        self._audio.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pictures(self) -> int:
        """How many pictures there are so far."""
        return len(self._pictures)

    @property
    def clips(self) -> int:
        """How many clips there are so far."""
        return len(self._clips)

    def add_picture(self, image: np.ndarray, truth: Truth, captions: Sequence[str]) -> int:
        """Append (S, S, 3) uint8; its row. Raises ValueError unless it has a person, whose pictures all follow each other."""
        if truth.person is None or (truth.person != self._last_person and truth.person in self._people):
            raise ValueError(
                f"picture {self.pictures}: person {truth.person}; pictures of one person must follow each other"
            )
        self._people.add(truth.person)
        self._last_person = truth.person
        self._images.append(image)
        self._pictures.append(truth.row())
        self._captions.append(list(captions))
        return len(self._pictures) - 1

    def add_clip(self, clip: np.ndarray, truth: Truth, picture: int | None = None) -> None:
        """Append (T,) int16 at 16 kHz, at most MAX_AUDIO_SAMPLES; `picture` is the row whose truth it speaks."""
        self._audio.append(np.pad(clip, (0, MAX_AUDIO_SAMPLES - len(clip))))
        row = {f"audio_{name}": value for name, value in truth.row().items() if name != "valence_arousal"}
        self._clips.append({**row, "audio_picture": UNKNOWN if picture is None else picture, "audio_length": len(clip)})

    def publish(self, source: str, key: Mapping[str, Any]) -> None:
        """Declare the folder the cache of `source` and move it to its place, over whatever is there."""
        self._images.close()
        self._audio.close()
        empty = Truth(None).row()
        columns = {name: [row[name] for row in self._pictures] for name in empty}
        columns |= {f"audio_{n}": [row[f"audio_{n}"] for row in self._clips] for n in empty if n != "valence_arousal"}
        columns |= {name: [row[name] for row in self._clips] for name in ("audio_picture", "audio_length")}
        np.savez(self.folder / "truth.npz", **{name: _column(name, values) for name, values in columns.items()})
        (self.folder / "captions.json").write_text(json.dumps(self._captions))
        write_json(self.folder / "cache.json", description(source, key))
        publish(self.folder, self.final)


def _clear(final: Path) -> None:
    """Remove what killed processes of this machine left beside `final`, which may be as large as the data itself."""
    for folder in final.parent.glob(f"{glob.escape(final.name)}.*.partial"):
        process = folder.name.removeprefix(f"{final.name}.").removesuffix(".partial")
        if process.isdecimal() and (int(process) == os.getpid() or not _is_alive(int(process))):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def description(source: str, key: Mapping[str, Any]) -> dict[str, Any]:
    """What `cache.json` holds: a folder without it, or with another one, is not this cache."""
    return {"format": FORMAT, "source": source, "key": dict(key)}


def _column(name: str, values: list[Any]) -> np.ndarray:
    if name == "valence_arousal":
        return np.array(values, np.float32).reshape(-1, 2)
    return np.array(values, np.float32 if name.removeprefix("audio_") in ("age", "intensity") else np.int64)


class _Rows:
    """An .npy file that grows by rows. numpy pads the header, so that it can be rewritten in place with another row count."""

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.shape, self.count = shape, 0
        self.file = path.open("wb")
        self._write_header()

    def append(self, row: np.ndarray) -> None:
        assert row.shape == self.shape and row.dtype == self.dtype, (row.shape, row.dtype)
        self.file.write(row.tobytes())
        self.count += 1

    def close(self) -> None:
        if not self.file.closed:
            self.file.seek(0)
            self._write_header()
            self.file.close()

    def _write_header(self) -> None:
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, described)
