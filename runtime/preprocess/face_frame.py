"""A square in a photo, and the frame that faces are brought to, from five points: eye centres, tip of the nose, corners of the mouth.

Where a square lies is a (2, 3) matrix that takes a pixel of the photo to a pixel of the square. For a face it is a similarity (turn,
scale, shift: a face is never sheared) fitted by least squares, Umeyama 1991; without points it is the middle of the photo.
Training cuts its photos by these same functions. Who finds the points is not known here.

Points are (5, 2) arrays of x, y in pixels, left eye in the picture first, left corner of the mouth before the right one. The
middle of the first pixel is (0, 0), as OpenCV and insightface count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from runtime.errors import RequestError

# Of the frame's side, root mean square. A face in profile misses by 0.09, eyes taken for each other by 0.13.
MAX_MISS = 0.12
MAX_OUTSIDE = 1.0  # of the photo's longer side may be made up beyond a border; more is a wrong face, not a cut one
MARGIN = 3  # pixels that bicubic interpolation reads beyond the outermost point
ROUNDING = 1e-6  # of a scale: what a matrix that was fitted to unmoved points differs from 1


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

    Never mirrors. Raises RequestError naming `reference` if the source points coincide or are not finite.
    """
    if not np.isfinite(source).all():
        raise RequestError("reference", "the face's points are not finite")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    variance = (centred**2).sum(axis=1).mean()
    if variance < 1:
        raise RequestError("reference", f"the face's points spread over {math.sqrt(variance):.2g} px")
    u, singular, vt = np.linalg.svd((target - target_mean).T @ centred / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ np.diag(sign) @ vt
    scale = (singular * sign).sum() / variance
    return np.column_stack([scale * turn, target_mean - scale * turn @ source_mean])


def face_matrix(points: np.ndarray, size: int, frame: Frame = FFHQ) -> np.ndarray:
    """(2, 3) float64: takes a photo in which a face has these five points to `frame` at `size` pixels.

    Raises RequestError naming `reference` if the points are no face's.
    """
    points, target = np.asarray(points, np.float64), frame.at(size)
    matrix = similarity(points, target)
    miss = math.sqrt(((_moved(points, matrix) - target) ** 2).sum(axis=1).mean()) / size
    if miss > MAX_MISS:
        raise RequestError("reference", f"the face's points miss those of a face by {miss:.2f} of the frame's side")
    return matrix


def middle_matrix(width: int, height: int, size: int) -> np.ndarray:
    """(2, 3) float64: takes a photo of these sizes to its middle square at `size` pixels, as `image.middle_square` cuts it."""
    side = min(width, height)
    corner = np.array([(width - side) // 2, (height - side) // 2])
    scale = size / side
    return np.column_stack([scale * np.eye(2), (0.5 - corner) * scale - 0.5])


def align(image: np.ndarray, points: np.ndarray, size: int, frame: Frame = FFHQ) -> np.ndarray:
    """The face in `frame`, (size, size, 3) uint8, from a photo (H, W, 3) uint8 and its five points.

    Where the frame reaches beyond the photo, the photo goes on mirrored. Raises RequestError naming `reference`.
    """
    return cut(image, face_matrix(points, size, frame), size)


def cut(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The square of a photo that `matrix` says, (size, size, C) uint8 from (H, W, C) uint8; beyond its borders the photo goes on mirrored.

    Raises RequestError naming `reference` if the square lies far outside.
    """
    photo, origin = _surroundings(image, corners(matrix, size))
    back = inverse(matrix)
    back[:, 2] -= origin
    return warped(photo, back, size, size).round().clip(0, 255).astype(np.uint8)


def corners(matrix: np.ndarray, size: int) -> np.ndarray:
    """(4, 2) float64: where the corners of the square of `size` pixels lie in the photo."""
    square = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]])
    return _moved(square, inverse(matrix))


def warped(image: np.ndarray, back: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width, C) float32: pixel p of the result is (H, W, C) `image` at `back` p, bicubic, averaged where it shrinks.

    Black beyond the image. `back` is (2, 3); values may leave 0..255 beside edges.
    """
    scale = math.sqrt(abs(np.linalg.det(back[:, :2])))
    # Interpolation alone skips pixels when it shrinks: warped at `finer` times the size, then averaged.
    finer = max(1, math.ceil(scale - ROUNDING))
    # Pillow counts from a pixel's corner and maps from the result to the source.
    turn = back[:, :2] / finer
    shift = back[:, :2] @ np.array([-0.5, -0.5]) + back[:, 2] + 0.5
    coefficients = (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])
    channels = [  # as floats: Pillow would cut the decimals of bytes, half a grey level darker on the mean
        Image.fromarray(channel)
        .transform((width * finer, height * finer), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
        .reduce(finer)
        for channel in np.moveaxis(image.astype(np.float32), 2, 0)
    ]
    return np.stack(channels, axis=2)


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix of the way back."""
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _surroundings(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the photo that the points span, mirrored on beyond its borders, and where its first pixel lies (x, y)."""
    low = np.floor(points.min(axis=0)).astype(int) - MARGIN
    high = np.ceil(points.max(axis=0)).astype(int) + MARGIN + 1
    width_height = np.array(image.shape[1::-1])
    before, after = np.maximum(0, -low), np.maximum(0, high - width_height)
    outside = max(before.max(), after.max()) - MARGIN - 1
    if outside > MAX_OUTSIDE * width_height.max() or (low >= width_height).any() or (high <= 0).any():
        raise RequestError("reference", f"the face reaches {outside} px beyond the picture")
    inner = image[max(0, low[1]) : high[1], max(0, low[0]) : high[0]]
    padded = np.pad(inner, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="symmetric")
    return padded, low
