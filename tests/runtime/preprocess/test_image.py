"""Photos of every kind become RGB, or a RequestError that names the field; pixels equal CLIP's own preprocessing."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from runtime.errors import RequestError
from runtime.preprocess.image import (
    check_mask_size,
    check_photo_size,
    clip_pixels,
    decode_image,
    decode_mask,
    identity_pixels,
    mask_pixels,
    model_pixels,
)

RNG = np.random.default_rng(7)


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def picture(width: int = 60, height: int = 40) -> np.ndarray:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return (0.7 * ramp + RNG.uniform(0, 70, ramp.shape)).astype(np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds hardly any pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_files_come_back_exactly(kind):
    pixels = picture()
    decoded = decode_image(encoded(Image.fromarray(pixels), kind, lossless=True))
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == np.uint8


def test_a_jpeg_comes_back_nearly():
    smooth = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (64, 64, 3))
    error = decode_image(encoded(Image.fromarray(smooth), "JPEG", quality=95)).astype(int) - smooth
    assert np.abs(error).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_honoured(kind, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # the corner that tells all eight apart
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 4


def test_a_palette_is_resolved_and_its_transparency_is_white():
    indexed = Image.fromarray(np.repeat([[0, 1]], 20, 0).repeat(10, 1).astype(np.uint8), "P")
    indexed.putpalette([255, 0, 0, 0, 0, 255])
    assert decode_image(encoded(indexed))[0, [0, -1]].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert decode_image(encoded(indexed, transparency=0))[0, [0, -1]].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (255, 100), (128, 177)])
def test_transparency_is_laid_over_white(alpha, expected):
    decoded = decode_image(encoded(Image.new("RGBA", (20, 20), (100, 100, 100, alpha))))
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    grey = decode_image(encoded(Image.new("LA", (20, 20), (100, alpha))))
    assert np.abs(grey.astype(int) - expected).max() <= 1


def test_cmyk_is_converted():
    decoded = decode_image(encoded(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), "JPEG"))
    assert decoded.shape == (32, 32, 3)
    red, green, blue = decoded.reshape(-1, 3).mean(0)
    assert red < 20 and green > 235 and blue > 235


def test_sixteen_bit_grey_keeps_its_upper_bits():
    deep = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    decoded = decode_image(encoded(Image.fromarray(deep)))
    np.testing.assert_array_equal(decoded[..., 0], deep >> 8)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_and_bilevel_become_rgb(mode):
    decoded = decode_image(encoded(Image.new(mode, (20, 20), 1 if mode == "1" else 200)))
    assert (decoded == (255 if mode == "1" else 200)).all() and decoded.shape == (20, 20, 3)


def test_of_an_animation_the_first_frame_is_used():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode_image(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "cannot decode as JPEG, PNG or WebP"),
        (b"\xff\xd8\xff", "cannot decode"),
        (encoded(Image.new("RGB", (20, 20)), "GIF"), "cannot decode"),
        (encoded(Image.new("RGB", (20, 20)), "TIFF"), "cannot decode"),
        (encoded(Image.new("RGB", (20, 20)), "PDF"), "cannot decode"),
        (encoded(Image.new("RGB", (20, 20)), "ICO"), "cannot decode"),
        (
            encoded(Image.new("RGB", (4097, 16))),
            "got 4097x16 px, allowed at most 4096 px per side and 16000000 px in all",
        ),
        (encoded(Image.new("1", (4096, 4000))), "got 4096x4000 px"),
        (png_header(5000, 5000), "got 5000x5000 px"),
        (png_header(20_000, 20_000), "got over 178956970 px, allowed at most 4096 px per side"),
        (png_header(0, 20), "cannot decode"),
        (png_header(4000, 3000), "cannot decode"),
    ],
)
def test_what_cannot_be_used_is_a_request_error_that_names_the_field(data, message):
    with pytest.raises(RequestError, match=message) as caught:
        decode_image(data)
    assert caught.value.field == "reference"


@pytest.mark.parametrize(
    ("sides", "image_size", "allowed"),
    [((1, 1), 256, "64..4096"), ((63, 900), 256, "64..4096"), ((900, 63), 64, "64..4096"), ((31, 40), 32, "32..4096")],
)
def test_a_photo_smaller_than_a_face_needs_is_refused(sides, image_size, allowed):
    with pytest.raises(RequestError, match=f"reference: got {sides[0]}x{sides[1]} px, allowed {allowed} px per side"):
        check_photo_size(picture(*sides), image_size)


@pytest.mark.parametrize("image_size", [16, 32, 64, 256])
def test_a_model_takes_its_own_pictures_back(image_size):
    check_photo_size(picture(image_size, image_size), image_size)
    check_photo_size(picture(64, 64), image_size)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_bytes_after_the_picture_are_not_read(kind):
    data = encoded(Image.fromarray(picture()), kind)
    np.testing.assert_array_equal(decode_image(data + b"a motion photo's video" * 1000), decode_image(data))


def test_a_colour_profile_is_ignored():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    pixels = picture()
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(pixels), icc_profile=profile)), pixels)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (Image.new("L", (20, 20), 90), 90),
        (Image.new("1", (20, 20), 1), 255),
        (Image.new("RGB", (20, 20), "white"), 255),
        (Image.new("RGB", (20, 20), (0, 255, 0)), 150),
        (Image.new("RGBA", (20, 20), (255, 255, 255, 0)), 0),
        (Image.new("LA", (20, 20), (255, 51)), 51),
        (Image.fromarray(np.full((20, 20), 0xC123, np.uint16)), 0xC1),
    ],
    ids=["grey", "bilevel", "white", "green", "clear", "thin", "deep"],
)
def test_a_mask_is_its_brightness_over_black(drawn, expected):
    mask = decode_mask(encoded(drawn))
    assert mask.shape == (20, 20) and mask.dtype == np.uint8
    assert np.abs(mask.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(Image.new("L", (20, 20)), "JPEG"), "mask: cannot decode as PNG;"),
        (encoded(Image.new("L", (20, 20)), "WEBP"), "mask: cannot decode as PNG;"),
        (png_header(5000, 5000), "mask: got 5000x5000 px"),
        (encoded(Image.new("L", (300, 300)))[:-30], "mask: cannot decode as PNG; is the file complete"),
    ],
)
def test_what_is_no_mask_is_refused(data, message):
    with pytest.raises(RequestError, match=message):
        decode_mask(data)


def test_a_mask_has_the_size_of_its_upright_photo():
    check_mask_size(np.zeros((40, 60), np.uint8), picture(60, 40))
    with pytest.raises(RequestError, match="mask: got 40x60 px, allowed 60x40 px as the photo has"):
        check_mask_size(np.zeros((60, 40), np.uint8), picture(60, 40))


def test_mask_pixels_are_the_middle_square_between_zero_and_one():
    mask = np.zeros((16, 48), np.uint8)
    mask[:, 16:32] = 255
    found = mask_pixels(mask, 8)
    assert found.shape == (1, 1, 8, 8) and found.dtype == np.float32 and (found == 1).all()
    assert not mask_pixels(mask[:, :16], 8).any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_file_is_refused_wherever_it_is_cut(kind):
    data = encoded(Image.fromarray(picture(200, 150)), kind)
    for part in (10, 3, 2):
        with pytest.raises(RequestError, match="reference: cannot decode"):
            decode_image(data[: len(data) - len(data) // part])


def test_a_size_out_of_range_is_refused_before_a_pixel_is_decoded(monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(RequestError, match="5000x5000"):
        decode_image(png_header(5000, 5000))


def test_random_damage_never_escapes_as_another_error():
    for kind in ("JPEG", "PNG", "WEBP"):
        good = bytearray(encoded(Image.fromarray(picture()), kind))
        for _ in range(60):
            damaged = bytearray(good)
            for place in RNG.integers(0, len(good), 5):
                damaged[place] = RNG.integers(0, 256)
            try:
                assert decode_image(bytes(damaged)).shape[2] == 3
            except RequestError as error:
                assert error.field == "reference"


@pytest.mark.parametrize(
    ("width", "height"), [(60, 40), (40, 60), (33, 32), (32, 32), (31, 200), (301, 299), (16, 17), (500, 223)]
)
@pytest.mark.parametrize("size", [32, 64])
def test_clip_pixels_equal_transformers(width, height, size):
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = picture(width, height)
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    expected = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    found = clip_pixels(pixels, size)
    assert found.shape == (1, 3, size, size) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_model_pixels_are_the_middle_square_between_minus_one_and_one():
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 255
    found = model_pixels(pixels, 16)
    assert found.shape == (1, 3, 16, 16) and found.dtype == np.float32 and (found == 1).all()
    assert (model_pixels(pixels[:, :16], 16) == -1).all()


def test_pixels_at_the_right_size_are_not_resampled():
    pixels = picture(24, 24)
    np.testing.assert_allclose(model_pixels(pixels, 24)[0].transpose(1, 2, 0) * 127.5 + 127.5, pixels, atol=1e-4)


def test_identity_pixels_are_arcface_s_normalisation():
    pixels = picture(112, 112)
    expected = ((pixels.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(identity_pixels(pixels, 112), expected, atol=1e-6)
