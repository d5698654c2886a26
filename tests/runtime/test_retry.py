"""Waits between tries, and their end, on a clock of the test's own."""

from __future__ import annotations

import pytest

from runtime.errors import DeadlineExceededError, RequestError, UnavailableError
from runtime.retry import Retry


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def failing(error: Exception, calls: list[tuple[int, float]]):
    def call(tried: int, left_s: float) -> None:
        calls.append((tried, left_s))
        raise error

    return call


@pytest.mark.parametrize(("failures", "low", "high"), [(1, 0.5, 1), (2, 1, 2), (3, 2, 4), (4, 2.5, 5), (9, 2.5, 5)])
def test_a_wait_doubles_up_to_its_limit_and_is_half_random(failures, low, high):
    retry = Retry(first_wait_s=1, longest_wait_s=5)
    error = UnavailableError("down")
    assert retry.wait_s(failures, error, draw=0.0) == low
    assert retry.wait_s(failures, error, draw=1.0) == high


def test_a_server_that_says_how_long_is_waited_for_at_least_that_long_and_by_everybody_differently():
    retry = Retry(first_wait_s=0.1, longest_wait_s=0.2)
    error = UnavailableError("queue full", retry_after_s=3)
    assert retry.wait_s(1, error, draw=0.0) == 3
    assert retry.wait_s(1, error, draw=1.0) == 4.5


def test_a_long_backoff_is_not_shortened_by_what_the_server_says():
    assert Retry(first_wait_s=8, longest_wait_s=8).wait_s(1, UnavailableError("x", retry_after_s=1), draw=1.0) == 8


def test_the_first_success_is_returned_and_tries_are_counted_from_one():
    def call(tried: int, left_s: float) -> str:
        if tried < 3:
            raise UnavailableError("down")
        return f"try {tried}"

    assert Retry().run(call, 60, *_of(Time())) == "try 3"


def test_the_tries_are_spent_and_the_last_error_raised():
    time, calls = Time(), []
    with pytest.raises(UnavailableError, match="down"):
        Retry(tries=3, first_wait_s=1, longest_wait_s=1).run(failing(UnavailableError("down"), calls), 60, *_of(time))
    assert [tried for tried, _ in calls] == [1, 2, 3]
    assert len(time.slept) == 2


def test_no_wait_reaches_beyond_the_time_limit_and_each_try_is_told_what_is_left():
    time, calls = Time(), []
    with pytest.raises(UnavailableError, match="down"):
        Retry(tries=99, first_wait_s=4, longest_wait_s=4).run(failing(UnavailableError("down"), calls), 10, *_of(time))
    assert time.now < 110
    assert calls[0] == (1, 10)
    assert [left for _, left in calls] == pytest.approx([10 - sum(time.slept[:n]) for n in range(len(calls))])


def test_a_try_is_not_begun_when_the_time_is_over():
    time = Time()

    def oversleep(seconds: float) -> None:
        time.sleep(seconds + 60)

    with pytest.raises(DeadlineExceededError, match="after 1 tries"):
        Retry().run(failing(UnavailableError("down"), []), 10, time.clock, oversleep)


def test_any_other_error_ends_it_at_once():
    calls: list[tuple[int, float]] = []
    with pytest.raises(RequestError):
        Retry().run(failing(RequestError("age", "got 130"), calls), 60, *_of(Time()))
    assert len(calls) == 1


def test_the_defaults_outlast_a_restart_of_fifteen_seconds_even_with_the_shortest_draws():
    retry = Retry()
    assert sum(retry.wait_s(n, UnavailableError("down"), 0.0) for n in range(1, retry.tries)) >= 15


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"first_wait_s": 0}, {"first_wait_s": 9, "longest_wait_s": 8}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"allowed is"):
        Retry(**wrong)


def _of(time: Time):
    return time.clock, time.sleep
