"""Faces in a photo, found by the detector of an insightface model pack that the user has (extra `face`). The only file that knows that library.

Nothing is ever downloaded: a pack is a folder on this machine, and its `det_*.onnx` (SCRFD; Guo et al. 2021) gives boxes and five
points. insightface's code is MIT, but **its packs (buffalo_l, antelopev2, …) are for non-commercial research only**, however they
were obtained. Without the extra everything else works; whoever asks for a detector is told what to install.

Pictures are (H, W, 3) uint8 RGB, upright; coordinates are x, y in pixels of that picture, the middle of the first pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import BundleError, EngineError

MIN_SCORE = 0.5  # insightface's own
DETECTORS = "det_*.onnx"


@dataclass(frozen=True, eq=False)
class Face:
    """One face: `box` (4,) left, top, right, bottom · `score` in [0, 1] · `points` (5, 2) as `face_frame` wants them. float32 arrays."""

    box: np.ndarray
    score: float
    points: np.ndarray

    @property
    def area(self) -> float:
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


class FaceDetector:
    """The detector of the pack in `folder`. Faces below `min_score` are not found. Usable from many threads.

    A photo is looked at in 640 and in 128 pixels, insightface's default, so that a face that fills it is found as well as a small
    one; a detector of one fixed size looks in that.
    """

    def __init__(self, folder: Path, min_score: float = MIN_SCORE) -> None:
        """Raises BundleError if the folder has no detector that gives points, or insightface is not installed."""
        found = sorted(folder.glob(DETECTORS))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise BundleError(
                f"face pack: '{folder}' must be a folder with one face detector ({DETECTORS}); it has {names}"
            )
        try:
            from insightface.model_zoo import SCRFD
        except ModuleNotFoundError as error:
            raise BundleError(
                'face pack: insightface is not installed; run pip install "clipfacefusion[face]"'
            ) from error
        try:
            self._network = SCRFD(str(found[0]))
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(f"face pack: {found[0].name} cannot be loaded as a network") from error
        if not self._network.use_kps:
            raise BundleError(
                f"face pack: {found[0].name} gives no points of a face; take a detector that does (det_10g, det_500m)"
            )
        self._network.det_thresh = min_score

    def __call__(self, photo: np.ndarray) -> list[Face]:
        """Every face, from left to right. Raises EngineError if the network fails."""
        try:
            boxes, points = self._network.detect(np.ascontiguousarray(photo[:, :, ::-1]))  # it wants BGR
        except Exception as error:
            raise EngineError("face detector: failed on this photo") from error
        faces = [Face(box[:4], float(box[4]), five) for box, five in zip(boxes, points, strict=True)]
        return sorted(faces, key=lambda face: float(face.box[0] + face.box[2]))
