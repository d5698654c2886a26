"""The real insightface on a detector made here: boxes and points are where they were planted; what is missing is said in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("insightface", reason="extra `face` is not installed")
pytest.importorskip("onnx", reason="the detector of these tests is made with it")

from runtime.errors import BundleError, EngineError
from runtime.preprocess.face_detector import FaceDetector
from tests.planted_faces import STRENGTH, plant, points_of, write_detector

ROOT = Path(__file__).resolve().parents[3]
BLUE = np.zeros((640, 640, 3), np.uint8) + np.array([0, 0, 90], np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("pack") / "det_planted.onnx").parent


@pytest.fixture(scope="module")
def detector(folder: Path) -> FaceDetector:
    return FaceDetector(folder)


def test_box_points_and_score_are_what_the_network_says(detector: FaceDetector) -> None:
    (face,) = detector(plant(BLUE, 320, 224, 32))
    assert face.box.tolist() == pytest.approx([320, 224, 352, 256])
    np.testing.assert_allclose(face.points, points_of(320, 224, 32), rtol=1e-6)
    assert face.score == pytest.approx(STRENGTH, abs=0.01) and face.area == pytest.approx(32 * 32)


def test_faces_come_from_left_to_right_whatever_their_scores(detector: FaceDetector) -> None:
    photo = plant(plant(plant(BLUE, 480, 64, 32), 96, 480, 32), 288, 256, 32)
    photo[256:288, 288:320, 0] = 200  # the middle one is the faintest
    assert [face.box[0] for face in detector(photo)] == pytest.approx([96, 288, 480])


def test_a_face_that_fills_the_photo_is_found_as_well_as_a_small_one(detector: FaceDetector) -> None:
    (large,) = detector(plant(BLUE, 160, 320, 160))  # one cell of the photo in 128 pixels, five in 640
    np.testing.assert_allclose(large.box, [160, 320, 320, 480], atol=1)


def test_coordinates_are_the_photo_s_and_not_the_detector_s(detector: FaceDetector) -> None:
    upper = np.repeat(np.repeat(plant(BLUE, 320, 224, 32), 2, axis=0), 2, axis=1)[:1000]
    (face,) = detector(upper)
    np.testing.assert_allclose(face.points, points_of(640, 448, 64), atol=0.5)


def test_a_photo_is_rgb(detector: FaceDetector) -> None:
    assert detector(plant(BLUE, 320, 224, 32)) and not detector(plant(BLUE, 320, 224, 32)[:, :, ::-1])


def test_faces_below_the_score_are_not_found(folder: Path) -> None:
    photo = plant(BLUE, 320, 224, 32)
    assert FaceDetector(folder, STRENGTH - 0.05)(photo) and not FaceDetector(folder, STRENGTH + 0.05)(photo)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "must be a folder with one face detector .*it has none"),
        (lambda folder: write_detector(folder / "w600k.onnx"), "it has none"),
        (lambda folder: [write_detector(folder / f"det_{n}.onnx") for n in "ab"], "it has det_a.onnx, det_b.onnx"),
        (lambda folder: (folder / "det_a.onnx").write_bytes(b"no network"), "det_a.onnx cannot be loaded as a network"),
        (lambda folder: write_detector(folder / "det_a.onnx", has_points=False), "det_a.onnx gives no points"),
    ],
)
def test_a_folder_that_is_no_pack_is_refused_when_it_is_opened(tmp_path: Path, make, message: str) -> None:
    make(tmp_path)
    with pytest.raises(BundleError, match=message):
        FaceDetector(tmp_path)


def test_a_network_that_fails_is_an_engine_error_without_its_words(detector: FaceDetector, monkeypatch) -> None:
    monkeypatch.setattr(detector._network, "forward", lambda *_: 1 / 0)
    with pytest.raises(EngineError, match=r"^face detector: failed on this photo$"):
        detector(BLUE)


def test_the_runtime_needs_no_insightface_until_a_detector_is_asked_for(folder: Path) -> None:
    code = (
        "import sys\nfor name in ('insightface', 'cv2', 'skimage'): sys.modules[name] = None\n"
        "import clipfacefusion, runtime.pipeline, runtime.preprocess.face_detector as detectors\n"
        "from pathlib import Path\n"
        "try: detectors.FaceDetector(Path(sys.argv[1]))\n"
        "except detectors.BundleError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == ('face pack: insightface is not installed; run pip install "clipfacefusion[face]"'), (
        done.stdout + done.stderr
    )
