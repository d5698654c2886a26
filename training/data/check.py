"""Is this data set complete and usable? Everything is decoded once, as training will, and every fault gets its named reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from runtime.emotions import EMOTIONS
from runtime.spec import SAMPLING_RATE_HZ
from training.data.decode import read_audio, read_image, right_suffixes
from training.data.faults import NOTED, SKIPPED, Fault, FaultyFileError
from training.data.parallel import each
from training.data.readers import records
from training.data.record import FEMALE, MALE, SPLITS, Record, VideoFrame
from training.data.tree import relative

EXAMPLES = 5  # kept of each reason


@dataclass(frozen=True)
class Finding:
    """What decoding one record showed. `digests` are hashes of the files' bytes, or of the pixels, with their place."""

    record: Record
    faults: tuple[Fault, ...]
    side: int | None = None  # the picture's shorter one, in pixels; None: no picture, or a faulty one
    seconds: float | None = None  # of sound that a model hears; None: no sound, or a faulty one
    digests: tuple[tuple[bytes, Path], ...] = ()


@dataclass
class Coverage:
    """What the usable records hold; every field is a count, or a list with one value a record."""

    records: int = 0
    sides: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    pictures_without_sound: int = 0
    sounds_without_picture: int = 0
    captioned: int = 0
    ages: list[float] = field(default_factory=list)
    intensities: int = 0
    valence_arousal: int = 0
    labels: dict[str, Counter[Any]] = field(
        default_factory=lambda: {name: Counter() for name in ("sex", "emotion", "identity", "split")}
    )

    def add(self, finding: Finding) -> None:
        """Count a record of which picture or sound can be used."""
        record = finding.record
        self.records += 1
        if finding.side is not None:
            self.sides.append(finding.side)
            self.pictures_without_sound += finding.seconds is None
        if finding.seconds is not None:
            self.seconds.append(finding.seconds)
            self.sounds_without_picture += finding.side is None
        self.captioned += bool(record.text)
        self.ages += [] if record.age is None else [record.age]
        self.intensities += record.intensity is not None
        self.valence_arousal += record.valence_arousal is not None
        for name, counter in self.labels.items():
            if (value := getattr(record, name)) is not None:
                counter[value] += 1

    def to_dict(self) -> dict[str, Any]:
        """JSON form: figures of lists are (least, median, greatest)."""
        sex, emotion, identity, split = self.labels.values()
        return {
            "records": self.records,
            "pictures": len(self.sides),
            "shorter_side_px": _spread(self.sides),
            "sounds": len(self.seconds),
            "sound_seconds": round(sum(self.seconds), 1),
            "pictures_without_sound": self.pictures_without_sound,
            "sounds_without_picture": self.sounds_without_picture,
            "identities": len(identity),
            "records_per_identity": _spread(list(identity.values())),
            "age": {"records": len(self.ages), "years": _spread(self.ages)},
            "sex": {"female": sex[FEMALE], "male": sex[MALE]},
            "emotion": {name: emotion[name] for name in EMOTIONS},
            "intensity": self.intensities,
            "valence_arousal": self.valence_arousal,
            "captions": self.captioned,
            "prescribed_split": {name: split[name] for name in SPLITS},
        }


@dataclass
class Report:
    """The result for one folder. `examples` has the first EXAMPLES faults of every reason that was found."""

    name: str
    root: Path
    records: int = 0
    coverage: Coverage = field(default_factory=Coverage)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Fault]] = field(default_factory=dict)

    def tell(self, fault: Fault) -> None:
        """Count a fault."""
        self.counts[fault.reason] += 1
        examples = self.examples.setdefault(fault.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(fault)

    def add(self, finding: Finding) -> None:
        """Count a record and its faults."""
        self.records += 1
        for fault in finding.faults:
            self.tell(fault)
        if finding.side is not None or finding.seconds is not None:
            self.coverage.add(finding)

    def to_dict(self) -> dict[str, Any]:
        """JSON form; paths are relative to the checked folder."""
        return {
            "data_set": self.name,
            "records": self.records,
            "usable": self.coverage.to_dict(),
            **{
                kind: {
                    reason: {
                        "count": self.counts[reason],
                        "examples": [{"path": self._place(f), "detail": f.detail} for f in self.examples[reason]],
                    }
                    for reason in reasons
                    if self.counts[reason]
                }
                for kind, reasons in (("skipped", SKIPPED), ("noted", NOTED))
            },
        }

    def to_text(self) -> str:
        """The same for people."""
        usable = self.coverage.to_dict()
        lines = [f"{self.root} as {self.name}: {self.records} records, {usable.pop('records')} usable", ""]
        lines += [f"  {name.replace('_', ' '):24}{_words(value)}" for name, value in usable.items()]
        for kind, reasons in (("cannot be used", SKIPPED), ("used, but", NOTED)):
            found = [reason for reason in reasons if self.counts[reason]]
            lines += ["", f"{kind}: {sum(self.counts[reason] for reason in found)}"]
            for reason in found:
                lines += [f"  {self.counts[reason]:>7}  {reason}: {reasons[reason]}"]
                lines += [f"             {self._place(fault)}  ({fault.detail})" for fault in self.examples[reason]]
        return "\n".join(lines)

    def _place(self, fault: Fault) -> str:
        return relative(fault.path, self.root) if fault.path.is_relative_to(self.root) else str(fault.path)


def check(name: str, root: Path, processes: int) -> Report:
    """Decode every picture and sound that reader `name` finds in `root`. Raises DataError if it cannot read the folder at all."""
    report = Report(name, root)
    first: dict[bytes, Path] = {}
    found: Iterable[Record] = records(name, root, report.tell)
    for finding in tqdm(each(_examine, found, processes, _crashed), desc=f"check {name}", unit="", mininterval=2):
        report.add(finding)
        for digest, path in finding.digests:
            other = first.setdefault(digest, path)
            if other != path:
                report.tell(Fault(path, "duplicate", f"of {report._place(Fault(other, 'duplicate', ''))}"))
    return report


def _examine(record: Record) -> Finding:
    """Decode one record; nothing is raised."""
    faults: list[Fault] = []
    digests: list[tuple[bytes, Path]] = []
    side = seconds = None
    if record.image is not None:
        place = _place(record)
        try:
            side = min(read_image(record.image).shape[:2])
            digests += _digest(record.image, place)
            faults += _extension(place)
        except FaultyFileError as error:
            faults.append(Fault(place, error.reason, error.detail))
    if record.audio is not None:
        try:
            seconds = len(read_audio(record.audio)) / SAMPLING_RATE_HZ
            if record.audio != _place(record):
                digests += _digest(record.audio, record.audio)
                faults += _extension(record.audio)
        except FaultyFileError as error:
            faults.append(Fault(record.audio, error.reason, error.detail))
    return Finding(record, tuple(faults), side, seconds, tuple(digests))


def _crashed(record: Record) -> Finding:
    return Finding(record, (Fault(_place(record), "crashed", "decoding ended the process"),))


def _place(record: Record) -> Path:
    """The file of the picture, else of the sound; a row's key where the picture came out of a table."""
    if isinstance(record.image, np.ndarray):
        return Path(f"{record.source} {record.key}")
    if isinstance(record.image, VideoFrame):
        return record.image.path
    place = record.image or record.audio
    assert place is not None  # a record has one of them
    return place


def _digest(content: Path | VideoFrame | np.ndarray, place: Path) -> list[tuple[bytes, Path]]:
    """The hash of a picture or sound file's bytes, or of an array's; videos are left out, their size would double the work."""
    digest = partial(hashlib.blake2b, digest_size=16)
    if isinstance(content, np.ndarray):
        return [(digest(content.tobytes()).digest(), place)]
    if isinstance(content, VideoFrame):
        return []
    with content.open("rb") as file:
        return [(hashlib.file_digest(file, digest).digest(), place)]


def _extension(path: Path) -> list[Fault]:
    """A note if `path` is a file whose suffix is not its content's."""
    if not path.suffix:
        return []
    right = right_suffixes(path)
    if not right or path.suffix.lower() in right:
        return []
    return [Fault(path, "wrong extension", f"the content is {' or '.join(sorted(right))}")]


def _spread(values: list[Any]) -> list[Any] | None:
    return [min(values), median(values), max(values)] if values else None


def _words(value: Any) -> str:
    """One coverage entry in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(count)}" for name, count in value.items() if count) or "none"
    if isinstance(value, list):
        low, middle, high = value
        return f"{low:g}" if low == high else f"{low:g} to {high:g}, median {middle:g}"
    return "none" if value is None else str(value)
