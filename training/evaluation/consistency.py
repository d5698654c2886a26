"""Cross-modal consistency (`cmc`): how alike the tokens of one request are, whatever sense they came from.

L_CM optimises this very number (eq. 14), so a report says whether it was on. Letters: N requests, M modalities, D features.
"""

from __future__ import annotations

import numpy as np


def cmc(tokens: np.ndarray, present: np.ndarray) -> float:
    """Mean cosine over unordered pairs of present tokens: `tokens` (N, M, D) f'_m after LayerNorm, `present` (N, M) in {0, 1}.

    NaN where no request has two.
    """
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=2, keepdims=True), 1e-12)
    cosine = np.einsum("nid,njd->nij", unit, unit)
    both = np.triu(present[:, :, None] * present[:, None, :], k=1)
    return float((cosine * both).sum() / both.sum()) if both.sum() else float("nan")


def unmatched(tokens: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same tokens with modality m taken from the request m further on: what `cmc` is where the senses do not belong together."""
    shifted = [(np.roll(tokens[:, m], m, axis=0), np.roll(present[:, m], m, axis=0)) for m in range(tokens.shape[1])]
    return np.stack([token for token, _ in shifted], 1), np.stack([given for _, given in shifted], 1)
