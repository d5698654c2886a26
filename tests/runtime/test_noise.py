"""Noise: golden vectors, the stream contract, and that it is Gaussian."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from runtime.noise import CHUNK, INITIAL_NOISE, gaussian, normal_quantile, step_stream

# (seed, stream) -> the first six values, as float32 bit patterns. They must never change: a seed is a promise.
GOLDEN = {
    (0, 0): [3222365837, 3207825978, 3214673803, 1042681933, 1002665095, 3205957692],
    (7, 0): [1066496141, 3205082055, 3192814505, 3195349241, 3216076557, 1057211916],
    (7, 1): [3215065397, 1046672944, 1073920700, 1029759920, 1068803515, 3208274724],
    (2**63 - 1, 2**64 - 1): [3214877645, 3205136971, 1049618913, 3169625731, 1064542319, 3207387302],
}
SAMPLE = gaussian(42, INITIAL_NOISE, 400_000).astype(np.float64)


@pytest.mark.parametrize(("seed", "stream"), GOLDEN)
def test_golden_vectors(seed, stream):
    values = gaussian(seed, stream, 6)
    assert values.dtype == np.float32
    assert values.view(np.uint32).tolist() == GOLDEN[seed, stream]


def test_golden_vectors_follow_from_the_documented_definition():
    # an independent route: numpy's raw stream word by word and the standard library's AS 241
    raw = np.random.Philox(key=np.array([7, 0], dtype=np.uint64), counter=np.array([0, 0, 1, 0], dtype=np.uint64))
    uniform = [((int(word) >> 12) + 0.5) / 2**52 for word in raw.random_raw(6)]
    expected = np.array([statistics.NormalDist().inv_cdf(u) for u in uniform], dtype=np.float32)
    assert expected.view(np.uint32).tolist() == GOLDEN[7, 1]


def test_the_quantile_agrees_with_the_standard_library_to_the_last_digits():
    uniform = np.concatenate([np.linspace(0.001, 0.999, 1999), 10.0 ** -np.arange(1, 17), [2.0**-53, 1 - 2.0**-53]])
    uniform = uniform[uniform != 0.5]
    expected = np.array([statistics.NormalDist().inv_cdf(float(u)) for u in uniform])
    np.testing.assert_allclose(normal_quantile(uniform), expected, rtol=2e-15)


def test_the_smallest_and_largest_uniform_are_finite_and_symmetric():
    low, middle, high = normal_quantile(np.array([2.0**-53, 0.5, 1 - 2.0**-53]))
    assert low == -high and middle == 0 and 8 < high < 9


def test_a_larger_shape_begins_with_the_same_numbers():
    np.testing.assert_array_equal(gaussian(3, 2, (4, 5, 6)).ravel()[:17], gaussian(3, 2, 17))


@pytest.mark.parametrize("offset", [0, 1, 3, 4, 5, 63])
def test_offset_skips_exactly_that_many(offset):
    np.testing.assert_array_equal(gaussian(3, 2, 20, offset=offset), gaussian(3, 2, 100)[offset : offset + 20])


def test_order_and_repetition_of_calls_change_nothing():
    forward = [gaussian(5, stream, 8) for stream in range(4)]
    backward = [gaussian(5, stream, 8) for stream in reversed(range(4))][::-1]
    np.testing.assert_array_equal(forward, backward)


def test_the_initial_noise_has_a_stream_of_its_own():
    assert INITIAL_NOISE not in {step_stream(step_index) for step_index in range(1000)}


@pytest.mark.parametrize("other", [(43, 0), (42, 1), (42, 2**40), (42 + 2**40, 0)])
def test_seeds_and_streams_are_uncorrelated(other):
    correlation = np.corrcoef(SAMPLE, gaussian(*other, SAMPLE.size))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(SAMPLE.size)


def test_moments_are_those_of_a_standard_normal():
    error = 5 / np.sqrt(SAMPLE.size)  # five standard errors, times the standard deviation of each statistic
    assert abs(SAMPLE.mean()) < error
    assert abs(SAMPLE.var() - 1) < error * np.sqrt(2)
    assert abs((SAMPLE**3).mean()) < error * np.sqrt(15)
    assert abs((SAMPLE**4).mean() - 3) < error * np.sqrt(96)
    assert abs(np.corrcoef(SAMPLE[:-1], SAMPLE[1:])[0, 1]) < error


def test_the_distribution_passes_kolmogorov_smirnov():
    ordered = np.sort(SAMPLE[:100_000])
    cdf = np.array([statistics.NormalDist().cdf(x) for x in ordered])
    steps = np.arange(len(ordered) + 1) / len(ordered)
    distance = max(np.abs(cdf - steps[:-1]).max(), np.abs(cdf - steps[1:]).max())
    assert distance < 1.95 / np.sqrt(len(ordered))  # p = 0.001


@pytest.mark.parametrize(("field", "arguments"), [("seed", (-1, 0)), ("seed", (2**63, 0)), ("stream", (0, -1))])
def test_numbers_out_of_range_are_refused_by_name(field, arguments):
    with pytest.raises(ValueError, match=field):
        gaussian(*arguments, 4)
    with pytest.raises(ValueError, match="offset"):
        gaussian(0, 0, 4, offset=-1)


def test_where_one_chunk_ends_and_the_next_begins_cannot_be_told():
    across = gaussian(5, 2, CHUNK + 10)[CHUNK - 5 :]
    np.testing.assert_array_equal(across, gaussian(5, 2, 15, offset=CHUNK - 5))
