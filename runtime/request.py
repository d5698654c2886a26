"""What a request is: one table of fields, and the `GenerateRequest` and `GenerateResult` built on it.

`FIELDS` is the only home of a field's name, dtype, range, default and help. Command-line flags, Triton's inputs, the client's
packing and every validation message derive from it. This module checks values, not media: whether `audio` decodes is
`runtime/preprocess`'s business.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.emotions import EMOTIONS
from runtime.errors import RequestError

MAX_FILE_BYTES = (
    10 * 2**20
)  # per encoded photo or voice; a request of both stays under the 32 MB a gateway should allow
DEFAULT_STEPS = 50  # paper, Table 3


@dataclass(frozen=True)
class Field:
    """One request field.

    `dtype` is Triton's name of the tensor type and `width` its element count. `low` and `high` are inclusive: of the value for
    numbers, of the length for text (characters) and files (bytes). `is_condition` marks what a face can be made from.
    """

    name: str
    dtype: str
    help: str
    width: int = 1
    low: float | None = None
    high: float | None = None
    default: Any = None
    choices: tuple[str, ...] = ()
    is_condition: bool = False
    is_file: bool = False


FIELDS: tuple[Field, ...] = (
    Field("text", "BYTES", "words that describe the face, UTF-8", low=1, high=1000, is_condition=True),
    Field("audio", "BYTES", "a voice recording: a WAV or FLAC file", low=1, high=MAX_FILE_BYTES, is_condition=True, is_file=True),
    Field("reference", "BYTES", "a photo of the person: a JPEG, PNG or WebP file", low=1, high=MAX_FILE_BYTES, is_condition=True, is_file=True),
    Field("age", "FP32", "age in years", low=0, high=120, is_condition=True),
    Field("emotion", "BYTES", "an emotion label", choices=EMOTIONS, is_condition=True),
    Field("emotion_intensity", "FP32", "how strong the emotion is; needs emotion (default 1)", low=0, high=1),
    Field("valence_arousal", "FP32", "how pleasant and how excited, each from -1 to 1", width=2, low=-1, high=1, is_condition=True),
    Field("seed", "INT64", "seed of the noise (default: random, reported)", low=0, high=2**63 - 1),
    Field("num_inference_steps", "INT32", "DDIM steps", low=1, high=1000, default=DEFAULT_STEPS),
    Field("guidance_scale", "FP32", "strength of the conditions; 1 = no guidance (default: the bundle's)", low=0, high=30),
)  # fmt: skip
FIELD_BY_NAME: Mapping[str, Field] = {field.name: field for field in FIELDS}
CONDITIONS = tuple(field.name for field in FIELDS if field.is_condition)
NUMPY_DTYPE: Mapping[str, Any] = {"BYTES": np.object_, "FP32": np.float32, "INT32": np.int32, "INT64": np.int64}


@dataclass(frozen=True)
class GenerateRequest:
    """What to make a face from. Every field is optional, at least one condition must be given; checked on construction.

    Raises RequestError naming the field, the value and the allowed range. Fields are described in `FIELDS`. `needs_condition` False
    makes a request for a bundle that draws from noise alone; any other bundle still refuses it.
    """

    text: str | None = None
    audio: bytes | None = None
    reference: bytes | None = None
    age: float | None = None
    emotion: str | None = None
    emotion_intensity: float | None = None
    valence_arousal: tuple[float, float] | None = None
    seed: int | None = None
    num_inference_steps: int = DEFAULT_STEPS
    guidance_scale: float | None = None
    needs_condition: InitVar[bool] = True

    def __post_init__(self, needs_condition: bool) -> None:
        for field in FIELDS:
            value = getattr(self, field.name)
            if value is None:
                if field.default is not None:
                    object.__setattr__(self, field.name, field.default)
                continue
            object.__setattr__(self, field.name, _checked(field, value))
        if self.emotion_intensity is not None and self.emotion is None:
            raise RequestError(
                "emotion_intensity",
                f"got {self.emotion_intensity:g} without emotion; give emotion as well, or leave it out",
            )
        if needs_condition:
            self.check_conditions()

    def check_conditions(self) -> None:
        """Raise RequestError unless there is one."""
        if not self.conditions:
            raise RequestError("request", f"no condition given; give at least one of {', '.join(CONDITIONS)}")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions that are given, in table order."""
        return tuple(name for name in CONDITIONS if getattr(self, name) is not None)

    def to_tensors(self) -> dict[str, np.ndarray]:
        """The given fields as Triton input arrays of shape (1, width), for a model with `max_batch_size: 1`."""
        tensors = {}
        for field in FIELDS:
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, str):
                value = value.encode()
            values = value if field.width > 1 else (value,)
            tensors[field.name] = np.array([values], dtype=NUMPY_DTYPE[field.dtype])
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> GenerateRequest:
        """The inverse of `to_tensors`: named arrays of `width` elements, any leading ones.

        Raises RequestError for an unknown name, a wrong element count, text that is not UTF-8, or any value out of range.
        """
        values: dict[str, Any] = {}
        for name, array in tensors.items():
            field = FIELD_BY_NAME.get(name)
            if field is None:
                raise RequestError(name, f"unknown field; known are {', '.join(FIELD_BY_NAME)}")
            if array.size != field.width:
                raise RequestError(name, f"got {array.size} elements, expected {field.width}")
            flat = array.reshape(-1).tolist()
            values[name] = tuple(flat) if field.width > 1 else flat[0]
            if field.dtype == "BYTES" and not field.is_file and isinstance(values[name], bytes):
                try:
                    values[name] = values[name].decode("utf-8")
                except UnicodeDecodeError:
                    raise RequestError(name, "not valid UTF-8") from None
        return cls(**values)


@dataclass(frozen=True)
class GenerateResult:
    """A face and how it was made.

    `image` is (H, W, 3) uint8 sRGB. `report` holds seed, steps, guidance, engine, precision, bundle hash, timings in ms,
    `inferred` (what was read from the words or estimated from the photo) and warnings; it is JSON-serialisable.
    """

    image: np.ndarray
    report: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one command-line flag per request field; files are given by path."""
    group = parser.add_argument_group("request (at least one of " + ", ".join(CONDITIONS) + ")")
    for field in FIELDS:
        group.add_argument(
            *_flags(field.name),
            dest=field.name,
            type={"BYTES": Path if field.is_file else str, "FP32": float}.get(field.dtype, int),
            nargs=field.width if field.width > 1 else None,
            metavar=("V", "A") if field.width > 1 else None,
            choices=field.choices or None,
            help=f"{field.help}{_range_help(field)}",
        )
    group.add_argument("--valence", type=float, help="valence alone; needs --arousal as well")
    group.add_argument("--arousal", type=float, help="arousal alone; needs --valence as well")


def from_arguments(arguments: argparse.Namespace, needs_condition: bool = True) -> GenerateRequest:
    """Build a request from flags that `add_arguments` added; reads the files. Raises RequestError."""
    values: dict[str, Any] = {}
    for field in FIELDS:
        value = getattr(arguments, field.name)
        if value is None:
            continue
        if field.is_file:
            try:
                value = value.read_bytes()
            except OSError as error:
                raise RequestError(field.name, f"cannot read {value}: {error.strerror}") from None
        values[field.name] = tuple(value) if field.width > 1 else value
    pair = (arguments.valence, arguments.arousal)
    if any(value is not None for value in pair):
        if None in pair or "valence_arousal" in values:
            raise RequestError("valence_arousal", "give --valence and --arousal together, or --valence-arousal V A")
        values["valence_arousal"] = pair
    return GenerateRequest(**values, needs_condition=needs_condition)


def _flags(name: str) -> list[str]:
    long = "--" + name.replace("_", "-")
    short = {"num_inference_steps": ["--steps"], "guidance_scale": ["--guidance"]}
    return [*short.get(name, []), long]


def _range_help(field: Field) -> str:
    if field.is_file or field.low is None:
        return ""
    unit = " characters" if field.dtype == "BYTES" else ""
    return f" [{field.low:g}..{field.high:g}{unit}]" + (
        f" (default {field.default})" if field.default is not None else ""
    )


def _checked(field: Field, value: Any) -> Any:
    """The value in its Python type, or RequestError."""
    if field.dtype == "BYTES":
        return _checked_file(field, value) if field.is_file else _checked_text(field, value)
    if field.width > 1:
        try:
            values = tuple(value)
        except TypeError:
            raise RequestError(field.name, f"got {value!r}, expected {field.width} numbers") from None
        if len(values) != field.width:
            raise RequestError(field.name, f"got {len(values)} numbers, expected {field.width}")
        return tuple(_checked_number(field, item) for item in values)
    return _checked_number(field, value)


def _checked_number(field: Field, value: Any) -> float | int:
    is_integer = field.dtype.startswith("INT")
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise RequestError(field.name, f"got {_shown(value)}, expected {'an integer' if is_integer else 'a number'}")
    bounds = (
        f"allowed {field.low:g}..{field.high:g}"
        if field.high is not None and field.high < 2**53
        else f"allowed 0..{2**63 - 1}"
    )
    if not math.isfinite(value):
        raise RequestError(field.name, f"got {value}, {bounds}")
    if is_integer and int(value) != value:
        raise RequestError(field.name, f"got {value}, expected an integer, {bounds}")
    if not field.low <= value <= field.high:  # type: ignore[operator,call-overload]
        raise RequestError(field.name, f"got {value:g}, {bounds}" if not is_integer else f"got {int(value)}, {bounds}")
    # FP32 fields are rounded here, so that a request means the same in process as over the wire.
    return int(value) if is_integer else float(np.float32(value))


def _checked_text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(field.name, f"got {_shown(value)}, expected text")
    if field.choices:
        if value not in field.choices:
            raise RequestError(field.name, f"got {_shown(value)}, allowed {', '.join(field.choices)}")
        return value
    if not value.strip():
        raise RequestError(field.name, f"empty; allowed {field.low:g}..{field.high:g} characters")
    if len(value) > field.high:  # type: ignore[operator]
        raise RequestError(field.name, f"got {len(value)} characters, allowed {field.low:g}..{field.high:g}")
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise RequestError(field.name, "holds a NUL character or a lone surrogate")
    return value


def _checked_file(field: Field, value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise RequestError(field.name, f"got {_shown(value)}, expected the bytes of a file")
    data = bytes(value)
    if not data:
        raise RequestError(field.name, f"empty; expected {field.help}")
    if len(data) > field.high:  # type: ignore[operator]
        raise RequestError(field.name, f"got {len(data)} bytes, allowed at most {field.high:g}")
    return data


def _shown(value: Any) -> str:
    """A value short enough to print back: what a caller sent must not fill the log."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
