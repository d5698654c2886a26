"""A backlog: nobody waits, nothing is lost, one failure costs nobody."""

from __future__ import annotations

import threading

from triton_repo.backlog import Backlog


def test_work_is_done_in_order_and_by_another_thread():
    done: list[tuple[int, str]] = []
    over = threading.Event()
    backlog = Backlog(0.0, lambda error: None)
    for number in range(100):
        backlog.put(lambda number=number: done.append((number, threading.current_thread().name)))
    backlog.put(over.set)
    assert over.wait(10)
    assert done == [(number, "backlog") for number in range(100)]


def test_what_waits_is_done_at_once_when_somebody_needs_it():
    done: list[str] = []
    backlog = Backlog(3600.0, lambda error: None)
    backlog.put(lambda: done.append(threading.current_thread().name))
    backlog.clear()
    assert done == [threading.current_thread().name]


def test_a_failure_is_told_and_the_rest_is_done():
    failures: list[Exception] = []
    done: list[int] = []
    backlog = Backlog(3600.0, failures.append)
    backlog.put(lambda: done.append(1 // 0))
    backlog.put(lambda: done.append(2))
    backlog.clear()
    assert done == [2] and [type(error) for error in failures] == [ZeroDivisionError]
