"""Data sets of flat pictures, written as every cache is, with only the labels that a test gives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from training.data.cache_writer import CacheWriter, Truth

SIZE = 32


def write(
    folder: Path, pictures: Iterable[Truth], clips: Iterable[tuple[Truth, int | None]] = (), captions: str = ""
) -> Path:
    """A cache of the source `folder.name`: picture n is of the grey n, clip n a tone of n + 1 times 100 Hz."""
    with CacheWriter(folder, SIZE) as writer:
        for n, truth in enumerate(pictures):
            writer.add_picture(np.full((SIZE, SIZE, 3), n, np.uint8), truth, [captions] if captions else [])
        for n, (truth, picture) in enumerate(clips):
            wave = np.sin(2 * np.pi * 100 * (n + 1) * np.arange(16_000) / 16_000)
            writer.add_clip(np.round(9000 * wave).astype(np.int16), truth, picture)
        writer.publish(folder.name, {})
    return folder
