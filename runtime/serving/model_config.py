"""Triton model configurations: what they are made of, and their text. It knows no particular model.

A configuration is a mapping that mirrors Triton's protobuf message `ModelConfig`: mappings are messages, lists of mappings
repeated ones, tuples repeated scalars. Triton's names are used: a tensor's `dims` leave out the batch dimension.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRITON_TYPE = {"BYTES": "TYPE_STRING", "float32": "TYPE_FP32", "int64": "TYPE_INT64"} | {
    name: f"TYPE_{name}" for name in ("FP32", "INT32", "INT64")
}
CONFIG_FILE = "config.pbtxt"


class Symbol(str):
    """A protobuf enumeration value: written without quotes."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a Triton model; `dims` without the batch, -1 = any size.

    `dims` of () are a tensor that has the batch dimension only. Triton wants at least one size, so its callers see [B, 1] and
    the model gets [B].
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    def to_config(self) -> dict[str, Any]:
        """The entry of `config.pbtxt`."""
        entry: dict[str, Any] = {"name": self.name, "data_type": Symbol(self.data_type), "dims": self.dims or (1,)}
        if not self.dims:
            entry["reshape"] = {"shape": ()}
        return {**entry, "optional": True} if self.optional else entry


def parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """The entries of a map from names to strings, as `ModelConfig.parameters` holds them."""
    return [{"key": name, "value": {"string_value": value}} for name, value in values.items()]


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a model's configuration into its folder."""
    (folder / CONFIG_FILE).write_text("\n".join(_lines(config)) + "\n", encoding="utf-8")


def _lines(message: Mapping[str, Any], indent: str = "") -> list[str]:
    """A message in protobuf's text format."""
    lines = []
    for name, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                lines += [f"{indent}{name} {{", *_lines(each, indent + "  "), indent + "}"]
            else:
                lines.append(f"{indent}{name}: {_scalar(each)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, Symbol):
        return value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
