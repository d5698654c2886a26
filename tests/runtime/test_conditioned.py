"""What conditioning hands over survives the way through Triton's tensors, and what is absent stays absent."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.conditioned import Conditioned
from runtime.settings import SampleSettings

COND = {"cond": np.ones(4, np.float32), "cond_tokens": np.full((2, 3), 2, np.float32)}
PICTURES = {"image": np.full((1, 3, 8, 8), 0.5, np.float32), "mask": np.ones((1, 1, 8, 8), np.float32)}
SOURCE_COND = {name: -array for name, array in COND.items()}


@pytest.mark.parametrize("extra", [{}, PICTURES, {**PICTURES, "source_cond": SOURCE_COND}])
def test_a_request_is_the_same_on_the_other_side_of_a_process_border(extra):
    sent = Conditioned(COND, SampleSettings(seed=1, guidance_scale=3), {"warnings": ["ä"]}, **extra)
    tensors = sent.to_tensors()
    assert set(tensors) == {*COND, *("source_" + name for name in COND), "image", "mask", "settings", "notes"}
    got = Conditioned.from_tensors(tensors)
    assert (got.settings, got.report) == (sent.settings, sent.report)
    for name in ("image", "mask"):
        np.testing.assert_array_equal(getattr(got, name), getattr(sent, name))
    for name in ("cond", "source_cond"):
        ours, theirs = getattr(sent, name), getattr(got, name)
        assert (ours is None) == (theirs is None)
        for entry in ours or {}:
            np.testing.assert_array_equal(theirs[entry], ours[entry])
    assert set(got.cond) == set(COND)
