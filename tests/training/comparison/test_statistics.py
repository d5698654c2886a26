"""Intervals and the table, by arithmetic on made-up results."""

from __future__ import annotations

import json

import numpy as np
import pytest

from training.comparison.report import CERTAIN, COLUMNS, JSON_FILE, MARKDOWN_FILE, PLOT_FILE, cells, write
from training.comparison.statistics import Interval, interval
from training.evaluation.figure import METRICS

NOISE = np.random.default_rng(0).normal(size=40)
EACH = np.arange(40)  # every picture of another person


def result(row: str, seed: int, age_mae: np.ndarray, first: int = 0, **entries: list[int]) -> dict:
    """A result with one metric, of which lower is better, for each of the pictures from row `first` on."""
    return {
        "row": row,
        "seed": seed,
        "figures": {"age_mae": {"value": float(age_mae.mean()), "direction": "lower"}},
        "pictures": {"age_mae": age_mae.tolist()},
        "targets": [first + n for n in range(len(age_mae))],
        **entries,
    }


def test_an_interval_holds_the_mean_and_is_as_wide_as_the_normal_one():
    found = interval(NOISE, EACH)
    assert found is not None and found.low < NOISE.mean() < found.high and found.mean == pytest.approx(NOISE.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * NOISE.std() / 40**0.5, rel=0.15)
    assert not found.excludes_zero and interval(NOISE + 3, EACH).excludes_zero


def test_a_surer_interval_is_wider_and_what_was_not_measured_does_not_count():
    wide, narrow = interval(NOISE, EACH, 0.99), interval(NOISE, EACH, 0.9)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert interval(np.append(NOISE, np.nan), np.append(EACH, 40)) == interval(NOISE, EACH)
    assert interval(np.array([np.nan, 1.0]), np.array([0, 1])) is None


def test_what_is_repeated_makes_nothing_surer():
    """As it would if the pictures of a person, or one under three seeds, counted as different people."""
    assert _ends(interval(np.tile(NOISE, 3), np.tile(EACH, 3))) == pytest.approx(_ends(interval(NOISE, EACH)))
    assert interval(np.tile(NOISE, 3), np.zeros(120, int)) is None, "one person alone says nothing about others"


def test_who_has_more_pictures_counts_more_in_the_mean():
    found = interval(np.array([1.0, 1.0, 1.0, 0.0]), np.array([5, 5, 5, 8]))
    assert (found.mean, found.low, found.high) == (0.75, 0.0, 1.0)


def test_a_small_certain_difference_has_an_arrow_although_the_intervals_overlap():
    worse, better = NOISE + 5.1 + 0.01 * NOISE, NOISE + 4.9
    table = cells([result("full", 1, NOISE + 5), result("without-age", 1, worse), result("without-text", 1, better)])
    assert table["without-age"]["age_mae"].mark("lower") == " ▼"
    assert table["without-text"]["age_mae"].mark("lower") == " ▲"
    assert table["without-text"]["age_mae"].mark("higher") == " ▼"
    spread, full = table["without-age"]["age_mae"].spread, table["full"]["age_mae"].spread
    assert spread.low < full.high and table["full"]["age_mae"].change is None


def test_noise_alone_has_no_arrow_and_other_targets_are_not_compared():
    other = np.random.default_rng(1).permutation(NOISE)
    table = cells([result("full", 1, NOISE), result("without-age", 1, other), result("without-text", 1, NOISE + 9, 7)])
    assert table["without-age"]["age_mae"].mark("lower") == ""
    assert table["without-text"]["age_mae"].change is None


def test_more_seeds_and_more_pictures_of_the_same_people_give_no_arrow():
    """A difference of 16 people that their two pictures and three seeds repeat: of 96 people it would be certain."""
    change = 1 + 2.8 * (NOISE[:16] - NOISE[:16].mean()) / NOISE[:16].std()
    by_picture, whom = np.repeat(change, 2), {"person": np.repeat(np.arange(16), 2).tolist()}
    results = [result("full", seed, 0 * by_picture, **whom) for seed in (1, 2, 3)]
    results += [result("denoising", seed, by_picture, **whom) for seed in (1, 2, 3)]
    cell = cells(results)["denoising"]["age_mae"]
    assert interval(np.tile(by_picture, 3), np.arange(96), CERTAIN).excludes_zero
    assert cell.mark("lower") == ""
    assert _ends(cell.change) == pytest.approx(_ends(interval(change, EACH[:16], CERTAIN)))


def test_of_older_results_a_target_stands_for_a_person():
    change = np.tile(NOISE[:20], 2)
    rows = {row: [result(row, s, (row != "full") * change) for s in (1, 2)] for row in ("full", "denoising")}
    cell = cells([*rows["full"], *rows["denoising"]])["denoising"]["age_mae"]
    assert _ends(cell.change) == pytest.approx(_ends(interval(change, EACH, CERTAIN)))
    rows["denoising"][1]["person"] = [0] * 40  # of one seed alone it is not enough
    assert cells([*rows["full"], *rows["denoising"]])["denoising"]["age_mae"] == cell


def test_a_key_row_has_the_deviation_over_its_seeds_and_is_compared_seed_by_seed():
    full = [result("full", seed, NOISE + seed) for seed in (1, 2, 3)]
    cell = cells([*full, *(result("denoising", seed, NOISE + seed + 0.5) for seed in (1, 2))])["denoising"]["age_mae"]
    assert cell.seeds == 2 and cell.deviation == pytest.approx(np.std([1, 2], ddof=1))
    assert cell.change.mean == pytest.approx(0.5) and cell.spread is None
    assert cells(full)["full"]["age_mae"].value == pytest.approx(NOISE.mean() + 2)


def test_the_report_says_which_direction_is_better_what_is_missing_and_what_the_article_has(tmp_path, plan):
    write(tmp_path, "the command", plan, [result("full", 1, NOISE), result("base", 1, NOISE + 1)], ["full seed 2"])
    page = (tmp_path / MARKDOWN_FILE).read_text()
    assert "`age_mae` ↓" in page and "Not done yet: full seed 2" in page and "the command" in page
    assert "| base, not fine-tuned | " in page and "| without text | 0.893 |" in page
    written = json.loads((tmp_path / JSON_FILE).read_text())
    assert written["columns"] == {column: METRICS[column].direction for column in COLUMNS}
    assert (
        written["rows"]["base"]["age_mae"]["change"]["mean"] == pytest.approx(1) and written["plan"] == plan.to_dict()
    )
    assert (tmp_path / PLOT_FILE).read_bytes().startswith(b"\x89PNG")


def _ends(found: Interval) -> tuple[float, float]:
    return found.low, found.high
