"""What conditioning hands to sampling: one request as the arrays that the sampler reads, in the form in which they cross Triton.

As in `runtime/preprocess/prepared.py`, what is absent crosses as a single zero of the right rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.settings import SampleSettings

SOURCE = "source_"  # before the name of a cond entry: the same entry for the photo as it is


@dataclass(frozen=True, eq=False)
class Conditioned:
    """One request, ready to be sampled. Letters: H W of the model's pictures.

    cond         name -> float32 array without batch dimension, the UNet's entries for what is asked
    settings     how to sample
    report       what is known so far, JSON-serialisable
    source_cond  the same entries for the photo as it is; None unless an edit asks to invert under them
    image        (1, 3, H, W) float32 in [-1, 1], the reference; None without one
    mask         (1, 1, H, W) float32 in 0..1, 1 = may change; None without one
    """

    cond: Mapping[str, np.ndarray]
    settings: SampleSettings
    report: dict[str, Any]
    source_cond: Mapping[str, np.ndarray] | None = None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Every array by name, absent ones as zeros."""
        sources = {
            SOURCE + name: np.zeros((1,) * array.ndim, np.float32)
            if self.source_cond is None
            else self.source_cond[name]
            for name, array in self.cond.items()
        }
        pictures = {"image": _or_zero(self.image), "mask": _or_zero(self.mask)}
        notes = np.array([json.dumps(self.report).encode()], np.object_)
        return {**self.cond, **sources, **pictures, "settings": self.settings.to_array(), "notes": notes}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Conditioned:
        """The inverse of `to_tensors`. Raises RequestError for settings that are none, KeyError for a missing name."""
        arrays = dict(tensors)
        settings, notes = SampleSettings.from_array(arrays.pop("settings")), arrays.pop("notes")
        image, mask = arrays.pop("image"), arrays.pop("mask")
        source = {name: arrays.pop(name) for name in list(arrays) if name.startswith(SOURCE)}
        has_source = all(array.size > 1 for array in source.values()) and bool(source)
        return cls(
            cond=arrays,
            settings=settings,
            report=json.loads(notes[0]),
            source_cond={name.removeprefix(SOURCE): array for name, array in source.items()} if has_source else None,
            image=image if image.size > 1 else None,
            mask=mask if mask.size > 1 else None,
        )


def _or_zero(picture: np.ndarray | None) -> np.ndarray:
    return np.zeros((1, 1, 1, 1), np.float32) if picture is None else picture
