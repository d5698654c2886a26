"""Which words for looks are true of the synthetic pictures in a cache: what CLIP's training and the evaluation's judge learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.cache import WORLD, DataCache
from training.data.synthetic.looks import looks
from training.data.synthetic.world import World

SEX = "sex"
# By the label of `DataCache.sex`; the first word stands for all.
SEXES = (("woman", "lady", "girl"), ("man", "gentleman", "guy", "boy"))


@dataclass(frozen=True)
class Looks:
    """`phrases` are (topic, phrase) pairs; `true` (N, phrases) float32 says which hold of each picture, NaN where nobody knows."""

    phrases: tuple[tuple[str, str], ...]
    true: np.ndarray

    def among(self, phrases: tuple[tuple[str, str], ...]) -> Looks:
        """What is true of `phrases`, in their order; NaN for those that nothing is known of."""
        true = np.full((len(self.true), len(phrases)), np.nan, np.float32)
        for place, phrase in enumerate(phrases):
            if phrase in self.phrases:
                true[:, place] = self.true[:, self.phrases.index(phrase)]
        return Looks(phrases, true)


def world_looks(cache: DataCache) -> Looks:
    """All phrases of `training.data.synthetic.looks` that hold of any picture of the world; other sources' pictures are unknown."""
    world, ours = World(cache.seed), np.flatnonzero(cache.source == cache.sources.index(WORLD))
    places = zip(cache.person[ours], ours - cache.first_picture[ours], strict=True)
    said = [_said(world, int(i), int(j)) for i, j in places]
    phrases = tuple(sorted(set().union(*said)))
    true = np.full((len(cache), len(phrases)), np.nan, np.float32)
    true[ours] = [[phrase in of_picture for phrase in phrases] for of_picture in said]
    return Looks(phrases, true)


def prompted_looks(cache: DataCache) -> Looks:
    """`world_looks`, and the sex, which is a word for looks to whoever reads a prompt."""
    known = world_looks(cache)
    sexes = np.stack([np.where(cache.sex < 0, np.nan, cache.sex == label) for label in range(len(SEXES))], axis=1)
    phrases = tuple((SEX, words[0]) for words in SEXES)
    return Looks((*known.phrases, *phrases), np.hstack([known.true, sexes.astype(np.float32)]))


def _said(world: World, i: int, j: int) -> set[tuple[str, str]]:
    """(topic, phrase) pairs."""
    found = looks(world.person(i), world.shot(i, j))
    return {(topic, phrase) for topic, phrases in found.items() for phrase in phrases}
