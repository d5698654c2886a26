"""A server with a face pack: photos of any kind go in over gRPC, the face that is meant is edited, and goes back into its photo."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

pytest.importorskip("insightface", reason="extra `face` is not installed")
pytest.importorskip("onnx", reason="the detector of these tests is made with it")

from clipfacefusion import paste_back
from runtime.client import Client
from runtime.errors import RequestError
from runtime.pipeline import Pipeline
from runtime.preprocess.face_frame import corners
from runtime.preprocess.image import decode_image
from runtime.request import GenerateRequest
from runtime.serving.repository import build_repository
from runtime.serving.server import Server
from tests.planted_faces import plant, write_detector

# Left, top and side of two faces: one fills a cell of the photo in 640 pixels, the other in 128.
LEFT, RIGHT = (64, 128, 32), (320, 160, 160)


@pytest.fixture(scope="module")
def face_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("pack") / "det_planted.onnx").parent


@pytest.fixture(scope="module")
def with_faces(micro_bundle: Path, face_pack: Path) -> Iterator[Client]:
    """A server of its own: the one that all tests share has no detector, and needs none."""
    with (
        Server(micro_bundle, build=partial(build_repository, face_pack=face_pack)) as server,
        Client(server.url) as client,
    ):
        yield client


def upright() -> np.ndarray:
    y, x = np.mgrid[:416, :640]
    photo = np.stack([60 + x // 9, 70 + y // 6, 160 - x // 8], axis=2).astype(np.uint8)
    for face in (LEFT, RIGHT):
        photo = plant(photo, *face)
    return photo


def phone_photo() -> bytes:
    """A JPEG as a phone stores it: on its side, with a note that says so."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    stored = np.ascontiguousarray(np.rot90(upright(), 1))
    Image.fromarray(stored).save(file, "JPEG", quality=97, subsampling=0, exif=exif)
    return file.getvalue()


def studio_voice() -> bytes:
    """A 48 kHz stereo WAV."""
    time_s = np.arange(48_000 * 2) / 48_000
    channels = np.stack([np.sin(2 * np.pi * hz * time_s) * np.exp(-time_s) for hz in (180, 240)], axis=1)
    file = io.BytesIO()
    soundfile.write(file, channels, 48_000, format="WAV", subtype="PCM_24")
    return file.getvalue()


def edit_of(**options) -> GenerateRequest:
    return GenerateRequest(
        reference=phone_photo(),
        audio=studio_voice(),
        age=70,
        seed=3,
        num_inference_steps=4,
        edit_from_timestep=500,
        options=options,
    )


def test_a_turned_jpeg_and_a_stereo_wav_go_through_an_edit_and_the_face_returns_to_its_photo(
    with_faces, face_pack, micro_bundle
):
    request = edit_of(face_index=0)
    result = with_faces(request)
    crop, face = result.report["crop"], LEFT
    assert crop["photo"] == [640, 416] and crop["face_index"] == 0 and len(crop["faces"]) == 2
    assert crop["faces"][0] == pytest.approx([face[0], face[1], face[0] + face[2], face[1] + face[2]], abs=8)
    assert result.report["edit"]["t0"] == 500 and result.report["conditions"] == ["audio", "reference", "age"]
    assert not any("middle square" in warning for warning in result.report["warnings"])
    changed = (paste_back(request.reference, result) != decode_image(request.reference)).any(axis=2)
    rows, columns = np.nonzero(changed)
    square = corners(np.array(crop["matrix"]), crop["size"])
    assert changed.sum() > 100
    assert square.min(axis=0) == pytest.approx([columns.min(), rows.min()], abs=6)
    assert square.max(axis=0) == pytest.approx([columns.max(), rows.max()], abs=6)
    with Pipeline.open(micro_bundle, face_pack=face_pack) as pipeline:
        np.testing.assert_array_equal(pipeline(request).image, result.image)


def test_the_face_is_chosen_by_size_index_or_box(with_faces):
    chosen = [
        with_faces(edit_of(**options)).report["crop"]["face_index"]
        for options in ({}, {"face_index": 0}, {"face_box": (40, 100, 130, 190)})
    ]
    assert chosen == [1, 0, 0], "the right one is larger"


def test_no_face_and_no_such_face_are_said_by_name(with_faces):
    empty = io.BytesIO()
    Image.new("RGB", (300, 200), "navy").save(empty, "PNG")
    with pytest.raises(RequestError, match=r"^reference: no face found"):
        with_faces(GenerateRequest(reference=empty.getvalue(), age=70))
    with pytest.raises(RequestError, match=r"options\.face_index: got 2, allowed 0\.\.1") as caught:
        with_faces(edit_of(face_index=2))
    assert caught.value.code == "INVALID_ARGUMENT"
