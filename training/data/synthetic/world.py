"""The synthetic world: an endless, deterministic index of people and of their pictures, voices and captions.

Any sample can be drawn alone: every draw has its own generator, seeded by (world seed, purpose, place). People are
split by index, so that no one appears on both sides. Some combinations of traits exist only in the test half, so that
a test asks for faces that training has never seen put together, not only for new numbers. This module knows nothing
of pixels, waveforms or words.
"""

from __future__ import annotations

import itertools

import numpy as np

from training.data.synthetic.expression import valence_arousal
from training.data.synthetic.portrait import render
from training.data.synthetic.shot import Shot, sample_shot
from training.data.synthetic.traits import Person, sample_person

SPLITS = ("train", "test")
TEST_EVERY = 10  # people whose index ends in 9 are for testing

# Each combination names trait signs that training people never have together.
HELD_OUT: tuple[dict[str, int], ...] = (
    {"eye_size": 1, "nose_width": 1, "lip_fullness": -1},
    {"jaw_width": -1, "brow_thickness": 1, "eye_colour": 1},
    {"head_width": 1, "nose_length": 1, "mouth_width": -1},
    {"skin_tone": 1, "eye_spacing": -1, "brow_arch": 1},
)
_PURPOSES = ("person", "shot", "voice", "caption")


def is_held_out(person: Person) -> bool:
    """Whether the person has a combination of traits that no training person has."""
    return any(all(person[trait] * sign > 0 for trait, sign in signs.items()) for signs in HELD_OUT)


def split_of(person: int) -> str:
    """The split that person number `person` belongs to: one of `SPLITS`."""
    return SPLITS[person % TEST_EVERY == TEST_EVERY - 1]


def people(split: str, count: int) -> list[int]:
    """The first `count` person numbers of `split`. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; use one of {', '.join(SPLITS)}.")
    mine = (i for i in itertools.count() if split_of(i) == split)
    return list(itertools.islice(mine, count))


class World:
    """The world of one seed. Stateless: the same arguments give the same bytes, in any order and in any process."""

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"world: seed is {seed}; allowed are integers from 0.")
        self.seed = seed

    def person(self, i: int) -> Person:
        """Person `i`. Test people alternate: a held-out combination of traits, then new numbers in known combinations."""
        rng = self._rng("person", i)
        wanted = split_of(i) == "test" and (i // TEST_EVERY) % 2 == 0
        while True:
            person = sample_person(rng)
            if is_held_out(person) == wanted:
                return person

    def shot(self, i: int, j: int) -> Shot:
        """The conditions of the `j`-th picture of person `i`: age, emotion and nuisance, all fresh."""
        return sample_shot(self._rng("shot", i, j), self.person(i))

    def portrait(self, i: int, j: int, size: int = 128) -> np.ndarray:
        """(size, size, 3) uint8 sRGB: the `j`-th picture of person `i`."""
        return render(self.person(i), self.shot(i, j), size)

    def valence_arousal(self, i: int, j: int) -> tuple[float, float]:
        """(valence, arousal), each in [-1, 1], of the expression in shot (i, j)."""
        shot = self.shot(i, j)
        return valence_arousal(shot.emotion, shot.intensity)

    def voice(self, i: int, j: int) -> np.ndarray:
        """(T,) float32 mono at 16000 Hz: a speaker of the sex, age and emotion of shot (i, j), otherwise a stranger."""
        from training.data.synthetic.voice import speak  # needs a speech library, which pictures do not

        person, shot = self.person(i), self.shot(i, j)
        return speak(person.sex, shot.age, shot.emotion, shot.intensity, self._rng("voice", i, j), split_of(i))

    def caption(self, i: int, j: int, k: int = 0) -> str:
        """The `k`-th way of saying in words what shot (i, j) shows."""
        from training.data.synthetic.captions import caption

        return caption(self.person(i), self.shot(i, j), self._rng("caption", i, j, k), split_of(i))

    def _rng(self, purpose: str, *place: int) -> np.random.Generator:
        seeds = np.random.SeedSequence((self.seed, _PURPOSES.index(purpose), *place))
        return np.random.Generator(np.random.Philox(seeds))
