"""Whatever dies, callers hear of it, probes tell it, and the service comes back as it was. One `serve` command for all of it."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak.breakdowns import survive
from benchmarks.soak.faults import CODED, FAULTS, OK, PROBE, TRITONSERVER, Fault, Ledger, Service, cycle
from runtime.client import Client
from runtime.pipeline import Pipeline
from runtime.retry import Retry

# Idle, only what watches processes is at work, which knows no models: one stands for all. Soak runs take every fault, many times.
IDLE = Fault("ddim", under_load=False)


@pytest.fixture(scope="module")
def service(micro_bundle: Path) -> Iterator[Service]:
    with Service(micro_bundle, "--max-restarts", "100", "--canary-interval", "0.2") as service:
        yield service.wait_until_ready()


@pytest.fixture(scope="module")
def expected(pipeline: Pipeline) -> np.ndarray:
    return pipeline(PROBE).image


@pytest.mark.parametrize("fault", [IDLE, *(fault for fault in FAULTS if fault.under_load)], ids=str)
def test_a_killed_process_is_told_at_once_and_nothing_is_lost_in_silence_or_left_behind(service, expected, fault):
    result = cycle(service, fault, _restarts(service), expected)
    died = (
        "tritonserver ended with status -9"
        if fault.victim == TRITONSERVER
        else f"the process of model {fault.victim} died"
    )
    assert result.reason == f"restarting: {died}" and result.was_live
    assert result.ledger.is_complete
    assert set(result.statuses) <= CODED, result.ledger.texts
    assert result.ledger.wrong_images == 0
    if fault.under_load:
        assert sum(result.statuses.values()) > result.statuses[OK] >= 2  # some were answered, some were in flight
    assert result.left_behind == []
    assert result.regions_gained == 0
    for text in result.ledger.texts:
        assert "/" not in text and "shm" not in text and "Traceback" not in text, text


def test_callers_who_try_again_get_their_face_across_a_restart(service, expected):
    before = _restarts(service)
    books = survive(service, expected, each=3)
    assert books.problems() == []
    service.wait_until_ready(before + 1)


def test_canaries_go_all_the_way_again_and_again(service):
    before = _canaries_answered(service)
    deadline = time.monotonic() + 60
    while _canaries_answered(service) < before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_stopped_sampler_costs_no_request_its_answer(service, expected):
    """Stopped for 5 s with requests in flight, Triton 2.51 aborts when it goes on; whether it does or not, all is well again."""
    before, ledger = _restarts(service), Ledger()
    with Client(service.url, 120, Retry(tries=1)) as client:
        assert ledger.send(client, PROBE, expected) == OK
        pid = service.kill("sampler", signal.SIGSTOP)
        ledger.send(client, PROBE, expected)  # answered by a refusal, or when the sampler goes on
        time.sleep(5)
        if pid in service.processes("sampler"):
            os.kill(pid, signal.SIGCONT)
        _wait_until_ready(service)
        with Client(service.url, 120) as patient:
            assert ledger.send(patient, PROBE, expected) == OK
    assert ledger.is_complete and set(ledger.statuses) <= CODED and ledger.wrong_images == 0
    assert _restarts(service) >= before
    assert service.left_behind() == []


def _canaries_answered(service: Service) -> float:
    with urllib.request.urlopen(service.metrics_url) as answer:
        return float(
            re.search(r'requests_total\{.*code="OK".*model="canary".*\} (\S+)$', answer.read().decode(), re.M)[1]
        )


def _restarts(service: Service) -> int:
    return sum(event["event"] == "ready" for event in service.events) - 1


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + 120
    while not service.is_ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)
