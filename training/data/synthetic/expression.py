"""Expressions: an emotion label and an intensity become activations of facial action units.

The units follow the Facial Action Coding System (Ekman & Friesen 1978); the number in a unit's comment is its FACS code.
Each label is one blend of units, scaled by the intensity. Valence and arousal are derived from the active units by one
linear map, never stored beside them. This module does not know how a unit looks (`features`, `folds`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from runtime.emotions import EMOTIONS


@dataclass(frozen=True)
class Expression:
    """Activations of action units, each in [0, 1]; all zero is a face at rest."""

    brow_inner_raise: float = 0.0  # 1
    brow_outer_raise: float = 0.0  # 2
    brow_lower: float = 0.0  # 4
    lid_raise: float = 0.0  # 5
    cheek_raise: float = 0.0  # 6
    lid_tighten: float = 0.0  # 7
    nose_wrinkle: float = 0.0  # 9
    upper_lip_raise: float = 0.0  # 10
    lip_corner_pull: float = 0.0  # 12
    lip_corner_depress: float = 0.0  # 15
    chin_raise: float = 0.0  # 17
    lip_stretch: float = 0.0  # 20
    lip_press: float = 0.0  # 24
    jaw_drop: float = 0.0  # 26
    lid_droop: float = 0.0  # 43, the eyes half closed

    def __post_init__(self) -> None:
        for unit in UNITS:
            value = getattr(self, unit)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"expression: unit {unit!r} is {value!r}; allowed are 0 to 1.")

    def vector(self) -> np.ndarray:
        """(units,) float64 in the order of `UNITS`."""
        return np.array([getattr(self, unit) for unit in UNITS])


UNITS = tuple(field.name for field in fields(Expression))

# What each label does at full strength.
BLENDS: dict[str, Expression] = {
    "neutral": Expression(),
    "calm": Expression(lip_corner_pull=0.35, lid_droop=1.0),
    "happy": Expression(cheek_raise=1.0, lip_corner_pull=1.0, jaw_drop=0.3, brow_outer_raise=0.2),
    "sad": Expression(brow_inner_raise=1.0, brow_lower=0.1, lip_corner_depress=1.0, chin_raise=0.7, lid_droop=0.45),
    "angry": Expression(brow_lower=1.0, lid_tighten=0.55, lip_press=1.0, lip_corner_depress=0.5, nose_wrinkle=0.2),
    "fearful": Expression(
        brow_inner_raise=0.9, brow_outer_raise=0.3, brow_lower=0.2, lid_raise=0.9, lip_stretch=1.0, jaw_drop=0.25
    ),
    "disgust": Expression(
        brow_lower=0.35,
        nose_wrinkle=1.0,
        upper_lip_raise=1.0,
        cheek_raise=0.7,
        lid_tighten=0.6,
        lip_corner_depress=0.45,
    ),
    "surprised": Expression(brow_inner_raise=0.9, brow_outer_raise=1.0, lid_raise=1.0, jaw_drop=1.0),
}


def express(emotion: str, intensity: float) -> Expression:
    """The expression of `emotion` (one of `EMOTIONS`) at `intensity` in [0, 1]; intensity 0 is the neutral face.

    Raises ValueError for an unknown label or an intensity out of range.
    """
    if emotion not in BLENDS:
        raise ValueError(f"expression: emotion {emotion!r} is unknown; allowed are {', '.join(EMOTIONS)}.")
    if not 0.0 <= intensity <= 1.0:
        raise ValueError(f"expression: intensity is {intensity!r}; allowed are 0 (neutral) to 1 (full).")
    blend = BLENDS[emotion]
    return Expression(**{unit: intensity * getattr(blend, unit) for unit in UNITS})


def valence_arousal(emotion: str, intensity: float) -> tuple[float, float]:
    """(valence, arousal), each in [-1, 1], derived from the action units that `emotion` moves at `intensity`."""
    valence, arousal = np.clip(express(emotion, intensity).vector() @ _FEELING, -1.0, 1.0)
    return float(valence), float(arousal)


# (valence, arousal) that one fully active unit contributes. The smallest weights that put the eight labels where the
# circumplex of affect (Russell 1980) has them: happy bright, sad low, anger and fear unpleasant and tense, calm at ease.
_FEELING_OF = {
    "brow_inner_raise": (-0.32, 0.08),
    "brow_outer_raise": (0.22, 0.23),
    "brow_lower": (-0.34, 0.31),
    "lid_raise": (-0.04, 0.29),
    "cheek_raise": (0.22, 0.33),
    "lid_tighten": (-0.19, 0.12),
    "nose_wrinkle": (-0.21, -0.0),
    "upper_lip_raise": (-0.19, -0.07),
    "lip_corner_pull": (0.51, 0.05),
    "lip_corner_depress": (-0.33, -0.14),
    "chin_raise": (-0.15, -0.16),
    "lip_stretch": (-0.39, 0.25),
    "lip_press": (-0.11, 0.33),
    "jaw_drop": (0.27, 0.26),
    "lid_droop": (0.28, -0.67),
}
_FEELING = np.array([_FEELING_OF[unit] for unit in UNITS])
