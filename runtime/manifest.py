"""The manifest of a bundle: what it holds, what it was made from, and the SHA-256 of every file.

A file of a bundle is valid only through its entry here, and a file without an entry is refused; nothing is loaded before `verify`.
This module knows the format, not how files are made (`export/`) or opened (`runtime/bundle.py`).

Format: `manifest.json`, UTF-8 JSON, one object; `FORMAT_VERSION` counts incompatible changes. The bundle's hash is the SHA-256 of
the bytes of `manifest.json`, and so covers every file. Names of files are relative, with forward slashes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.errors import BundleError
from runtime.plans import Plan
from runtime.schedule import Schedule
from runtime.spec import EngineSpec, ModelSpec, TensorSpec, engine_specs

FORMAT_VERSION = 2
MANIFEST_FILE = "manifest.json"
TOKENIZER = "tokenizer.json"
CONSTANTS = "constants.safetensors"
PARITY = "parity.safetensors"
SAMPLES = "samples"
ONNX, ONNX_FP16 = "onnx", "onnx-fp16"
KINDS = (ONNX, ONNX_FP16)  # of ONNX files: folder names, and keys of `parity` and `precision`
RANGES = f"{ONNX_FP16}/ranges.json"
REMEDY = "export it again (python -m export CHECKPOINT BUNDLE), or copy it again"
_CHUNK_BYTES = 1 << 20


def onnx_file(engine: str, kind: str = ONNX) -> str:
    """Name of an engine's ONNX file inside the bundle: of its FP32-compute one, or of that in FP16."""
    return f"{kind}/{engine}.onnx"


@dataclass(frozen=True)
class Manifest:
    """One bundle's manifest; the fields are the entries of the JSON object.

    engines            engine name -> tensor contract; it must be what this runtime derives from `model`
    guidance_scale     what a request without one gets
    files              name -> {"sha256": hex, "bytes": int}, all but the manifest itself
    parity             kind -> {"limits", "engines": {engine: {"max_abs_error", "relative_error"}}, "step", "trajectory", "image",
                       "inversion"}: against torch, measured at export (`runtime/ladder.py`), and of a chaotic model "sensitivity"
    parity_missed      the comparisons that failed, a sentence each; only an export that was told to go on writes any
    precision          kind -> how weights are stored and what is computed in
    fp16               engine -> {"nodes", "kept": {reason: nodes}, "largest", "tensor", "overflowing"}: what FP16 graphs leave in FP32,
                       and the largest activation met on measured trajectories; every tensor's is in `onnx-fp16/ranges.json`
    memory             engine -> {"weight_bytes": {kind: int}, "context_bytes": {"opt": int, "max": int}}, estimated
    versions           package -> version at export
    checkpoint_sha256  of the checkpoint that was exported
    weights            engine -> {"licence", "commercial_use": yes|no|unknown}
    training           provenance of the weights
    plans              compiled TensorRT plans that come with the bundle

    Raises BundleError for another format version, engine specs that differ from this runtime's (the networks would not mean what
    the code believes), a name that leaves the bundle, a file that every bundle needs and this one does not list, or one that none has.
    """

    format_version: int
    name: str
    model: ModelSpec
    schedule: Schedule
    guidance_scale: float
    engines: Mapping[str, EngineSpec]
    files: Mapping[str, Mapping[str, Any]]
    parity: Mapping[str, Any]
    parity_missed: Sequence[str]
    precision: Mapping[str, str]
    fp16: Mapping[str, Mapping[str, Any]]
    memory: Mapping[str, Mapping[str, Any]]
    versions: Mapping[str, str]
    checkpoint_sha256: str
    weights: Mapping[str, Mapping[str, str]]
    training: Mapping[str, Any]
    plans: Sequence[Plan]

    def __post_init__(self) -> None:
        _check_version(self.format_version)
        if not math.isfinite(self.guidance_scale) or self.guidance_scale < 0:
            raise BundleError(
                f"{MANIFEST_FILE}: guidance_scale is {self.guidance_scale}; it must be finite and at least 0"
            )
        _check_engines(self.engines, engine_specs(self.model))
        for name, record in self.files.items():
            _check_record(name, record)
        needed = {
            *([TOKENIZER] if self.model.cond else []),  # without conditions there are no words
            CONSTANTS,
            PARITY,
            *(onnx_file(engine, kind) for engine in self.engines for kind in self.kinds),
        }
        needed |= {plan.file for plan in self.plans}
        missing = sorted(needed - set(self.files))
        if missing:
            raise BundleError(f"{MANIFEST_FILE}: does not list {', '.join(missing)}; {REMEDY}")
        foreign = sorted(
            name for name in set(self.files) - needed if name != RANGES and not name.startswith(SAMPLES + "/")
        )
        if foreign:
            raise BundleError(
                f"{MANIFEST_FILE}: lists {', '.join(foreign)}, which no part of a bundle is called; {REMEDY}"
            )
        if len({plan.file for plan in self.plans}) != len(self.plans):
            raise BundleError(f"{MANIFEST_FILE}: lists a plan twice; {REMEDY}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of ONNX files in this bundle: `onnx`, and `onnx-fp16` if it has any of these."""
        return tuple(kind for kind in KINDS if kind == ONNX or any(name.startswith(kind + "/") for name in self.files))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `manifest.json`, entries in the order of the fields."""
        return {
            **{entry.name: getattr(self, entry.name) for entry in fields(self)},
            "model": self.model.to_dict(),
            "schedule": self.schedule.to_dict(),
            "engines": {name: spec.to_dict() for name, spec in self.engines.items()},
            "files": {name: dict(self.files[name]) for name in sorted(self.files)},
            "plans": [plan.to_dict() for plan in self.plans],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Manifest:
        """The inverse of `to_dict`. Raises BundleError, also for unknown or missing entries."""
        _check_version(values.get("format_version"))  # before anything whose meaning another version may have changed
        unknown = sorted(set(values) - {entry.name for entry in fields(cls)})
        if unknown:
            raise BundleError(f"{MANIFEST_FILE}: unknown entries {', '.join(unknown)}; {REMEDY}")
        try:
            model = ModelSpec.from_dict(values["model"])
            stored = {name: _engine_spec(name, spec) for name, spec in values["engines"].items()}
            schedule = Schedule.from_dict(values["schedule"])
            plans = tuple(Plan.from_dict(plan) for plan in values["plans"])
            return cls(**{**values, "model": model, "schedule": schedule, "engines": stored, "plans": plans})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{MANIFEST_FILE}: {type(error).__name__}: {error}; {REMEDY}") from None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `folder/manifest.json`; raises BundleError. It does not look at the other files: `verify` does."""
        try:
            data = (folder / MANIFEST_FILE).read_bytes()
        except OSError as error:
            raise BundleError(
                f"no readable {MANIFEST_FILE} in '{folder.name}': {error.strerror}; is this a bundle?"
            ) from None
        try:
            values = json.loads(data)
        except ValueError:
            raise BundleError(f"{MANIFEST_FILE}: not valid JSON; {REMEDY}") from None
        if not isinstance(values, dict):
            raise BundleError(f"{MANIFEST_FILE}: holds no JSON object; {REMEDY}")
        return cls.from_dict(values)

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`, whole or not at all; the same manifest gives the same bytes."""
        partial = folder / (MANIFEST_FILE + ".partial")
        partial.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.rename(folder / MANIFEST_FILE)

    def verify(self, folder: Path) -> None:
        """Raise BundleError unless every listed file is there as a plain file, with the recorded size and SHA-256, and nothing else is."""
        for name, record in self.files.items():
            read_checked(folder, name, record, keep=False)
        known = {*self.files, MANIFEST_FILE}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if name not in known and (path.is_symlink() or not path.is_dir()):
                raise BundleError(f"{name}: is not in the manifest; remove it, or {REMEDY}")


def read_checked(folder: Path, name: str, record: Mapping[str, Any], keep: bool = True) -> bytes:
    """The content of a listed file (empty unless `keep`), read once and checked; BundleError if it is not what was recorded.

    Links are refused, symbolic and hard ones alike: what a second name can change is not this bundle's alone.
    """
    _check_name(name)
    path = folder
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(
                f"{name}: is reached through a symbolic link; a bundle holds plain files only, copy it with what it points to"
            )
    if not path.is_file():
        raise BundleError(f"{name}: {'is not a plain file' if path.exists() else 'missing'}; {REMEDY}")
    digest, content = hashlib.sha256(), bytearray()
    try:
        with open(path, "rb", opener=_open_plain) as file:
            _check_status(
                name, os.fstat(file.fileno()), record
            )  # of what was opened, whatever the name points to by now
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                if keep:
                    content += chunk
    except OSError as error:
        raise BundleError(f"{name}: cannot be read ({error.strerror}); {REMEDY}") from None
    if digest.hexdigest() != record["sha256"]:
        raise BundleError(
            f"{name}: SHA-256 is {digest.hexdigest()[:12]}…, the manifest says {str(record['sha256'])[:12]}…; {REMEDY}"
        )
    return bytes(content)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _open_plain(path: str, flags: int) -> int:
    """`os.open` that neither follows a link nor waits for the writer of a pipe, where the system can tell."""
    return os.open(
        path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )


def _check_status(name: str, status: os.stat_result, record: Mapping[str, Any]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{name}: is not a plain file; {REMEDY}")
    if status.st_nlink > 1:
        raise BundleError(
            f"{name}: has {status.st_nlink} hard links, and could be changed under another name; copy the bundle (cp -r)"
        )
    if status.st_size != record["bytes"]:
        raise BundleError(f"{name}: has {status.st_size} bytes, the manifest says {record['bytes']}; {REMEDY}")


def _engine_spec(name: str, values: Mapping[str, Any]) -> EngineSpec:
    """The inverse of `EngineSpec.to_dict`."""
    tensors = {
        kind: tuple(TensorSpec(t["name"], t["dtype"], tuple(t["shape"])) for t in values[kind])
        for kind in ("inputs", "outputs")
    }
    return EngineSpec(name, **tensors, ranges={letter: tuple(bounds) for letter, bounds in values["ranges"].items()})


def _check_version(version: Any) -> None:
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST_FILE}: format_version is {version!r}, this runtime reads {FORMAT_VERSION}; "
            "install the matching clipfacefusion, or export the bundle again"
        )


def _check_engines(stored: Mapping[str, EngineSpec], derived: Mapping[str, EngineSpec]) -> None:
    differing = [name for name in {**derived, **stored} if stored.get(name) != derived.get(name)]
    if differing:
        raise BundleError(f"{MANIFEST_FILE}: engine specs of {', '.join(differing)} are not this runtime's; {REMEDY}")


def _check_record(name: str, record: Mapping[str, Any]) -> None:
    _check_name(name)
    if set(record) != {"sha256", "bytes"}:
        raise BundleError(
            f"{MANIFEST_FILE}: the entry of '{name}' holds {sorted(record)}, expected sha256 and bytes; {REMEDY}"
        )
    digest, size = record["sha256"], record["bytes"]
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise BundleError(
            f"{MANIFEST_FILE}: sha256 of '{name}' is {digest!r}, expected 64 hexadecimal digits; {REMEDY}"
        )
    if type(size) is not int or size < 0:
        raise BundleError(f"{MANIFEST_FILE}: bytes of '{name}' is {size!r}, expected a whole number; {REMEDY}")


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or path.as_posix() != name:
        raise BundleError(f"{MANIFEST_FILE}: file name {name!r} does not stay inside the bundle; {REMEDY}")
