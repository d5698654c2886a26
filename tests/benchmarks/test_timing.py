"""The arithmetic of timing, on a clock that moves only when told."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.timing import TOTAL, Meter, Summary, count, machine_facts, publish, table, take_turns


class FakeClock:
    """Seconds; `pass_ms` moves it on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_ms(self, ms: float) -> None:
        self.now += ms / 1e3


def test_median_p95_and_min_of_twenty_durations():
    summary = Summary.of([float(ms) for ms in range(20, 0, -1)])
    assert summary.to_dict() == {"median": 10.5, "p95": 19.0, "min": 1.0, "count": 20}


def test_of_few_durations_p95_is_the_longest():
    assert Summary.of([3.0, 1.0, 2.0]).p95 == 3.0


def test_no_durations_are_refused():
    with pytest.raises(ValueError, match="no durations"):
        Summary.of([])


def test_contenders_take_turns_and_each_round_starts_with_the_next():
    order: list[str] = []
    contenders = {name: lambda name=name: order.append(name) or {} for name in "abc"}
    take_turns(contenders, rounds=2, warm_up=1)
    assert "".join(order) == "abcbcacab"


def test_a_pause_comes_before_every_turn_and_is_not_timed(monkeypatch):
    clock, order = FakeClock(), []
    monkeypatch.setattr("time.sleep", lambda seconds: order.append(seconds) or clock.pass_ms(seconds * 1e3))
    contenders = {name: lambda name=name: order.append(name) or {} for name in "ab"}
    summaries = take_turns(contenders, rounds=1, warm_up=0, settle_s=0.5, clock=clock)
    assert order == [0.5, "a", 0.5, "b"]
    assert summaries["a"][TOTAL].median == summaries["b"][TOTAL].median == 0


def test_warm_up_runs_are_not_counted_and_others_are_timed_by_the_clock():
    clock, costs = FakeClock(), iter([500.0, 4.0, 6.0])

    def contender():
        clock.pass_ms(next(costs))
        return {"unet": 2.0}

    summaries = take_turns({"only": contender}, rounds=2, warm_up=1, clock=clock)
    assert summaries["only"][TOTAL] == Summary(median=5.0, p95=6.0, min=4.0, count=2)
    assert summaries["only"]["unet"] == Summary(median=2.0, p95=2.0, min=2.0, count=2)


@pytest.mark.parametrize(("rounds", "warm_up"), [(0, 1), (1, -1)])
def test_impossible_numbers_of_rounds_are_refused(rounds, warm_up):
    with pytest.raises(ValueError, match="at least"):
        take_turns({"a": dict}, rounds=rounds, warm_up=warm_up)


def test_a_meter_adds_up_calls_until_reset_and_passes_values_through():
    clock = FakeClock()
    meter = Meter(lambda ms, *, factor: clock.pass_ms(ms) or ms * factor, clock)
    assert [meter(2.0, factor=10), meter(3.0, factor=10)] == [20.0, 30.0]
    assert (meter.calls, meter.ms) == (2, pytest.approx(5.0))
    meter.reset()
    assert (meter.calls, meter.ms) == (0, 0.0)


def test_a_meter_counts_a_call_that_fails():
    clock = FakeClock()

    def fail() -> None:
        clock.pass_ms(7.0)
        raise KeyError("x")

    meter = Meter(fail, clock)
    with pytest.raises(KeyError):
        meter()
    assert (meter.calls, meter.ms) == (1, pytest.approx(7.0))


def test_machine_facts_name_the_versions_asked_for():
    facts = machine_facts(("numpy", "a_package_that_is_not_installed"))
    assert list(facts["versions"]) == ["numpy"]
    assert facts["cpu"] and facts["cores"] >= 1


def test_columns_of_a_table_are_as_wide_as_their_widest_cell():
    lines = table(("name", "ms"), [("a long name", 1.0), ("b", 12345.678)]).splitlines()
    assert lines[2] == "b            12345.68"
    assert len({len(line) for line in lines}) == 1


def test_the_document_is_the_last_line_and_in_the_file(tmp_path: Path, capsys):
    publish({"a": [1.5]}, tmp_path / "new" / "out.json")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"a": [1.5]}
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == {"a": [1.5]}


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "many"])
def test_counts_below_one_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
        count(text)
