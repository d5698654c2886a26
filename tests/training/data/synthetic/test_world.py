"""The world: any sample alone from a seed, people split, combinations held out, nuisance without information."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from training.data.synthetic.expression import valence_arousal
from training.data.synthetic.shot import ADULT, BACKGROUNDS, BEARDS, CLOTHES, GLASSES, HAIR_COLOURS, HAIR_STYLES, Shot
from training.data.synthetic.traits import TRAITS, Person
from training.data.synthetic.world import HELD_OUT, TEST_EVERY, World, is_held_out, split_of

PEOPLE = 1500


@pytest.fixture(scope="module")
def world() -> World:
    return World(3)


@pytest.fixture(scope="module")
def population(world: World) -> list[tuple[Person, Shot]]:
    return [(world.person(i), world.shot(i, j)) for i in range(PEOPLE) for j in range(2)]


def nuisance(shot: Shot) -> list[float]:
    """Every nuisance variable except the beard as numbers, one-hot where it is a choice."""
    numbers = [float(shot.hair_style == style) for style in HAIR_STYLES]
    numbers += [float(shot.hair_colour == colour) for colour in HAIR_COLOURS]
    numbers += [float(shot.glasses == kind) for kind in GLASSES]
    numbers += [float(shot.clothes == kind) for kind in CLOTHES]
    numbers += [float(shot.background == kind) for kind in BACKGROUNDS]
    numbers += [float(shot.dyed), *shot.clothes_colour, *shot.glasses_colour]
    numbers += [*shot.background_colours[0], *shot.background_colours[1], *vars(shot.light).values()]
    return [*numbers, *vars(shot.pose).values()]


def largest_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Largest absolute correlation between any column of `first` (N, A) and any of `second` (N, B)."""
    first, second = ((x - x.mean(axis=0)) / x.std(axis=0) for x in (first, second))
    return float(np.abs(first.T @ second / len(first)).max())


def test_any_sample_is_the_same_alone_and_in_another_order(world):
    pictures = [world.portrait(i, 1, 64) for i in range(4)]
    for i in reversed(range(4)):
        np.testing.assert_array_equal(World(3).portrait(i, 1, 64), pictures[i])


def test_another_seed_is_another_world(world):
    assert World(4).person(0) != world.person(0)
    assert World(4).shot(0, 0) != world.shot(0, 0)


def test_pictures_of_one_person_differ_in_age_emotion_and_nuisance(world):
    shots = [world.shot(5, j) for j in range(12)]
    assert len({shot.age for shot in shots}) == 12
    assert len({shot.emotion for shot in shots}) > 3
    assert len({shot.background_colours for shot in shots}) == 12


def test_people_are_split_by_index_and_no_one_is_on_both_sides(world):
    sides = {"train": set(), "test": set()}
    for i in range(PEOPLE):
        sides[split_of(i)].add(world.person(i))
    assert len(sides["test"]) == PEOPLE // TEST_EVERY
    assert len(sides["train"]) == PEOPLE - PEOPLE // TEST_EVERY
    assert not sides["train"] & sides["test"]


def test_held_out_combinations_are_absent_from_training_and_present_in_testing(world):
    train = [is_held_out(world.person(i)) for i in range(PEOPLE) if split_of(i) == "train"]
    test = [is_held_out(world.person(i)) for i in range(PEOPLE) if split_of(i) == "test"]
    assert not any(train)
    assert sum(test) == len(test) // 2


def test_every_held_out_combination_is_tested_and_each_of_its_signs_is_trained(world):
    people = {split: [world.person(i) for i in range(PEOPLE) if split_of(i) == split] for split in ("train", "test")}
    for signs in HELD_OUT:
        assert any(all(person[trait] * sign > 0 for trait, sign in signs.items()) for person in people["test"])
        for trait, sign in signs.items():
            assert sum(person[trait] * sign > 0 for person in people["train"]) > 0.3 * len(people["train"])


def test_age_emotion_identity_and_nuisance_are_independent(population):
    identity = np.array([person.vector() for person, _ in population])
    age = np.array([[shot.age] for _, shot in population])
    feeling = np.array([[*(float(shot.emotion == e) for e in EMOTIONS), shot.intensity] for _, shot in population])
    rest = np.array([nuisance(shot) for _, shot in population])
    bound = 5.0 / np.sqrt(len(population))  # five standard errors of a correlation of independent variables
    assert largest_correlation(rest, np.concatenate((age, feeling, identity), axis=1)) < bound
    assert largest_correlation(age, np.concatenate((feeling, identity), axis=1)) < bound
    assert largest_correlation(feeling, identity) < bound


def test_ages_and_emotions_cover_their_range_evenly(population):
    ages = np.array([shot.age for _, shot in population])
    assert np.histogram(ages, bins=8, range=(5.0, 85.0))[0].min() > 0.8 * len(ages) / 8
    for emotion in EMOTIONS:
        assert sum(shot.emotion == emotion for _, shot in population) > 0.7 * len(ages) / 8


def test_only_adult_men_wear_beards_and_they_wear_all_of_them(population):
    bearded = [(person, shot) for person, shot in population if shot.beard != "none"]
    assert all(person.sex == 1 and shot.age >= ADULT for person, shot in bearded)
    assert {shot.beard for _, shot in bearded} == set(BEARDS) - {"none"}


def test_a_fifth_of_the_old_dye_their_hair(population):
    dyed = [shot.dyed for _, shot in population if shot.age > 60]
    assert 0.15 < np.mean(dyed) < 0.25


def test_valence_and_arousal_follow_from_the_shot(world):
    shot = world.shot(2, 1)
    assert world.valence_arousal(2, 1) == valence_arousal(shot.emotion, shot.intensity)


def test_traits_and_ages_out_of_range_are_refused_by_name():
    with pytest.raises(ValueError, match="head_width"):
        Person(0, (1.5,) + (0.0,) * (len(TRAITS) - 1))
    with pytest.raises(ValueError, match="age is 3"):
        Shot(age=3)
    with pytest.raises(ValueError, match="hair_style is 'mohawk'"):
        Shot(age=30, hair_style="mohawk")
    with pytest.raises(ValueError, match="seed is -1"):
        World(-1)
