"""Saved pictures say that they are generated, and by what."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from runtime.provenance import encode_image, image_format, read_provenance, save_image
from runtime.report import join_reports

IMAGE = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
SAMPLED = {
    "seed": 7,
    "num_inference_steps": 50,
    "guidance_scale": 3.0,
    "guidance_interval": [100, 700],
    "sampler": "unipc",
    "bundle": 'demo "quoted" <&> ünï',
    "bundle_sha256": "ab" * 32,
    "timings_ms": {"sampling": 1.0},
}
CONDITIONED = {
    "conditions": ["text", "age"],
    "inferred": {"age_text": "what a person wrote"},
    "timings_ms": {"preprocess": 0.5},
}
REPORT = join_reports(CONDITIONED, SAMPLED)
EDIT_REPORT = join_reports(CONDITIONED, {**SAMPLED, "edit": {"t0": 500}})
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def test_a_report_says_what_made_the_picture_when_and_whether_it_is_an_edit():
    made = REPORT["provenance"]
    assert made["generator"] == "ClipFaceFusion" and made["version"] and made["created"].endswith("+00:00")
    assert made["digital_source_type"] == GENERATED
    assert EDIT_REPORT["provenance"]["digital_source_type"] == EDITED


@pytest.mark.parametrize("name", ["face.png", "face.webp", "face.jpg", "face.JPEG"])
def test_every_format_carries_what_is_needed_to_make_the_face_again(tmp_path, name):
    save_image(IMAGE, tmp_path / name, EDIT_REPORT)
    sampling = ("seed", "sampler", "num_inference_steps", "guidance_scale", "guidance_interval")
    again = (*sampling, "bundle", "bundle_sha256", "conditions", "edit")
    expected = {name: EDIT_REPORT[name] for name in again} | EDIT_REPORT["provenance"]
    assert read_provenance(tmp_path / name) == expected
    assert read_provenance((tmp_path / name).read_bytes()) == expected


@pytest.mark.parametrize(("report", "source_type"), [(REPORT, GENERATED), (EDIT_REPORT, EDITED), ({}, GENERATED)])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_every_format_is_labelled_in_iptc_s_words_in_an_xmp_packet_of_valid_xml(kind, report, source_type):
    with Image.open(io.BytesIO(encode_image(IMAGE, kind, report))) as picture:
        packet = picture.info.get("xmp") or picture.info["XML:com.adobe.xmp"]
    (described,) = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert described.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == source_type
    assert described.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == "ClipFaceFusion"
    assert "what a person wrote" not in str(described.attrib)


def test_a_format_that_cannot_carry_it_is_refused():
    with pytest.raises(ValueError, match="allowed PNG, WEBP, JPEG"):
        encode_image(IMAGE, "GIF", REPORT)


def test_png_keeps_the_pixels_and_a_text_chunk_of_its_own(tmp_path):
    save_image(IMAGE, tmp_path / "face.png", REPORT)
    with Image.open(tmp_path / "face.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), IMAGE)
        assert json.loads(picture.info["clipfacefusion"])["seed"] == 7


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


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_a_lower_quality_makes_a_smaller_file_that_says_the_same(kind):
    best, small = encode_image(IMAGE, kind, REPORT), encode_image(IMAGE, kind, REPORT, quality=20)
    assert len(small) < len(best)
    assert read_provenance(small) == read_provenance(best)
