"""How a person of some sex and age speaks in some emotion: a `Delivery`, a handful of physical numbers.

Wav2Vec2 input is normalised to unit variance, which removes loudness, so arousal shows where it survives: pitch range, rate and
spectral tilt. Directions follow the common findings on vocal emotion (anger and joy: wide range, fast, bright; sadness: low, narrow,
slow, dark, breathy; fear: high, fast, trembling; disgust: low, slow, creaky; surprise: high, very wide, rising).
Sex and age show in pitch, in the length of the vocal tract (formant scale) and, in the old, in rate, wobble and breath.

Knows neither a sentence nor a waveform.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from runtime.emotions import EMOTIONS
from training.data.synthetic.ageing import OLDEST, YOUNGEST


@dataclass(frozen=True)
class Manner:
    """What an emotion at intensity 1 changes against a neutral delivery."""

    pitch_st: float = 0.0  # shift of the pitch, semitones
    range_log2: float = 0.0  # pitch range, octaves of its width
    rate_log2: float = 0.0  # words per minute, octaves
    tilt_db: float = 0.0  # spectral tilt, dB per octave; > 0 is bright
    glide_st: float = 0.0  # rise of the pitch from the first to the last word, semitones
    tremor: float = 0.0  # depth of a 6 Hz pitch tremor, fraction
    breath: float = 0.0  # breath noise against the voice, fraction of its amplitude
    harshness: float = 0.0  # depth of a fast (80 Hz) amplitude roughness
    creak: float = 0.0  # depth of a slow (30 Hz) amplitude roughness
    attack: float = 0.0  # exponent on the envelope: > 0 hammers the syllables, < 0 levels them
    gap_ms: float = 0.0  # silence between words


MANNERS = {
    "neutral": Manner(),
    "calm": Manner(-1.0, -0.7, -0.25, -2.5, -1.0, breath=0.06, attack=-0.35, gap_ms=20),
    "happy": Manner(3.0, 0.8, 0.18, 2.5, 2.0, attack=0.2),
    "sad": Manner(-2.0, -1.3, -0.40, -5.0, -4.0, tremor=0.006, breath=0.20, gap_ms=80),
    "angry": Manner(1.5, 0.4, 0.28, 5.0, -3.0, harshness=0.75, attack=0.8),
    "fearful": Manner(4.5, -0.4, 0.50, 1.0, 0.5, tremor=0.035, breath=0.22),
    "disgust": Manner(-3.0, 0.3, -0.30, 1.5, -5.0, creak=0.80, gap_ms=20),
    "surprised": Manner(5.0, 1.2, -0.05, 1.5, 8.0, breath=0.05, attack=0.1),
}

# Median pitch in Hz and formant scale over age, by sex: a boy's voice breaks at about 13, a woman's sinks and a man's rises late.
_AGES = np.array([5.0, 9.0, 12.0, 14.0, 17.0, 25.0, 45.0, 65.0, 85.0])
_PITCH_HZ = (
    np.array([290.0, 268.0, 250.0, 236.0, 222.0, 212.0, 200.0, 186.0, 174.0]),
    np.array([282.0, 258.0, 236.0, 170.0, 130.0, 120.0, 114.0, 118.0, 132.0]),
)
_FORMANT_SCALE = (
    np.array([1.44, 1.37, 1.31, 1.27, 1.23, 1.20, 1.16, 1.12, 1.08]),
    np.array([1.41, 1.32, 1.24, 1.14, 1.06, 1.01, 0.97, 0.93, 0.89]),
)
_WORDS_PER_MINUTE = np.array([162.0, 178.0, 186.0, 186.0, 190.0, 188.0, 176.0, 152.0, 124.0])
# The neutral range of pitch, as a fraction of the pitch.
_PITCH_RANGE = 0.36


@dataclass(frozen=True)
class Delivery:
    """A way of speaking: pitch in Hz, its range in Hz, words per minute, and the extras in the units of `Manner`."""

    pitch_hz: float
    range_hz: float
    formant_scale: float
    words_per_minute: float
    jitter: float  # fraction of the pitch, slow random wobble
    shimmer: float  # fraction of the amplitude
    breath: float  # age's and emotion's together, in the unit of `Manner`
    manner: Manner

    def __post_init__(self) -> None:
        if not 40 <= self.pitch_hz <= 600:
            raise ValueError(f"pitch_hz is {self.pitch_hz}; a voice has 40..600 Hz")


def delivery(sex: int, age: float, emotion: str, intensity: float, rng: np.random.Generator) -> Delivery:
    """Draw how one clip is spoken. sex 0 female, 1 male; age 5..85 years; emotion one of EMOTIONS; intensity 0..1.

    `rng` adds what differs between two clips of one person. Raises ValueError naming the argument and its range.
    """
    _check(sex, age, emotion, intensity)
    manner = _scaled(MANNERS[emotion], intensity)
    habit = rng.normal(size=4)  # pitch, rate, range, vocal tract: two clips of one kind of speaker still differ
    pitch_hz = float(np.interp(age, _AGES, _PITCH_HZ[sex])) * 2 ** ((manner.pitch_st + 1.0 * habit[0]) / 12)
    aged = max(age - 25.0, 0.0) / 60.0
    return Delivery(
        pitch_hz=pitch_hz,
        range_hz=pitch_hz * _PITCH_RANGE * 2 ** (manner.range_log2 + 0.15 * habit[2]),
        formant_scale=float(np.interp(age, _AGES, _FORMANT_SCALE[sex])) * 2 ** (0.025 * habit[3]),
        words_per_minute=float(np.interp(age, _AGES, _WORDS_PER_MINUTE)) * 2 ** (manner.rate_log2 + 0.06 * habit[1]),
        jitter=0.003 + 0.037 * aged,
        shimmer=0.02 + 0.45 * aged,
        breath=0.18 * aged + manner.breath,
        manner=manner,
    )


def _scaled(manner: Manner, intensity: float) -> Manner:
    return Manner(**{field.name: getattr(manner, field.name) * intensity for field in fields(manner)})


def _check(sex: int, age: float, emotion: str, intensity: float) -> None:
    if sex not in (0, 1):
        raise ValueError(f"sex is {sex!r}; use 0 (female) or 1 (male)")
    if not YOUNGEST <= age <= OLDEST:
        raise ValueError(f"age is {age!r}; use {YOUNGEST:g}..{OLDEST:g} years")
    if emotion not in EMOTIONS:
        raise ValueError(f"emotion is {emotion!r}; use one of {', '.join(EMOTIONS)}")
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity is {intensity!r}; use 0..1")
