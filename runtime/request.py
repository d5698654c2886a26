"""What a request is: one table of fields, and the `GenerateRequest` and `GenerateResult` built on it.

`FIELDS` is the only home of a field's name, dtype, range, default and help. Command-line flags, Triton's inputs, the client's
packing and every validation message derive from it. Finer settings are rows of `runtime/options.py`, behind the field `options`.
This module checks values, not media: whether `audio` decodes is `runtime/preprocess`'s business.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any

import numpy as np

from runtime.emotions import EMOTIONS
from runtime.errors import RequestError
from runtime.fields import NUMPY_DTYPE, Field
from runtime.options import MAX_CHARACTERS, OPTIONS, Options

MAX_FILE_BYTES = (
    10 * 2**20
)  # per encoded photo or voice; a request of both stays under the 32 MB a gateway should allow
DEFAULT_STEPS = 50  # paper, Table 3
# Of an edit that is guided away from what its photo shows: what moves the shipped model's edits most while the person stays (docs/editing.md).
EDIT_GUIDANCE_SCALE = 3.0
MAX_PREVIEWS = 100  # of one request: a server keeps them until a slow reader comes for them
SHORT_FLAGS = {"num_inference_steps": ["--steps"], "guidance_scale": ["--guidance"], "edit_from_timestep": ["--t0"]}


FIELDS: tuple[Field, ...] = (
    Field("text", "BYTES", "words that describe the face, UTF-8", low=1, high=1000, is_condition=True),
    Field("audio", "BYTES", "a voice recording: a WAV or FLAC file", low=1, high=MAX_FILE_BYTES, is_condition=True, is_file=True),
    Field("reference", "BYTES", "a photo of the person: a JPEG, PNG or WebP file", low=1, high=MAX_FILE_BYTES, is_condition=True, is_file=True),
    Field("age", "FP32", "age in years", low=0, high=120, is_condition=True),
    Field("emotion", "BYTES", "an emotion label", choices=EMOTIONS, is_condition=True),
    Field("emotion_intensity", "FP32", "how strong the emotion is; needs emotion (default 1)", low=0, high=1, needs="emotion"),
    Field("valence_arousal", "FP32", "how pleasant and how excited, each from -1 to 1", width=2, low=-1, high=1, is_condition=True),
    Field("seed", "INT64", "seed of the noise (default: random, reported)", low=0, high=2**63 - 1),
    Field("num_inference_steps", "INT32", "DDIM steps", low=1, high=1000, default=DEFAULT_STEPS),
    Field("guidance_scale", "FP32", "strength of the conditions; 1 = no guidance (default: the bundle's, of an edit 3)", low=0, high=30),
    Field("edit_from_timestep", "INT32", "edit the reference instead of making a new face: the noise level t0 to which it is inverted first", low=1, high=999, needs="reference"),
    Field("mask", "BYTES", "what of the reference may change: a PNG of its size, white = may, black = stays as it is", low=1, high=MAX_FILE_BYTES, is_file=True, needs="edit_from_timestep"),
    Field("preview_every", "INT32", "send a preview after every so many steps; for streams only", low=1, high=1000, stream_only=True),
    Field("options", "BYTES", "finer settings, a JSON object", low=2, high=MAX_CHARACTERS),
)  # fmt: skip
FIELD_BY_NAME: Mapping[str, Field] = {row.name: row for row in FIELDS}
CONDITIONS = tuple(row.name for row in FIELDS if row.is_condition)


@dataclass(frozen=True)
class GenerateRequest:
    """What to make a face from. Every field is optional, at least one condition must be given; checked on construction.

    Raises RequestError naming the field, the value and the allowed range. Fields are described in `FIELDS`; `options` also takes a
    mapping. `needs_condition` False makes a request for a bundle that draws from noise alone; any other bundle still refuses it.
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
    edit_from_timestep: int | None = None
    mask: bytes | None = None
    preview_every: int | None = None
    options: Options = field(default_factory=Options)
    needs_condition: InitVar[bool] = True

    def __post_init__(self, needs_condition: bool) -> None:
        object.__setattr__(self, "options", Options.of(self.options))
        for row in FIELDS:
            value = getattr(self, row.name)
            if row.name == "options":
                continue
            if value is None:
                object.__setattr__(self, row.name, row.default)
                continue
            object.__setattr__(self, row.name, row.checked(value))
            if row.needs is not None and getattr(self, row.needs) is None:
                raise RequestError(row.name, f"given without {row.needs}; give {row.needs} as well, or leave it out")
        for option in OPTIONS:
            given = getattr(self.options, option.name) != option.default
            if given and option.needs is not None and getattr(self, option.needs) is None:
                raise RequestError(
                    f"options.{option.name}",
                    f"given without {option.needs}; give {option.needs} as well, or leave it out",
                )
            if given and option.not_with is not None and getattr(self, option.not_with) is not None:
                raise RequestError(f"options.{option.name}", f"given beside {option.not_with}; leave one of them out")
        steps = self.num_inference_steps
        if self.edit_from_timestep is not None:  # the way up is seen too
            steps += self.options.inversion_steps or self.num_inference_steps
        if self.preview_every is not None and steps > MAX_PREVIEWS * self.preview_every:
            least = -(-steps // MAX_PREVIEWS)
            raise RequestError(
                "preview_every",
                f"got {self.preview_every} of {steps} steps, allowed at least {least}: {MAX_PREVIEWS} previews at most",
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
        for row in FIELDS:
            value = getattr(self, row.name)
            if value is None or value == Options():
                continue
            if isinstance(value, Options):
                value = value.to_json()
            if isinstance(value, str):
                value = value.encode()
            values = value if row.width > 1 else (value,)
            tensors[row.name] = np.array([values], dtype=NUMPY_DTYPE[row.dtype])
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> GenerateRequest:
        """The inverse of `to_tensors`: named arrays of `width` elements, any leading ones.

        Raises RequestError for an unknown name, a wrong element count, text that is not UTF-8, or any value out of range.
        """
        values: dict[str, Any] = {}
        for name, array in tensors.items():
            row = FIELD_BY_NAME.get(name)
            if row is None:
                raise RequestError(name, f"unknown field; known are {', '.join(FIELD_BY_NAME)}")
            if array.size != row.width:
                raise RequestError(name, f"got {array.size} elements, expected {row.width}")
            flat = array.reshape(-1).tolist()
            values[name] = tuple(flat) if row.width > 1 else flat[0]
            if row.dtype == "BYTES" and not row.is_file and isinstance(values[name], bytes):
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


@dataclass(frozen=True)
class Preview:
    """A face on its way: `image` (H, W, 3) uint8 is what the model expects after `step` of `num_steps` steps, 1-based."""

    step: int
    num_steps: int
    image: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one command-line flag per request field and per option; files are given by path."""
    group = parser.add_argument_group("request (at least one of " + ", ".join(CONDITIONS) + ")")
    for row in _flag_rows():
        row.add_flag(group, *SHORT_FLAGS.get(row.name, ()))
    group.add_argument("--valence", type=float, help="valence alone; needs --arousal as well")
    group.add_argument("--arousal", type=float, help="arousal alone; needs --valence as well")
    finer = parser.add_argument_group("finer settings, the keys of the field `options`")
    for option in OPTIONS:
        option.add_flag(finer)


def from_arguments(arguments: argparse.Namespace, needs_condition: bool = True) -> GenerateRequest:
    """Build a request from flags that `add_arguments` added; reads the files. Raises RequestError."""
    values: dict[str, Any] = {}
    for row in _flag_rows():
        value = getattr(arguments, row.name)
        if value is None:
            continue
        if row.is_file:
            try:
                value = value.read_bytes()
            except OSError as error:
                raise RequestError(row.name, f"cannot read {value}: {error.strerror}") from None
        values[row.name] = tuple(value) if row.width > 1 else value
    pair = (arguments.valence, arguments.arousal)
    if any(value is not None for value in pair):
        if None in pair or "valence_arousal" in values:
            raise RequestError("valence_arousal", "give --valence and --arousal together, or --valence-arousal V A")
        values["valence_arousal"] = pair
    given = {option.name: getattr(arguments, option.name) for option in OPTIONS}
    values["options"] = {name: value for name, value in given.items() if value is not None}
    return GenerateRequest(**values, needs_condition=needs_condition)


def _flag_rows() -> tuple[Field, ...]:
    """Fields that are flags: options have their own, and a command that prints one picture takes no previews."""
    return tuple(row for row in FIELDS if row.name != "options" and not row.stream_only)
