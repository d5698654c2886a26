"""The files below a data set's folder, in an order that is the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from training.data.faults import Fault, Tell, tell_nobody

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".m4a", ".ogg", ".mp3"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov"})
MEDIA_SUFFIXES = IMAGE_SUFFIXES | AUDIO_SUFFIXES | VIDEO_SUFFIXES


def files(root: Path, tell: Tell = tell_nobody) -> Iterator[Path]:
    """Every file below `root`, sorted within each folder, parents before children; read while it is iterated.

    Links are followed, each real folder once. Names that start with a dot are left out, and the "__MACOSX" folders that some
    archives carry: what lies there is no picture, whatever its name. A folder that cannot be opened is told as "unreadable".
    """

    def on_error(error: OSError) -> None:
        tell(Fault(Path(error.filename or root), "unreadable", error.strerror or type(error).__name__))

    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=on_error, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def relative(path: Path, root: Path) -> str:
    """`path` below `root` with forward slashes; names that are not UTF-8 keep their bytes as surrogates."""
    return path.relative_to(root).as_posix()


def tell_unknown(path: Path, rule: str, tell: Tell) -> None:
    """Tell of a picture, sound or video whose name does not follow `rule`; other files (a licence, a table) are nobody's fault."""
    if path.suffix.lower() in MEDIA_SUFFIXES:
        tell(Fault(path, "unknown name", f"expected {rule}"))
