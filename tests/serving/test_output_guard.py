"""What a network that fails does to callers: a coded error for whom it concerns, the right face for all others, never a picture of it.

A real server on a bundle whose UNet has planted faults (`planted_faults.py`), each of which one request triggers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Client
from runtime.conditioning import Conditioner
from runtime.errors import EngineError, UnavailableError
from runtime.pipeline import Pipeline
from runtime.preprocess import Preprocessor
from runtime.request import GenerateRequest
from runtime.retry import Retry
from runtime.serving.repository import build_repository
from runtime.serving.tritonserver import TritonProcess
from tests.serving import planted_faults
from tests.serving.test_refusals import LEAKS

START_LIMIT_S = 180
STALL_LIMIT_S = 2.0
STEPS = 10
SOUND = GenerateRequest(text="a sad boy", seed=3, num_inference_steps=STEPS)
FAULTY = {
    fault: GenerateRequest(age=10 + 20 * number, seed=number, num_inference_steps=STEPS)
    for number, fault in enumerate(planted_faults.FAULTS)
}


@pytest.fixture(scope="module")
def bundle(micro_bundle: Path, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    preprocess = Preprocessor(pipeline.bundle.model, pipeline.bundle.tokenizer_path, 1.0)
    condition = Conditioner(pipeline.bundle)
    keys = {fault: condition(preprocess(request)).cond["cond"] for fault, request in FAULTY.items()}
    return planted_faults.plant(micro_bundle, tmp_path_factory.mktemp("planted") / "bundle", keys)


@pytest.fixture(scope="module")
def faulty_server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("faulty")
    build_repository(bundle, folder / "models", stall_limit_s=STALL_LIMIT_S)
    with TritonProcess(folder / "models", folder, folder / "log") as process:
        deadline = time.monotonic() + START_LIMIT_S
        while not process.is_listening():
            process.check()
            assert time.monotonic() < deadline, process.log_tail()
            time.sleep(0.1)
        process.watch_stubs()
        yield process


@pytest.fixture(scope="module")
def faulty_client(faulty_server: TritonProcess) -> Iterator[Client]:
    with Client(faulty_server.url, retry=Retry(tries=1)) as client:
        yield client


@pytest.fixture(scope="module")
def expected(bundle: Path) -> Iterator[np.ndarray]:
    with Pipeline.open(bundle) as pipeline:
        yield pipeline(SOUND).image


def both_ways(client, request):
    """The errors of the ensemble and of the stream."""
    for call in (lambda: client(request), lambda: list(client.stream(request))):
        with pytest.raises(EngineError) as failed:
            call()
        assert not LEAKS.search(str(failed.value)), failed.value
        yield str(failed.value)


def first_bad_step(bundle):
    with Pipeline.open(bundle) as pipeline:
        timesteps = pipeline.bundle.schedule.timesteps(STEPS)
    return int(np.argmax(np.asarray(timesteps) < planted_faults.NOT_FINITE_BELOW))


def test_what_is_not_finite_ends_its_own_request_at_that_step_and_its_neighbour_is_exact(
    faulty_client, bundle, expected
):
    step = first_bad_step(bundle)
    assert 0 < step < STEPS - 1
    with ThreadPoolExecutor(4) as pool:
        neighbours = [pool.submit(faulty_client, SOUND) for _ in range(4)]
        for error in both_ways(faulty_client, FAULTY[planted_faults.NOT_FINITE]):
            assert error.endswith(f"unet output not finite at step {step}")
        for neighbour in neighbours:
            np.testing.assert_array_equal(neighbour.result().image, expected)


@pytest.mark.parametrize(
    ("fault", "message"),
    [(planted_faults.WRONG_SHAPE, "'noise_pred' has shape"), (planted_faults.RAISES, "unet")],
    ids=["wrong shape", "raises"],
)
def test_a_failing_call_ends_the_jobs_in_it_and_the_scheduler_lives_on(faulty_client, expected, fault, message):
    for error in both_ways(faulty_client, FAULTY[fault]):
        assert message in error
    np.testing.assert_array_equal(faulty_client(SOUND).image, expected)


def test_a_call_that_never_returns_ends_the_sampler_and_everybody_who_waits_is_told(faulty_client, faulty_server):
    """Last in this file: the server has to be started again afterwards, which is its supervisor's work."""
    assert faulty_server.problem() is None
    with ThreadPoolExecutor(8) as pool:
        hanging = pool.submit(faulty_client, FAULTY[planted_faults.HANGS])
        time.sleep(0.5)
        waiting = [pool.submit(faulty_client, SOUND) for _ in range(3)]
        waiting += [pool.submit(lambda: list(faulty_client.stream(SOUND))) for _ in range(3)]
        errors = [future.exception(120) for future in (hanging, *waiting)]
    assert {type(error) for error in errors} == {UnavailableError}
    assert all("the sampler's process has ended" in str(error) for error in errors)
    assert faulty_server.problem() == "the process of model sampler died"
    assert f"a call of the UNet has run for {STALL_LIMIT_S:.0f}." in faulty_server.log.read_text()
    for call in (lambda: faulty_client(SOUND), lambda: list(faulty_client.stream(SOUND))):
        with pytest.raises(UnavailableError, match="the sampler's process has ended"):
            call()
