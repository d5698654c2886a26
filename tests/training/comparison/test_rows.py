"""The table: what each row changes, that nothing else changes, and that it takes hold."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from training.comparison.plan import SHOTS, Plan, jobs
from training.comparison.rows import CONTROL, FULL, PAPER_COLUMNS, ROWS
from training.config import TrainConfig
from training.evaluation.figure import METRICS
from training.presets import MICRO

PLAN = Plan(
    base_sha256="b",
    judges_sha256="j",
    steps=10,
    batch_size=4,
    learning_rate=1e-3,
    people=6,
    count=12,
    inference_steps=2,
    world_seed=3,
    precision="fp32",
)


def changes(name: str) -> dict[str, object]:
    """Settings that differ from the full model's, by dotted name."""
    full, row = (PLAN.training(MICRO, ROWS[n], 42) for n in (FULL, name))

    def flat(config: TrainConfig) -> dict[str, object]:
        settings = asdict(config)
        return {
            **{k: v for k, v in settings.items() if k not in ("losses", "model")},
            **{f"losses.{k}": v for k, v in settings["losses"].items()},
            **{f"model.{k}": v for k, v in settings["model"].items()},
        }

    before, after = flat(full), flat(row)
    return {key: after[key] for key in before if before[key] != after[key]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", {}),
        ("denoising", {"losses.scale": 0.0, "losses.cross_modal": 0.0}),
        ("without-audio", {"never": ("audio",)}),
        ("without-age", {"never": ("age",)}),
        ("without-emotion", {"never": ("emotion",)}),
        ("without-text", {"never": ("text",)}),
        ("without-reference", {"never": ("reference",)}),
        ("without-fusion", {"model.fusion": "mean"}),
        ("without-alignment", {"losses.audio_visual": 0.0}),
        ("without-age-emotion-losses", {"losses.age": 0.0, "losses.emotion": 0.0}),
        ("without-identity", {"losses.identity": 0.0}),
        ("without-cmc-loss", {"losses.cross_modal": 0.0}),
    ],
)
def test_a_row_changes_its_setting_and_nothing_else(name, expected):
    assert changes(name) == expected


def test_the_table_has_the_articles_eleven_rows_and_two_controls():
    assert len(ROWS) == 13 and sum(bool(row.paper) for row in ROWS.values()) == 11
    assert all(tuple(row.paper) == PAPER_COLUMNS for row in ROWS.values() if row.paper)
    assert not ROWS["base"].is_trained and all(row.is_trained for name, row in ROWS.items() if name != "base")
    assert set(PAPER_COLUMNS) <= METRICS.keys()


def test_what_a_row_takes_away_is_missing_in_its_evaluation_too():
    assert PLAN.measuring(ROWS["without-text"], 1).never == ("text",)
    assert PLAN.measuring(ROWS[FULL], 1).never == () and PLAN.measuring(ROWS[FULL], 7).seeds == (7,)


def test_key_rows_run_with_every_seed_and_the_others_with_the_first():
    wanted = jobs(["full", "without-age", CONTROL], [5, 6])
    assert [(job.row.name, job.seed) for job in wanted] == [
        (CONTROL, 5), ("full", 5), ("without-age", 5), (CONTROL, 6), ("full", 6),
    ]  # fmt: skip
    assert wanted[0].folder == Path("rows/denoising/seed-5")


def test_training_and_test_people_are_of_one_world_and_different_halves():
    train, test = PLAN.training_world(32), PLAN.test_world(32)
    assert (train.seed, train.split, train.people, train.shots) == (3, "train", 6, SHOTS)
    assert (test.seed, test.split) == (3, "test") and test.people * test.shots == 2 * PLAN.count


@pytest.mark.parametrize("change", [{"steps": 0}, {"count": 2}, {"people": 1}, {"learning_rate": 0.0}])
def test_a_plan_that_cannot_work_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(PLAN, **change)


def test_a_plan_names_what_differs_from_another():
    assert PLAN.differences(PLAN.to_dict()) == []
    assert PLAN.differences(replace(PLAN, steps=11).to_dict()) == ["steps 11 → 10"]
