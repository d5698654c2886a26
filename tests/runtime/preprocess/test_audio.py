"""Voices of every kind become 16 kHz mono, or a RequestError that names the field."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from runtime.errors import RequestError
from runtime.preprocess.audio import decode_audio, is_silent, normalise

RNG = np.random.default_rng(3)


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def encoded(samples: np.ndarray, rate: int = 16_000, kind: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 127),
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "DOUBLE", 1e-6),
        ("WAVEX", "PCM_16", 1e-4),
        ("FLAC", "PCM_S8", 1 / 127),
        ("FLAC", "PCM_16", 1e-4),
        ("FLAC", "PCM_24", 1e-6),
    ],
)
def test_every_allowed_sample_type_gives_the_same_voice(kind, subtype, tolerance):
    decoded = decode_audio(encoded(tone(1), kind=kind, subtype=subtype))
    assert decoded.dtype == np.float32 and decoded.shape == (16_000,)
    np.testing.assert_allclose(decoded, tone(1), atol=tolerance)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_becomes_16_khz(rate):
    decoded = decode_audio(encoded(tone(1, rate), rate))
    assert abs(len(decoded) - 16_000) <= 1
    middle = slice(2_000, 14_000)  # the resampler's edges ring
    np.testing.assert_allclose(decoded[middle], tone(1)[middle], atol=2e-3)


def test_channels_are_averaged_in_stereo_at_48_khz():
    left, right = tone(1, 48_000, 300), tone(1, 48_000, 700)
    decoded = decode_audio(encoded(np.stack([left, right], 1), 48_000))
    expected = (tone(1, hertz=300) + tone(1, hertz=700)) / 2
    np.testing.assert_allclose(decoded[2_000:14_000], expected[2_000:14_000], atol=2e-3)


def test_only_the_first_five_seconds_are_used():
    decoded = decode_audio(encoded(np.concatenate([tone(5), np.ones(32_000)])))
    assert decoded.shape == (80_000,)
    np.testing.assert_allclose(decoded, tone(5), atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 192_000])
def test_the_shortest_allowed_voice_is_long_enough_for_the_encoder(rate):
    assert len(decode_audio(encoded(tone(1, rate)[: -(-rate // 4)], rate))) >= 4_000


def with_data_size(data: bytes, size: int) -> bytes:
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


def with_total_samples(flac: bytes, samples: int) -> bytes:
    """The FLAC file with another number of samples in its header (the lowest 36 bits of 8 bytes of STREAMINFO)."""
    place = 4 + 4 + 10
    (packed,) = struct.unpack_from(">Q", flac, place)
    return flac[:place] + struct.pack(">Q", packed >> 36 << 36 | samples) + flac[place + 8 :]


GOOD = encoded(tone(1))
FLAC = encoded(tone(1), kind="FLAC")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "cannot decode as WAV or FLAC"),
        (b"RIFF\x00\x00\x00\x00WAVE", "cannot decode as WAV or FLAC"),
        (b"fLaC" + b"\x00" * 50, "cannot decode as WAV or FLAC"),
        (encoded(tone(1), kind="OGG", subtype="VORBIS"), "cannot decode as WAV or FLAC"),
        (encoded(tone(1), kind="AIFF"), "cannot decode as WAV or FLAC"),
        (encoded(tone(1), subtype="ULAW"), "got ULAW samples, allowed PCM_S8"),
        (encoded(tone(1), subtype="IMA_ADPCM"), "got IMA_ADPCM samples"),
        (encoded(tone(1), 7_999), "got 7999 Hz, allowed 8000..192000"),
        (encoded(tone(1), 200_000), "got 200000 Hz"),
        (encoded(np.zeros((8_000, 9))), "got 9 channels, allowed 1..8"),
        (encoded(np.zeros(0)), r"lasts 0 s, allowed 0\.25\.\.60 s"),
        (encoded(tone(0.24)), r"lasts 0\.24 s"),
        (encoded(np.zeros(61 * 16_000)), "lasts 61 s"),
        (encoded(np.full(8_000, np.nan), subtype="FLOAT"), "NaN, infinite or too large"),
        (encoded(np.where(np.arange(8_000) == 4_000, np.inf, 0), subtype="FLOAT"), "NaN, infinite or too large"),
        (encoded(np.full(8_000, 1e300), subtype="DOUBLE"), "NaN, infinite or too large"),
        (with_data_size(GOOD, 10**9), "chunk 'data' claims 1000000000 bytes, the file has 32000 left"),
        (with_data_size(GOOD, 0xFFFFFFFF), "claims 4294967295 bytes"),
        (GOOD[: len(GOOD) // 2], "is it complete"),
        (FLAC[: len(FLAC) // 2], "cannot decode"),
        (with_total_samples(FLAC, 40_000), "cannot decode"),
        (with_total_samples(FLAC, 0), r"does not say how long it is, allowed 0\.25\.\.60 s"),
        (with_total_samples(FLAC, 2**36 - 1), "lasts"),
    ],
)
def test_what_cannot_be_used_is_a_request_error_that_names_the_field(data, message):
    with pytest.raises(RequestError, match=message) as caught:
        decode_audio(data)
    assert caught.value.field == "audio"


def test_bytes_after_the_samples_are_ignored():
    np.testing.assert_array_equal(decode_audio(GOOD + b"some editor's own words"), decode_audio(GOOD))


def test_random_damage_never_escapes_as_another_error():
    for good in (encoded(tone(0.3)), encoded(tone(0.3), kind="FLAC")):
        for _ in range(100):
            damaged = bytearray(good)
            for place in RNG.integers(0, 60, 3):  # the headers
                damaged[place] = RNG.integers(0, 256)
            try:
                assert np.isfinite(decode_audio(bytes(damaged))).all()
            except RequestError as error:
                assert error.field == "audio"


@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_normalise_equals_transformers(offset):
    pytest.importorskip("transformers")
    from transformers import Wav2Vec2FeatureExtractor

    samples = (tone(1.3) + offset + RNG.normal(0, 0.05, 20_800)).astype(np.float32)
    expected = Wav2Vec2FeatureExtractor()(samples, sampling_rate=16_000, return_tensors="np")["input_values"][0]
    found = normalise(samples)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("level", "silent"), [(0.0, True), (0.9 / 2**15, True), (2 / 2**15, False), (0.5, False)])
def test_silence_is_what_no_16_bit_file_could_hold(level, silent):
    assert is_silent(np.float32(level) * np.sign(tone(1)).astype(np.float32)) is silent


def test_silence_stays_finite():
    assert not normalise(np.zeros(5_000, np.float32)).any()


def test_loud_samples_do_not_overflow():
    assert np.isfinite(normalise(np.float32(1e30) * tone(1).astype(np.float32))).all()
