"""What all metrics look at: the model, the held-out data, the judges, and what they read in real pictures (each once)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from training.data.cache import WORLD, DataCache
from training.data.looks import Looks, prompted_looks
from training.evaluation.lpips import LPIPS
from training.evaluation.making import autoencoded, halves
from training.evaluation.panel import Panel, Reading
from training.evaluation.traits import TraitReader
from training.examples import Examples
from training.model import ClipFaceFusion
from training.pictures import to_clip, to_model
from training.stages.identity import person_traits

BLUR = 1 / 64  # of the picture's side: the deviation of the Gaussian that is held beside made pictures
_CHUNK = 64


class RealReadings:
    """What the judges read in real pictures, by row, each picture read once."""

    def __init__(self, cache: DataCache, judges: Panel) -> None:
        self.cache, self.judges = cache, judges
        self.rows = np.empty(0, np.int64)
        self.reading: Reading | None = None

    def of(self, rows: np.ndarray) -> Reading:
        """The reading of `rows`, in their order; a row may occur twice."""
        new = np.setdiff1d(rows, self.rows)
        if len(new):
            found = self.judges.read(self.cache.images[new])
            self.reading = found if self.reading is None else self.reading.with_more(found)
            self.rows = np.concatenate([self.rows, new])
        assert self.reading is not None
        order = np.argsort(self.rows)
        return self.reading.of(order[np.searchsorted(self.rows, rows, sorter=order)])


@dataclass(frozen=True)
class Scene:
    """`real` (N,) rows to compare with and `targets` (N,) rows to ask for, of different people; `heard` (V,) the emotion that a probe
    names for each voice of the cache, None where there is no probe."""

    examples: Examples
    judges: Panel
    real: np.ndarray
    targets: np.ndarray
    readings: RealReadings = field(repr=False)
    lpips: LPIPS | None = None
    heard: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        examples: Examples,
        judges: Panel,
        count: int,
        lpips: LPIPS | None = None,
        heard: np.ndarray | None = None,
    ) -> Scene:
        """With at most `count` real pictures and targets."""
        real, targets = halves(examples.cache, count)
        return cls(examples, judges, real, targets, RealReadings(examples.cache, judges), lpips, heard)

    @property
    def cache(self) -> DataCache:
        """The held-out data."""
        return self.examples.cache

    @property
    def model(self) -> ClipFaceFusion:
        """The checkpoint that is judged."""
        return self.examples.model

    def traits_of(self, reading: Reading) -> np.ndarray | None:
        """(N, T) traits of the people in pictures, as `person_traits` numbers them, in the judges' eyes; None where no truth is known.

        Judges that were not taught any are asked for their identity vectors, by a regression on the real pictures: none of a person
        whom a model is asked for.
        """
        if WORLD not in self.cache.sources:
            return None
        return reading.traits if reading.traits.shape[1] else self._trait_reader.read(reading.identity)

    @cached_property
    def looks(self) -> Looks:
        """Which words for looks are true of the world's pictures."""
        return prompted_looks(self.cache)

    @cached_property
    def _trait_reader(self) -> TraitReader:
        truth = person_traits(self.cache)[self.real]
        known = np.isfinite(truth).all(1)
        return TraitReader.fitted(self.readings.of(self.real[known]).identity, truth[known])

    def worse(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Real pictures (N, S, S, 3) as "autoencoded", where the model is latent, and "blurred"."""
        found = {"blurred": blur(pictures)}
        through = autoencoded(self.examples, pictures)
        return found if through is None else {"autoencoded": through, **found}

    @torch.no_grad()
    def clip_features(self, pictures: np.ndarray) -> np.ndarray:
        """(N, D) CLIP image features by the checkpoint's own encoder."""
        size, parts = self.model.spec().clip_image_size, []
        device = next(self.model.image_encoder.parameters()).device
        for start in range(0, len(pictures), _CHUNK):
            image = to_model(pictures[start : start + _CHUNK]).to(device)
            if image.shape[-1] != size:
                image = F.interpolate(image, (size, size), mode="bicubic", antialias=True, align_corners=False)
            parts.append(self.model.encode_image(to_clip(image)).float().cpu())
        return torch.cat(parts).numpy()


def blur(pictures: np.ndarray) -> np.ndarray:
    """(N, S, S, 3) uint8 under a Gaussian of deviation `BLUR` of the side."""
    deviation = BLUR * pictures.shape[1]
    return gaussian_filter(pictures.astype(np.float32), (0, deviation, deviation, 0)).round().astype(np.uint8)
