"""Expressions: labels and intensity become action units, and valence and arousal follow from those."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from training.data.synthetic.expression import BLENDS, UNITS, Expression, express, valence_arousal


def test_every_label_has_a_blend_in_the_runtime_order():
    assert tuple(BLENDS) == EMOTIONS


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_intensity_zero_is_the_neutral_face(emotion):
    assert express(emotion, 0.0) == express("neutral", 1.0) == Expression()
    assert valence_arousal(emotion, 0.0) == (0.0, 0.0)


def test_activations_grow_in_proportion_to_intensity():
    np.testing.assert_allclose(express("angry", 0.5).vector(), 0.5 * express("angry", 1.0).vector())


def test_every_unit_is_used_by_some_label():
    assert (np.stack([blend.vector() for blend in BLENDS.values()]).max(axis=0) > 0).all()
    assert len(UNITS) == 15


def test_labels_lie_in_their_quadrant_of_the_circumplex():
    signs = {
        "happy": (1, 1),
        "calm": (1, -1),
        "sad": (-1, -1),
        "angry": (-1, 1),
        "fearful": (-1, 1),
        "disgust": (-1, 1),
    }
    for emotion, expected in signs.items():
        assert tuple(np.sign(valence_arousal(emotion, 1.0))) == expected, emotion
    assert valence_arousal("surprised", 1.0)[1] > 0.7


def test_full_valence_and_arousal_stay_in_range_and_differ_between_labels():
    points = np.array([valence_arousal(emotion, 1.0) for emotion in EMOTIONS])
    assert np.abs(points).max() <= 1.0
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + 10 * np.eye(len(points))
    assert distances.min() > 0.1


def test_an_unknown_label_is_named_with_the_allowed_ones():
    with pytest.raises(ValueError, match=r"'bored'.*neutral, calm"):
        express("bored", 1.0)


@pytest.mark.parametrize("intensity", [-0.1, 1.1, float("nan")])
def test_intensity_out_of_range_is_refused(intensity):
    with pytest.raises(ValueError, match="intensity"):
        express("happy", intensity)


def test_a_unit_out_of_range_is_refused_by_name():
    with pytest.raises(ValueError, match="jaw_drop"):
        Expression(jaw_drop=1.5)
