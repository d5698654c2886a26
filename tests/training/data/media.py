"""Tiny real files as the data sets have them: pictures by Pillow, sounds by libsndfile, videos and M4A by FFmpeg."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

FRAMES = 9


def pixels(seed: int, height: int = 40, width: int = 36) -> np.ndarray:
    """(height, width, 3) uint8, another picture for every seed; smooth, so that JPEG keeps it."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC))


def picture(path: Path, seed: int = 0, mode: str = "RGB", **options: object) -> Path:
    """Write `pixels(seed)` in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).convert(mode).save(path, **options)
    return path


def bomb(path: Path, side: int) -> Path:
    """Write a PNG of a few bytes whose header claims side × side pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDATx")
    packed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def tone(seconds: float, rate: int, hz: float = 220.0) -> np.ndarray:
    """(T,) float32 at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound(path: Path, seconds: float = 0.5, rate: int = 48_000, hz: float = 220.0, channels: int = 1) -> Path:
    """Write a tone in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tone(seconds, rate, hz)
    if path.suffix == ".m4a":
        with av.open(str(path), "w", format="mp4") as file:
            _add_sound(file, samples, rate)
    else:
        soundfile.write(path, np.stack([samples] * channels, axis=1), rate)
    return path


def video(path: Path, seed: int = 0, with_sound: bool = False) -> Path:
    """Write FRAMES frames, the n-th of them `shade(n)` all over save for a seeded corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
        audio = file.add_stream("aac", rate=48_000, layout="mono") if with_sound else None
        for n in range(FRAMES):
            frame = np.full((48, 64, 3), shade(n), np.uint8)
            frame[:16, :16] = pixels(seed, 16, 16)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
        if audio is not None:
            _mux(file, audio, tone(0.5, 48_000), 48_000)
    return path


def shade(frame: int) -> int:
    """The grey of frame number `frame` of a `video`."""
    return 40 + 20 * frame


def _add_sound(file: av.container.OutputContainer, samples: np.ndarray, rate: int) -> None:
    _mux(file, file.add_stream("aac", rate=rate, layout="mono"), samples, rate)


def _mux(file: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray, rate: int) -> None:
    for start in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[None, start : start + 1024]), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = rate, start
        file.mux(stream.encode(frame))
    file.mux(stream.encode())
