"""Files to damage, and ways to damage them: what a fuzzer sends where a photo, a mask or a voice is expected.

Everything is a function of the generator it is given. Blind changes of bytes seldom get past a checksum, so some kinds of damage
know the format: a PNG chunk is changed and its CRC put right, a WAV header gets another number in one of its fields.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import soundfile
from PIL import Image

SIDES = (80, 72)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
MAGICS = (
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x00\x10\x00\x00WEBP",
    b"RIFF\x00\x10\x00\x00WAVEfmt ",
    b"fLaC",
    b"OggS",
    b"GIF89a",
)


@cache
def pictures() -> Mapping[str, bytes]:
    """Good photos, and files that only look like some, by name."""
    ramp = np.linspace(0, 255, SIDES[0], dtype=np.uint8)[None, :]
    pixels = np.stack(np.broadcast_arrays(ramp, np.arange(SIDES[1], dtype=np.uint8)[:, None], np.uint8(90)), axis=-1)
    photo, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + 3)
    frames = [photo, photo.rotate(90, expand=False)]
    drawn = {
        "jpeg": (photo, "JPEG", {}),
        "jpeg progressive": (photo, "JPEG", {"progressive": True}),
        "jpeg cmyk": (photo.convert("CMYK"), "JPEG", {}),
        "jpeg turned": (photo, "JPEG", {"exif": exif}),
        "jpeg grey": (photo.convert("L"), "JPEG", {}),
        "png": (photo, "PNG", {}),
        "png clear": (photo.convert("RGBA"), "PNG", {}),
        "png palette": (photo.convert("P"), "PNG", {"transparency": 3}),
        "png deep": (deep, "PNG", {}),
        "png bilevel": (photo.convert("1"), "PNG", {}),
        "webp": (photo, "WEBP", {}),
        "webp lossless": (photo.convert("RGBA"), "WEBP", {"lossless": True}),
        "webp moving": (frames[0], "WEBP", {"save_all": True, "append_images": frames[1:]}),
        "gif": (photo, "GIF", {}),
        "tiff": (photo, "TIFF", {}),
        "bmp": (photo, "BMP", {}),
    }
    return {name: _saved(picture, kind, options) for name, (picture, kind, options) in drawn.items()}


@cache
def masks() -> Mapping[str, bytes]:
    """PNG files, one of them of the photos' size."""
    return {
        "mask": _saved(Image.new("L", SIDES, 255), "PNG", {}),
        "mask of another size": _saved(Image.new("L", (40, 40), 255), "PNG", {}),
        "mask with colours": _saved(Image.new("RGBA", SIDES, (9, 200, 30, 128)), "PNG", {}),
    }


@cache
def voices() -> Mapping[str, bytes]:
    """Good voices, and files that only look like some, by name."""
    tone = 0.5 * np.sin(np.arange(6000) / 9)
    spoilt = np.where(np.arange(6000) % 500 == 7, np.nan, tone)
    made = {
        "wav": (tone, 16_000, "WAV", "PCM_16"),
        "wav stereo": (np.stack([tone, -tone], 1), 22_050, "WAV", "PCM_24"),
        "wav float": (tone, 16_000, "WAV", "FLOAT"),
        "wav spoilt": (spoilt, 16_000, "WAV", "FLOAT"),
        "wav extensible": (tone, 16_000, "WAVEX", "PCM_16"),
        "wav mu-law": (tone, 8_000, "WAV", "ULAW"),
        "wav empty": (tone[:0], 16_000, "WAV", "PCM_16"),
        "wav slow": (tone, 4_000, "WAV", "PCM_16"),
        "flac": (tone, 16_000, "FLAC", "PCM_16"),
        "ogg": (tone, 16_000, "OGG", "VORBIS"),
        "aiff": (tone, 16_000, "AIFF", "PCM_16"),
    }
    return {name: _recorded(*each) for name, each in made.items()}


def damaged(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """The file with one to three kinds of damage, and what was done to it."""
    done = []
    for _ in range(rng.integers(1, 4)):
        way = _WAYS[rng.integers(len(_WAYS))]
        data = way(rng, data)
        done.append(way.__name__.strip("_"))
    return data, ", ".join(done)


def _flipped(rng: np.random.Generator, data: bytes) -> bytes:
    """Some bits changed, most of them in the first hundred bytes, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 12) if data else 0):
        reach = len(changed) if rng.random() < 0.3 else min(len(changed), 100)
        changed[rng.integers(reach)] ^= 1 << rng.integers(8)
    return bytes(changed)


def _cut(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _continued(rng: np.random.Generator, data: bytes) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 5000)))


def _holed(rng: np.random.Generator, data: bytes) -> bytes:
    start, length = rng.integers(len(data) + 1), rng.integers(1, 200)
    return data[:start] + data[start + length :]


def _stuttering(rng: np.random.Generator, data: bytes) -> bytes:
    start, length = rng.integers(len(data) + 1), rng.integers(1, 200)
    piece = data[start : start + length]
    return data[:start] + piece * int(rng.integers(2, 30)) + data[start + length :]


def _renumbered(rng: np.random.Generator, data: bytes) -> bytes:
    """An extreme number in place of two or four bytes near the start, in either order of bytes."""
    if len(data) < 8:
        return data
    place = int(rng.integers(min(len(data), 120) - 3))
    number, order = EXTREMES[rng.integers(len(EXTREMES))], "<>"[rng.integers(2)]
    packed = struct.pack(order + "I", number) if rng.random() < 0.5 else struct.pack(order + "H", number & 0xFFFF)
    return data[:place] + packed + data[place + len(packed) :]


def _spliced(rng: np.random.Generator, data: bytes) -> bytes:
    others = [*pictures().values(), *voices().values()]
    other = others[rng.integers(len(others))]
    return data[: rng.integers(len(data) + 1)] + other[rng.integers(len(other)) :]


def _made_up(rng: np.random.Generator, data: bytes) -> bytes:
    return MAGICS[rng.integers(len(MAGICS))] + rng.bytes(int(rng.integers(0, 300)))


def _rechunked(rng: np.random.Generator, data: bytes) -> bytes:
    """A byte of one PNG chunk changed, its CRC right; another file as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _renumbered(rng, data)
    chunks = list(_png_chunks(data))
    if not chunks:
        return data
    which = int(rng.integers(len(chunks))) if rng.random() < 0.5 else 0
    name, content = chunks[which]
    if content:
        changed = bytearray(content)
        changed[rng.integers(min(len(changed), 20))] = EXTREMES[rng.integers(5)]
        chunks[which] = (name, bytes(changed))
    if rng.random() < 0.2:
        chunks.insert(int(rng.integers(len(chunks))), chunks[rng.integers(len(chunks))])
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], 8
    while position + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        chunks.append((name, data[position + 8 : position + 8 + size]))
        position += 12 + size
    return chunks


def _saved(picture: Image.Image, kind: str, options: Mapping[str, object]) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _recorded(samples: np.ndarray, rate_hz: int, kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype, format=kind)
    return file.getvalue()


_WAYS: tuple[Callable[[np.random.Generator, bytes], bytes], ...] = (
    _flipped,
    _cut,
    _continued,
    _holed,
    _stuttering,
    _renumbered,
    _spliced,
    _made_up,
    _rechunked,
)
