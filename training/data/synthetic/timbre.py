"""Whose throat it is: timbres, the part of a voice that tells nothing about the face.

A timbre is an accent and a pattern of formants, drawn once per number from a fixed seed. Test timbres are never heard in training.
Knows neither pitch nor emotion; `voice_file` joins a timbre and a `Delivery` into the text that espeak-ng reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.data.synthetic.prosody import Delivery

TIMBRES = {"train": range(0, 48), "test": range(48, 64)}

_SEED = 0x7177
_FORMANTS = 9
# Phoneme tables of espeak-ng: general, American, received pronunciation, Scottish, New York, northern, West Indian, West Midlands.
_ACCENTS = ("en", "en-us", "en-rp", "en-sc", "en-us-nyc", "en-n", "en-wi", "en-wm")
# Where espeak's pitch contour has its median between the two pitches of a voice file (measured over the sentences).
_MEDIAN_IN_RANGE = 0.6


@dataclass(frozen=True)
class Timbre:
    """accent: a phoneme table; the rest (9,) per cent of espeak's own formant frequencies, heights and widths."""

    accent: str
    frequency: np.ndarray
    height: np.ndarray
    width: np.ndarray


def timbre(number: int) -> Timbre:
    """The timbre of that number (see TIMBRES); the same on every machine."""
    if not 0 <= number < TIMBRES["test"].stop:
        raise ValueError(f"timbre is {number}; there are 0..{TIMBRES['test'].stop - 1}")
    rng = np.random.Generator(np.random.Philox(key=[_SEED, number]))
    return Timbre(
        accent=_ACCENTS[int(rng.integers(len(_ACCENTS)))],
        frequency=100 + rng.uniform(-4, 4, _FORMANTS),
        height=100 + rng.uniform(-20, 20, _FORMANTS),
        width=100 + rng.uniform(-15, 35, _FORMANTS),
    )


def voice_file(timbre: Timbre, delivery: Delivery) -> str:
    """The text of an espeak-ng voice file; format: https://github.com/espeak-ng/espeak-ng/blob/master/docs/voices.md."""
    low = delivery.pitch_hz - _MEDIAN_IN_RANGE * delivery.range_hz
    lines = [
        "name synthetic",
        "language en-us",
        f"phonemes {timbre.accent}",
        "flutter 0",
        f"pitch {low:.0f} {low + delivery.range_hz:.0f}",
    ]
    for number in range(_FORMANTS):
        frequency = timbre.frequency[number] * delivery.formant_scale
        lines.append(f"formant {number} {frequency:.0f} {timbre.height[number]:.0f} {timbre.width[number]:.0f}")
    return "\n".join(lines) + "\n"
