"""Where an edit left a picture as it was: there, what was lost of the photo on the way can be given back.

Networks and small squares lose fine detail of a photo; an edit changes a part of the rest. Layout: (H, W, 3) uint8 pictures.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

# What counts as changed: a difference of so many levels of 255, averaged over colours and a Gaussian of this share of the side.
CHANGED_LEVELS, CHANGED_REACH = 20.0, 1 / 64


def unchanged(picture: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(H, W, 1) float32: 1 where `picture` shows what `before` does, fading to 0 where it has changed."""
    change = np.abs(picture.astype(np.float32) - before).mean(axis=2)
    blur = ImageFilter.GaussianBlur(CHANGED_REACH * len(picture))
    near = np.asarray(Image.fromarray(np.rint(change).astype(np.uint8)).filter(blur), np.float32)
    return np.exp(-np.square(near / CHANGED_LEVELS))[..., None]
