"""Turn, scale and shift are undone; the FFHQ frame is FFHQ's; the middle square is cut as it always was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from runtime.errors import RequestError
from runtime.preprocess.face_frame import ARCFACE, FFHQ, Frame, align, corners, cut, inverse, middle_matrix, similarity
from runtime.preprocess.image import middle_square

FRAMES = pytest.mark.parametrize("frame", [FFHQ, ARCFACE], ids=lambda frame: frame.name)


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, smooth, another picture for every seed."""
    knots = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(knots).resize((width, height), Image.Resampling.BICUBIC))


def moved(points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = math.radians(degrees)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return points @ turn.T + np.array(shift)


def spots(points: np.ndarray, side: int, radius: float) -> np.ndarray:
    """A dark photo with one soft white spot at each point."""
    y, x = np.mgrid[:side, :side]
    light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points)
    return np.repeat((light * 255).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def found_spots(image: np.ndarray, expected: np.ndarray, reach: float) -> np.ndarray:
    """Centre of light around each expected point, (5, 2) in x, y."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    centres = []
    for px, py in expected:
        weight = image[..., 0] * (np.hypot(x - px, y - py) < reach)
        centres.append(((weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()))
    return np.array(centres)


@FRAMES
@pytest.mark.parametrize(("degrees", "scale"), [(0, 1), (25, 0.4), (-40, 2.5), (180, 1.3)])
def test_turn_scale_and_shift_are_undone_exactly(frame: Frame, degrees: float, scale: float) -> None:
    target = frame.at(128)
    matrix = similarity(moved(target, degrees, scale, (31.0, -12.5)), target)
    back = moved(target, degrees, scale, (31.0, -12.5)) @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(back - target).max() < 1e-9
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(scale**-2)


def test_least_squares_survives_one_wrong_point_better_than_two_points_would() -> None:
    target = FFHQ.at(256)
    source = moved(target, 10, 1.5, (5, 5))
    source[2] += 6.0  # the tip of a nose that was found beside it
    matrix = similarity(source, target)
    assert np.abs(source[[0, 1, 3, 4]] @ matrix[:, :2].T + matrix[:, 2] - target[[0, 1, 3, 4]]).max() < 3


@FRAMES
@pytest.mark.parametrize(("degrees", "scale", "size"), [(20, 1.0, 128), (-33, 0.5, 128), (12, 3.7, 64), (90, 1.9, 256)])
def test_spots_of_a_photo_land_on_the_frame_within_half_a_pixel(
    frame: Frame, degrees: float, scale: float, size: int
) -> None:
    target = frame.at(size)
    photo_points = moved(target - target.mean(axis=0), degrees, scale, (300, 290))
    image = align(spots(photo_points, 600, 0.02 * size * scale), photo_points, size, frame)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert np.abs(found_spots(image, target, 0.06 * size) - target).max() < 0.5


def test_photo_that_is_the_frame_already_comes_back_unchanged() -> None:
    photo = pixels(3, 128, 128)
    assert (align(photo, FFHQ.at(128), 128) == photo).all()


def test_shrinking_averages_and_does_not_pick_pixels() -> None:
    photo = np.zeros((512, 512, 3), np.uint8)
    photo[::2, ::2] = photo[1::2, 1::2] = 255  # a fine chessboard is grey from afar
    small = align(photo, FFHQ.at(512) + 0.5, 64)  # every eighth pixel alone would be one colour
    assert np.abs(small[8:-8, 8:-8].astype(int) - 127).max() < 20


def test_frame_beyond_the_picture_is_filled_with_its_mirror() -> None:
    photo = np.full((128, 128, 3), 200, np.uint8)
    assert (align(photo, FFHQ.at(128) + np.array([40.0, 0.0]), 128) == 200).all()


def test_frame_keeps_its_place_at_every_size() -> None:
    assert FFHQ.at(512) == pytest.approx(np.array(FFHQ.points))
    assert (FFHQ.at(1024) + 0.5) / 1024 == pytest.approx((FFHQ.at(64) + 0.5) / 64)


def test_ffhq_frame_agrees_with_the_rule_that_ffhq_was_cut_by() -> None:
    """The square of the data set's authors around the frame's own points is the frame, within 2 % of its side."""
    points = (FFHQ.at(512) + 0.5) / 512
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    between, down = points[1] - points[0], mouth - eyes
    half = max(2.0 * np.hypot(*between), 1.8 * np.hypot(*down))
    assert eyes + 0.1 * down == pytest.approx([0.5, 0.5], abs=0.02)
    assert 2 * half == pytest.approx(1.0, abs=0.02)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_arcface_matrix_equals_insightface() -> None:
    face_align = pytest.importorskip("insightface.utils.face_align")
    points = moved(ARCFACE.at(112), 17, 2.2, (40, 60)) + np.random.default_rng(0).normal(0, 2, (5, 2))
    theirs = face_align.estimate_norm(points.astype(np.float32), 112)
    assert similarity(points, ARCFACE.at(112)) == pytest.approx(np.asarray(theirs), abs=1e-3)


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), np.nan),
        np.full((5, 2), 64.0),
        FFHQ.at(128) + 5000,
        FFHQ.at(128) * 1000,
        np.column_stack([127 - FFHQ.at(128)[:, 0], FFHQ.at(128)[:, 1]]) * np.array([1.0, 0.2]),
    ],
    ids=["nan", "one place", "elsewhere", "huge", "swapped sides"],
)
def test_points_that_are_no_face_are_refused(points: np.ndarray) -> None:
    with pytest.raises(RequestError, match=r"reference: the face('s points| reaches)") as caught:
        align(pixels(0, 128, 128), points, 64)
    assert caught.value.field == "reference"


@pytest.mark.parametrize(("width", "height", "size"), [(90, 60, 32), (60, 91, 32), (64, 64, 64), (301, 200, 128)])
def test_the_middle_s_matrix_takes_the_photo_to_the_middle_square(width: int, height: int, size: int) -> None:
    photo = pixels(5, height, width)
    found = cut(photo, middle_matrix(width, height, size), size).astype(int)
    assert np.abs(found - middle_square(photo, size)).mean() < 1  # two ways of resampling one place
    elsewhere = middle_matrix(width, height, size)
    elsewhere[:, 2] += 3
    assert np.abs(cut(photo, elsewhere, size).astype(int) - middle_square(photo, size)).mean() > 2


def test_corners_of_a_square_lie_where_its_pixels_come_from() -> None:
    matrix = similarity(moved(FFHQ.at(128), 30, 2.0, (80, 40)), FFHQ.at(128))
    found = corners(matrix, 128)
    assert np.linalg.norm(found[1] - found[0]) == pytest.approx(256)
    assert found[0] == pytest.approx(inverse(matrix) @ [-0.5, -0.5, 1])
