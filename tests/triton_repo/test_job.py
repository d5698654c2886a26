"""A job in another process, over a fake of Triton's calls between models: its parts, its end, and how it is cancelled."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.errors import EngineError, RequestCancelledError, RequestError, UnavailableError
from tests.triton_repo import fake_triton

LIMIT_S = 30


class Answer:
    """The response to a call."""

    def __init__(self, error=None, **arrays):
        self._error, self._arrays = error, arrays

    def has_error(self):
        return self._error is not None

    def error(self):
        return SimpleNamespace(message=lambda: self._error)

    def output_tensors(self):
        return [fake_triton.Tensor(name, np.asarray(array)[None]) for name, array in self._arrays.items()]


def part(step, is_final=False):
    return Answer(step=np.array([step], np.int32), final=np.array([is_final]))


class Sampler:
    """Gives `answers` one by one (a callable runs before the one after it) and remembers which jobs it was told to cancel."""

    def __init__(self):
        self.answers = [part(0), part(10), part(50, True)]
        self.job = None
        self.calls = []
        self.cancelled = []
        self.told = threading.Event()

    def call(self, model_name, inputs, parameters, **_):
        assert model_name == "sampler"
        tensors = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        self.calls.append((sorted(tensors), parameters))
        if "cancel" in tensors:
            return SimpleNamespace(exec=lambda: self._cancel(tensors["cancel"][0, 0].decode()))
        if "next" in tensors:
            assert tensors["next"][0, 0].decode() == self.job
        else:
            self.job = parameters["job"]
        # No argument: a decoupled call would lock up its process (docs/decisions/0036).
        return SimpleNamespace(exec=self._next)

    def _cancel(self, job):
        self.cancelled.append(job)
        self.told.set()
        return part(0)

    def _next(self):
        while callable(self.answers[0]):
            self.answers.pop(0)()
        return self.answers.pop(0)


@pytest.fixture
def sampler():
    return Sampler()


@pytest.fixture
def log():
    return []


@pytest.fixture
def job(sampler, log):
    fake = fake_triton.backend(log)
    fake.InferenceRequest = sampler.call
    with fake_triton.installed(fake):
        yield fake_triton.module("job").Job("request-7", {"inner": "key"})


def steps(job):
    return [int(each["step"][0]) for each in job.parts({"cond": np.zeros(3, np.float32)})]


def test_parts_are_fetched_in_order_until_the_last(job, sampler):
    assert steps(job) == [0, 10, 50]
    assert [tensors for tensors, _ in sampler.calls] == [["cond"], ["next"], ["next"]]
    assert all(parameters == {"job": sampler.job, "inner": "key"} for _, parameters in sampler.calls)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[INTERNAL] unet output not finite at step 3", EngineError, "unet output not finite at step 3"),
        ("[CANCELLED] cancelled by its caller", RequestCancelledError, "cancelled by its caller"),
        ("[INVALID_ARGUMENT] seed: got -1", RequestError, "seed: got -1"),
    ],
    ids=["internal", "cancelled", "invalid"],
)
@pytest.mark.parametrize("before", [0, 2], ids=["at once", "on the way"])
def test_a_failure_is_raised_as_it_was_there(job, sampler, before, text, kind, message):
    sampler.answers = [*[part(0), part(10)][:before], Answer(error=text)]
    with pytest.raises(kind) as raised:
        steps(job)
    assert str(raised.value) == message


def test_a_cancel_after_the_job_is_known_is_sent_at_once_by_its_id(job, sampler):
    sampler.answers.insert(1, job.cancel)
    assert steps(job) == [0, 10, 50]
    assert sampler.told.wait(LIMIT_S) and sampler.cancelled == [sampler.job]


def test_a_cancel_before_the_job_is_known_is_sent_as_soon_as_it_is(job, sampler):
    """It could overtake the job otherwise, and end nothing."""
    sampler.answers.insert(0, lambda: sampler.told.wait(0.2))
    job.cancel()
    assert job.is_cancelled and sampler.cancelled == []
    assert steps(job) == [0, 10, 50]
    assert sampler.told.wait(LIMIT_S) and sampler.cancelled == [sampler.job]


def test_a_fetch_that_fails_leaves_no_job_behind(job, sampler):
    """The call has failed and the sampler lives: the job is cancelled there, and its end is fetched."""
    ended = threading.Event()
    sampler.answers = [part(0), Answer(error="no space left in /dev/shm"), part(10), ended.set, part(50, True)]
    with pytest.raises(UnavailableError):
        steps(job)
    assert ended.wait(LIMIT_S) and sampler.cancelled == [sampler.job]


def test_ids_of_jobs_are_not_the_callers(job, sampler):
    steps(job)
    assert len(sampler.job) == 32 and "request" not in sampler.job


def test_what_triton_itself_says_is_for_the_log_and_the_caller_may_try_again(job, sampler, log):
    sampler.answers = [Answer(error="in '/opt/secret': Stub process is not healthy")]
    with pytest.raises(UnavailableError, match="a part of the server does not answer"):
        steps(job)
    assert "/opt/secret" in log[0]
