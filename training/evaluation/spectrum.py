"""The radially averaged power spectrum: whether made pictures have as much fine detail as real ones.

Layout: pictures (N, S, S, 3) uint8; a spectrum has S // 2 - 1 entries, at 1 … S // 2 - 1 cycles per picture.
"""

from __future__ import annotations

import numpy as np

LUMINANCE = np.array((0.299, 0.587, 0.114), np.float32)  # BT.601
_CHUNK = 64


def radial_power(pictures: np.ndarray) -> np.ndarray:
    """(S // 2 - 1,) float64: mean over the pictures of `radial_powers`."""
    return radial_powers(pictures).mean(axis=0)


def radial_powers(pictures: np.ndarray) -> np.ndarray:
    """(N, S // 2 - 1) float64: mean power of the luminance at each whole number of cycles per picture, Hann-windowed.

    The window keeps the step between opposite edges, which no picture shows, out of the high frequencies.
    """
    size = pictures.shape[1]
    window = np.outer(np.hanning(size), np.hanning(size)).astype(np.float32)
    frequency = np.fft.fftfreq(size, 1 / size)
    radius = np.hypot(*np.meshgrid(frequency, frequency)).round().astype(int).ravel()
    order, counts = np.argsort(radius, kind="stable"), np.bincount(radius)
    starts = np.cumsum(counts) - counts
    parts = [np.empty((0, len(counts)))]
    for start in range(0, len(pictures), _CHUNK):
        grey = pictures[start : start + _CHUNK].astype(np.float32) @ LUMINANCE / 255
        grey -= grey.mean(axis=(1, 2), keepdims=True)
        power = (np.abs(np.fft.fft2(grey * window)) ** 2).reshape(len(grey), -1)
        parts.append(np.add.reduceat(power[:, order], starts, axis=1) / counts)
    return np.concatenate(parts)[:, 1 : size // 2]


def power_ratio(made: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Ratio of two spectra, made over real, per frequency: 1 is right, below 1 too soft, above 1 too rough."""
    return (made + _FLOOR) / (real + _FLOOR)


_FLOOR = 1e-9  # far below a grey level's power; keeps an empty picture's ratio finite


def spectrum_error(made: np.ndarray, real: np.ndarray) -> float:
    """Mean |log10| of `power_ratio`: 0 is equal, 1 a factor of ten at every frequency."""
    return float(np.abs(np.log10(power_ratio(made, real))).mean())


def fine_detail(made: np.ndarray, real: np.ndarray) -> float:
    """Geometric mean of `power_ratio` over the upper half of the frequencies."""
    ratio = power_ratio(made, real)
    return float(10 ** np.log10(ratio[len(ratio) // 2 :]).mean())
