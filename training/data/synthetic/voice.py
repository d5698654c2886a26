"""Synthetic speech with known truth: `speak(sex, age, emotion, intensity, rng)` says a neutral sentence.

The voice shares only sex, age and emotion with the face; sentence, timbre, habit, loudness and silence are fresh in every clip, so
a voice cannot tell who somebody is. espeak-ng speaks; numpy adds what it cannot do: tremor, a glide of the pitch, tilt, breath,
creak, harshness. Does not know portraits.

Layout: waveforms are (T,) float32, mono. Training-time only (espeak-ng is GPL-3).
"""

from __future__ import annotations

import numpy as np
import soxr

from training.data.synthetic.espeak import ESPEAK_RATE_HZ, espeak
from training.data.synthetic.prosody import Delivery, delivery
from training.data.synthetic.sentences import sentence
from training.data.synthetic.timbre import TIMBRES, timbre, voice_file

SAMPLE_RATE_HZ = 16000
MIN_SECONDS, MAX_SECONDS = 1.5, 3.5

_WORK_RATE_HZ = (
    32000  # pitch is bent by reading the waveform at warped times; at twice the rate linear interpolation is clean
)
_WORD_LENGTH = 0.75  # our words are shorter than those that espeak's words per minute stand for
_TREMOR_HZ = 6.0
_HARSHNESS_HZ = 80.0
_CREAK_HZ = 30.0
_ENVELOPE_HZ = 100  # blocks per second in which envelopes are measured
_TILT_PIVOT_HZ = 500.0
_TILT_FLOOR_HZ = 100.0


def speak(
    sex: int, age: float, emotion: str, intensity: float, rng: np.random.Generator, split: str = "train"
) -> np.ndarray:
    """Speak one clip. sex 0 female, 1 male; age 5..85 years; emotion one of EMOTIONS; intensity 0..1; split "train" or "test".

    Returns (T,) float32 at 16000 Hz, 1.5..3.5 s, peak <= 1. The same arguments and state of `rng` give the same samples.
    Raises ValueError naming the argument and its range, RuntimeError when espeakng-loader is not installed.
    """
    manner = delivery(sex, age, emotion, intensity, rng)
    raw = _utter(manner, rng, split)
    bent = _bend_pitch(soxr.resample(raw, ESPEAK_RATE_HZ, _WORK_RATE_HZ, quality="MQ"), manner, rng)
    clip = soxr.resample(bent, _WORK_RATE_HZ, SAMPLE_RATE_HZ, quality="HQ")
    clip = _shape_envelope(clip, manner, rng)
    clip = _tilt(clip, manner.manner.tilt_db)
    clip = _breathe(clip, manner.breath, rng)
    return _record(clip, rng)


def _utter(manner: Delivery, rng: np.random.Generator, split: str) -> np.ndarray:
    """Say a sentence whose length suits the rate, so that the duration of a clip says little about it."""
    seconds = rng.uniform(1.4, 2.6)
    words = round(seconds / (_WORD_LENGTH * 60 / manner.words_per_minute + manner.manner.gap_ms / 1000))
    text = sentence(words, rng, split)
    numbers = TIMBRES[split]
    voice = voice_file(timbre(int(rng.integers(numbers.start, numbers.stop))), manner)
    # espeak's gap is in units of 10 ms at its default rate of 175 words per minute.
    gap = round(manner.manner.gap_ms / 10 * manner.words_per_minute / 175)
    return espeak().say(text, voice, round(manner.words_per_minute), gap)


def _bend_pitch(waveform: np.ndarray, manner: Delivery, rng: np.random.Generator) -> np.ndarray:
    """Tremor, glide and jitter: play the waveform at a speed that varies around 1. Keeps the length within a few per cent."""
    length = len(waveform)
    seconds = np.arange(length, dtype=np.float32) / _WORK_RATE_HZ
    steps = rng.normal(size=int(seconds[-1] * 25) + 3)
    wobble = np.interp(seconds * 25, np.arange(len(steps)), steps)
    tremor = np.sin(2 * np.pi * (_TREMOR_HZ * seconds + rng.uniform()))
    glide = 2 ** (manner.manner.glide_st / 12 * (seconds / seconds[-1] - 0.5))
    speed = glide * (1 + manner.jitter * wobble + manner.manner.tremor * tremor)
    position = np.cumsum(speed)
    position = position[position < length - 1]
    return np.interp(position, np.arange(length), waveform).astype(np.float32)


def _shape_envelope(clip: np.ndarray, manner: Delivery, rng: np.random.Generator) -> np.ndarray:
    """Attack on the syllables, shimmer, and the amplitude roughness of harsh and creaky voices."""
    seconds = np.arange(len(clip)) / SAMPLE_RATE_HZ
    envelope = _envelope(clip)
    gain = (envelope + 0.05) ** manner.manner.attack
    bumps = rng.normal(size=int(seconds[-1] * 60) + 3)
    gain *= 1 + manner.shimmer * np.interp(seconds * 60, np.arange(len(bumps)), bumps)
    for depth, rate_hz in ((manner.manner.harshness, _HARSHNESS_HZ), (manner.manner.creak, _CREAK_HZ)):
        wave = np.sin(2 * np.pi * (rate_hz * seconds * rng.uniform(0.95, 1.05) + rng.uniform()))
        gain *= 1 - depth * (0.5 + 0.5 * wave)
    return (clip * gain).astype(np.float32)


def _tilt(clip: np.ndarray, db_per_octave: float) -> np.ndarray:
    """Brighten (> 0) or darken (< 0) by a straight line over log frequency, flat below _TILT_FLOOR_HZ."""
    length = len(clip)
    padded = -(-length // 2048) * 2048  # a length that the FFT likes
    frequency = np.fft.rfftfreq(padded, 1 / SAMPLE_RATE_HZ)
    octaves = np.log2(np.maximum(frequency, _TILT_FLOOR_HZ) / _TILT_PIVOT_HZ)
    spectrum = np.fft.rfft(clip, padded) * 10 ** (db_per_octave * octaves / 20)
    return np.fft.irfft(spectrum, padded)[:length].astype(np.float32)


def _breathe(clip: np.ndarray, breath: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise that rises and falls with the voice; breath: its amplitude against the voice's."""
    noise = np.diff(rng.standard_normal(len(clip) + 1, dtype=np.float32))  # a difference: breath has no low frequencies
    level = float(np.sqrt(np.mean(clip**2)))
    return clip + np.float32(breath * level * 0.7) * _envelope(clip) * noise


def _record(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The microphone: silence before and after, a noise floor, some gain; and the promised length."""
    lead = int(rng.uniform(0.02, 0.15) * SAMPLE_RATE_HZ)
    length = int(np.clip(len(clip) + 2 * lead, MIN_SECONDS * SAMPLE_RATE_HZ, MAX_SECONDS * SAMPLE_RATE_HZ))
    recording = np.zeros(length, np.float32)
    kept = clip[: length - lead]
    recording[lead : lead + len(kept)] = kept / np.abs(clip).max()
    fade = int(0.03 * SAMPLE_RATE_HZ)
    recording[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    floor = np.float32(10 ** rng.uniform(-3.5, -2.5))
    recording += floor * rng.standard_normal(length, dtype=np.float32)
    return recording * np.float32(rng.uniform(0.3, 0.95) / np.abs(recording).max())


def _envelope(clip: np.ndarray) -> np.ndarray:
    """(T,) float32: short-time amplitude, scaled to a maximum of 1."""
    block = SAMPLE_RATE_HZ // _ENVELOPE_HZ
    blocks = -(-len(clip) // block)
    power = np.zeros(blocks * block, np.float32)
    power[: len(clip)] = clip**2
    amplitude = np.sqrt(np.convolve(power.reshape(blocks, block).mean(1), np.ones(3) / 3, "same"))
    centres = (np.arange(blocks) + 0.5) * block
    return np.interp(np.arange(len(clip)), centres, amplitude / amplitude.max()).astype(np.float32)
