"""The way back: outside the square the photo is kept bit for bit, inside it is what was made, and between them is no edge."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

from runtime.errors import RequestError
from runtime.options import Options
from runtime.preprocess.face import find_crop
from runtime.preprocess.face_frame import corners, cut, middle_matrix
from runtime.preprocess.face_paste import FEATHER, paste_back, pasted
from runtime.request import GenerateResult

SIZE = 64
BRIGHT = np.full((SIZE, SIZE, 3), 200, np.uint8)
SCALES = pytest.mark.parametrize("scale", [0.4, 1.0, 3.3])  # of the square's pixels in the photo's


def picture(height: int = 260, width: int = 320) -> np.ndarray:
    """Smooth, coloured and so dark that something bright is a change everywhere."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 23 + y / 31 + k) + np.sin(x / 17 - y / 41 + 2 * k) for k in range(3)]
    return (32 + 15 * np.stack(waves, axis=2)).round().astype(np.uint8)


def placed(scale: float, degrees: float = 20.0, middle: tuple[float, float] = (160, 130)) -> np.ndarray:
    """The matrix of a square of SIZE around `middle`, whose pixels are `scale` of the photo's wide, turned."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / scale
    return np.column_stack([turn, (SIZE - 1) / 2 - turn @ middle])


def distance_inside(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How far each pixel of the photo lies inside the square, of its side; negative outside."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    u, v = (row[0] * x + row[1] * y + row[2] + 0.5 for row in matrix)
    return np.min([u, v, SIZE - u, SIZE - v], axis=0) / SIZE


@SCALES
def test_outside_the_square_the_photo_is_kept_bit_for_bit_and_inside_the_feather_nothing_of_it(scale):
    photo, matrix = picture(), placed(scale)
    result, inside = pasted(photo, BRIGHT, matrix), distance_inside(matrix, photo.shape)
    np.testing.assert_array_equal(result[inside <= 0], photo[inside <= 0])
    assert (result[inside >= FEATHER] == 200).all() and (inside >= FEATHER).any()


@SCALES
def test_between_them_the_photo_fades_without_an_edge(scale):
    black = np.zeros((260, 320, 3), np.uint8)
    matrix = placed(scale, degrees=0)
    line = pasted(black, BRIGHT, matrix)[130, :160, 0].astype(int)
    steps = np.diff(line)
    assert (steps >= 0).all() and line[0] == 0 and line[-1] == 200
    assert steps.max() <= 2 * 200 / (FEATHER * SIZE * scale) + 1, "no steeper than a smooth ramp of that width"


@SCALES
def test_a_square_that_was_not_changed_gives_the_photo_back_bit_for_bit(scale):
    """Also where the photo has pixels that the square cannot hold: one that is only noise comes back as it was."""
    noise = np.random.default_rng(0).integers(0, 256, (260, 320, 3), dtype=np.uint8)
    for photo in (picture(), noise):
        matrix = placed(scale)
        np.testing.assert_array_equal(pasted(photo, cut(photo, matrix, SIZE), matrix), photo)


def test_a_change_in_one_half_leaves_the_other_its_fine_detail():
    noise = np.random.default_rng(0).integers(0, 40, (260, 320, 3), dtype=np.uint8)
    matrix = placed(3.0, degrees=0)
    square = cut(noise, matrix, SIZE)
    square[:, SIZE // 2 :] = 200
    result = pasted(noise, square, matrix)
    np.testing.assert_array_equal(result[:, :145], noise[:, :145])
    assert result[100:160, 180:220].min() >= 199, "nothing of the photo shines through the change"


def test_what_is_drawn_on_the_square_lands_where_it_was_cut_from():
    photo, matrix = picture(), placed(2.0)
    square = cut(photo, matrix, SIZE)
    square[40:44, 20:24] = (255, 0, 0)
    x, y = corners(matrix, SIZE)[0] + (corners(matrix, SIZE)[1] - corners(matrix, SIZE)[0]) * 22 / SIZE
    x, y = np.array([x, y]) + (corners(matrix, SIZE)[2] - corners(matrix, SIZE)[0]) * 42 / SIZE
    red = pasted(photo, square, matrix).astype(int)[round(y), round(x)]
    assert red[0] > 240 and red[1:].max() < 20


@pytest.mark.parametrize("middle", [(0, 0), (319, 130), (160, 300)])
def test_a_square_that_reaches_beyond_the_photo_is_pasted_as_far_as_the_photo_goes(middle):
    photo, matrix = picture(), placed(1.7, middle=middle)
    result, inside = pasted(photo, BRIGHT, matrix), distance_inside(matrix, photo.shape)
    assert result.shape == photo.shape
    np.testing.assert_array_equal(result[inside <= 0], photo[inside <= 0])
    assert (result[inside >= FEATHER] == 200).all()


def test_a_mask_keeps_the_photo_outside_it_at_its_own_resolution():
    photo, matrix = picture(), placed(3.0)
    mask = np.zeros(photo.shape[:2], np.uint8)
    mask[:, 160:] = 255
    result = pasted(photo, BRIGHT, matrix, mask)
    np.testing.assert_array_equal(result[:, :160], photo[:, :160])
    np.testing.assert_array_equal(result[:, 160:], pasted(photo, BRIGHT, matrix)[:, 160:])


def encoded(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


def made(photo: np.ndarray) -> GenerateResult:
    return GenerateResult(BRIGHT, {"crop": find_crop(photo, SIZE, Options(), None).report})


def test_the_report_of_a_result_and_the_file_are_enough():
    photo = picture()
    expected = pasted(photo, BRIGHT, middle_matrix(320, 260, SIZE))
    np.testing.assert_array_equal(paste_back(encoded(photo), made(photo)), expected)


def test_a_photo_that_was_stored_turned_comes_back_upright():
    photo, exif = picture(), Image.Exif()
    exif[0x0112] = 6
    turned = encoded(np.ascontiguousarray(np.rot90(photo, 1)), exif=exif)
    np.testing.assert_array_equal(paste_back(turned, made(photo)), paste_back(encoded(photo), made(photo)))


def test_another_file_than_the_result_s_is_refused():
    photo, result = picture(), made(picture())
    with pytest.raises(RequestError, match="reference: got 260x320 px, but the result is of another photo"):
        paste_back(encoded(picture(320, 260)), result)
    with pytest.raises(RequestError, match="mask: got 10x10 px"):
        paste_back(encoded(photo), result, encoded(np.zeros((10, 10), np.uint8)))
    with pytest.raises(RequestError, match="reference: the result was not made from a photo"):
        paste_back(encoded(photo), GenerateResult(BRIGHT, {}))
