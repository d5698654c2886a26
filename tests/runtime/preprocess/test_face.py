"""Which face of a photo is meant, and what is said where none can be found; faces come from a list here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.errors import RequestError
from runtime.manifest import TOKENIZER
from runtime.options import OPTION_BY_NAME, Options
from runtime.preprocess import Preprocessor
from runtime.preprocess.face import UNALIGNED, Crop, find_crop
from runtime.preprocess.face_detector import Face
from runtime.preprocess.face_frame import FFHQ, align
from runtime.preprocess.image import MAX_SIDE, middle_square
from runtime.request import GenerateRequest
from tests.fakes import MODEL, write_bundle

PHOTO = np.random.default_rng(0).integers(0, 255, (300, 500, 3), dtype=np.uint8)
SIZE = 64


def face(left: float, top: float, side: float) -> Face:
    """A face whose points are those of the frame at `side` pixels, and whose box is the middle of it."""
    box = np.array([left + 0.2 * side, top + 0.2 * side, left + 0.8 * side, top + 0.9 * side], np.float32)
    return Face(box, 0.9, (FFHQ.at(int(side)) + np.array([left, top])).astype(np.float32))


FACES = [face(20, 40, 100), face(150, 60, 200), face(380, 100, 90)]  # from left to right, as a detector gives them


def chosen(**options) -> Crop:
    return find_crop(PHOTO, SIZE, Options(**options), lambda photo: FACES)


def test_the_largest_face_is_meant_unless_another_is_named():
    assert [chosen(**options).report["face_index"] for options in ({}, {"face_index": 0}, {"face_index": 2})] == [
        1,
        0,
        2,
    ]


def test_a_box_means_the_face_that_shares_most_with_it():
    assert chosen(face_box=(370, 90, 480, 200)).report["face_index"] == 2
    assert chosen(face_box=(0, 0, 320, 299)).report["face_index"] == 1
    assert chosen(face_box=(0, 0, 170, 299)).report["face_index"] == 0


def test_the_crop_is_the_face_in_the_frame_that_training_uses():
    crop = chosen(face_index=1)
    np.testing.assert_array_equal(crop.of(PHOTO), align(PHOTO, FACES[1].points, SIZE))
    assert crop.warnings == ()


def test_a_mask_is_cut_as_its_photo():
    crop, drawn = chosen(face_index=1), np.zeros((300, 500, 1), np.uint8)
    drawn[60:160, 150:350] = 255  # the upper half of the face's square
    mask = crop.of(drawn)[:, :, 0]
    assert mask[: SIZE // 2 - 3, 3:-3].min() > 250 and mask[SIZE // 2 + 3 :].max() < 5


def test_the_report_says_what_was_found_and_crosses_json():
    report = json.loads(json.dumps(chosen().report))
    assert report["photo"] == [500, 300] and report["size"] == SIZE and report["score"] == 0.9
    np.testing.assert_array_equal(np.array(report["matrix"]), chosen().matrix)
    assert len(report["faces"]) == 3 and report["faces"][0] == pytest.approx(FACES[0].box, abs=0.05)
    assert chosen(face_box=report["faces"][2]).report["face_index"] == 2, "a box of the report names its face again"


def test_without_a_detector_it_is_the_middle_square_and_the_report_says_what_was_expected():
    crop = find_crop(PHOTO, SIZE, Options(), None)
    assert crop.warnings == (UNALIGNED,) and "faces" not in crop.report
    assert np.abs(crop.of(PHOTO).astype(int) - middle_square(PHOTO, SIZE)).mean() < 12  # noise, resampled in two ways
    np.testing.assert_allclose(crop.matrix @ [100 + 150 - 0.5, 150 - 0.5, 1], [SIZE / 2 - 0.5] * 2)


@pytest.mark.parametrize(
    ("faces", "options", "message"),
    [
        ([], {}, "reference: no face found"),
        (FACES, {"face_index": 3}, "options.face_index: got 3, allowed 0..2, the faces from left to right"),
        (FACES, {"face_box": (0, 250, 30, 290)}, "options.face_box: no face there; the faces found are 40x60x100x130"),
        (FACES, {"face_box": (200, 100, 100, 200)}, "options.face_box: no face there"),
        (FACES, {"face_index": 0, "face_box": (0, 0, 9, 9)}, "options.face_box: given beside face_index"),
        (None, {"face_index": 0}, "options.face_index: no face detector is at work here"),
        (None, {"face_box": (0, 0, 9, 9)}, "options.face_box: no face detector is at work here"),
        ([Face(np.array([0, 0, 9, 9]), 0.9, np.full((5, 2), 4.0))], {}, "reference: the face's points spread over"),
    ],
)
def test_what_cannot_be_chosen_is_a_request_error_that_says_the_way_out(faces, options, message):
    detector = None if faces is None else lambda photo: faces
    with pytest.raises(RequestError) as caught:
        find_crop(PHOTO, SIZE, Options(**options), detector)
    assert str(caught.value).startswith(message)


def test_a_box_may_lie_anywhere_in_a_photo():
    assert OPTION_BY_NAME["face_box"].high == MAX_SIDE


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(folder)
    return folder / TOKENIZER


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def test_a_photo_with_a_detector_is_its_aligned_square_without_one(tokenizer):
    """What the networks see of a face in a large photo is what they see of the crop that training would have cut."""
    found, plain = (Preprocessor(MODEL, tokenizer, 1.0, detector=each) for each in (lambda photo: FACES, None))
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[100:, 200:] = 255
    crop = find_crop(PHOTO, MODEL.image_size, Options(face_index=2), lambda photo: FACES)
    squares = {"reference": png(crop.of(PHOTO)), "mask": png(crop.of(mask[..., None])[..., 0])}
    edit = {"age": 3, "edit_from_timestep": 500, "seed": 1}
    whole = found(GenerateRequest(reference=png(PHOTO), mask=png(mask), options={"face_index": 2}, **edit))
    square = plain(GenerateRequest(**squares, **edit))
    for name, array in square.to_tensors().items():
        if name not in ("notes", "settings"):
            np.testing.assert_array_equal(array, whole.to_tensors()[name], name)
    assert whole.report["crop"] == json.loads(json.dumps(crop.report)) and whole.report["warnings"] == []
    assert square.report["warnings"] == [UNALIGNED]
