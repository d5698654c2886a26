"""First of a hundred: one picture of each other person, alike or any, and only where there are enough of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from training.evaluation import person
from training.evaluation.making import Made, MeasureSettings, plan
from training.evaluation.person import one_each, rate_person
from training.evaluation.rating import Skip
from training.evaluation.scene import Scene


@pytest.fixture
def scene(examples, judges):
    return Scene.of(examples, judges, 36)


@pytest.fixture
def made(scene):
    settings = MeasureSettings(count=36, seeds=(42,), steps=2, conditions=("changed",), spread=0)
    asked = plan(scene.examples, scene.targets, settings, 42)[0][0]
    return Made(asked, scene.cache.images[asked.reference])  # a model that answers with the reference itself


def test_a_crowd_has_one_picture_of_each():
    assert one_each(np.array([4, 4, 7, 7, 9]), np.array([1, 2, 3])).tolist() == [1, 2]


def test_the_reference_itself_comes_first_of_any_crowd(scene, made, monkeypatch):
    monkeypatch.setattr(person, "CROWD", 5)
    found = rate_person(scene, made, scene.judges.read(made.pictures))
    for name in ("id_rank1_matched.changed", "id_rank1_unmatched.changed"):
        assert found[name].value == 1 and found[name].beside["chance"] == pytest.approx(1 / 6)


def test_somebody_else_does_not(scene, made, monkeypatch):
    monkeypatch.setattr(person, "CROWD", 5)
    others = Made(made.asked, np.roll(made.pictures, 1, axis=0))
    found = rate_person(scene, others, scene.judges.read(others.pictures))
    assert found["id_rank1_unmatched.changed"].value < 0.7


def test_too_small_a_crowd_is_said(scene, made):
    found = rate_person(scene, made, scene.judges.read(made.pictures))
    assert isinstance(found["id_rank1_matched.changed"], Skip)
    assert "100 are needed" in found["id_rank1_matched.changed"].reason


def test_traits_are_held_against_the_person_s_own(scene, made):
    found = rate_person(scene, made, scene.judges.read(scene.cache.images[made.asked.rows]))["trait_r2.changed"]
    assert found.value == pytest.approx(found.beside["real"], abs=1e-4)


def test_judges_that_were_taught_no_traits_are_read_by_those_of_other_people(scene, made):
    reading = scene.judges.read(made.pictures)
    untaught = dataclasses.replace(reading, traits=np.zeros((len(reading), 0), np.float32))
    read = scene.traits_of(untaught)
    assert read.shape == (len(reading), 21) and np.isfinite(read).all() and not np.allclose(read, reading.traits)
    assert scene.traits_of(reading) is reading.traits
