"""What preprocessing hands to conditioning: one request as checked arrays, in the form in which they also cross Triton.

Every field is always an array. One that is absent is a single zero of the right rank, and `present` says so: a tensor cannot be
left out between two models of an ensemble. Letters: L text length, T audio samples, S side of CLIP's picture, H W of the model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from runtime.spec import SOURCES

TEXT_SOURCES = SOURCES[:3]  # the first rows of `input_ids`: the text, its age phrase, its emotion phrase
SOURCE_TEXT = "source_text"  # the last one: words that describe the photo of an edit as it is
TEXT_ROWS = (*TEXT_SOURCES, SOURCE_TEXT)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One prepared request.

    present              (1, 9) float32, in SOURCES order: 1 = given
    input_ids            (4, L) int64, rows in TEXT_ROWS order; an absent text's row is zeros
    attention_mask       (4, L) int64
    input_values         (1, T) float32, 16 kHz, zero mean and unit variance
    pixel_values         (1, 3, S, S) float32, CLIP's normalisation
    face                 (1, 3, 112, 112) float32, ArcFace's normalisation
    image                (1, 3, H, W) float32 in [-1, 1], the reference as the estimators want it, and as an edit starts from it
    mask                 (1, 1, H, W) float32 in 0..1, where an edit may change it: 1 = may
    age                  (1, 1) float32, years
    emotion              (1, 8) float32, one-hot times intensity
    valence_arousal      (1, 2) float32 in [-1, 1]
    settings             (1,) object, UTF-8 JSON of `SampleSettings`: seed drawn, guidance_scale the bundle's, if the request had none
    notes                (1,) object, UTF-8 JSON: what the report will say about the request, see `report`
    """

    present: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray
    input_values: np.ndarray
    pixel_values: np.ndarray
    face: np.ndarray
    image: np.ndarray
    mask: np.ndarray
    age: np.ndarray
    emotion: np.ndarray
    valence_arousal: np.ndarray
    settings: np.ndarray
    notes: np.ndarray

    @property
    def report(self) -> dict[str, Any]:
        """`conditions` given, `inferred` phrases, `warnings`, `seed_was_random`, and `timings_ms` of preprocessing."""
        return json.loads(self.notes[0])

    def has(self, source: str) -> bool:
        """Whether one of SOURCES is given."""
        return bool(self.present[0, SOURCES.index(source)])

    def to_tensors(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Prepared:
        """The inverse of `to_tensors`; TypeError for a missing or an unknown name."""
        return cls(**tensors)
