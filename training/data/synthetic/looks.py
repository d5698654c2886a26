"""Looks in words: hair, beard, glasses, skin, eyes and background of a portrait, each said only where it is true.

`looks(person, shot)` lists everything that may be said of a picture; captions choose from it, and tests and contrastive training ask
it whether a caption made for one picture also holds for another. Where a colour lies between two names both are true. Knows
neither age words nor emotions.
"""

from __future__ import annotations

import colorsys

from training.data.synthetic.ageing import age_face
from training.data.synthetic.shot import ADULT, Colour, Shot
from training.data.synthetic.traits import Person

TOPICS = ("hair", "beard", "glasses", "skin", "eyes", "background")

_STYLES = {
    "shaved": ("a shaved head", "a buzz cut"),
    "short": ("short hair", "short {colour} hair"),
    "side part": ("parted hair", "parted {colour} hair"),
    "fringe": ("a fringe", "a {colour} fringe", "hair with a fringe"),
    "bob": ("a bob", "a {colour} bob", "chin-length {colour} hair"),
    "long": ("long hair", "long {colour} hair"),
    "curly": ("curly hair", "curly {colour} hair"),
    "bun": ("hair in a bun", "{colour} hair in a bun"),
}
_BEARDS = {
    "none": ("a clean-shaven face",),
    "stubble": ("stubble", "a stubbly chin"),
    "moustache": ("a moustache",),
    "goatee": ("a goatee",),
    "full": ("a beard", "a full beard"),
}
_GLASSES = {"none": (), "round": ("glasses", "round glasses"), "square": ("glasses", "square glasses")}
# Overlapping ranges of a trait in [-1, 1].
_SKINS = (
    ("fair skin", -1.0, -0.4),
    ("light skin", -1.0, -0.2),
    ("tanned skin", -0.15, 0.35),
    ("brown skin", 0.2, 1.0),
    ("dark skin", 0.4, 1.0),
)
_EYES = (
    ("dark eyes", -1.0, -0.75),
    ("brown eyes", -1.0, -0.3),
    ("hazel eyes", -0.25, 0.2),
    ("green eyes", 0.15, 0.7),
    ("blue eyes", 0.8, 1.0),
)
# Overlapping ranges of hue in turns; red wraps.
_HUES = (
    ("red", -0.04, 0.04),
    ("orange", 0.03, 0.12),
    ("yellow", 0.11, 0.21),
    ("green", 0.19, 0.46),
    ("turquoise", 0.43, 0.54),
    ("blue", 0.51, 0.71),
    ("purple", 0.69, 0.84),
    ("pink", 0.81, 0.97),
)
_GREY, _COLOURED = 0.16, 0.11  # at most and at least this saturation


def looks(person: Person, shot: Shot) -> dict[str, tuple[str, ...]]:
    """For each of TOPICS every phrase that is true of the picture; empty where there is nothing to say."""
    return {
        "hair": _hair(shot),
        "beard": _BEARDS[shot.beard] if person.sex == 1 and shot.age >= ADULT else (),
        "glasses": _GLASSES[shot.glasses],
        "skin": _named(person["skin_tone"], _SKINS),
        "eyes": _named(person["eye_colour"], _EYES),
        "background": _background(shot),
    }


def colour_names(colour: Colour) -> set[str]:
    """Every name that people may give to an sRGB colour (each channel 0..1)."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*colour)
    names = set()
    if saturation <= _GREY:
        names.add("grey")
    if saturation >= _COLOURED:
        names |= {name for name, low, high in _HUES if low <= hue <= high or low <= hue - 1 <= high}
    return names


def _hair(shot: Shot) -> tuple[str, ...]:
    phrases = _STYLES[shot.hair_style]
    if shot.hair_style == "shaved":
        return phrases
    colours = _hair_colours(shot)
    said = [f"{colour} hair" for colour in colours]
    for phrase in phrases:
        said += [phrase.format(colour=colour) for colour in colours] if "{colour}" in phrase else [phrase]
    return tuple(said)


def _hair_colours(shot: Shot) -> tuple[str, ...]:
    """The natural colour while it shows; white hair once it prevails; between the two only "greying"."""
    white = 0.0 if shot.dyed else age_face(shot.age).greying
    if white < 0.2:
        return (shot.hair_colour,)
    if white < 0.6:
        return ("greying",)
    return ("grey",) if white < 0.85 else ("grey", "white")


def _background(shot: Shot) -> tuple[str, ...]:
    first, second = shot.background_colours
    return tuple(sorted(colour_names(first) & colour_names(second)))


def _named(value: float, ranges: tuple[tuple[str, float, float], ...]) -> tuple[str, ...]:
    return tuple(name for name, low, high in ranges if low <= value <= high)
