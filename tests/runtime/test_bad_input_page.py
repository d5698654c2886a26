"""docs/bad-input.md states the limits that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import envelope, options
from runtime.decoding import DecodeLimits
from runtime.feature_cache import DEFAULT_BYTES
from runtime.fields import SHOWN_CHARACTERS
from runtime.preprocess import audio, image
from runtime.request import FIELD_BY_NAME, MAX_FILE_BYTES

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "bad-input.md").read_text(encoding="utf-8").split())
LIMITS = DecodeLimits()


@pytest.mark.parametrize(
    "stated",
    [
        f"at most {MAX_FILE_BYTES // 2**20} MiB each",
        f"at most {image.MAX_SIDE} px per side and {image.MAX_PIXELS} px in all. At least {image.MIN_SIDE} px per side",
        f"{audio.MIN_RATE_HZ // 1000} to {audio.MAX_RATE_HZ // 1000} kHz, at most {audio.MAX_CHANNELS} channels, "
        f"{audio.MIN_DURATION_S:g} to {audio.MAX_DURATION_S} s as the header says; the first {audio.USED_DURATION_S} s",
        f"{FIELD_BY_NAME['text'].low} to {FIELD_BY_NAME['text'].high} characters of UTF-8",
        f"a JSON object of at most {options.MAX_CHARACTERS} characters",
        f"at most {envelope.MAX_CHARACTERS} characters that can be printed",
        f"{' and '.join(f'`{name}`' for name in envelope.PARAMETERS)}, as text",
        f"It has {LIMITS.memory_mb} MB of memory beyond what it holds at rest and {LIMITS.cpu_s} s of processor time",
        f"cannot be decoded within {LIMITS.memory_mb} MB of memory",
        f"cannot be decoded within {LIMITS.cpu_s} s of computing",
        f"{DEFAULT_BYTES // 2**20} MB by default",
        f"cut to {SHOWN_CHARACTERS} characters",
    ],
)
def test_a_limit_on_the_page_is_the_one_in_the_code(stated):
    assert stated in PAGE
