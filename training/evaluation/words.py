"""Words against pictures, in a CLIP space. Letters: N pictures, D features; nothing needs to be unit length."""

from __future__ import annotations

import numpy as np

from training.evaluation.identity import cosines

SMALLEST_CHANGE = 0.1  # of unit text vectors; below it the words ask for no change that has a direction


def clip_score(image: np.ndarray, text: np.ndarray) -> float:
    """`100 max(cos, 0)`, mean over pairs (Hessel et al. 2021, in torchmetrics' scale)."""
    return float(100 * np.maximum(cosines(image, text), 0).mean())


def text_image_cosine(image: np.ndarray, text: np.ndarray) -> float:
    """Mean cosine of pairs (N, D)."""
    return float(cosines(image, text).mean())


def directional(image: np.ndarray, source_image: np.ndarray, text: np.ndarray, source_text: np.ndarray) -> np.ndarray:
    """cos(ΔI, ΔT) of each pair whose words change by at least `SMALLEST_CHANGE`; at most (N,) values. Eq. 31's first term."""
    changed = _unit(text) - _unit(source_text)
    seen = _unit(image) - _unit(source_image)
    counted = np.linalg.norm(changed, axis=1) >= SMALLEST_CHANGE
    return cosines(seen[counted], changed[counted])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
