"""Guidance: the formula, one call, and rows that do not pay for what they do not use."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.guidance import combine, guide


class RecordingDenoiser:
    """A row-wise function of everything it is given; remembers how many rows each call had."""

    def __init__(self):
        self.rows = []

    def __call__(self, sample, timestep, cond):
        self.rows.append(len(sample))
        level = timestep.astype(np.float32)[:, None, None, None] / 1000
        return np.sin(sample + level) * cond["cond"].sum(axis=1)[:, None, None, None]


def batch(rows=3):
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((rows, 2, 4, 4)).astype(np.float32)
    cond = {"cond": rng.standard_normal((rows, 5)).astype(np.float32)}
    uncond = {"cond": rng.standard_normal((1, 5)).astype(np.float32)}
    return sample, np.arange(rows, dtype=np.int64) * 100, cond, uncond


def test_guidance_is_the_published_formula_in_one_call_of_twice_the_rows():
    sample, timestep, cond, uncond = batch()
    denoise = RecordingDenoiser()
    guided = guide(denoise, uncond, 3.0)(sample, timestep, cond)
    assert denoise.rows == [6]
    with_cond = denoise(sample, timestep, cond)
    without = denoise(sample, timestep, {"cond": np.repeat(uncond["cond"], 3, axis=0)})
    np.testing.assert_allclose(guided, without + 3.0 * (with_cond - without), rtol=1e-5, atol=1e-6)
    assert guided.dtype == np.float32


def test_scale_one_is_the_plain_denoiser_and_runs_no_unconditional_row():
    sample, timestep, cond, _ = batch()
    denoise = RecordingDenoiser()
    np.testing.assert_array_equal(guide(denoise, {}, 1.0)(sample, timestep, cond), denoise(sample, timestep, cond))
    assert denoise.rows == [3, 3]


def test_scale_zero_is_the_unconditional_prediction():
    sample, timestep, cond, uncond = batch()
    denoise = RecordingDenoiser()
    without = denoise(sample, timestep, {"cond": np.repeat(uncond["cond"], 3, axis=0)})
    np.testing.assert_allclose(guide(denoise, uncond, 0.0)(sample, timestep, cond), without, atol=1e-6)


def test_each_row_may_have_its_own_scale_and_equals_the_row_alone():
    sample, timestep, cond, uncond = batch()
    scales = np.array([1.0, 2.5, 7.0])
    denoise = RecordingDenoiser()
    together = guide(denoise, uncond, scales)(sample, timestep, cond)
    assert denoise.rows == [5]
    for row in range(3):
        one = slice(row, row + 1)
        alone = guide(denoise, uncond, float(scales[row]))(sample[one], timestep[one], {"cond": cond["cond"][one]})
        np.testing.assert_array_equal(together[one], alone)


def test_combine_is_bit_equal_for_one_row_and_for_many():
    rng = np.random.default_rng(1)
    uncond, cond = rng.standard_normal((2, 4, 3, 8, 8)).astype(np.float32)
    together = combine(uncond, cond, 3.3)
    for row in range(4):
        np.testing.assert_array_equal(together[row], combine(uncond[row], cond[row], 3.3))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), np.ones((2, 2))])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match="guidance_scale"):
        guide(RecordingDenoiser(), {}, scale)


def test_scales_and_uncond_that_do_not_fit_the_batch_are_refused():
    sample, timestep, cond, uncond = batch()
    with pytest.raises(ValueError, match="2 values of guidance_scale for 3 rows"):
        guide(RecordingDenoiser(), uncond, np.array([2.0, 3.0]))(sample, timestep, cond)
    with pytest.raises(ValueError, match="'cond'"):
        guide(RecordingDenoiser(), {"other": uncond["cond"]}, 2.0)(sample, timestep, cond)
    with pytest.raises(ValueError, match="shape"):
        guide(RecordingDenoiser(), {"cond": np.zeros((2, 5), np.float32)}, 2.0)(sample, timestep, cond)
