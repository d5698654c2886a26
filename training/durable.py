"""Files that a kill or a power cut leaves whole or absent: written beside their place, forced to disk, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor


def publish(partial: Path, final: Path) -> None:
    """Move the file or folder `partial` to `final`, replacing what is there, after all of it has reached the disk.

    A folder in the way is moved aside first: a reader may for a moment find nothing at `final`, never half of it.
    """
    for path in (partial, *partial.rglob("*")) if partial.is_dir() else (partial,):
        _sync(path)
    if final.is_dir():
        old = final.with_name(final.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old)
    else:
        partial.rename(final)
    _sync(final.parent)


def write_text(path: Path, text: str) -> None:
    """Write or replace one text file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    publish(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Write or replace one JSON file. Raises ValueError for a number that JSON has no form for."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write or replace one safetensors file; tensors of any device are copied to the CPU."""
    partial = path.with_name(path.name + ".partial")
    # Not `save_file`, which makes files that only their owner can read; copies, because it refuses shared memory.
    partial.write_bytes(
        to_bytes({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
    )
    publish(partial, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
