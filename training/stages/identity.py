"""Stage: the identity network, with an additive angular margin (ArcFace, Deng et al. 2019).

Pictures of a person must be closer to each other than to anyone else's; they differ in age, expression, light and hair. What
"anyone else" is depends on the data: see `IdentityStage`. With the synthetic world in the data, a linear head on the identity
vector, thrown away afterwards, also asks for the traits that make a person there: contrast alone starts very slowly from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.angular_margin import AngularMargin, ClassWeights, pair_loss
from training.data.cache import WORLD, DataCache
from training.data.synthetic.world import World
from training.labels import Labels
from training.model import ClipFaceFusion
from training.pictures import augmented_crop, disturbed, resized, save_grid, to_model

PAIRS = AngularMargin(0.2, 16.0)
CLASSES = AngularMargin(0.5, 64.0)  # the paper's, for data sets with many pictures of each person
MANY_PICTURES = 8  # per person, on average over those who have more than one; fewer do not fix a direction of their own
TRAIT_SCALE = 16.0  # of unit vectors, before the trait head
TRAIT_WEIGHT = 8.0  # a guess's squared error is 0.33


class IdentityStage:
    """Persons with many pictures each (CACD, VoxCeleb) get class weights, `batch_size` single pictures; else pairs of pictures.

    Persons with one picture are left out, unless all are such (FFHQ): then a crop of the picture stands for the second. `margin`
    is `CLASSES` or `PAIRS` where it is not given.
    """

    name = "identity"

    def __init__(self, model: ClipFaceFusion, cache: DataCache, margin: AngularMargin | None = None) -> None:
        self.cache, self.identity, self.size = cache, model.identity_encoder, model.config.identity_size
        self.module = nn.ModuleDict({"identity": self.identity})
        self.autoencoder = model.autoencoder if model.autoencoder is not None and model.autoencoder.is_trained else None
        several = cache.drawable & (cache.pictures > 1)
        self.has_seconds = bool(several.any())
        self.usable = several if self.has_seconds else cache.drawable
        persons = np.unique(cache.person[self.usable])
        self.classes: ClassWeights | None = None
        self.person, self.margin = cache.person, margin or PAIRS
        if self.usable.sum() >= MANY_PICTURES * len(persons):
            self.person, self.margin = np.searchsorted(persons, cache.person), margin or CLASSES  # of usable rows only
            self.classes = ClassWeights(len(persons), model.config.features, self.margin)
            self.module["classes"] = self.classes
        self.traits = person_traits(cache) if WORLD in cache.sources else None
        if self.traits is not None:
            self.module["traits"] = nn.Linear(model.config.features, self.traits.shape[1])

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        count = batch_size if self.classes is not None else batch_size // 2
        rows = self.cache.draw(rng, max(2, count), self.usable)  # one vector has no spread to centre it by
        image = self._pictures(rows)
        if self.classes is None:
            second_rows, second = self._seconds(rows, rng)
            rows, image = np.concatenate([rows, second_rows]), torch.cat([image, second])
        vectors = self._vectors(disturbed(image, rng, self.autoencoder))
        person = torch.from_numpy(self.person[rows]).to(vectors.device)
        if self.classes is None:
            identity, same = pair_loss(vectors, person.chunk(2)[0], self.margin)
        else:
            identity, same = self.classes(vectors, person)
        losses = {"loss": identity, "identity": identity, "same_person": same}
        if self.traits is not None:
            truth = Labels.of(self.traits[rows], vectors.device)
            guess = self.module["traits"](TRAIT_SCALE * vectors).float()
            error = (guess - truth.values).square().mean(dim=1)
            losses |= {"loss": identity + TRAIT_WEIGHT * truth.mean(error), "traits": truth.measured(error)}
        return losses

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Eight people, and below each the nearest by identity among other pictures of them and of many more people."""
        first = np.unique(self.cache.first_picture[self.usable])[:256]
        probe, (_, gallery) = self._pictures(first[:8]), self._seconds(first, np.random.default_rng(0))
        nearest = (self._vectors(probe) @ self._vectors(gallery).T).argmax(1)
        save_grid(torch.cat([probe, gallery[nearest]]), len(probe), path)

    def _vectors(self, image: Tensor) -> Tensor:
        return self.identity(resized(image, self.size).to(memory_format=torch.channels_last)).float()

    def _seconds(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
        """Rows and pictures that go with `rows` as pairs."""
        if not self.has_seconds:
            return rows, augmented_crop(self._pictures(rows), rng)
        seconds, _ = self.cache.another(rows, rng)
        return seconds, self._pictures(seconds)

    def _pictures(self, rows: np.ndarray) -> Tensor:
        return to_model(self.cache.images[rows]).to(next(self.module.parameters()).device)


def person_traits(cache: DataCache) -> np.ndarray:
    """(N, traits) float32: sex and traits of the person on each picture of the world, NaN on every other source's."""
    world, ours = World(cache.seed), cache.source == cache.sources.index(WORLD)
    people = np.unique(cache.person[ours])
    vectors = np.stack([world.person(int(person)).vector() for person in people])
    traits = np.full((len(cache), vectors.shape[1]), np.nan, np.float32)
    traits[ours] = vectors[np.searchsorted(people, cache.person[ours])]
    return traits
