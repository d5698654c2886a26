"""How alike two pictures are: PSNR and SSIM, in numpy. Pictures are (H, W, C) uint8."""

from __future__ import annotations

import numpy as np

IDENTICAL_DB = (
    100.0  # instead of infinity, which JSON cannot say; one level in one value of a 1024×1024 picture is 113 dB
)
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # (K L)², for values in [0, 1]


def psnr_db(picture: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, at most IDENTICAL_DB."""
    error = np.mean((picture.astype(np.float64) - other) ** 2)
    return IDENTICAL_DB if error == 0 else float(min(IDENTICAL_DB, 10 * np.log10(255**2 / error)))


def ssim(picture: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), 1 for equal pictures: Gaussian window of 11, where it lies wholly inside.

    Raises ValueError for pictures smaller than the window.
    """
    if min(picture.shape[:2]) < _WINDOW:
        raise ValueError(f"ssim: a picture of shape {picture.shape} is smaller than the window of {_WINDOW}")
    x, y = picture / 255.0, other / 255.0
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    denominator = (mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2)
    return float(np.mean(numerator / denominator))


def _blur(values: np.ndarray) -> np.ndarray:
    """Gaussian-weighted means over windows; both spatial axes shrink by the window less one."""
    kernel = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        values = np.lib.stride_tricks.sliding_window_view(values, _WINDOW, axis=axis) @ kernel
    return values
