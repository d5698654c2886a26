"""Which square of a photo the model sees: the face that is asked for, in the frame of training; without a detector the photo's middle.

It knows detectors as anything that gives faces from left to right, and what of the choice the report must say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.errors import RequestError
from runtime.options import Options
from runtime.preprocess.face_detector import Face
from runtime.preprocess.face_frame import cut, face_matrix, middle_matrix

Detector = Callable[[np.ndarray], Sequence[Face]]

NAMED = 8  # faces that a message lists at most
UNALIGNED = (
    "reference: the middle square was taken as it is, since no face detector is at work here; "
    "expected is a square photo with the face aligned as in FFHQ"
)


@dataclass(frozen=True, eq=False)
class Crop:
    """A square of a photo: `matrix` (2, 3) float64 takes the photo's pixels to those of a square of `size`; see `face_frame`.

    report    JSON-serialisable: `photo` (width, height), `size`, `matrix`; with a detector `faces` (boxes from left to right),
              `face_index`, the one that this is, and its `score`
    warnings  for the report as well
    """

    matrix: np.ndarray
    size: int
    report: dict[str, Any]
    warnings: tuple[str, ...] = ()

    def of(self, image: np.ndarray) -> np.ndarray:
        """The square, (size, size, C) uint8, of the photo or of anything drawn on it, (H, W, C) uint8."""
        return cut(image, self.matrix, self.size)


def find_crop(photo: np.ndarray, size: int, options: Options, detector: Detector | None) -> Crop:
    """The square of a photo (H, W, 3) uint8 that is to become `size` pixels wide.

    Raises RequestError: no face found, an index or a box that names none, either of them where nothing finds faces.
    """
    if detector is None:
        for name in ("face_index", "face_box"):
            if getattr(options, name) is not None:
                raise RequestError(
                    f"options.{name}",
                    "no face detector is at work here; send an aligned square photo, or start with a face pack",
                )
        matrix = middle_matrix(photo.shape[1], photo.shape[0], size)
        return Crop(matrix, size, _described(photo, size, matrix), (UNALIGNED,))
    faces = detector(photo)
    if not faces:
        raise RequestError("reference", "no face found; send a photo in which one looks at the camera")
    chosen = _choose(faces, options)
    matrix = face_matrix(faces[chosen].points, size)
    found = {
        "faces": [[round(float(edge), 1) for edge in face.box] for face in faces],
        "face_index": chosen,
        "score": round(faces[chosen].score, 3),
    }
    return Crop(matrix, size, _described(photo, size, matrix) | found)


def _choose(faces: Sequence[Face], options: Options) -> int:
    """Which of the faces, left to right: the one with the index, the one that shares most with the box, or the largest."""
    if options.face_index is not None and options.face_box is not None:
        raise RequestError("options.face_box", "given beside face_index; give one of them")
    if options.face_index is not None:
        if options.face_index >= len(faces):
            raise RequestError(
                "options.face_index",
                f"got {options.face_index}, allowed 0..{len(faces) - 1}, the faces from left to right",
            )
        return options.face_index
    if options.face_box is not None:
        shares = [_overlap(face.box, np.array(options.face_box)) for face in faces]
        if max(shares) <= 0:
            boxes = ", ".join("x".join(f"{edge:.0f}" for edge in face.box) for face in faces[:NAMED])
            raise RequestError("options.face_box", f"no face there; the faces found are {boxes}")
        return int(np.argmax(shares))
    return int(np.argmax([face.area for face in faces]))


def _overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes, left, top, right, bottom."""
    width, height = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [float(np.prod(each[2:] - each[:2])) for each in (box, other)]
    return float(shared / (sum(areas) - shared)) if shared else 0.0


def _described(photo: np.ndarray, size: int, matrix: np.ndarray) -> dict[str, Any]:
    return {"photo": [photo.shape[1], photo.shape[0]], "size": size, "matrix": matrix.tolist()}
