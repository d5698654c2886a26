"""A photo file to pixels, and pixels to what each network reads.

The decoder meets what strangers send: formats are a closed list, and the size is read from the header before a pixel is decoded.
Nothing here finds or aligns faces; the middle square of the photo is used. Layout: (H, W, 3) uint8 RGB pictures,
(1, 3, S, S) float32 tensors.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

from runtime.errors import RequestError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_SIDE = 4096
MAX_PIXELS = 16_000_000  # decoded RGBA of this size takes 64 MB
MIN_SIDE = 64  # of a face less is a guess. A model that draws smaller pictures takes them back, see `check_photo_size`

# CLIP's own statistics (Radford et al. 2021); training normalises with them too.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def decode_image(data: bytes) -> np.ndarray:
    """The picture in a JPEG, PNG or WebP file, (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Of an animation the first frame. Palettes are resolved, transparency is laid over white, CMYK is converted by the usual
    formula, 16-bit grey keeps its upper 8 bits; colour profiles are ignored, as CLIP's and ArcFace's own preprocessing does.
    Bytes after the picture are not read: phones append videos to their photos. Raises RequestError naming `reference` for any
    other file, a damaged one, or a size out of range.
    """
    return _decoded("reference", data, FORMATS, lambda picture: opaque_rgb(ImageOps.exif_transpose(picture)))


def check_photo_size(photo: np.ndarray, image_size: int) -> None:
    """Refuse a photo (H, W, 3) too small for a model that draws pictures of `image_size`. Raises RequestError."""
    height, width = photo.shape[:2]
    least = min(MIN_SIDE, image_size)
    if min(height, width) < least:
        raise RequestError("reference", f"got {width}x{height} px, allowed {least}..{MAX_SIDE} px per side")


def decode_mask(data: bytes) -> np.ndarray:
    """The mask in a PNG file, (H, W) uint8; 255 = may change. Of any size that a photo may have, see `check_mask_size`.

    Colours count by their brightness, transparency as black. Raises RequestError naming `mask`.
    """
    return _decoded("mask", data, ("PNG",), _brightness)


def check_mask_size(mask: np.ndarray, photo: np.ndarray) -> None:
    """Refuse a mask (H, W) that is not of the size of its photo (H, W, 3), turned upright. Raises RequestError."""
    if mask.shape != photo.shape[:2]:
        got, allowed = (f"{each.shape[1]}x{each.shape[0]} px" for each in (mask, photo))
        raise RequestError("mask", f"got {got}, allowed {allowed} as the photo has")


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
    picture = _eight_bit(picture)
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


def mask_pixels(mask: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a mask at the model's size, (1, 1, size, size) float32 in 0..1."""
    side = min(mask.shape)
    levels = np.asarray(Image.fromarray(_centre_crop(mask, side, side)).resize((size, size), Image.Resampling.BOX))
    return levels.astype(np.float32)[None, None] / 255


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


def _brightness(picture: Image.Image) -> Image.Image:
    picture = _eight_bit(picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("L")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey to its upper 8 bits; Pillow's own conversion would clip at 255."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture


def _decoded(
    field: str, data: bytes, formats: tuple[str, ...], converted: Callable[[Image.Image], Image.Image]
) -> np.ndarray:
    """The converted pixels of the picture in a file of one of `formats`; its size is checked before a pixel is decoded."""
    kinds = " or ".join(filter(None, (", ".join(formats[:-1]), formats[-1]))).replace("WEBP", "WebP")
    undecodable = RequestError(field, f"cannot decode as {kinds}; is the file complete?")
    too_large = f"allowed at most {MAX_SIDE} px per side and {MAX_PIXELS} px in all"
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            if max(picture.size) > MAX_SIDE or picture.width * picture.height > MAX_PIXELS:
                raise RequestError(field, f"got {picture.width}x{picture.height} px, {too_large}")
            picture.load()
            return np.asarray(converted(picture))
    except (RequestError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise RequestError(field, f"got over {2 * Image.MAX_IMAGE_PIXELS} px, {too_large}") from None
    except Exception as error:  # damaged files raise errors of every kind
        raise undecodable from error
