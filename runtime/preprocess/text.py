"""Words to token ids, exactly as transformers' CLIPTokenizer makes them (Radford et al. 2021), without transformers.

It knows a `tokenizer.json`, which holds normalisation, merges and special tokens. Letters: N texts, L text length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from runtime.errors import BundleError
from runtime.manifest import REMEDY, TOKENIZER

END_OF_TEXT = "<|endoftext|>"  # CLIP ends texts with it, and pads with it as well


class Tokenizer:
    """The tokenizer in the file at `path`, for texts of `length` tokens. Usable from many threads.

    Raises BundleError for a file that is no CLIP tokenizer.
    """

    def __init__(self, path: Path, length: int = 77) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{TOKENIZER}: not readable as a tokenizer: {error}; {REMEDY}") from None
        end = self._tokenizer.token_to_id(END_OF_TEXT)
        if end is None:
            raise BundleError(f"{TOKENIZER}: has no token {END_OF_TEXT}; it must be a CLIP tokenizer; {REMEDY}")
        self._tokenizer.enable_truncation(length)  # the end token stays: it is added after cutting
        self._tokenizer.enable_padding(length=length, pad_id=end, pad_token=END_OF_TEXT)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask of the texts, both (N, L) int64; a text that is too long is cut, its end token kept."""
        encodings = self._tokenizer.encode_batch(list(texts))
        return tuple(
            np.array(rows, np.int64) for rows in zip(*((e.ids, e.attention_mask) for e in encodings), strict=True)
        )  # type: ignore[return-value]

    def is_cut(self, text: str) -> bool:
        """Whether the text has more tokens than fit."""
        return bool(self._tokenizer.encode(text).overflowing)
