"""Saved pictures say that they are generated, and by what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.provenance import image_format, read_provenance, save_image

IMAGE = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
REPORT = {
    "seed": 7,
    "num_inference_steps": 50,
    "guidance_scale": 3.0,
    "bundle": 'demo "quoted" <&> ünï',
    "bundle_sha256": "ab" * 32,
    "conditions": ["text", "age"],
    "inferred": {"age_text": "what a person wrote"},
    "timings_ms": {"total": 1.0},
}


@pytest.mark.parametrize("name", ["face.png", "face.webp", "face.jpg", "face.JPEG"])
def test_every_format_carries_what_is_needed_to_make_the_face_again(tmp_path, name):
    save_image(IMAGE, tmp_path / name, REPORT)
    found = read_provenance(tmp_path / name)
    assert found.pop("created").endswith("+00:00")
    assert found.pop("version") and found.pop("generator") == "ClipFaceFusion"
    assert found == {name: REPORT[name] for name in REPORT if name not in ("inferred", "timings_ms")}


@pytest.mark.parametrize("name", ["face.png", "face.webp", "face.jpg"])
def test_every_format_is_labelled_as_generated_in_iptc_s_words(tmp_path, name):
    save_image(IMAGE, tmp_path / name, REPORT)
    data = (tmp_path / name).read_bytes()
    assert b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" in data
    assert b"what a person wrote" not in data


def test_png_keeps_the_pixels_and_a_text_chunk_of_its_own(tmp_path):
    save_image(IMAGE, tmp_path / "face.png", REPORT)
    with Image.open(tmp_path / "face.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), IMAGE)
        assert json.loads(picture.info["clipfacefusion"])["seed"] == 7


def test_the_packet_is_valid_xml(tmp_path):
    from xml.etree import ElementTree

    save_image(IMAGE, tmp_path / "face.webp", REPORT)
    with Image.open(tmp_path / "face.webp") as picture:
        ElementTree.fromstring(picture.info["xmp"])


def test_a_picture_of_somebody_else_has_no_provenance(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    assert read_provenance(tmp_path / "photo.png") is None


def test_what_is_no_picture_is_an_os_error(tmp_path):
    (tmp_path / "face.png").write_bytes(b"hello")
    with pytest.raises(OSError):
        read_provenance(tmp_path / "face.png")


@pytest.mark.parametrize("name", ["face.gif", "face", "face.png.exe"])
def test_a_suffix_that_cannot_be_written_is_refused_with_those_that_can(name):
    with pytest.raises(ValueError, match=r"ends in \.png, \.webp"):
        image_format(Path(name))


def test_reading_back_does_not_need_the_suffix(tmp_path):
    save_image(IMAGE, tmp_path / "face.webp", REPORT)
    copy = (tmp_path / "face.webp").rename(tmp_path / "copy.bin")
    assert read_provenance(copy)["seed"] == 7
