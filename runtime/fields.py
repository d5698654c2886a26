"""What one input of a request is, and the check of a value against it. The tables: `runtime/request.py`, `runtime/options.py`.

Knows values, not media: whether a file decodes is `runtime/preprocess`'s business.
"""

from __future__ import annotations

import argparse
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import RequestError

NUMPY_DTYPE: Mapping[str, Any] = {
    "BYTES": np.object_,
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}

SHOWN_CHARACTERS = 60  # of a value that is printed back


@dataclass(frozen=True)
class Field:
    """One input.

    `dtype` is Triton's name of the tensor type and `width` its element count. `low` and `high` are inclusive: of the value for
    numbers, of the length for text (characters) and files (bytes). `is_condition` marks what a face can be made from,
    `stream_only` what makes sense only where answers come in parts. `needs` names another input without which this one says nothing,
    `not_with` one beside which it cannot stand.
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
    stream_only: bool = False
    needs: str | None = None
    not_with: str | None = None

    def checked(self, value: Any) -> Any:
        """The value in its Python type. Raises RequestError naming the field, the value and what is allowed."""
        if self.dtype == "BYTES":
            return _checked_file(self, value) if self.is_file else _checked_text(self, value)
        if self.dtype == "BOOL":
            return _checked_bool(self, value)
        if self.width > 1:
            try:
                values = tuple(value)
            except TypeError:
                raise RequestError(self.name, f"got {shown(value)}, expected {self.width} numbers") from None
            if len(values) != self.width:
                raise RequestError(self.name, f"got {len(values)} numbers, expected {self.width}")
            return tuple(_checked_number(self, item) for item in values)
        return _checked_number(self, value)

    def add_flag(self, group: Any, *short: str) -> None:
        """Add the command-line flag of this field to an argparse group; a file is given by its path."""
        flags, target = (
            (*short, "--" + self.name.replace("_", "-")),
            {"dest": self.name, "help": self.help + self._range},
        )
        if self.dtype == "BOOL":
            group.add_argument(*flags, **target, action=argparse.BooleanOptionalAction, default=None)
            return
        group.add_argument(
            *flags,
            **target,
            type={"BYTES": Path if self.is_file else str, "FP32": float}.get(self.dtype, int),
            nargs=self.width if self.width > 1 else None,
            metavar=tuple("ABCD"[: self.width]) if self.width > 1 else None,
            choices=self.choices or None,
        )

    @property
    def _range(self) -> str:
        """What `--help` says about the allowed values."""
        if self.is_file or self.low is None:
            return "" if self.default is None or self.is_file else f" (default {self.default})"
        unit = " characters" if self.dtype == "BYTES" else ""
        default = f" (default {self.default})" if self.default is not None else ""
        return f" [{self.bounds}{unit}]{default}"

    @property
    def bounds(self) -> str:
        """The range in digits that can be typed back, "1..1000"; "0..0.5" for numbers with a fraction."""
        return "..".join(f"{end:g}" if self.dtype == "FP32" else f"{end:d}" for end in (self.low, self.high))


def shown(value: Any) -> str:
    """A value short enough to print back: what a caller sent must not fill the log."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def _checked_number(field: Field, value: Any) -> float | int:
    is_integer = field.dtype.startswith("INT")
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise RequestError(field.name, f"got {shown(value)}, expected {'an integer' if is_integer else 'a number'}")
    bounds = f"allowed {field.bounds}"
    if not isinstance(value, int) and not math.isfinite(value):  # an integer may be too large to ask
        raise RequestError(field.name, f"got {value}, {bounds}")
    if is_integer and int(value) != value:
        raise RequestError(field.name, f"got {value}, expected an integer, {bounds}")
    if not field.low <= value <= field.high:  # type: ignore[operator,call-overload]
        got = shown(int(value)) if is_integer or isinstance(value, int) else f"{value:g}"
        raise RequestError(field.name, f"got {got}, {bounds}")
    # FP32 fields are rounded here, so that a request means the same in process as over the wire.
    return int(value) if is_integer else float(np.float32(value))


def _checked_bool(field: Field, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise RequestError(field.name, f"got {shown(value)}, expected true or false")
    return bool(value)


def _checked_text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(field.name, f"got {shown(value)}, expected text")
    if field.choices:
        if value not in field.choices:
            raise RequestError(field.name, f"got {shown(value)}, allowed {', '.join(field.choices)}")
        return value
    if not value.strip():
        raise RequestError(field.name, f"empty; allowed {field.bounds} characters")
    if len(value) > field.high:  # type: ignore[operator]
        raise RequestError(field.name, f"got {len(value)} characters, allowed {field.bounds}")
    odd = next((c for c in value if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r"), None)
    if odd is not None:
        raise RequestError(field.name, f"holds the control character {odd!r}, allowed are tabs and line ends")
    return value


def _checked_file(field: Field, value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise RequestError(field.name, f"got {shown(value)}, expected the bytes of a file")
    data = bytes(value)
    if not data:
        raise RequestError(field.name, f"empty; expected {field.help}")
    if len(data) > field.high:  # type: ignore[operator]
        raise RequestError(field.name, f"got {len(data)} bytes, allowed at most {field.high}")
    return data
