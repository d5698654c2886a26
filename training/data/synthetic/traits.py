"""Identity: the traits that stay with a person at every age, in every mood and in every picture.

A trait is a number in [-1, 1] with 0 in the middle of the population. Traits and sex are drawn independently of each
other, and this module knows nothing of age, emotion, hair, clothes or light: those belong to a picture (`shot`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRAITS = {
    "head_width": "narrow … wide skull and cheekbones",
    "jaw_width": "pointed … square jaw",
    "chin_length": "short … long chin",
    "cheek_fullness": "hollow … round cheeks",
    "forehead_height": "low … high forehead",
    "eye_size": "small … large eyes",
    "eye_spacing": "close … wide-set eyes",
    "eye_tilt": "outer corners down … up",
    "eye_colour": "dark brown … hazel … green … light blue",
    "brow_thickness": "thin … bushy brows",
    "brow_height": "low … high brows",
    "brow_arch": "flat … arched brows",
    "nose_width": "narrow … broad nose",
    "nose_length": "short … long nose",
    "nose_tip": "pointed and low … round and upturned tip",
    "lip_fullness": "thin … full lips",
    "mouth_width": "narrow … wide mouth",
    "ear_size": "small … large ears",
    "skin_tone": "lightest … deepest skin",
    "skin_undertone": "rosy … golden skin",
}
SEXES = ("female", "male")


@dataclass(frozen=True)
class Person:
    """One identity: `sex` is a place in `SEXES`, `values` holds one number in [-1, 1] per entry of `TRAITS`, in its order."""

    sex: int
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.sex not in (0, 1):
            raise ValueError(f"person: sex is {self.sex!r}; allowed are 0 (female) and 1 (male).")
        if len(self.values) != len(TRAITS):
            raise ValueError(
                f"person: {len(self.values)} trait values; {len(TRAITS)} are needed, in the order of TRAITS."
            )
        for name, value in zip(TRAITS, self.values, strict=True):
            if not -1.0 <= value <= 1.0:
                raise ValueError(f"person: trait {name!r} is {value!r}; allowed are -1 to 1.")

    def __getitem__(self, trait: str) -> float:
        """The value of one trait. Raises KeyError for a name that is not in `TRAITS`."""
        return self.values[_PLACES[trait]]

    def with_trait(self, trait: str, value: float) -> Person:
        """The same person with one trait changed."""
        place = _PLACES[trait]
        return Person(self.sex, (*self.values[:place], value, *self.values[place + 1 :]))

    def vector(self) -> np.ndarray:
        """(1 + traits,) float32: sex first, then the traits in the order of `TRAITS`."""
        return np.array([self.sex, *self.values], dtype=np.float32)


def sample_person(rng: np.random.Generator) -> Person:
    """A person drawn uniformly: every sign pattern of traits is equally likely, and extremes are common enough to learn."""
    sex = int(rng.integers(2))
    return Person(sex, tuple(float(value) for value in rng.uniform(-1.0, 1.0, len(TRAITS))))


_PLACES = {name: place for place, name in enumerate(TRAITS)}
