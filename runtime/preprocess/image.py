"""A photo file to pixels, and pixels to what each network reads.

The decoder meets what strangers send: formats are a closed list, and the size is read from the header before a pixel is decoded.
Nothing here finds or aligns faces; the middle square of the photo is used. Layout: (H, W, 3) uint8 RGB pictures,
(1, 3, S, S) float32 tensors.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from runtime.errors import RequestError

FORMATS = ("JPEG", "PNG", "WEBP")
MIN_SIDE, MAX_SIDE = 16, 4096
MAX_PIXELS = 16_000_000  # decoded RGBA of this size takes 64 MB

# CLIP's own statistics (Radford et al. 2021); training normalises with them too.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def decode_image(data: bytes) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file, (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Of an animation the first frame. Palettes are resolved, transparency is laid over white, CMYK is converted by the usual
    formula, 16-bit grey keeps its upper 8 bits; colour profiles are ignored, as CLIP's and ArcFace's own preprocessing does.
    Raises RequestError naming `reference` for any other file, a damaged one, or a size out of range.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise RequestError("reference", f"too many pixels; {_allowed_sizes()}") from None
    except Exception as error:  # damaged headers raise errors of every kind
        raise _undecodable() from error
    with picture:
        width, height = picture.size
        sides_fit = min(picture.size) >= MIN_SIDE and max(picture.size) <= MAX_SIDE
        if not sides_fit or width * height > MAX_PIXELS:
            raise RequestError("reference", f"got {width}x{height} px, {_allowed_sizes()}")
        try:
            picture.load()
            return np.asarray(opaque_rgb(ImageOps.exif_transpose(picture)))
        except Exception as error:
            raise _undecodable() from error


def clip_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """What CLIP's image encoder reads, (1, 3, size, size) float32: shortest side to `size`, bicubic, centre crop, CLIP_MEAN/STD.

    Equals transformers' CLIPImageProcessorPil.
    """
    height, width = image.shape[:2]
    scale = size / min(height, width)
    resized = _resized(image, (max(size, int(scale * width)), max(size, int(scale * height))))
    pixels = _centre_crop(resized, size, size).astype(np.float32) / 255
    return _batch_of_one((pixels - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32))


def opaque_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, as `decode_image` promises; training reads its pictures by the same rule."""
    if picture.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def middle_square(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square at the model's size, (size, size, 3) uint8."""
    side = min(image.shape[:2])
    return _resized(_centre_crop(image, side, side), (size, size))


def model_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square at the model's size, (1, 3, size, size) float32 in [-1, 1]."""
    return _batch_of_one(middle_square(image, size).astype(np.float32) / 127.5 - 1)


def identity_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """What the identity encoder reads: ArcFace's (x - 127.5) / 127.5, the same range and crop as `model_pixels`."""
    return model_pixels(image, size)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bicubic, with antialiasing when it shrinks; `size` is (width, height)."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _centre_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _batch_of_one(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.astype(np.float32).transpose(2, 0, 1)[None])


def _undecodable() -> RequestError:
    return RequestError("reference", "cannot decode as JPEG, PNG or WebP; is the file complete?")


def _allowed_sizes() -> str:
    return f"allowed {MIN_SIDE}..{MAX_SIDE} px per side and {MAX_PIXELS} px in all"
