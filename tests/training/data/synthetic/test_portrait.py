"""Portraits: everything that is stated about a person and a shot shows in the picture, and nothing else does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from runtime.preprocess.face_frame import FFHQ
from training.data.synthetic.ageing import age_face
from training.data.synthetic.anatomy import build_anatomy
from training.data.synthetic.portrait import render
from training.data.synthetic.shot import (
    BACKGROUNDS,
    BEARDS,
    CLOTHES,
    GLASSES,
    HAIR_COLOURS,
    HAIR_STYLES,
    Light,
    Pose,
    Shot,
    sample_shot,
)
from training.data.synthetic.traits import TRAITS, Person, sample_person

MIDDLE = Person(1, (0.0,) * len(TRAITS))
PLAIN = Shot(age=30.0)
MEASURES = ("chin", "eye_half_width", "eye_above", "nose_v", "half_nose", "upper_lip", "half_mouth", "jaw", "half_ear")


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference in 8-bit levels over the pixels."""
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


def test_the_same_person_and_shot_give_the_same_bytes():
    rng = np.random.default_rng(0)
    for _ in range(5):
        person = sample_person(rng)
        shot = sample_shot(rng, person)
        np.testing.assert_array_equal(render(person, shot), render(person, shot))


@pytest.mark.parametrize("size", [16, 32, 128, 256])
def test_any_size_gives_a_full_picture(size):
    picture = render(MIDDLE, PLAIN, size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert picture.std() > 20


def test_pictures_of_two_sizes_show_the_same_face():
    small, large = render(MIDDLE, PLAIN, 64), render(MIDDLE, PLAIN, 256)
    shrunk = large.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert difference(small, shrunk) < 4.0


def test_there_are_at_least_sixteen_traits():
    assert len(TRAITS) >= 16


@pytest.mark.parametrize("trait", TRAITS)
@pytest.mark.parametrize("age", [6.0, 30.0, 80.0])
def test_every_trait_changes_the_picture_at_every_age(trait, age):
    shot = replace(PLAIN, age=age)
    low, high = (render(MIDDLE.with_trait(trait, value), shot) for value in (-1.0, 1.0))
    changed = np.abs(low.astype(int) - high.astype(int)).max(axis=-1) > 16
    assert changed.sum() > 40, f"{trait} changes only {changed.sum()} pixels"


def test_sex_changes_an_adult_more_than_a_child():
    woman = Person(0, MIDDLE.values)
    adult = difference(render(MIDDLE, PLAIN), render(woman, PLAIN))
    young = replace(PLAIN, age=5.0)
    assert adult > 1.0
    assert difference(render(MIDDLE, young), render(woman, young)) < adult


def test_age_changes_geometry_with_hair_fixed():
    child, adult, old = (build_anatomy(MIDDLE, age_face(age)) for age in (6.0, 30.0, 80.0))
    for measure in MEASURES:
        values = [getattr(face, measure) for face in (child, adult, old)]
        assert len(set(np.round(values, 3))) == 3, measure
    assert child.chin < adult.chin and child.iris > adult.iris and old.half_ear > adult.half_ear


def test_age_shows_on_a_shaved_head_without_any_hair_to_turn_white():
    bald = replace(PLAIN, hair_style="shaved", dyed=True)
    pictures = [render(MIDDLE, replace(bald, age=age)) for age in (6.0, 30.0, 50.0, 80.0)]
    for younger, older in itertools.pairwise(pictures):
        assert difference(younger, older) > 2.5


def test_ageing_is_continuous():
    ages = np.arange(5.0, 85.0, 1.0)
    steps = [
        difference(render(MIDDLE, replace(PLAIN, age=a), 64), render(MIDDLE, replace(PLAIN, age=a + 1), 64))
        for a in ages
    ]
    assert max(steps) < 8.0 and min(steps) > 0.0


def test_dye_hides_white_hair_and_changes_nothing_in_youth():
    young, old = replace(PLAIN, age=25.0), replace(PLAIN, age=75.0)
    assert difference(render(MIDDLE, old), render(MIDDLE, replace(old, dyed=True))) > 3.0
    np.testing.assert_array_equal(render(MIDDLE, young), render(MIDDLE, replace(young, dyed=True)))


@pytest.mark.parametrize("age", [8.0, 35.0, 78.0])
def test_every_pair_of_emotions_looks_different_at_every_age(age):
    pictures = [render(MIDDLE, replace(PLAIN, age=age, emotion=emotion)) for emotion in EMOTIONS]
    for first in range(len(EMOTIONS)):
        for second in range(first):
            assert difference(pictures[first], pictures[second]) > 0.7, (EMOTIONS[first], EMOTIONS[second])


def test_emotion_at_intensity_zero_is_the_neutral_picture():
    neutral = render(MIDDLE, replace(PLAIN, emotion="neutral"))
    for emotion in EMOTIONS:
        np.testing.assert_array_equal(render(MIDDLE, replace(PLAIN, emotion=emotion, intensity=0.0)), neutral)


def test_emotion_leaves_background_and_clothes_alone():
    neutral, surprised = (render(MIDDLE, replace(PLAIN, emotion=emotion)) for emotion in ("neutral", "surprised"))
    np.testing.assert_array_equal(neutral[:, :12], surprised[:, :12])
    np.testing.assert_array_equal(neutral[124:], surprised[124:])


@pytest.mark.parametrize(
    ("field", "choices"),
    [
        ("hair_style", HAIR_STYLES),
        ("hair_colour", tuple(HAIR_COLOURS)),
        ("glasses", GLASSES),
        ("beard", BEARDS),
        ("clothes", CLOTHES),
        ("background", BACKGROUNDS),
    ],
)
def test_every_choice_of_a_nuisance_variable_gives_its_own_picture(field, choices):
    pictures = {render(MIDDLE, replace(PLAIN, **{field: choice})).tobytes() for choice in choices}
    assert len(pictures) == len(choices)


@pytest.mark.parametrize(
    "changed",
    [
        {"glasses": "round", "glasses_colour": (0.6, 0.2, 0.2)},
        {"clothes_colour": (0.8, 0.2, 0.2)},
        {"background_colours": ((0.2, 0.5, 0.2), (0.1, 0.3, 0.1))},
        {"hair_style": "curly", "grain": 5},
        *({"light": Light(**{name: 0.9})} for name in ("side", "height", "warmth", "contrast")),
        *({"pose": Pose(**{name: 0.1})} for name in ("yaw", "roll", "shift_x", "shift_y")),
        {"pose": Pose(scale=0.95)},
        {"pose": Pose(gaze_x=0.8)},
        {"pose": Pose(gaze_y=0.8)},
    ],
    ids=str,
)
def test_every_other_nuisance_variable_changes_the_picture(changed):
    without = {"glasses_colour": replace(PLAIN, glasses="round"), "grain": replace(PLAIN, hair_style="curly")}
    plain = next((shot for name, shot in without.items() if name in changed), PLAIN)
    assert difference(render(MIDDLE, replace(plain, **changed)), render(MIDDLE, plain)) > 0.02


def eyes_apart(shot: Shot) -> float:
    """Distance of the eyes as a share of the picture's side, from where a black iris replaces a light one."""
    dark, light = (render(MIDDLE.with_trait("eye_colour", value), shot) for value in (-1.0, 1.0))
    changed = np.abs(dark.astype(int) - light.astype(int)).max(axis=-1) > 30
    columns = np.nonzero(changed)[1]
    return float(columns[columns >= 64].mean() - columns[columns < 64].mean()) / 128


def test_the_eyes_of_the_mean_face_are_a_quarter_of_the_picture_apart():
    (left, _), (right, _) = FFHQ.points[:2]
    assert eyes_apart(PLAIN) == pytest.approx((right - left) / FFHQ.side, abs=0.01)


@pytest.mark.parametrize("undertone", [-1.0, 1.0])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_lightest_skin_in_the_hardest_light_is_neither_white_nor_clipped(side, undertone):
    person = MIDDLE.with_trait("skin_tone", -1.0).with_trait("skin_undertone", undertone)
    face = render(person, replace(PLAIN, light=Light(side, 1.0, 1.0, 1.0)))[40:108, 36:92]
    assert face.max() < 255
    assert np.percentile(face.min(axis=-1), 99) < 235


def test_light_from_one_side_darkens_the_other_cheek_and_reddens_it():
    lit, dark = (
        render(MIDDLE, replace(PLAIN, light=Light(side=side, contrast=1.0)))[66:82, 40:52].mean(axis=(0, 1))
        for side in (-1.0, 1.0)
    )
    assert dark.mean() < 0.92 * lit.mean()
    assert dark[0] / dark[2] > 1.01 * lit[0] / lit[2]


@pytest.mark.parametrize("sex", [0, 1])
def test_at_intensity_06_every_pair_of_emotions_differs_plainly_in_a_hundred_pixels(sex):
    person = Person(sex, MIDDLE.values)
    pictures = [render(person, replace(PLAIN, emotion=e, intensity=0.6)).astype(int) for e in EMOTIONS]
    for (first, one), (second, other) in itertools.combinations(zip(EMOTIONS, pictures, strict=True), 2):
        plain = (np.abs(one - other).max(axis=-1) > 40).sum()
        assert plain > 100, (first, second, plain)


def test_teeth_show_in_joy_fear_disgust_and_surprise_and_lips_are_closed_otherwise():
    for emotion in EMOTIONS:
        mouth = render(MIDDLE, replace(PLAIN, emotion=emotion))[84:108, 44:84]
        white = int((mouth.min(axis=-1) > 150).sum())
        bared = emotion in ("happy", "fearful", "disgust", "surprised")
        assert white > 20 if bared else white == 0, (emotion, white)


def test_light_falls_into_both_eyes_from_where_it_comes():
    for side in (-1.0, 1.0):
        picture = render(MIDDLE.with_trait("eye_colour", -1.0), replace(PLAIN, light=Light(side=side)), 256)
        for centre in (97, 159):
            eye = picture[112:132, centre - 12 : centre + 12].min(axis=-1).astype(int)
            column = int(eye.max(axis=0)[4:-4].argmax()) + 4
            assert np.sign(column - 12) == side, (side, centre, column)


def test_age_takes_more_hair_from_a_mans_forehead_than_from_a_womans():
    bare = []
    for sex in (0, 1):
        person = Person(sex, MIDDLE.values)
        young, old = (render(person, replace(PLAIN, age=age, hair_colour="black", dyed=True)) for age in (30.0, 80.0))
        bare.append(int((old[:48].mean(axis=-1) - young[:48].mean(axis=-1) > 50).sum()))
    assert bare[1] > 1.3 * bare[0] > 0


def test_of_two_backgrounds_in_one_colour_nothing_remains_but_the_light():
    grey = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    pictures = {render(MIDDLE, replace(PLAIN, background=b, background_colours=grey)).tobytes() for b in BACKGROUNDS}
    assert len(pictures) == 1


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_no_background_has_a_hard_edge(background):
    picture = render(MIDDLE, replace(PLAIN, background=background, grain=3)).astype(int)
    for strip in (picture[:90, :12], picture[:90, -12:]):
        assert max(np.abs(np.diff(strip, axis=axis)).max() for axis in (0, 1)) <= 6


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="size is 8"):
        render(MIDDLE, PLAIN, 8)
