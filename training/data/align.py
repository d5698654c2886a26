"""Any photo to a fixed frame of the face, from five points: eye centres, tip of the nose, corners of the mouth.

The transform is a similarity (turn, scale, shift: a face is never sheared) fitted by least squares, Umeyama 1991. Who finds the
points is not known here; where nobody does, `runtime.preprocess.image.middle_square` is what remains.

Points are (5, 2) arrays of x, y in pixels, left eye in the picture first, left corner of the mouth before the right one. The
middle of the first pixel is (0, 0), as OpenCV and insightface count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from training.data.faults import FaultyFileError

# Of the frame's side, root mean square. A face in profile misses by 0.09, eyes taken for each other by 0.13.
MAX_MISS = 0.12
MAX_OUTSIDE = 1.0  # of the photo's longer side may be made up beyond a border; more is a wrong face, not a cut one


@dataclass(frozen=True)
class Frame:
    """Where the five points of a mean face lie in a square picture of `side` pixels."""

    name: str
    side: int
    points: tuple[tuple[float, float], ...]

    def at(self, size: int) -> np.ndarray:
        """(5, 2) float64 at another size; the picture's borders, not the middles of its outer pixels, stay where they are."""
        return (np.array(self.points) + 0.5) * (size / self.side) - 0.5


# facexlib's mean points of FFHQ portraits at 512 px (MIT licence). FFHQ's own rule, a square around the eyes' middle whose half
# side is the larger of 2 eye distances and 1.8 distances from eyes to mouth, gives this frame for this mean face within 2 %.
FFHQ = Frame(
    "ffhq",
    512,
    (
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ),
)
# insightface's points for ArcFace at 112 px (MIT licence); published recognition nets read this frame and no other.
ARCFACE = Frame(
    "arcface",
    112,
    ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)),
)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix [sR | t] that minimises the squared distance of `source` to `target`, both (N, 2) (Umeyama, eqs 40-42).

    Never mirrors. Raises FaultyFileError "bad landmarks" if the source points coincide or are not finite.
    """
    if not np.isfinite(source).all():
        raise FaultyFileError("bad landmarks", "points that are not finite")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    variance = (centred**2).sum(axis=1).mean()
    if variance < 1:
        raise FaultyFileError("bad landmarks", f"the points spread over {math.sqrt(variance):.2g} px")
    u, singular, vt = np.linalg.svd((target - target_mean).T @ centred / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ np.diag(sign) @ vt
    scale = (singular * sign).sum() / variance
    return np.column_stack([scale * turn, target_mean - scale * turn @ source_mean])


def align(image: np.ndarray, points: np.ndarray, size: int, frame: Frame = FFHQ) -> np.ndarray:
    """The face in `frame`, (size, size, 3) uint8, from a photo (H, W, 3) uint8 and its five points.

    Where the frame reaches beyond the photo, the photo goes on mirrored. Raises FaultyFileError "bad landmarks".
    """
    points, target = np.asarray(points, np.float64), frame.at(size)
    matrix = similarity(points, target)
    miss = math.sqrt(((points @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum(axis=1).mean()) / size
    if miss > MAX_MISS:
        raise FaultyFileError("bad landmarks", f"the points miss a face's by {miss:.2f} of the frame's side")
    scale = math.hypot(matrix[0, 0], matrix[1, 0])
    # Interpolation alone skips pixels when it shrinks: warped at `finer` times the size, then averaged.
    finer = max(1, math.ceil(1 / scale))
    back = _inverse(matrix)
    corners = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]])
    photo, origin = _surroundings(image, corners @ back[:, :2].T + back[:, 2])
    # Pillow counts from a pixel's corner and maps from the result to the source.
    turn = back[:, :2] / finer
    shift = back[:, :2] @ np.array([-0.5, -0.5]) + back[:, 2] - origin + 0.5
    coefficients = (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])
    channels = [  # as floats: Pillow would cut the decimals of bytes, half a grey level darker on the mean
        Image.fromarray(channel)
        .transform((size * finer, size * finer), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
        .reduce(finer)
        for channel in np.moveaxis(photo.astype(np.float32), 2, 0)
    ]
    return np.stack(channels, axis=2).round().clip(0, 255).astype(np.uint8)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def _surroundings(image: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the photo that the four corners span, mirrored on beyond its borders, and where its first pixel lies (x, y)."""
    margin = 3  # what bicubic interpolation reads beyond the outermost point
    low = np.floor(corners.min(axis=0)).astype(int) - margin
    high = np.ceil(corners.max(axis=0)).astype(int) + margin + 1
    width_height = np.array(image.shape[1::-1])
    before, after = np.maximum(0, -low), np.maximum(0, high - width_height)
    outside = max(before.max(), after.max()) - margin - 1
    if outside > MAX_OUTSIDE * width_height.max() or (low >= width_height).any() or (high <= 0).any():
        raise FaultyFileError("bad landmarks", f"the face reaches {outside} px beyond the picture")
    inner = image[max(0, low[1]) : high[1], max(0, low[0]) : high[0]]
    padded = np.pad(inner, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="symmetric")
    return padded, low
