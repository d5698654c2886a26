"""A made square back into the photo that it was cut from, with a seam that fades. The way back of `face.find_crop`.

Nothing is remembered for it: the report of a result says where the square lay. So whoever has the photo can do it, a caller of a
server as well as one in process, and both get the same pixels.
"""

from __future__ import annotations

import numpy as np

from runtime.detail import unchanged
from runtime.errors import RequestError
from runtime.preprocess.face_frame import corners, cut, warped
from runtime.preprocess.image import check_mask_size, decode_image, decode_mask
from runtime.request import GenerateResult

# Of the square's side: over this width along its edges the photo turns into the made picture. More would leave dark hair around grey.
FEATHER = 0.0625


def paste_back(reference: bytes, result: GenerateResult, mask: bytes | None = None) -> np.ndarray:
    """The photo with the made face in it, (H, W, 3) uint8, upright.

    Outside the square it is the photo, bit for bit, and inside as well where the face was not changed: its fine detail stays.

    reference  the file that the request had
    mask       likewise; then the photo is kept outside it too, at its own resolution

    Raises RequestError naming `reference` or `mask` if it cannot be the file that the result was made from.
    """
    crop = result.report.get("crop")
    if crop is None:
        raise RequestError("reference", "the result was not made from a photo, so there is none to paste it into")
    photo = decode_image(reference)
    if [photo.shape[1], photo.shape[0]] != crop["photo"]:
        raise RequestError("reference", f"got {photo.shape[1]}x{photo.shape[0]} px, but the result is of another photo")
    allowed = None if mask is None else decode_mask(mask)
    if allowed is not None:
        check_mask_size(allowed, photo)
    return pasted(photo, result.image, np.array(crop["matrix"]), allowed)


def pasted(photo: np.ndarray, square: np.ndarray, matrix: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """A copy of `photo` (H, W, 3) uint8 with `square` (S, S, 3) uint8 where `matrix` (2, 3) takes it from.

    mask  (H, W) uint8, 255 = may change
    """
    size, (height, width) = square.shape[0], photo.shape[:2]
    before = cut(photo, matrix, size)
    outline = corners(matrix, size)
    left, top = np.floor(outline.min(axis=0)).astype(int).clip(0, (width, height))
    right, bottom = np.ceil(outline.max(axis=0)).astype(int).clip(-1, (width - 1, height - 1)) + 1
    result = photo.copy()
    there = np.column_stack([matrix[:, :2], matrix[:, :2] @ (left, top) + matrix[:, 2]])
    weight = _weight(there, right - left, bottom - top, size)
    if mask is not None:
        weight *= mask[top:bottom, left:right, None] / np.float32(255)
    region = result[top:bottom, left:right]
    made, seen, changed = (
        warped(each, there, right - left, bottom - top) for each in (square, before, 1 - unchanged(square, before))
    )
    # What was made differs from what was seen; where it does, the photo's detail is of something that is no longer there.
    difference = made - seen + changed * (seen - region)
    region[:] = (region + weight * difference).round().clip(0, 255)
    return result


def _weight(matrix: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """(height, width, 1) float32: how much of the made picture each pixel takes; 0 from the square's edge on, 1 beyond the feather."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    weight = np.ones((height, width), np.float32)
    for row in matrix.astype(np.float32):
        along = row[0] * x + row[1] * y + row[2]
        inside = np.minimum(along + 0.5, size - 0.5 - along) / (FEATHER * size)
        ramp = inside.clip(0, 1)
        weight *= ramp * ramp * (3 - 2 * ramp)  # no edge where it starts and ends
    return weight[..., None]
