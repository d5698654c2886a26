"""The table of targets: what is relative to what, what meets a bar, and what is said where a figure is missing."""

from __future__ import annotations

import math

import pytest

from training.evaluation.figure import METRICS, Figure
from training.evaluation.targets import TARGETS, Target, above_real, distance_added, document, plain, share_of, table

KID = Figure((0.3,), "lower", 9, {"real": 0.0, "autoencoded": 0.1, "blurred": 2.1, "ages": 4.0})


def named(part: str) -> Target:
    return next(target for target in TARGETS if part in target.name)


def test_an_error_counts_from_that_of_real_renders():
    level = above_real("age_mae.age")({"age_mae.age": Figure((5.0,), "lower", 9, {"real": 3.6, "chance": 21.6})})
    assert (level.reached, level.real, level.floor) == pytest.approx((1.4, 0, 18))
    assert named("MAE above").met(level) is True


def test_a_voice_is_held_against_what_a_probe_hears():
    figure = Figure((0.6,), "higher", 9, {"real": 0.9, "chance": 0.15, "probe": 0.75})
    level = share_of("emotion_clear.audio", "probe")({"emotion_clear.audio": figure})
    assert (level.reached, level.real, level.floor) == pytest.approx((0.8, 1.2, 0.2))
    assert named("a voice alone").met(level) is False


def test_a_share_of_nothing_is_no_number():
    figure = Figure((0.6,), "higher", 9, {"real": 0.0, "chance": 0.1})
    assert math.isnan(share_of("x", "real")({"x": figure}).reached)


def test_the_autoencoder_s_own_distance_is_not_the_model_s():
    level = distance_added({"kid": KID})
    assert (level.reached, level.real, level.floor) == pytest.approx((0.05, -0.025, 0.5))


@pytest.mark.parametrize(("value", "met"), [(0.949, False), (0.95, True), (1.0, True)])
def test_a_bar_is_met_from_its_own_value_on(value, met):
    target = Target("slope", "higher", 0.95, plain("age_slope.age"))
    assert target.met(target.level({"age_slope.age": Figure((value,), "higher", 9)})) is met


def test_the_table_says_what_is_met_what_is_not_and_what_is_missing():
    figures = {
        "kid": KID,
        "age_slope.age": Figure((0.5,), "higher", 9, {"real": 0.97, "chance": 0.0}),
        "spread": Figure((0.9,), "higher", 100, {"real": 1.01, "chance": 0.0}),
        "age_mae.age 20-29": Figure((4.0,), "lower", 7, {"real": 3.0}),
    }
    lines = table(figures, {"id_tar.changed": "too few"})
    assert any("slope" in line and "| 0.5 | 0.97 | 0 | no |" in line for line in lines)
    assert any("variety" in line and "| 0.9 | 1.01 | 0 | **yes** |" in line for line in lines)
    assert sum("| not measured |" in line for line in lines) == len(TARGETS) - 3
    assert "| age MAE, years | 20-29 |" in lines and "| reached (n) | 4 (7) |" in lines
    assert "- not measured, `id_tar.changed`: too few" in lines
    found = document(figures)
    assert found[named("slope").name]["met"] is False and found[named("AUC").name] is None


def test_words_for_looks_are_told_by_topic():
    hair = Figure((0.75,), "higher", 40, {"real": 0.95, "chance": 0.2})
    lines = table({"looks.text": hair, "looks.text hair": hair}, {})
    assert any("words for looks" in line and "| as it is | 0.75 | 0.95 | 0.2 |" in line for line in lines)
    assert lines[lines.index("| words for | hair |") + 2 :][:3] == [
        "| found (prompts) | 0.75 (40) |",
        "| in real renders | 0.95 |",
        "| in another prompt's picture | 0.2 |",
    ]


def test_every_target_reads_a_metric_that_there_is():
    class Noted(dict):
        def __missing__(self, key):
            assert key.split(".")[0] in METRICS
            raise KeyError(key)

    for target in TARGETS:
        with pytest.raises(KeyError):
            target.level(Noted())
