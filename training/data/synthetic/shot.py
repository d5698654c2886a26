"""A shot: everything about one picture of a person that is not the person.

Age and emotion are the truth that models learn; the rest is nuisance, drawn independently of identity, age and emotion,
so that no model can read one from the other. The one exception is a beard, which only men from 18 years wear. Whether
white hair is dyed is drawn for everyone and shows only where there is white hair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.emotions import EMOTIONS
from training.data.synthetic.ageing import OLDEST, YOUNGEST
from training.data.synthetic.traits import Person

Colour = tuple[float, float, float]  # sRGB, each 0..1

HAIR_STYLES = ("shaved", "short", "side part", "fringe", "bob", "long", "curly", "bun")
HAIR_COLOURS: dict[str, Colour] = {
    "black": (0.11, 0.10, 0.12),
    "dark brown": (0.24, 0.16, 0.12),
    "brown": (0.42, 0.27, 0.17),
    "auburn": (0.50, 0.22, 0.13),
    "red": (0.64, 0.32, 0.17),
    "dark blonde": (0.66, 0.50, 0.30),
    "blonde": (0.87, 0.73, 0.46),
}
GLASSES = ("none", "round", "square")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
CLOTHES = ("crew neck", "v-neck", "collar", "turtleneck")
BACKGROUNDS = ("plain", "gradient", "halo", "two-tone", "bokeh")
ADULT = 18.0
WEAKEST = 0.4  # below this intensity the labels cannot be told apart, not even by people


@dataclass(frozen=True)
class Light:
    """`side` -1 (from the left of the picture) … 1, `height` 0 (level) … 1 (from above), `warmth` -1 … 1, `contrast` 0 … 1."""

    side: float = -0.5
    height: float = 0.6
    warmth: float = 0.0
    contrast: float = 0.5


@dataclass(frozen=True)
class Pose:
    """`yaw` and `roll` in radians, `scale` relative to the standard framing, `shift_x`, `shift_y` in half picture sizes,
    `gaze_x`, `gaze_y` -1 … 1."""

    yaw: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0


@dataclass(frozen=True)
class Shot:
    """One picture's conditions: age in years (5 to 85), emotion label, intensity in [0, 1], and the nuisance variables."""

    age: float
    emotion: str = "neutral"
    intensity: float = 1.0
    hair_style: str = "short"
    hair_colour: str = "brown"
    dyed: bool = False
    glasses: str = "none"
    glasses_colour: Colour = (0.15, 0.13, 0.13)
    beard: str = "none"
    clothes: str = "crew neck"
    clothes_colour: Colour = (0.35, 0.45, 0.60)
    background: str = "gradient"
    background_colours: tuple[Colour, Colour] = ((0.72, 0.80, 0.86), (0.55, 0.66, 0.76))
    light: Light = Light()
    pose: Pose = Pose()
    grain: int = 0  # phase of strands, curls and bokeh

    def __post_init__(self) -> None:
        if not YOUNGEST <= self.age <= OLDEST:
            raise ValueError(f"shot: age is {self.age!r} years; allowed are {YOUNGEST:g} to {OLDEST:g}.")
        if not 0.0 <= self.intensity <= 1.0:
            raise ValueError(f"shot: intensity is {self.intensity!r}; allowed are 0 to 1.")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"shot: {name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}.")


def sample_shot(rng: np.random.Generator, person: Person) -> Shot:
    """A fresh picture of `person`: age uniform in 5 … 85 years, emotion uniform over the labels, nuisance at random."""
    age = float(rng.uniform(YOUNGEST, OLDEST))
    beard = str(rng.choice(BEARDS, p=(0.5, 0.125, 0.125, 0.125, 0.125)))
    return Shot(
        age=age,
        emotion=EMOTIONS[int(rng.integers(len(EMOTIONS)))],
        intensity=float(rng.uniform(WEAKEST, 1.0)),
        hair_style=str(rng.choice(HAIR_STYLES)),
        hair_colour=str(rng.choice(tuple(HAIR_COLOURS))),
        dyed=bool(rng.random() < 0.2),
        glasses=str(rng.choice(GLASSES, p=(0.76, 0.12, 0.12))),
        glasses_colour=_hsv(rng.random(), rng.uniform(0.0, 0.6), rng.uniform(0.08, 0.4)),
        beard=beard if person.sex == 1 and age >= ADULT else "none",
        clothes=str(rng.choice(CLOTHES)),
        clothes_colour=_hsv(rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.2, 0.8)),
        background=str(rng.choice(BACKGROUNDS)),
        background_colours=_background_colours(rng),
        light=Light(*(float(value) for value in rng.uniform((-1.0, 0.2, -1.0, 0.15), (1.0, 1.0, 1.0, 1.0)))),
        pose=Pose(
            yaw=float(np.clip(rng.normal(0.0, 0.12), -0.26, 0.26)),
            roll=float(np.clip(rng.normal(0.0, 0.05), -0.12, 0.12)),
            scale=float(rng.uniform(0.95, 1.04)),
            shift_x=float(rng.uniform(-0.04, 0.04)),
            shift_y=float(rng.uniform(-0.03, 0.03)),
            gaze_x=float(np.clip(rng.normal(0.0, 0.35), -1.0, 1.0)),
            gaze_y=float(np.clip(rng.normal(0.0, 0.2), -0.6, 0.6)),
        ),
        grain=int(rng.integers(1 << 16)),
    )


_CHOICES: dict[str, tuple[str, ...]] = {
    "emotion": EMOTIONS,
    "hair_style": HAIR_STYLES,
    "hair_colour": tuple(HAIR_COLOURS),
    "glasses": GLASSES,
    "beard": BEARDS,
    "clothes": CLOTHES,
    "background": BACKGROUNDS,
}


def _background_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two neighbouring colours of moderate saturation, so that the face stays the most coloured thing in the picture."""
    hue, saturation, value = rng.random(), rng.uniform(0.04, 0.3), rng.uniform(0.35, 0.85)
    return (
        _hsv(hue, saturation, value),
        _hsv(hue + rng.uniform(-0.12, 0.12), saturation * rng.uniform(0.7, 1.4), value * rng.uniform(0.65, 0.9)),
    )


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    """sRGB of a hue (turns, wraps), saturation 0..1 and value 0..1."""
    wave = np.clip(np.abs((hue + np.array([0.0, 2 / 3, 1 / 3])) % 1.0 * 6.0 - 3.0) - 1.0, 0.0, 1.0)
    red, green, blue = value * (1.0 - saturation * (1.0 - wave))
    return float(red), float(green), float(blue)
