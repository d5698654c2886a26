"""Pictures one after another in one file, WebP or GIF, with what made them in it. It knows pictures, not what changes between them.

WebP keeps colours and carries the same XMP packet as a still; GIF has 256 colours a frame and carries a comment. Layout: (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtime.provenance import COMMENT, LOSSY_QUALITY, describe

FRAME_MS = 500
FORMAT_BY_SUFFIX = {".webp": "WEBP", ".gif": "GIF"}


def save_animation(frames: Sequence[np.ndarray], path: Path, report: Mapping[str, Any], is_cycle: bool = False) -> None:
    """Write frames of one size that play without end: forth and back, or round and round if the first follows the last.

    Raises ValueError for another suffix or no frame, OSError if the file cannot be written.
    """
    kind = animation_format(path)
    if not frames:
        raise ValueError("an animation needs a frame")
    order = list(frames) if is_cycle else [*frames, *frames[-2:0:-1]]
    first, *others = (Image.fromarray(frame) for frame in order)
    information, xmp = describe(report)
    options: dict[str, Any] = {"quality": LOSSY_QUALITY, "xmp": xmp.encode()}
    if kind == "GIF":
        options = {"comment": COMMENT + information.encode(), "optimize": True}
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=others, duration=FRAME_MS, loop=0, **options)
    path.write_bytes(file.getvalue())


def animation_format(path: Path) -> str:
    """The format that a path's suffix stands for; ValueError for one that cannot be written."""
    kind = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"cannot write '{path.name}'; use a name that ends in {', '.join(FORMAT_BY_SUFFIX)}")
    return kind
