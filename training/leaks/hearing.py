"""A voice in numbers, without any trained network: log-mel bands, pitch, rhythm, loudness and length.

What a probe is given when it must not depend on what an encoder has learned to ignore. Layout: clips (T,) float32 at 16000 Hz.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import dct, irfft, rfft

from training.data.synthetic.voice import SAMPLE_RATE_HZ

MELS = 40
_FRAME, _HOP, _FFT = 400, 160, 512  # 25 ms every 10 ms
_PITCHES_HZ = (60.0, 520.0)
_VOICED = 0.45  # autocorrelation at the pitch period, against that at 0
_MODULATIONS = 24  # of the loudness contour, about 0.4 Hz apart at the usual length
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def voice_statistics(clip: np.ndarray) -> np.ndarray:
    """(F,) float32 statistics of one clip of at least half a second; finite for every clip, silence included."""
    starts = np.arange(0, len(clip) - _FRAME, _HOP)
    frames = clip[starts[:, None] + np.arange(_FRAME)] * np.hanning(_FRAME).astype(np.float32)
    power = np.abs(rfft(frames, _FFT, axis=1)) ** 2
    bands = np.log(power @ _MEL_FILTERS.T + 1e-6)
    cepstra = dct(bands, axis=1, norm="ortho")[:, 1:14]
    loudness = bands.mean(axis=1)
    rhythm = np.abs(rfft(loudness - loudness.mean(), 256))[1 : _MODULATIONS + 1]
    shared = np.corrcoef(cepstra.T + 1e-6 * np.arange(cepstra.shape[0]))[np.triu_indices(cepstra.shape[1], 1)]
    return np.concatenate(
        [
            bands.mean(axis=0),
            bands.std(axis=0),
            np.quantile(bands, (0.1, 0.9), axis=0).ravel(),
            np.abs(np.diff(bands, axis=0)).mean(axis=0),
            cepstra.mean(axis=0),
            cepstra.std(axis=0),
            shared,
            _pitch_statistics(frames),
            np.log(rhythm + 1e-3),
            [len(clip) / SAMPLE_RATE_HZ, np.log(np.std(clip) + 1e-6), np.log(np.abs(clip).max() + 1e-6)],
        ]
    ).astype(np.float32)


def _pitch_statistics(frames: np.ndarray) -> np.ndarray:
    """Quantiles, slope and unsteadiness of the pitch in octaves, and the share of voiced frames, by autocorrelation."""
    size = 2 * _FFT
    spectrum = rfft(frames, size, axis=1)
    periodic = irfft(np.abs(spectrum) ** 2, size, axis=1)
    lags = np.arange(int(SAMPLE_RATE_HZ / _PITCHES_HZ[1]), int(SAMPLE_RATE_HZ / _PITCHES_HZ[0]))
    relative = periodic[:, lags] / (periodic[:, :1] + 1e-9)
    octaves = np.log2(SAMPLE_RATE_HZ / lags[relative.argmax(axis=1)])
    voiced = (relative.max(axis=1) > _VOICED) & (periodic[:, 0] > 1e-2 * periodic[:, 0].max())
    if voiced.sum() < 3:
        return np.zeros(len(_QUANTILES) + 3)
    pitch = octaves[voiced]
    slope = np.polyfit(np.linspace(-1, 1, len(pitch)), pitch, 1)[0]
    return np.array([*np.quantile(pitch, _QUANTILES), slope, np.abs(np.diff(pitch)).mean(), voiced.mean()])


def _mel_filters() -> np.ndarray:
    """(MELS, frequencies) triangles, equally wide in mel from 0 Hz to half the rate."""
    top = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)
    rising = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


_MEL_FILTERS = _mel_filters()
