"""Stage: the identity network, from pairs of pictures (ArcFace, Deng et al. 2019, with the batch in place of class weights).

Two pictures of a person must be closer than either is to anyone else's in the batch, with an additive angular margin on the
positive. The two differ in age, expression, light and hair. A linear head on the identity vector, thrown away afterwards, also
asks for the traits that make a person in the synthetic world: contrast alone starts very slowly from nothing.
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
from training.data.synthetic.world import World
from training.model import ClipFaceFusion
from training.pictures import disturbed, save_grid, to_model

ANGULAR_MARGIN = 0.2  # radians; 0.5 is for millions of pictures
SCALE = 16.0  # of unit vectors, before softmax and before the trait head
TRAIT_WEIGHT = 8.0  # a guess's squared error is 0.33


class IdentityStage:
    """`batch_size` pictures as pairs of people."""

    name = "identity"

    def __init__(self, model: ClipFaceFusion, cache: WorldCache) -> None:
        self.cache, self.identity, self.traits = cache, model.identity_encoder, person_traits(cache)
        head = nn.Linear(model.config.features, self.traits.shape[1])
        self.module = nn.ModuleDict({"identity": self.identity, "traits": head})
        self.shots = cache.shots

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        count = len(self.cache) // self.shots
        people = rng.choice(count, min(batch_size // 2, count), replace=False)
        first, second = np.array([rng.choice(self.shots, 2, replace=False) for _ in people]).T
        rows = np.concatenate([people * self.shots + first, people * self.shots + second])
        image = disturbed(to_model(self.cache.images[rows]), rng).to(memory_format=torch.channels_last)
        vectors = self.identity(image).float()
        traits = (self.module["traits"](SCALE * vectors).float() - torch.from_numpy(self.traits[rows])).square().mean()
        identity, same = pair_loss(vectors)
        return {"loss": identity + TRAIT_WEIGHT * traits, "identity": identity, "traits": traits, "same_person": same}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Eight people, and below each the nearest by identity among other pictures of them and of many more people."""
        count = min(8, len(self.cache) // self.shots)
        gallery = to_model(self.cache.images[1 :: self.shots][:256])
        probe = to_model(self.cache.images[:: self.shots][:count])
        nearest = (self.identity(probe) @ self.identity(gallery).T).argmax(1)
        save_grid(torch.cat([probe, gallery[nearest]]), count, path)


def pair_loss(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Loss, and accuracy, of finding each first picture's second: unit vectors (2B, D), the first half paired with the second.

    In float32 whatever the autocast: a cosine of 1 - 1e-5 is 1 in bfloat16.
    """
    first, second = vectors.chunk(2)
    with torch.autocast("cpu", enabled=False):
        cosine = first @ second.T
        diagonal = torch.arange(len(first))
        same = cosine[diagonal, diagonal].clamp(-0.999, 0.999)  # the sine's slope is infinite at 1
        sine = (1 - same**2).sqrt()
        logits = cosine.clone()
        logits[diagonal, diagonal] = same * math.cos(ANGULAR_MARGIN) - sine * math.sin(ANGULAR_MARGIN)
        loss = (F.cross_entropy(SCALE * logits, diagonal) + F.cross_entropy(SCALE * logits.T, diagonal)) / 2
    return loss, (cosine.argmax(1) == diagonal).float().mean()


def person_traits(cache: WorldCache) -> np.ndarray:
    """(N, traits) float32: the sex and the traits of the person on each picture."""
    world, people = World(cache.seed), np.unique(cache.person)
    vectors = np.stack([world.person(int(person)).vector() for person in people])
    return vectors[np.searchsorted(people, cache.person)]
