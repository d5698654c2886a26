"""A voice recording to the samples that Wav2Vec2 reads (Baevski et al. 2020): 16 kHz, mono, first 5 s, normalised.

The decoder meets what strangers send: WAV and FLAC only, PCM or float samples, limits checked in the header, and only the seconds
that are used are ever decoded. Letter: T samples.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile
import soxr

from runtime.errors import RequestError
from runtime.spec import MAX_AUDIO_SAMPLES, MIN_AUDIO_SAMPLES, SAMPLING_RATE_HZ

MIN_DURATION_S = MIN_AUDIO_SAMPLES / SAMPLING_RATE_HZ
MAX_DURATION_S = 60
USED_DURATION_S = MAX_AUDIO_SAMPLES // SAMPLING_RATE_HZ
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 192_000
MAX_CHANNELS = 8
SUBTYPES = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
SMALLEST_STEP = 2.0**-15
UNKNOWN_FRAMES = 2**62  # a FLAC that was written as a stream; libsndfile says 2**63 - 1
VARIANCE_FLOOR = 1e-7  # transformers' Wav2Vec2FeatureExtractor


def decode_audio(data: bytes) -> np.ndarray:
    """The first 5 s of a WAV or FLAC file as (T,) float32 at 16 kHz, the mean of its channels; 4000 <= T <= 80000.

    Raises RequestError naming `audio` for any other file, a damaged one, values out of range, or samples that are not finite.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        _check_chunks(data)
    elif data[:4] != b"fLaC":
        raise RequestError("audio", "cannot decode as WAV or FLAC")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file)
            rate = file.samplerate
            samples = file.read(USED_DURATION_S * rate, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise RequestError("audio", "cannot decode as WAV or FLAC; is the file complete?") from error
    with np.errstate(over="ignore", invalid="ignore"):  # the check below reports what is not finite
        mono = soxr.resample(samples.mean(axis=1), rate, SAMPLING_RATE_HZ)[:MAX_AUDIO_SAMPLES]
    if not np.isfinite(mono).all():
        raise RequestError("audio", "holds samples that are NaN, infinite or too large; expected -1..1")
    return mono


def is_silent(samples: np.ndarray) -> bool:
    """Whether no sample of a voice (T,) float32 reaches the smallest step of a 16-bit file."""
    return bool(np.abs(samples).max() < SMALLEST_STEP)


def normalise(samples: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as Wav2Vec2FeatureExtractor does; silence stays silence. (T,) float32 both."""
    wide = samples.astype(np.float64)  # squares of large samples would overflow
    return ((wide - wide.mean()) / np.sqrt(wide.var() + VARIANCE_FLOOR)).astype(np.float32)


def _check_chunks(data: bytes) -> None:
    """Refuse a WAV file that promises more bytes than it has; the decoder would read on without a word."""
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if size > len(data) - position:
            chunk = name.decode("ascii", "replace").strip()
            raise RequestError(
                "audio",
                f"chunk {chunk!r} claims {size} bytes, the file has {len(data) - position} left; is it complete?",
            )
        if name == b"data":
            return  # what follows is not read
        position += size + size % 2  # chunks start at even positions


def _check_header(file: soundfile.SoundFile) -> None:
    if file.subtype not in SUBTYPES:
        raise RequestError("audio", f"got {file.subtype} samples, allowed {', '.join(SUBTYPES)}")
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        raise RequestError("audio", f"got {file.samplerate} Hz, allowed {MIN_RATE_HZ}..{MAX_RATE_HZ} Hz")
    if file.channels > MAX_CHANNELS:
        raise RequestError("audio", f"got {file.channels} channels, allowed 1..{MAX_CHANNELS}")
    if file.frames >= UNKNOWN_FRAMES:
        raise RequestError(
            "audio", f"does not say how long it is, allowed {MIN_DURATION_S:g}..{MAX_DURATION_S} s; save it as a file"
        )
    duration_s = file.frames / file.samplerate
    if not MIN_DURATION_S <= duration_s <= MAX_DURATION_S:
        raise RequestError("audio", f"lasts {duration_s:.3g} s, allowed {MIN_DURATION_S:g}..{MAX_DURATION_S} s")
