"""What counts as unchanged: equal pictures everywhere, a large change nowhere near it, and nothing between is a step."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.detail import CHANGED_LEVELS, unchanged

BEFORE = np.random.default_rng(0).integers(0, 120, (64, 64, 3), dtype=np.uint8)


def test_an_equal_picture_is_unchanged_everywhere():
    assert (unchanged(BEFORE, BEFORE) == 1).all() and unchanged(BEFORE, BEFORE).shape == (64, 64, 1)


@pytest.mark.parametrize("levels", [5, 20, 60])
def test_an_even_change_weighs_as_its_square(levels):
    weight = unchanged(BEFORE + np.uint8(levels), BEFORE)
    np.testing.assert_allclose(weight, np.exp(-((levels / CHANGED_LEVELS) ** 2)), rtol=1e-5)


def test_a_change_reaches_a_little_beyond_itself_and_no_further():
    picture = BEFORE.copy()
    picture[:, 32:] += 100
    weight = unchanged(picture, BEFORE)[32, :, 0]
    assert weight[34:].max() < 0.01 and weight[:24].min() > 0.99
    assert (np.diff(weight[20:40]) <= 1e-6).all()
