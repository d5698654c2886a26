"""Files of a data set to pixels and samples. What cannot be used raises FaultyFileError with a named reason, nothing else.

The content decides about the format, never the name. Layouts: pictures (H, W, 3) uint8 RGB, sounds (T,) float32.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from PIL import Image, ImageOps

from runtime.preprocess.image import opaque_rgb
from runtime.spec import MAX_AUDIO_SAMPLES, MIN_AUDIO_SAMPLES, SAMPLING_RATE_HZ
from training.data.faults import FaultyFileError
from training.data.record import VideoFrame
from training.data.tree import AUDIO_SUFFIXES, IMAGE_SUFFIXES

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MIN_SIDE = 32  # fewer pixels show no face worth learning; FER2013 has 48
MAX_PIXELS = 64_000_000  # decoded RGB of this size takes 192 MB
MIN_PEAK = 1e-3  # -60 dB of full scale; below it is the noise of the recorder
MAX_RATE_HZ = 384_000

# Format by the first bytes, with the suffixes that belong to it. The video family is one format to its decoder.
_MAGIC: tuple[tuple[int, bytes, frozenset[str]], ...] = (
    (0, b"\xff\xd8\xff", frozenset({".jpg", ".jpeg"})),
    (0, b"\x89PNG", frozenset({".png"})),
    (8, b"WEBP", frozenset({".webp"})),
    (0, b"BM", frozenset({".bmp"})),
    (8, b"WAVE", frozenset({".wav"})),
    (0, b"fLaC", frozenset({".flac"})),
    (0, b"OggS", frozenset({".ogg"})),
    (0, b"ID3", frozenset({".mp3"})),
    (0, b"\xff\xfb", frozenset({".mp3"})),
    (4, b"ftyp", frozenset({".m4a", ".mp4", ".mov"})),
)
_UNKNOWN_LENGTH = (0, 0xFFFFFFFF)  # what a program writes into a WAV header that it cannot go back to


def read_image(source: Path | VideoFrame | np.ndarray) -> np.ndarray:
    """The picture, (H, W, 3) uint8 RGB, turned upright as its EXIF orientation says.

    Grey is repeated, palettes are resolved, transparency is laid over white, CMYK is converted by the usual formula, 16-bit grey
    keeps its upper 8 bits; colour profiles are ignored. Of an animation the first frame.
    """
    if isinstance(source, VideoFrame):
        pixels = _frame(source)
    elif isinstance(source, np.ndarray):
        pixels = np.repeat(source[:, :, None], 3, axis=2) if source.ndim == 2 else source
    else:
        pixels = _photo(source)
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise FaultyFileError("too small", f"{width}x{height} px, at least {MIN_SIDE} a side")
    if (pixels == pixels[:1, :1]).all():
        raise FaultyFileError("blank", f"every pixel is {tuple(pixels[0, 0].tolist())}")
    return pixels


def read_audio(path: Path) -> np.ndarray:
    """The first 5 s, (T,) float32 at 16 kHz in [-1, 1], the mean of the channels; 4000 <= T <= 80000.

    WAV, FLAC, Ogg and MP3 through libsndfile; the sound of M4A and MP4 files through FFmpeg. Nothing behind the part in use is
    decoded. A recording louder than full scale is scaled down to it.
    """
    head = _head(path)
    samples, rate = _ffmpeg_samples(path) if _is_mp4(head) else _sndfile_samples(path, head)
    if not samples.size:
        raise FaultyFileError("empty", "no samples")
    if not np.isfinite(samples).all():
        raise FaultyFileError("not finite", f"{np.count_nonzero(~np.isfinite(samples))} of {samples.size} samples")
    mono = samples.mean(axis=1, dtype=np.float64)
    mono = soxr.resample(mono, rate, SAMPLING_RATE_HZ)[:MAX_AUDIO_SAMPLES]
    if len(mono) < MIN_AUDIO_SAMPLES:
        raise FaultyFileError(
            "too short", f"{len(mono) / SAMPLING_RATE_HZ:.3g} s, at least {MIN_AUDIO_SAMPLES / SAMPLING_RATE_HZ:g} s"
        )
    if np.abs(mono - mono.mean()).max() < MIN_PEAK:  # a constant is as silent as zero
        raise FaultyFileError(
            "silent", f"peak {np.abs(mono - mono.mean()).max():.2g} of full scale, at least {MIN_PEAK:g}"
        )
    return (mono / max(1.0, np.abs(mono).max())).astype(np.float32)


def right_suffixes(path: Path) -> frozenset[str]:
    """The suffixes that belong to the content of `path`; empty where its first bytes tell nothing."""
    head = _head(path)
    return next((suffixes for at, magic, suffixes in _MAGIC if head[at : at + len(magic)] == magic), frozenset())


def _photo(path: Path) -> np.ndarray:
    _head(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow only warns of, odd EXIF for one, changes no pixel
        try:
            picture = Image.open(path, formats=PICTURE_FORMATS)
        except Image.DecompressionBombError:
            raise FaultyFileError("too large", f"more than {MAX_PIXELS} px") from None
        except Exception as error:  # damaged headers raise errors of every kind
            if right_suffixes(path) & IMAGE_SUFFIXES:
                raise FaultyFileError("damaged", "its header cannot be read; is the file complete?") from error
            raise FaultyFileError("not an image", f"read are {', '.join(PICTURE_FORMATS)}") from error
        with picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise FaultyFileError("too large", f"{width}x{height} px, at most {MAX_PIXELS} in all")
            try:
                picture.load()
                return np.asarray(opaque_rgb(_upright(picture)))
            except Exception as error:
                raise FaultyFileError("damaged", f"{picture.format}: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # EXIF that cannot be read turns nothing; the pixels are complete
        return picture


def _frame(source: VideoFrame) -> np.ndarray:
    if not _is_mp4(_head(source.path)):
        raise FaultyFileError("not a video", "read is MP4")
    with _opened(source.path) as container:
        if not container.streams.video:
            raise FaultyFileError("not a video", "the file has no pictures")
        stream = container.streams.video[0]
        wanted = int(source.position * (stream.duration or 0)) + (stream.start_time or 0)
        container.seek(wanted, stream=stream)  # to the key frame in front
        frame = None  # the one on the screen at that moment
        for later in container.decode(stream):
            if frame is not None and later.pts is not None and later.pts > wanted:
                break
            frame = later
        if frame is None:
            raise FaultyFileError("damaged", "no picture of the video can be decoded")
        return frame.to_ndarray(format="rgb24")


def _ffmpeg_samples(path: Path) -> tuple[np.ndarray, int]:
    """(T, channels) float32 and the sampling rate, of the first 5 s."""
    with _opened(path) as container:
        if not container.streams.audio:
            raise FaultyFileError("not audio", "the file has no sound")
        stream = container.streams.audio[0]
        rate = stream.rate
        blocks: list[np.ndarray] = []
        planar = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        for frame in container.decode(stream):
            blocks += [part.to_ndarray().T for part in planar.resample(frame)]
            if sum(map(len, blocks)) >= _used_frames(rate):
                break
        return np.concatenate(blocks or [np.zeros((0, 1), np.float32)])[: _used_frames(rate)], rate


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The container, closed again; whatever FFmpeg or the data provoke becomes "damaged"."""
    try:
        # Format and open file are given, so that neither name nor content can make FFmpeg read anything else.
        with path.open("rb") as file, av.open(file, "r", format="mp4") as container:
            if not container.streams:
                raise FaultyFileError("damaged", "MP4: no index of its content; is the file complete?")
            yield container
    except FaultyFileError:
        raise
    except Exception as error:
        told = error.strerror if isinstance(error, av.FFmpegError) else None  # without the path, which the caller names
        raise FaultyFileError("damaged", f"MP4: {told or type(error).__name__}") from error


def _sndfile_samples(path: Path, head: bytes) -> tuple[np.ndarray, int]:
    """(T, channels) float32 and the sampling rate, of the first 5 s."""
    if head[8:12] == b"WAVE":
        _check_length(path)
    try:
        with path.open("rb") as opened, soundfile.SoundFile(opened) as file:
            if file.samplerate > MAX_RATE_HZ:
                raise FaultyFileError("damaged", f"claims {file.samplerate} Hz, at most {MAX_RATE_HZ}")
            return file.read(_used_frames(file.samplerate), dtype="float32", always_2d=True), file.samplerate
    except FaultyFileError:
        raise
    except Exception as error:
        reason = "damaged" if right_suffixes(path) & AUDIO_SUFFIXES else "not audio"
        raise FaultyFileError(reason, str(error).rpartition(": ")[2].rstrip(".")) from error


def _check_length(path: Path) -> None:
    """Refuse a WAV file that ends inside its samples; libsndfile would shorten the sound without a word."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 12
        while position + 8 <= size:
            file.seek(position)
            name, claimed = struct.unpack("<4sI", file.read(8))
            if name == b"data":
                left = size - position - 8
                if claimed > left and claimed not in _UNKNOWN_LENGTH:
                    raise FaultyFileError("damaged", f"WAV: claims {claimed} bytes of samples and has {left}")
                return
            position += 8 + claimed + claimed % 2  # chunks start at even positions


def _used_frames(rate: int) -> int:
    """How many samples at `rate` the model can hear; one more second, since the resampler reads ahead."""
    return int(Fraction(MAX_AUDIO_SAMPLES * rate, SAMPLING_RATE_HZ)) + rate


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise FaultyFileError("missing", "no such file") from None
    except OSError as error:
        raise FaultyFileError("unreadable", error.strerror or type(error).__name__) from None
    if not head:
        raise FaultyFileError("empty", "zero bytes")
    return head


def _is_mp4(head: bytes) -> bool:
    return head[4:8] == b"ftyp"
