"""Counter-based Gaussian noise: the same numbers for a request wherever, whenever and beside whomever it runs.

A request owns a seed; each use of noise inside it owns a stream (`INITIAL_NOISE`, `step_stream(k)`). Element i of stream
s is a pure function of (seed, s, i), so nothing depends on batch, order or process. This file knows no schedule and no
request.

The raw 64-bit stream is numpy's Philox4x64-10 bit generator (Salmon et al. 2011): numpy guarantees a bit generator's
stream across versions, but not that of `normal()`. The Gaussian transform is therefore ours: the inverse normal CDF
by Wichura's algorithm AS 241, routine PPND16 (Applied Statistics 37, 1988), relative error about 1e-16.

It is written with + - * / and sqrt on float64 only, each of which IEEE 754 rounds in one way, with a logarithm made
from them (a library's log may differ in its last bit between processors). So the numbers are bit-equal on all platforms.
"""

from __future__ import annotations

import math

import numpy as np

SEED_LIMIT = 2**63  # a seed travels as INT64
INITIAL_NOISE = 0  # the stream of the sample that denoising starts from

WORDS_PER_BLOCK = 4  # Philox4x64 yields four 64-bit words per counter value
# 52 bits, not 53: (k + 0.5) / 2**52 is exact for every k, so u is never rounded to 1, where the quantile is infinite.
UNIFORM_BITS = 52
CHUNK = 16_384  # elements at a time: their float64 temporaries stay in a core's cache, and are not mapped anew by the system

# AS 241, PPND16: numerator and denominator for each of three regions, constant term first.
CENTRAL_EDGE = 0.425  # |u - 1/2| up to here takes the central polynomials
CENTRAL_SQUARE = 0.180625  # CENTRAL_EDGE ** 2
NEAR_TAIL_CENTRE = 1.6
TAIL_EDGE = 5.0  # sqrt(-log(tail probability)) up to here takes the near-tail polynomials
# fmt: off
CENTRAL = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)
NEAR_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)
FAR_TAIL = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)
# fmt: on
LOG_2 = 0.693147180559945309417
SQRT_HALF = 0.707106781186547524401
ATANH_SERIES = tuple(1.0 / (2 * k + 1) for k in range(12))  # the next term is below 1e-19 on the reduced range


def gaussian(seed: int, stream: int, shape: int | tuple[int, ...], offset: int = 0) -> np.ndarray:
    """Elements offset, offset + 1, ... of one stream of standard normal noise.

    seed    0..2**63-1, the request's
    stream  0..2**64-1: `INITIAL_NOISE`, or `step_stream(k)`
    shape   of the float32 result, filled in C order; a larger shape begins with the same numbers
    offset  index of the first element

    Raises ValueError for a number out of range.
    """
    _check_range("seed", seed, SEED_LIMIT)
    _check_range("stream", stream, 2**64)
    _check_range("offset", offset, 2**63)
    shape = (shape,) if isinstance(shape, int) else shape
    words = _philox_words(seed, stream, offset, math.prod(shape))
    noise = np.empty(len(words), np.float32)
    for start in range(0, len(words), CHUNK):
        part = slice(start, start + CHUNK)
        uniform = ((words[part] >> np.uint64(64 - UNIFORM_BITS)).astype(np.float64) + 0.5) / 2.0**UNIFORM_BITS
        noise[part] = normal_quantile(uniform)
    return noise.reshape(shape)


def step_stream(step_index: int) -> int:
    """The stream of the noise that step `step_index` (from 0) adds when eta > 0."""
    return 1 + step_index


def normal_quantile(probability: np.ndarray) -> np.ndarray:
    """Inverse of the standard normal CDF (AS 241, PPND16): float64 in (0, 1) to float64, element by element."""
    q = probability - 0.5
    r = CENTRAL_SQUARE - q * q
    result = q * _ratio(CENTRAL, r)
    tail = np.flatnonzero(np.abs(q) > CENTRAL_EDGE)
    q_tail = q[tail]
    smaller = np.minimum(probability[tail], 1.0 - probability[tail])
    r_tail = np.sqrt(-_log(smaller))
    near = _ratio(NEAR_TAIL, r_tail - NEAR_TAIL_CENTRE)
    far = _ratio(FAR_TAIL, r_tail - TAIL_EDGE)
    result[tail] = np.copysign(np.where(r_tail <= TAIL_EDGE, near, far), q_tail)
    return result


def _philox_words(seed: int, stream: int, offset: int, count: int) -> np.ndarray:
    """(count,) uint64: words offset.. of the Philox stream with key (seed, 0) and counter (block, 0, stream, 0)."""
    block, skipped = divmod(offset, WORDS_PER_BLOCK)
    key = np.array([seed, 0], dtype=np.uint64)
    counter = np.array([block, 0, stream, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(skipped + count)[skipped:]


def _ratio(polynomials: tuple[tuple[float, ...], tuple[float, ...]], x: np.ndarray) -> np.ndarray:
    numerator, denominator = polynomials
    return _horner(numerator, x) / _horner(denominator, x)


def _horner(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    result = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result *= x
        result += coefficient
    return result


def _log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of positive float64: x = m 2^e with m in [√½, √2), log m = 2 atanh((m - 1) / (m + 1))."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < SQRT_HALF
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    exponent = exponent - small
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent * LOG_2 + 2.0 * s * _horner(ATANH_SERIES, s * s)


def _check_range(name: str, value: int, limit: int) -> None:
    if not 0 <= value < limit:
        raise ValueError(f"noise: {name}={value} is outside 0..{limit - 1}")
