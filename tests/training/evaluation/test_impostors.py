"""Impostors are other people, and really look alike."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.synthetic.world import World
from training.evaluation.impostors import match_impostors


def test_an_impostor_is_never_the_person(held_out):
    rows = np.arange(len(held_out))
    matches = match_impostors(held_out, rows, rows)
    assert matches.rows.shape == (len(rows), 4)
    assert not (held_out.person[matches.rows] == held_out.person[rows][:, None]).any()


def test_matched_impostors_agree_in_sex_skin_hair_and_age_far_more_than_strangers_do(held_out):
    rows = np.arange(len(held_out))
    matches = match_impostors(held_out, rows, rows, count=2)
    assert matches.same_sex == 1
    assert matches.matched_on == ("sex", "age", "skin", "hair")
    world = World(held_out.seed)

    def seen(row):
        person = int(held_out.person[row])
        shot = world.shot(person, int(row - held_out.first_picture[row]))
        return np.array([shot.age / 8, world.person(person)["skin_tone"] / 0.5, shot.hair_style != "bun"], float)

    def differences(others):
        return np.abs(np.array([[seen(a) - seen(b) for b in row] for a, row in zip(rows, others, strict=True)])).mean(
            (0, 1)
        )

    strangers = np.random.default_rng(0).permuted(np.tile(rows, (len(rows), 1)), axis=1)[:, :2]
    matched, random = differences(matches.rows), differences(strangers)
    assert (matched[:2] < 0.75 * random[:2]).all()
    assert matches.years == pytest.approx(8 * matched[0], rel=0.2)


def test_the_best_match_of_a_twin_is_the_twin(held_out, monkeypatch):
    # Two pictures of one person, declared to be two people, are as alike as it gets in skin and sex.
    row = 0
    monkeypatch.setattr(held_out, "sex", held_out.sex.copy())
    held_out.sex[:] = 1 - held_out.sex[row]
    twin = int(np.flatnonzero(held_out.person != held_out.person[row])[3])
    held_out.sex[[row, twin]] = 0
    held_out.sex[np.setdiff1d(np.arange(len(held_out)), [row, twin])] = 1
    assert match_impostors(held_out, np.array([row]), np.arange(len(held_out)), count=1).rows.item() == twin


def test_without_labels_nothing_is_matched_and_it_says_so(held_out, monkeypatch):
    monkeypatch.setattr(held_out, "sources", ("folder",))
    monkeypatch.setattr(held_out, "sex", np.full(len(held_out), -1))
    monkeypatch.setattr(held_out, "age", np.full(len(held_out), np.nan, np.float32))
    matches = match_impostors(held_out, np.arange(4), np.arange(len(held_out)))
    assert matches.matched_on == ()
    assert np.isnan(matches.same_sex) and np.isnan(matches.years)


def test_too_few_other_people_are_an_error(held_out):
    with pytest.raises(ValueError, match="0 pictures of other people for 4 impostors"):
        match_impostors(held_out, np.array([0]), np.array([0, 1]))
