"""Stage: the three face networks on one batch of pictures: age, emotion with valence/arousal, identity.

Identity learns from pairs: two pictures of a person must be closer than either is to anyone else's in the batch, with an
additive angular margin (ArcFace, Deng et al. 2019) on the positive. The two differ in age, expression, light and hair.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.cache import WorldCache
from training.model import ClipFaceFusion
from training.pictures import save_grid, to_model

ANGULAR_MARGIN = 0.2  # radians; 0.5 is for tens of millions of pictures
SCALE = 16.0
AGE_SCALE_YEARS = 10.0  # an error of ten years weighs as much as a nat of the label's cross entropy
NOISE = 0.12  # half width, at most; pictures from a decoder are never as clean as renders


class FacesStage:
    """`batch_size` pictures as pairs of people."""

    name = "faces"

    def __init__(self, model: ClipFaceFusion, cache: WorldCache) -> None:
        self.cache = cache
        self.age, self.emotion, self.identity = model.age_estimator, model.emotion_estimator, model.identity_encoder
        self.module = nn.ModuleDict({"age": self.age, "emotion": self.emotion, "identity": self.identity})
        self.shots = int(np.flatnonzero(np.diff(cache.person))[0]) + 1

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        people = rng.choice(
            len(self.cache) // self.shots, min(batch_size // 2, len(self.cache) // self.shots), replace=False
        )
        first, second = np.array([rng.choice(self.shots, 2, replace=False) for _ in people]).T
        rows = np.concatenate([people * self.shots + first, people * self.shots + second])
        image = self._disturbed(to_model(self.cache.images[rows]), rng).to(memory_format=torch.channels_last)

        age_error = (self.age(image).float()[:, 0] - torch.from_numpy(self.cache.age[rows])).abs()
        labels, values = self.emotion.logits(image)
        truth = torch.from_numpy(self.cache.emotion[rows])
        emotion = F.cross_entropy(labels.float(), truth)
        value_error = (values.float() - torch.from_numpy(self.cache.valence_arousal[rows])).square().mean()
        identity, same = self._identity(self.identity(image).float())
        loss = (
            F.smooth_l1_loss(age_error / AGE_SCALE_YEARS, torch.zeros_like(age_error))
            + emotion
            + 4 * value_error
            + identity
        )
        return {
            "loss": loss,
            "age_mae": age_error.mean(),
            "emotion_accuracy": (labels.argmax(1) == truth).float().mean(),
            "identity": identity,
            "same_person": same,
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Each of eight people beside the nearest picture by identity among the others' and their own second pictures."""
        count = min(8, len(self.cache) // self.shots)
        gallery = to_model(self.cache.images[1 :: self.shots][:256])
        probe = to_model(self.cache.images[:: self.shots][:count])
        nearest = (self.identity(probe) @ self.identity(gallery).T).argmax(1)
        save_grid(torch.cat([probe, gallery[nearest]]), count, path)

    @staticmethod
    def _identity(features: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of finding each first picture's second. In float32: a cosine of 1 - 1e-5 is 1 in bfloat16."""
        first, second = features.chunk(2)
        with torch.autocast("cpu", enabled=False):
            cosine = first @ second.T
            diagonal = torch.arange(len(first))
            same = cosine[diagonal, diagonal].clamp(-0.999, 0.999)  # the sine's slope is infinite at 1
            logits = cosine.clone()
            logits[diagonal, diagonal] = same * math.cos(ANGULAR_MARGIN) - (1 - same**2).sqrt() * math.sin(ANGULAR_MARGIN)
            loss = (F.cross_entropy(SCALE * logits, diagonal) + F.cross_entropy(SCALE * logits.T, diagonal)) / 2
        return loss, (cosine.argmax(1) == diagonal).float().mean()

    @staticmethod
    def _disturbed(image: Tensor, rng: np.random.Generator) -> Tensor:
        """Half of the batch slightly blurred, all of it slightly noisy, mirrored at random: what an estimator meets later."""
        blurred, mirrored = np.flatnonzero(rng.random(len(image)) < 0.5), np.flatnonzero(rng.random(len(image)) < 0.5)
        image[blurred] = F.avg_pool2d(F.pad(image[blurred], (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        image[mirrored] = image[mirrored].flip(3)
        return image + NOISE * rng.random() * (2 * torch.rand_like(image) - 1)
