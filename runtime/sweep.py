"""One request many times, with one thing or several varied: `age=20:70:6`, `emotion=all`, `circumplex=8`.

What can be varied follows from the tables of request fields and options, so a new row can be swept at once. It knows requests and
words, not who answers them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import RequestError
from runtime.fields import Field
from runtime.options import OPTION_BY_NAME
from runtime.request import FIELD_BY_NAME, SHORT_FLAGS, GenerateRequest

MAX_PICTURES = 200
CIRCUMPLEX = "circumplex"
RADIUS = 0.85  # in Russell's circle of valence and arousal, where labels at full intensity lie: 0.6 (calm) to 1 (happy, fearful)
FIXED = ("reference", "mask", "options", "preview_every")  # a sweep is about one photo, in pictures
ALIASES = {flag.removeprefix("--"): name for name, flags in SHORT_FLAGS.items() for flag in flags}
WORDS = {name: alias for alias, name in ALIASES.items()} | {
    "edit_from_timestep": "noise level t0",
    "valence_arousal": "valence and arousal",
}
UNITS = {"age": " years"}


@dataclass(frozen=True)
class Sweep:
    """A request field or an option with the values it takes, and a word for each; `is_cycle`: the first follows the last."""

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    is_cycle: bool = False

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """From `NAME=VALUES`. Raises RequestError naming `sweep`, or the field whose range a value leaves.

        age=20:70:6                 six numbers from 20 to 70, both included
        emotion=happy,sad           these; `all` means every choice there is
        circumplex=8                eight points of valence and arousal on a circle
        text=with glasses|laughing  words, which may hold commas
        audio=a.wav,b.wav           files
        guidance_interval=0/500,200/800   fields of several numbers
        """
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise RequestError(
                "sweep", f"got '{text}', expected NAME=VALUES, e.g. age=20:70:6, emotion=all, circumplex=8"
            )
        if name == CIRCUMPLEX:
            return cls._circle(values)
        name = ALIASES.get(name, name)
        field = SWEPT.get(name)
        if field is None:
            raise RequestError("sweep", f"got '{name}', allowed {CIRCUMPLEX}, {', '.join(SWEPT)}")
        if field.is_file:
            paths = [Path(path) for path in values.split(",")]
            return cls(
                name, tuple(field.checked(_read(name, path)) for path in paths), tuple(path.stem for path in paths)
            )
        found = tuple(field.checked(value) for value in _values(field, values))
        return cls(name, found, tuple(_label(field, value) for value in found))

    @classmethod
    def _circle(cls, count: str) -> Sweep:
        if not count.isdecimal() or not 2 <= int(count) <= MAX_PICTURES:
            raise RequestError("sweep", f"{CIRCUMPLEX}: got '{count}', allowed 2..{MAX_PICTURES} points")
        field = FIELD_BY_NAME["valence_arousal"]
        turns = [2 * math.pi * n / int(count) for n in range(int(count))]
        points = tuple(field.checked((RADIUS * math.cos(turn), RADIUS * math.sin(turn))) for turn in turns)
        return cls(field.name, points, tuple(_label(field, point) for point in points), is_cycle=True)

    @property
    def title(self) -> str:
        """What it varies, for people."""
        return WORDS.get(self.name, self.name).replace("_", " ")

    @property
    def provenance(self) -> list[Any] | int:
        """The values as they may stand in a picture's file: nothing that a person wrote or spoke, only how many of these."""
        field = SWEPT[self.name]
        return len(self.values) if field.dtype == "BYTES" and not field.choices else list(self.values)


@dataclass(frozen=True)
class Variation:
    """One picture of a sweep: its request and a word for each thing that is varied."""

    request: GenerateRequest
    labels: tuple[str, ...]


def variations(request: GenerateRequest, sweeps: Sequence[Sweep]) -> list[Variation]:
    """Every combination of the sweeps' values, the last sweep's fastest. Raises RequestError if they do not fit together."""
    names = [sweep.name for sweep in sweeps]
    for name in names:
        if names.count(name) > 1:
            raise RequestError("sweep", f"{name} is given twice")
    count = math.prod(len(sweep.values) for sweep in sweeps)
    if count > MAX_PICTURES:
        raise RequestError("sweep", f"makes {count} pictures, allowed at most {MAX_PICTURES}")
    choices = itertools.product(*(zip(sweep.values, sweep.labels, strict=True) for sweep in sweeps))
    return [
        Variation(
            changed(request, {name: value for name, (value, _) in zip(names, chosen, strict=True)}),
            tuple(label for _, label in chosen),
        )
        for chosen in choices
    ]


def changed(request: GenerateRequest, values: Mapping[str, Any]) -> GenerateRequest:
    """The request with other values of fields and options, checked together. Raises RequestError."""
    fields = {name: value for name, value in values.items() if name in FIELD_BY_NAME}
    options = {name: value for name, value in values.items() if name in OPTION_BY_NAME}
    return dataclasses.replace(request, **fields, options=dataclasses.replace(request.options, **options))


SWEPT: Mapping[str, Field] = {
    **{name: field for name, field in FIELD_BY_NAME.items() if name not in FIXED},
    **OPTION_BY_NAME,
}


def _values(field: Field, text: str) -> list[Any]:
    """What stands behind NAME=, in the type of the field and not yet checked."""
    if field.choices:
        return list(field.choices) if text == "all" else text.split(",")
    if field.dtype == "BYTES":
        return text.split("|")
    if field.dtype == "BOOL":
        return [
            {"true": True, "false": False}.get(word, word)
            for word in ("false,true" if text == "all" else text).split(",")
        ]
    if field.width > 1:
        return [tuple(_number(field, part) for part in word.split("/")) for word in text.split(",")]
    if ":" not in text:
        return [_number(field, word) for word in text.split(",")]
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdecimal() or not 2 <= int(parts[2]) <= MAX_PICTURES:
        raise RequestError(
            "sweep", f"{field.name}: got '{text}', expected FIRST:LAST:COUNT with a count of 2..{MAX_PICTURES}"
        )
    first, last, count = _number(field, parts[0]), _number(field, parts[1]), int(parts[2])
    values = [first + (last - first) * n / (count - 1) for n in range(count)]
    return [round(value) for value in values] if field.dtype.startswith("INT") else values


def _number(field: Field, word: str) -> float | int:
    try:
        return int(word) if field.dtype.startswith("INT") else float(word)
    except ValueError:
        expected = "an integer" if field.dtype.startswith("INT") else "a number"
        raise RequestError("sweep", f"{field.name}: got '{word}', expected {expected}") from None


def _label(field: Field, value: Any) -> str:
    if field.name == "valence_arousal":
        # No break between word and number; and -0 becomes 0.
        return "valence\u00a0{:+.2g}, arousal\u00a0{:+.2g}".format(*(round(part, 2) + 0.0 for part in value))
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "on" if value else "off"
    numbers = "–".join(
        f"{part:.3g}" if isinstance(part, float) else str(part) for part in (value if field.width > 1 else (value,))
    )
    return numbers + UNITS.get(field.name, "")


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(name, f"cannot read {path}: {error.strerror}") from None
