"""Anatomy: person and age become the measures and colours of a face at rest.

Every trait moves its own measure by a share of it, every age amount moves groups of measures, so both stay visible
together. Measures are in face units (half a picture), positions with u to the right and v down from the middle of the
head. Expression, hair and everything else about the picture come later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.synthetic.ageing import Ageing
from training.data.synthetic.traits import Person


@dataclass(frozen=True)
class Anatomy:
    """Measures of a resting face; widths and heights named `half_…` run from a centre to an edge."""

    male: bool
    crown: float  # v of the top of the skull
    hairline: float  # v of the hairline above the middle of the forehead
    temple: float  # half width at the temples
    cheek: float  # half width at the cheekbones
    jaw: float  # half width at the jaw corners
    chin_half_width: float
    chin: float  # v of the lowest point
    jowl: float  # how far the jaw line sags
    half_neck: float
    shoulder: float  # v where shoulders begin
    eye_u: float
    eye_v: float
    eye_half_width: float
    eye_above: float  # height of the opening above the line between the corners
    eye_below: float
    eye_slant: float  # rise of the outer corner per unit of half width
    lid_hood: float  # how far skin hangs over the upper lid, 0..1
    iris: float  # radius
    brow_v: float
    brow_half_thickness: float
    brow_arch: float
    nose_v: float  # v of the nose base
    half_nose: float
    nose_round: float  # -1 pointed and low … 1 round and upturned
    mouth_v: float
    half_mouth: float
    upper_lip: float  # thickness
    lower_lip: float
    mouth_droop: float
    half_ear: float  # half height
    ear_out: float  # how far it stands out
    cheek_fullness: float  # -1 hollow … 1 round
    skin: np.ndarray  # (3,) sRGB, as are all colours
    lips: np.ndarray
    iris_colour: np.ndarray


def build_anatomy(person: Person, ageing: Ageing) -> Anatomy:
    """The resting face of `person` at the age that `ageing` describes."""
    child, mature, sag, crease = ageing.childhood, ageing.maturity, ageing.sagging, ageing.creasing
    male = person.sex * (1.0 - 0.75 * child)  # sexes differ little before puberty
    female = (1 - person.sex) * (1.0 - 0.6 * child)
    width = 0.515 * (1.0 + 0.14 * person["head_width"]) * (1.0 + 0.03 * male)
    chin = 0.72 + 0.075 * person["chin_length"] + 0.03 * male + 0.03 * mature - 0.16 * child
    eye_v = -0.03 + 0.035 * person["forehead_height"] + 0.135 * child - 0.02 * mature
    nose_length = (0.30 + 0.065 * person["nose_length"]) * (1.0 - 0.34 * child + 0.05 * mature + 0.17 * sag)
    nose_v = eye_v + nose_length
    return Anatomy(
        male=bool(person.sex),
        crown=-0.72,
        hairline=-0.47 - 0.075 * person["forehead_height"] + 0.02 * child,
        temple=width * (0.95 + 0.03 * child - 0.03 * sag),
        cheek=width * (1.0 + 0.07 * person["cheek_fullness"] + 0.08 * child - 0.03 * sag),
        jaw=width
        * (0.75 + 0.12 * person["jaw_width"] + 0.05 * male + 0.04 * person["cheek_fullness"])
        * (1.0 + 0.15 * child + 0.08 * sag),
        chin_half_width=(0.175 + 0.06 * person["jaw_width"] + 0.03 * male) * (1.0 + 0.22 * child),
        chin=chin,
        jowl=0.055 * sag,
        half_neck=(0.235 + 0.06 * male) * (1.0 - 0.36 * child) * (1.0 - 0.10 * sag),
        shoulder=0.80 - 0.13 * child,
        eye_u=0.232 + 0.042 * person["eye_spacing"] + 0.008 * child,
        eye_v=eye_v,
        eye_half_width=0.128 * (1.0 + 0.24 * person["eye_size"]) * (1.0 + 0.16 * child - 0.06 * sag),
        eye_above=0.072 * (1.0 + 0.3 * person["eye_size"]) * (1.0 + 0.42 * child + 0.08 * female - 0.30 * sag),
        eye_below=0.046 * (1.0 + 0.3 * person["eye_size"]) * (1.0 + 0.35 * child - 0.15 * sag),
        eye_slant=0.40 * person["eye_tilt"] - 0.16 * sag,
        lid_hood=sag,
        iris=0.066 * (1.0 + 0.12 * person["eye_size"]) * (1.0 + 0.22 * child),
        brow_v=eye_v - 0.175 - 0.045 * person["brow_height"] - 0.015 * child - 0.01 * female + 0.025 * sag,
        brow_half_thickness=(0.024 + 0.013 * person["brow_thickness"] + 0.010 * male) * (1.0 - 0.35 * child),
        brow_arch=0.045 + 0.055 * person["brow_arch"],
        nose_v=nose_v,
        half_nose=0.106 * (1.0 + 0.42 * person["nose_width"]) * (1.0 - 0.22 * child + 0.14 * sag + 0.06 * male),
        nose_round=float(np.clip(person["nose_tip"] + 0.4 * child - 0.25 * sag, -1.25, 1.25)),
        mouth_v=nose_v + 0.40 * (chin - nose_v) + 0.01 * sag,
        half_mouth=0.185 * (1.0 + 0.3 * person["mouth_width"]) * (1.0 - 0.2 * child + 0.04 * mature),
        upper_lip=0.034 * (1.0 + 0.55 * person["lip_fullness"]) * (1.0 + 0.2 * female - 0.1 * child - 0.5 * crease),
        lower_lip=0.050 * (1.0 + 0.5 * person["lip_fullness"]) * (1.0 + 0.15 * female - 0.1 * child - 0.42 * crease),
        mouth_droop=0.02 * sag,
        half_ear=0.125 * (1.0 + 0.45 * person["ear_size"]) * (1.0 + 0.05 * child + 0.25 * sag),
        ear_out=(0.065 + 0.045 * person["ear_size"]) * (1.0 + 0.2 * child + 0.15 * sag),
        cheek_fullness=person["cheek_fullness"] * 0.7 + 0.8 * child - 0.6 * sag,
        skin=_skin(person, ageing),
        lips=_lips(person, ageing),
        iris_colour=_along(person["eye_colour"], _IRISES) * (1.0 - 0.1 * crease) + 0.06 * crease,
    )


# Anchors from -1 to 1, evenly spaced.
_SKINS = np.array(((0.89, 0.76, 0.68), (0.86, 0.68, 0.56), (0.77, 0.56, 0.43), (0.60, 0.41, 0.30), (0.42, 0.28, 0.21)))
_LIPS = np.array(((0.86, 0.47, 0.46), (0.80, 0.42, 0.40), (0.69, 0.35, 0.32), (0.52, 0.26, 0.25), (0.38, 0.19, 0.19)))
_IRISES = np.array(((0.20, 0.11, 0.07), (0.44, 0.27, 0.12), (0.46, 0.46, 0.20), (0.27, 0.50, 0.38), (0.40, 0.64, 0.86)))
_ROSY_TO_GOLDEN = np.array((-0.01, 0.015, -0.095))


def _skin(person: Person, ageing: Ageing) -> np.ndarray:
    skin = _along(person["skin_tone"], _SKINS) * (1.0 + _ROSY_TO_GOLDEN * person["skin_undertone"])
    return skin + 0.16 * ageing.creasing * (skin.mean() * np.array((1.02, 1.0, 0.96)) - skin)  # age greys the skin


def _lips(person: Person, ageing: Ageing) -> np.ndarray:
    lips = _along(person["skin_tone"], _LIPS)
    painted = 0.06 * (1 - person.sex) * (1.0 - ageing.childhood) * np.array((1.0, -0.7, -0.3))
    paler = max(0.35 * person.sex, 0.25 * ageing.childhood) + 0.3 * ageing.creasing
    return lips + painted + paler * (_skin(person, ageing) - lips)


def _along(value: float, anchors: np.ndarray) -> np.ndarray:
    """The colour at `value` in [-1, 1] on a path through `anchors` (K, 3)."""
    place = (value + 1.0) * 0.5 * (len(anchors) - 1)
    first = min(int(place), len(anchors) - 2)
    return anchors[first] + (place - first) * (anchors[first + 1] - anchors[first])
