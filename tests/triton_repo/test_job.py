"""A job in another process, over a fake of Triton's calls between models: its parts, its end, and how it is cancelled."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.errors import EngineError, RequestCancelledError, RequestError, UnavailableError
from tests.triton_repo import fake_triton

LIMIT_S = 30


class Answer:
    """One response to a call; without arrays and error, Triton's own mark of the end."""

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


def failure(text):
    return Answer(failure=np.array([text.encode()], object), final=np.array([True]))


class Sampler:
    """Answers a job with `answers` (a callable runs between two of them) and remembers which jobs it was told to cancel."""

    def __init__(self):
        self.answers = [part(0), part(50, True), Answer()]
        self.job = None
        self.cancelled = []
        self.told = threading.Event()
        self.read_to_the_end = False

    def call(self, model_name, inputs, parameters=None, **_):
        assert model_name == "sampler"
        names = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        if "cancel" in names:
            self.cancelled.append(names["cancel"][0, 0].decode())
            self.told.set()
            return SimpleNamespace(exec=lambda decoupled: iter([Answer(final=np.array([True]))]))
        self.job = parameters["job"]
        return SimpleNamespace(exec=lambda decoupled: self._run())

    def _run(self):
        for answer in self.answers:
            if callable(answer):
                answer()
            else:
                yield answer
        self.read_to_the_end = True


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
        module = fake_triton.module("job")
        yield module.Job("request-7", module.EndedCalls())


def steps(job):
    return [int(each["step"][0]) for each in job.parts({"cond": np.zeros(3, np.float32)})]


def test_parts_come_in_order_and_the_call_is_read_to_its_end(job, sampler):
    assert steps(job) == [0, 50]
    assert sampler.read_to_the_end


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("[INTERNAL] unet output not finite at step 3", EngineError, "unet output not finite at step 3"),
        ("[CANCELLED] cancelled by its caller", RequestCancelledError, "cancelled by its caller"),
        ("[INVALID_ARGUMENT] seed: got -1", RequestError, "seed: got -1"),
    ],
    ids=["internal", "cancelled", "invalid"],
)
def test_a_failure_is_raised_as_it_was_there_once_the_call_is_read_to_its_end(job, sampler, text, kind, message):
    sampler.answers = [part(0), part(10), failure(text), Answer()]
    with pytest.raises(kind) as raised:
        steps(job)
    assert str(raised.value) == message
    assert sampler.read_to_the_end, "Triton waits for a reader that leaves before the end"


def test_a_cancel_after_the_job_is_known_is_sent_at_once_by_its_id(job, sampler):
    sampler.answers.insert(1, job.cancel)
    assert steps(job) == [0, 50]
    assert sampler.told.wait(LIMIT_S) and sampler.cancelled == [sampler.job]


def test_a_cancel_before_the_job_is_known_is_sent_as_soon_as_it_is(job, sampler):
    """It could overtake the job otherwise, and end nothing."""
    sampler.answers.insert(0, lambda: sampler.told.wait(0.2))
    job.cancel()
    assert job.is_cancelled and sampler.cancelled == []
    assert steps(job) == [0, 50]
    assert sampler.told.wait(LIMIT_S) and sampler.cancelled == [sampler.job]


def test_ids_of_jobs_are_not_the_callers(job, sampler):
    steps(job)
    assert len(sampler.job) == 32 and "request" not in sampler.job


def test_what_triton_itself_says_is_for_the_log_and_the_caller_may_try_again(job, sampler, log):
    sampler.answers = [Answer(error="in '/opt/secret': Stub process is not healthy")]
    with pytest.raises(UnavailableError, match="a part of the server does not answer"):
        steps(job)
    assert "/opt/secret" in log[0] and sampler.read_to_the_end


def test_an_ended_call_is_held_until_triton_has_let_go_of_it_and_no_longer_than_that(job, sampler, monkeypatch):
    """Triton's own thread would free it without Python's lock, which breaks the heap of the process."""
    calls = []

    class Call:
        def __iter__(self):
            return iter([part(0), part(50, True), Answer()])

    def call(**_):
        made = Call()
        calls.append(weakref.ref(made))
        return SimpleNamespace(exec=lambda decoupled, made=[made]: made.pop())

    module = sys.modules[type(job).__module__]
    monkeypatch.setattr(module.pb_utils, "InferenceRequest", call)
    ended = module.EndedCalls()
    for _ in range(3):
        assert steps(module.Job("", ended)) == [0, 50]
    assert all(held() is not None for held in calls)
    monkeypatch.setattr(module, "HELD_S", 0.0)
    assert steps(module.Job("", ended)) == [0, 50]
    gc.collect()
    assert [held() is not None for held in calls] == [False, False, False, True]
