"""A network that fails or hangs inside the one loop that all requests share: a code for those it met, and service for the others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak.faults import OK, PROBE, Ledger, Service, streamed
from runtime.client import Client
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest
from runtime.retry import Retry
from runtime.serving.health import HUNG_AT_LEAST_S
from runtime.serving.supervisor import CANARY_INTERVAL_S
from tests.serving.planted import FAILING_STEPS, HANGING_STEPS, plant

STALL_LIMIT_S = 2.0
FAILING = GenerateRequest(age=30, seed=3, num_inference_steps=FAILING_STEPS)
HANGING = GenerateRequest(age=30, seed=3, num_inference_steps=HANGING_STEPS)


@pytest.fixture(scope="module")
def service(micro_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    bundle = plant(micro_bundle, tmp_path_factory.mktemp("planted") / "bundle", (1, PROBE.num_inference_steps))
    with Service(bundle, "--stall-limit", str(STALL_LIMIT_S)).wait_until_ready() as service:
        yield service


@pytest.fixture(scope="module")
def expected(pipeline: Pipeline) -> np.ndarray:
    return pipeline(PROBE).image


def test_an_exception_in_the_loop_is_an_error_of_its_requests_and_nothing_else(service, expected):
    ledger = Ledger()
    with Client(service.url, 120, Retry(tries=1)) as client:
        for call in (client, streamed(client)):
            with pytest.raises(EngineError):
                call(FAILING)
            assert ledger.send(call, PROBE, expected) == OK
    assert ledger.wrong_images == 0
    assert service.is_ready()
    assert [event["event"] for event in service.events] == ["starting", "ready"]


def test_a_hang_in_the_loop_ends_in_a_code_and_a_restart(service, expected):
    """By the sampler's own watchdog, which is told 2 s here; the supervisor's canaries would take longer."""
    assert STALL_LIMIT_S < HUNG_AT_LEAST_S + CANARY_INTERVAL_S
    ledger = Ledger()
    with Client(service.url, 120, Retry(tries=1)) as client, ThreadPoolExecutor(2) as pool:
        endings = [pool.submit(ledger.send, call, HANGING) for call in (client, streamed(client))]
        assert [ending.result() for ending in endings] == ["UNAVAILABLE"] * 2, ledger.texts
    service.wait_until_ready(restarts=1)
    restarts = [event for event in service.events if event["event"] == "restarting"]
    assert [event["reason"] for event in restarts] == ["the process of model sampler died"]
    with Client(service.url, 120) as client:
        assert ledger.send(client, PROBE, expected) == OK
    assert ledger.wrong_images == 0
    assert service.left_behind() == []
