"""One call for every file that a request may hold: its field's name and its bytes in, an array out.

Whoever prepares requests is given such a callable. This one decodes in the process that calls it; `runtime/decoding.py` gives
the same answers from a process that may die.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from runtime.errors import RequestError
from runtime.preprocess.audio import decode_audio
from runtime.preprocess.image import decode_image, decode_mask

Decode = Callable[[str, bytes], np.ndarray]

DECODERS: Mapping[str, Callable[[bytes], np.ndarray]] = {
    "reference": decode_image,  # (H, W, 3) uint8
    "mask": decode_mask,  # (H, W) uint8
    "audio": decode_audio,  # (T,) float32 at 16 kHz
}


def decode(field: str, data: bytes) -> np.ndarray:
    """The array in the file of a request field. Raises RequestError naming the field."""
    try:
        return DECODERS[field](data)
    except MemoryError:
        raise RequestError(field, "cannot be decoded with the memory there is") from None
