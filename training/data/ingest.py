"""A real data set to a cache folder: every record on one side of the split decoded, cut and labelled once.

Pictures become upright squares at the model's size: the middle of the photo, or with a face pack the face in FFHQ's frame. Sounds
become their first 5 s at 16 kHz. What cannot be used is left out, and `skipped.json` says what and why. A build that is killed
leaves nothing that a later one could take for data.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime.errors import RequestError
from runtime.preprocess.face_frame import align
from runtime.preprocess.image import middle_square
from runtime.spec import MAX_AUDIO_SAMPLES
from training.data.cache import content_sha256, is_finished
from training.data.cache_writer import CacheWriter, Truth
from training.data.captions import compose
from training.data.decode import read_audio, read_image
from training.data.faults import SKIPPED, DataError, Fault, FaultyFileError
from training.data.parallel import each
from training.data.readers import records
from training.data.record import SPLITS, Record, VideoFrame
from training.data.splits import Splits, divide
from training.durable import write_json
from training.face_packs import FacePack

SKIPPED_FILE = "skipped.json"
EXAMPLES = 100  # files of each reason that it names
CAPTION_SEED = 42


@dataclass(frozen=True)
class Source:
    """Which data set, and how it is cut: `name` of `training.data.readers.READERS`, its folder `root`, the model's `image_size`.

    With `face_pack`, a folder of insightface models, faces are aligned, and pictures in which it finds none are skipped. `split`
    is the side whose people are taken, "train" or "test".
    """

    name: str
    root: Path
    image_size: int
    split: str = "train"
    face_pack: Path | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split {self.split!r}, allowed {', '.join(SPLITS)}")
        if self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} must be at least 1")


def build(
    folder: Path, source: Source, processes: int, splits: Splits | None = None, expected: str | None = None
) -> Path:
    """`folder`, with the cache of `source` built in it unless it holds exactly this: the same files, labels, people and framing.

    Without `splits` the data set is divided here, in the same way every time (`training.data.splits.divide`). Raises DataError
    if nothing is left, the disk cannot hold it, or the content is not that of the sha256 `expected`; then nothing is changed.
    """
    report = _Report(source)
    found = list(records(source.name, source.root, report.tell))
    splits = splits or divide(found)
    mine = neighbours(record for record in found if splits.side(record) == source.split)
    if not mine:
        raise DataError(
            f"{source.name}: {source.root} has no records for the {source.split} part; is it the right folder?"
        )
    key = {
        "split": source.split,
        "image_size": source.image_size,
        "framing": _framing(source),
        "records": _sha256(mine, source),
    }
    if expected is not None and content_sha256(source.name, key) != expected:
        raise DataError(
            f"{source.name}: {source.root} is not what this run has trained on: files, labels, sizes or people have changed since; "
            "put the old ones back, or choose another --out"
        )
    if is_finished(folder, source.name, key):
        return folder
    _check_space(folder, source, mine)
    with CacheWriter(folder, source.image_size) as writer:
        _write(writer, source, mine, processes, report)
        if not writer.pictures and not writer.clips:
            raise DataError(f"{source.name}: nothing in {source.root} can be used; {report.skipped()}")
        summary = f"{source.name}: {writer.pictures} pictures and {writer.clips} sounds for {source.split}; {report.skipped()}"
        write_json(writer.folder / SKIPPED_FILE, {"summary": summary, **report.to_dict()})
        writer.publish(source.name, key)
    tqdm.write(f"{summary}; see {folder / SKIPPED_FILE}")
    return folder


def neighbours(found: Iterable[Record]) -> list[Record]:
    """The records, those of one person together, persons in the order of their first record."""
    people: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in found:
        people[_person(record)].append(record)
    return [record for its in people.values() for record in its]


@dataclass(frozen=True)
class _Sample:
    """What of one record can be used: `image` (S, S, 3) uint8, `clip` (T,) int16."""

    image: np.ndarray | None = None
    clip: np.ndarray | None = None
    faults: tuple[Fault, ...] = ()


@dataclass
class _Report:
    """Faults by reason: their number and the first of each."""

    source: Source
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))

    def tell(self, fault: Fault) -> None:
        self.counts[fault.reason] += 1
        if len(self.first[fault.reason]) < EXAMPLES:
            self.first[fault.reason].append(fault)

    def skipped(self) -> str:
        counts = [f"{count} {reason}" for reason, count in sorted(self.counts.items()) if reason in SKIPPED]
        return f"skipped {', '.join(counts)}" if counts else "nothing skipped"

    def to_dict(self) -> dict[str, Any]:
        """What was skipped, and what was only noted and is used all the same."""
        entries = {
            reason: {
                "count": count,
                "first": [{"path": str(fault.path), "detail": fault.detail} for fault in self.first[reason]],
            }
            for reason, count in sorted(self.counts.items())
        }
        return {
            "root": str(self.source.root),
            "skipped": {reason: entry for reason, entry in entries.items() if reason in SKIPPED},
            "noted": {reason: entry for reason, entry in entries.items() if reason not in SKIPPED},
        }


def _write(writer: CacheWriter, source: Source, found: list[Record], processes: int, report: _Report) -> None:
    rng = np.random.default_rng(CAPTION_SEED)
    people: dict[tuple[str, ...], int] = {}
    samples = each(partial(_sample, source=source), found, processes, _crashed)
    for record, sample in zip(found, tqdm(samples, source.name, len(found), unit="", mininterval=5), strict=True):
        for fault in sample.faults:
            report.tell(fault)
        truth = Truth(
            people.setdefault(_person(record), len(people)),
            record.sex,
            record.age,
            record.emotion,
            record.intensity,
            record.valence_arousal,
        )
        captions, row = list(record.text) or compose(record, rng), None
        if sample.image is not None:
            row = writer.add_picture(sample.image, truth, captions)
        if sample.clip is not None:
            writer.add_clip(sample.clip, truth, row)


def _sample(record: Record, source: Source) -> _Sample:
    faults, image, clip = [], None, None
    if record.image is not None:
        try:
            image = _cut(read_image(record.image), source)
        except FaultyFileError as error:
            faults.append(Fault(_path(record.image, record), error.reason, error.detail))
    if record.audio is not None:
        try:
            clip = np.round(read_audio(record.audio) * 32767).astype(np.int16)
        except FaultyFileError as error:
            faults.append(Fault(record.audio, error.reason, error.detail))
    return _Sample(image, clip, tuple(faults))


def _cut(pixels: np.ndarray, source: Source) -> np.ndarray:
    if source.face_pack is None:
        return middle_square(pixels, source.image_size)
    points = _loaded(source.face_pack).landmarks(pixels)
    if points is None:
        raise FaultyFileError("no face", "the face pack's detector finds none")
    try:
        return align(pixels, points, source.image_size)
    except RequestError as error:
        raise FaultyFileError("bad landmarks", error.message) from None


@cache
def _loaded(face_pack: Path) -> FacePack:
    """Once per process: a pack cannot be sent to another."""
    return FacePack(face_pack)


def _crashed(record: Record) -> _Sample:
    content = record.image if record.image is not None else record.audio
    assert content is not None  # a record has one of them
    return _Sample(faults=(Fault(_path(content, record), "crashed", "decoding ended the process"),))


def _person(record: Record) -> tuple[str, ...]:
    """Who; the record itself where nobody says. A key can equal another record's identity, hence the first word."""
    return ("key", record.key) if record.identity is None else ("identity", record.identity)


def _path(content: Path | VideoFrame | np.ndarray, record: Record) -> Path:
    if isinstance(content, np.ndarray):
        return Path(f"{record.source} {record.key}")
    return content.path if isinstance(content, VideoFrame) else content


def _framing(source: Source) -> str:
    if source.face_pack is None:
        return "middle square"
    models = ", ".join(
        f"{path.name} of {path.stat().st_size} bytes" for path in sorted(source.face_pack.glob("*.onnx"))
    )
    return f"aligned by {models}"


def _sha256(found: list[Record], source: Source) -> str:
    """One hash of what the reader found: names, labels, and the files' sizes, so that a file that was repaired is read again."""
    digest = hashlib.sha256()
    for record in found:
        contents = []
        for content in (record.image, record.audio):
            if isinstance(content, np.ndarray):
                contents.append(hashlib.sha256(content.tobytes()).hexdigest())
            elif content is not None:
                path = _path(content, record)
                size = path.stat().st_size if path.is_file() else None
                contents.append(f"{os.path.relpath(path, source.root)} {size}")
        labels = (record.age, record.sex, record.emotion, record.intensity, record.valence_arousal, record.text)
        digest.update(repr((_person(record), record.key, contents, labels)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _check_space(folder: Path, source: Source, found: list[Record]) -> None:
    """Say how much disk this takes; raise DataError if there is not as much."""
    pictures, sounds = (sum(getattr(record, name) is not None for record in found) for name in ("image", "audio"))
    needed = pictures * 3 * source.image_size**2 + sounds * 2 * MAX_AUDIO_SAMPLES
    place = next(parent for parent in folder.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    estimate = f"{source.name}: {pictures} pictures and {sounds} sounds take {needed / 1e9:.1f} GB"
    if needed > free:
        raise DataError(
            f"{estimate}, {place} has {free / 1e9:.1f} GB free; free some, put the run on another disk, or take a part of the data"
        )
    tqdm.write(f"{estimate}; {free / 1e9:.1f} GB are free")
