"""R², floor and intervals by arithmetic, and a probe that finds a line and no noise."""

from __future__ import annotations

import numpy as np
import pytest

from training.leaks.claims import CHANCE, MEASURED, NOTHING, SIGNAL, Finding, ask
from training.leaks.predict import Parts, guess
from training.leaks.score import Score, score

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(400, 1))


def test_knowing_is_one_guessing_the_mean_is_zero_and_guessing_wrong_is_less():
    scores = score({"t": TRUTH, "u": TRUTH, "v": TRUTH}, {"t": TRUTH, "u": TRUTH * 0 + TRUTH.mean(), "v": -TRUTH}, 0)
    assert scores["t"].r2 == pytest.approx(1) and scores["u"].r2 == pytest.approx(0)
    assert scores["v"].r2 == pytest.approx(-3, abs=0.1)  # 1 - (2y)²


def test_an_interval_holds_the_score_and_is_narrower_with_more_people():
    noisy = TRUTH + RNG.normal(size=TRUTH.shape)
    many = score({"t": TRUTH}, {"t": noisy}, 0)["t"]
    few = score({"t": TRUTH[:50]}, {"t": noisy[:50]}, 0)["t"]
    assert many.low < many.r2 < many.high and many.high - many.low < few.high - few.low


def test_the_floor_is_what_luck_reaches_and_knowledge_is_above_it():
    choice = np.eye(4)[RNG.integers(0, 4, 400)]
    known = score({"c": choice}, {"c": 0.5 * choice + 0.125}, 0)["c"]
    assert known.r2 > known.floor and known.p < 0.002
    assert known.accuracy == 1 and known.chance == pytest.approx(choice.mean(0).max())
    guessed = score({"c": choice}, {"c": 0.25 + 0.02 * RNG.normal(size=choice.shape)}, 0)["c"]
    assert guessed.r2 <= guessed.floor and guessed.p > 0.01


def test_nobody_is_in_two_parts_and_everybody_is_in_one():
    parts = Parts.of(np.arange(5, 105), 3)
    assert sorted(np.concatenate([parts.fit, parts.choose, parts.judge])) == list(range(5, 105))
    assert [len(parts.fit), len(parts.choose), len(parts.judge)] == [50, 20, 30]


def test_a_probe_finds_a_line_and_a_curve_and_shrinks_to_the_mean_where_there_is_nothing():
    x = RNG.normal(size=(2000, 6)).astype(np.float32)
    y = np.stack([x[:, 0] + 5, np.abs(x[:, 1]), RNG.normal(size=2000)], axis=1)
    parts = Parts.of(np.arange(2000), 0)
    found = guess(x, y, parts, 0, np.arange(3))
    r2 = 1 - ((y[parts.judge] - found) ** 2).sum(0) / ((y[parts.judge] - y[parts.judge].mean(0)) ** 2).sum(0)
    assert r2[0] > 0.99 and r2[1] > 0.7  # no line finds |x|: that is the network's part
    assert found[:, 2].std() < 0.2 and abs(r2[2]) < 0.05


def test_the_judging_part_has_no_influence_on_the_guesses():
    x, y = RNG.normal(size=(300, 4)).astype(np.float32), RNG.normal(size=(300, 1))
    parts = Parts.of(np.arange(300), 0)
    other = y.copy()
    other[parts.judge] = 9.0
    first, second = (guess(x, truth, parts, 0, np.zeros(1)) for truth in (y, other))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("expected", "r2", "holds"),
    [
        (NOTHING, 0.019, True),
        (NOTHING, 0.021, False),
        (CHANCE, 0.009, True),
        (CHANCE, 0.011, False),
        (SIGNAL, 0.11, True),
        (SIGNAL, 0.09, False),
        (MEASURED, 0.9, None),
    ],
)
def test_a_promise_holds_up_to_its_bar(expected, r2, holds):
    found = Score(r2=r2, low=0, high=1, floor=0.01, p=0.5, people=9)
    assert Finding("voice", "sex", expected, found).holds is holds


def test_questions_can_be_asked_among_some_people_only():
    x = RNG.normal(size=(600, 2)).astype(np.float32)
    told = np.where(np.arange(600) < 300, x[:, 0], RNG.normal(size=600))[:, None]
    (among,) = ask("x", x, {"y": told}, {"y": SIGNAL}, 0, np.arange(300))
    (others,) = ask("x", x, {"y": told}, {"y": SIGNAL}, 0, np.arange(300, 600))
    assert among.holds and among.score.people == 90 and not others.holds
