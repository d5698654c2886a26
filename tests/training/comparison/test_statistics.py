"""Intervals and the table, by arithmetic on made-up results."""

from __future__ import annotations

import json

import numpy as np
import pytest

from training.comparison.report import COLUMNS, JSON_FILE, MARKDOWN_FILE, PLOT_FILE, cells, write
from training.comparison.statistics import interval
from training.evaluation.figure import METRICS

NOISE = np.random.default_rng(0).normal(size=40)


def result(row: str, seed: int, age_mae: np.ndarray, targets: int = 0) -> dict:
    """A result with one metric, of which lower is better, for each of 40 pictures."""
    return {
        "row": row,
        "seed": seed,
        "figures": {"age_mae": {"value": float(age_mae.mean()), "direction": "lower"}},
        "pictures": {"age_mae": age_mae.tolist()},
        "targets": [targets] * 40,
    }


def test_an_interval_holds_the_mean_and_is_as_wide_as_the_normal_one():
    found = interval(NOISE)
    assert found is not None and found.low < NOISE.mean() < found.high and found.mean == pytest.approx(NOISE.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * NOISE.std() / 40**0.5, rel=0.15)
    assert not found.excludes_zero and interval(NOISE + 3).excludes_zero


def test_a_surer_interval_is_wider_and_what_was_not_measured_does_not_count():
    wide, narrow = interval(NOISE, 0.99), interval(NOISE, 0.9)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert interval(np.append(NOISE, np.nan)) == interval(NOISE)
    assert interval(np.array([np.nan, 1.0])) is None


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
