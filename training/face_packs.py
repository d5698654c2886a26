"""Face detection, five landmarks and ArcFace from an insightface model pack that the user has (extra `face`).

Nothing is ever downloaded: a pack is a folder on this machine with `det_*.onnx` (SCRFD) and a recognition model (ArcFace).
insightface's code is MIT, but **its packs (buffalo_l, antelopev2, ...) are for non-commercial research use only**, however they were
obtained; what is trained or measured with one is bound by that too. Nothing of a pack enters a checkpoint, and only `export --face-pack` puts its ArcFace into a bundle.

`FacePack.landmarks` aligns photos when data is read, `FacePack.identity` judges people in evaluation. Pictures are
(H, W, 3) uint8 RGB, upright; coordinates are (x, y) pixels of that picture, from its upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import BundleError

DETECTION_SIZE = (640, 640)  # the one that SCRFD was trained at; pictures are fitted into it
MODULES = ("detection", "recognition")


@dataclass(frozen=True)
class Face:
    """One face: `box` (4,) left, top, right, bottom · `score` in [0, 1] · `landmarks` (5, 2) eyes, nose, mouth corners, left ones
    (as seen) first · `identity` (512,) ArcFace vector of unit length. All arrays are float32.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray
    identity: np.ndarray


class FacePack:
    """A loaded pack. Faces below `min_score` are not found."""

    def __init__(self, folder: Path, min_score: float = 0.5) -> None:
        """Raises BundleError if `folder` is no pack or insightface is not installed."""
        folder = Path(folder)
        if not 0 < min_score < 1:
            raise ValueError(f"face pack: min_score {min_score} must be in (0, 1)")
        # Checked here: given anything but a folder, insightface takes it for a name and downloads the pack of that name.
        if not folder.is_dir():
            raise BundleError(f"face pack: {folder} is not a folder; unpack an insightface pack (e.g. buffalo_l) there")
        if not any(folder.glob("*.onnx")):
            raise BundleError(f"face pack: {folder} has no .onnx files; point at the folder that holds them directly")
        try:
            from insightface.app import FaceAnalysis
        except ModuleNotFoundError as error:
            raise BundleError('face pack: insightface is not installed; run pip install ".[face]"') from error
        try:
            self._analysis = FaceAnalysis(str(folder.resolve()), allowed_modules=list(MODULES), addons=())
        except AssertionError as error:  # how insightface says that there is no detector
            raise BundleError(
                f"face pack: {folder} has no face detector (SCRFD); a pack has one as det_*.onnx"
            ) from error
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise BundleError(f"face pack: {folder} cannot be loaded: {error}") from error
        if "recognition" not in self._analysis.models:
            raise BundleError(f"face pack: {folder} has no recognition model (ArcFace, square input of 112 or more)")
        if not self._analysis.det_model.use_kps:
            raise BundleError(
                f"face pack: the detector in {folder} gives no landmarks; take one with them (det_10g, det_500m)"
            )
        self._analysis.prepare(ctx_id=0, det_thresh=min_score, det_size=DETECTION_SIZE)

    def faces(self, image: np.ndarray) -> list[Face]:
        """Every face of an RGB picture, best score first."""
        return [_face(found) for found in self._analysis.get(_bgr(image))]

    def landmarks(self, image: np.ndarray) -> np.ndarray | None:
        """(5, 2) float32 of the main face of an RGB picture, large and near the centre; None where no face is found."""
        _, landmarks = self._analysis.det_model.detect(_bgr(image), max_num=1)
        return landmarks[0].astype(np.float32) if len(landmarks) else None

    def identity(self, image: np.ndarray) -> np.ndarray | None:
        """(512,) float32 ArcFace vector of the main face of an RGB picture, unit length; None where no face is found."""
        found = self._analysis.get(_bgr(image), max_num=1)
        return _face(found[0]).identity if found else None


def _face(found) -> Face:  # type: ignore[no-untyped-def]  # insightface's own dictionary of a face
    return Face(
        box=found.bbox.astype(np.float32),
        score=float(found.det_score),
        landmarks=found.kps.astype(np.float32),
        identity=found.normed_embedding.astype(np.float32),
    )


def _bgr(image: np.ndarray) -> np.ndarray:
    """OpenCV's order of channels, which insightface expects."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"face pack: picture is {image.dtype} {image.shape}, expected uint8 (H, W, 3) in RGB")
    return np.ascontiguousarray(image[:, :, ::-1])
