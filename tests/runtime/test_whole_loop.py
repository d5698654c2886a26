"""Pictures in one go, over an engine in process that stands for one of a GPU: the same pictures, and who may have them."""

from __future__ import annotations

import dataclasses
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from runtime.bundle import Bundle
from runtime.errors import (
    DeadlineExceededError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    UnavailableError,
)
from runtime.guidance import Guidance
from runtime.job import BULK, INTERACTIVE, Job
from runtime.noise import gaussian
from runtime.options import Options
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest, Preview
from runtime.route import follow
from runtime.sampling import Sampler, SampleRequest
from runtime.schedule import Schedule
from runtime.settings import SampleSettings
from runtime.solvers import SOLVERS
from runtime.trajectory import GuidedTrajectory
from runtime.whole_loop import MOST_PASSED, WholeLoop
from tests.fakes import MODEL, fake_bundle

SHAPE = (1, 2, 2)


class Following:
    """An engine that follows routes call by call."""

    def __init__(self, engine):
        self._engine = engine
        self.routes = 0

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def __call__(self, inputs):
        return self._engine(inputs)

    def follow(self, route):
        self.routes += 1
        return follow(route, lambda x, t, cond: self._engine({"sample": x, "timestep": t, **cond})["noise_pred"])


@pytest.fixture
def unet(monkeypatch):
    """The UNet of every bundle that is opened from now on follows routes."""
    made: list[Following] = []
    engine = Bundle.engine

    def wrapped(bundle, name):
        opened = engine(bundle, name)
        if name == "unet" and not isinstance(opened, Following):
            made.append(Following(opened))
            return made[-1]
        return opened

    monkeypatch.setattr(Bundle, "engine", wrapped)
    return made


@pytest.fixture(scope="module")
def photo() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def opened(bundle, **settings) -> Pipeline:
    return Pipeline.open(bundle, engine="onnxruntime", threads=1, **settings)


def test_faces_and_edits_are_those_of_single_steps(micro_bundle, unet, photo):
    face = GenerateRequest(age=40, seed=3, num_inference_steps=6, guidance_scale=3)
    edit = GenerateRequest(reference=photo, age=70, edit_from_timestep=400, num_inference_steps=5, seed=1)
    with opened(micro_bundle) as pipeline:
        expected = [pipeline(face), pipeline(edit)]
    with opened(micro_bundle, whole_loop=True) as pipeline:
        results = [pipeline(face), pipeline(edit), pipeline(edit)]
    # A UNet call of two rows rounds otherwise than one that the batcher has padded, so a level may differ.
    for result, other in zip(results, [*expected, expected[1]], strict=True):
        assert np.abs(result.image.astype(int) - other.image).max() <= 1
        assert result.report["whole_loop"] is True and "whole_loop" not in other.report
    assert [result.report["unet_calls"] for result in results] == [6, 10, 5]
    assert unet[-1].routes == 1 + 2 + 1, "the inversion of the second edit was known"
    assert results[2].report["edit"]["inversion_cached"]


def test_who_wants_previews_or_another_sampler_goes_step_by_step(micro_bundle, unet):
    request = GenerateRequest(age=40, seed=3, num_inference_steps=4)
    with opened(micro_bundle, whole_loop=True) as pipeline:
        parts = list(pipeline.stream(dataclasses.replace(request, preview_every=1)))
        assert isinstance(parts[0], Preview) and "whole_loop" not in parts[-1].report
        other = pipeline(dataclasses.replace(request, options=Options(sampler="unipc")))
        assert "whole_loop" not in other.report
        steps = []
        pipeline(request, on_step=lambda step, *_: steps.append(step))
        assert steps == [0, 1, 2, 3]
    assert unet[-1].routes == 0


def test_an_engine_that_cannot_is_refused_and_nothing_is_slipped_in(micro_bundle):
    with pytest.raises(EngineError, match="whole_loop: 'CPUExecutionProvider' runs a network call by call"):
        opened(micro_bundle, whole_loop=True)


class Engine:
    provider = "fake"

    def __init__(self, answer=None):
        self.answer = answer

    def follow(self, route):
        if isinstance(self.answer, Exception):
            raise self.answer
        return route.sample.copy() if self.answer is None else np.full(route.sample.shape, self.answer)


class Held(Engine):
    """Takes a route only once it is released."""

    def __init__(self):
        super().__init__()
        self.entered, self.released = threading.Event(), threading.Event()

    def follow(self, route):
        self.entered.set()
        assert self.released.wait(30)
        return super().follow(route)


@pytest.fixture
def held():
    engine = Held()
    yield engine
    engine.released.set()  # a test that failed must not wait for its thread


def job(**settings) -> Job:
    solver = SOLVERS["ddim"](Schedule(timestep_spacing="trailing"), 3, SHAPE)
    cond = {"cond": np.zeros(2, np.float32)}
    return Job("one", GuidedTrajectory(gaussian(1, 0, SHAPE), Guidance(cond), solver), **settings)


@pytest.mark.parametrize(
    ("settings", "answer", "error", "told"),
    [
        ({"is_cancelled": lambda: True}, None, RequestCancelledError, "job 'one' was cancelled"),
        ({"deadline": time.monotonic() - 1}, None, DeadlineExceededError, "passed before its first step"),
        ({}, np.nan, EngineError, "job 'one': unet output not finite, in one of 3 steps"),
        ({}, EngineError("unet: the plan did not run"), EngineError, "job 'one': unet: the plan did not run"),
    ],
    ids=["cancelled", "late", "not finite", "failed"],
)
def test_what_goes_wrong_is_told_as_the_batcher_tells_it(settings, answer, error, told):
    loop = WholeLoop(Engine(answer))
    with pytest.raises(error, match=told):
        loop.submit(job(**settings)).result()
    assert loop.submit(job()).exception() is None or answer is not None  # the next one has its own chance
    loop.close()


def test_nothing_is_taken_after_the_end():
    loop = WholeLoop(Engine())
    assert loop.submit(job()).result().calls == 3
    loop.close()
    with pytest.raises(UnavailableError, match="closed"):
        loop.submit(job())


def submit(loop: WholeLoop, *priorities: str) -> tuple[list, list[int]]:
    """One job of each priority: their futures, and their places in the order in which they end."""
    futures, order = [loop.submit(job(priority=priority)) for priority in priorities], []
    for place, future in enumerate(futures):
        future.add_done_callback(lambda _, place=place: order.append(place))
    return futures, order


def test_who_finds_the_queue_of_a_priority_full_is_refused_and_a_free_place_is_given_again(held):
    loop = WholeLoop(held, max_queue=2)
    running = loop.submit(job())
    assert held.entered.wait(30)
    waiting, _ = submit(loop, INTERACTIVE, INTERACTIVE, BULK)
    with pytest.raises(QueueFullError, match="queue full, 2 requests are waiting"):
        loop.submit(job())
    waiting.append(loop.submit(job(priority=BULK)))
    held.released.set()
    assert [future.result(30).calls for future in (running, *waiting)] == [3] * 5
    assert loop.submit(job()).result(30).calls == 3
    loop.close()
    with pytest.raises(ValueError, match="max_queue=0"):
        WholeLoop(held, max_queue=0)


def test_interactive_jobs_come_first_and_bulk_jobs_get_their_share(held):
    loop = WholeLoop(held)
    loop.submit(job())
    assert held.entered.wait(30)
    many = MOST_PASSED + 2
    _, order = submit(loop, BULK, BULK, *[INTERACTIVE] * many)
    held.released.set()
    loop.close()
    interactive = list(range(2, 2 + many))
    assert order == [*interactive[:MOST_PASSED], 0, *interactive[MOST_PASSED:], 1]


def test_a_waiting_job_that_is_cancelled_is_not_walked(held):
    loop = WholeLoop(held)
    loop.submit(job())
    assert held.entered.wait(30)
    (cancelled, other), _ = submit(loop, INTERACTIVE, INTERACTIVE)
    assert cancelled.cancel()
    held.released.set()
    assert other.result(30).calls == 3
    loop.close()


@pytest.mark.parametrize("drains_first", [False, True])
def test_closing_without_draining_finishes_the_job_in_progress_and_fails_the_waiting(held, drains_first):
    loop = WholeLoop(held)
    running = loop.submit(job())
    assert held.entered.wait(30)
    waiting, _ = submit(loop, INTERACTIVE, BULK)
    closing = [threading.Thread(target=loop.close, args=(True,))] if drains_first else []
    closing.append(threading.Thread(target=loop.close, args=(False,)))
    for thread in closing:
        thread.start()
    wait_until(lambda: not loop._is_draining)
    held.released.set()
    for thread in closing:
        thread.join(30)
    assert running.result(0).calls == 3
    for future in waiting:
        with pytest.raises(UnavailableError, match="the sampler was closed before job 'one' was done"):
            future.result(0)


def test_draining_finishes_everything(held):
    loop = WholeLoop(held)
    futures, _ = submit(loop, INTERACTIVE, INTERACTIVE, BULK)
    held.released.set()
    loop.close(drain=True)
    assert [future.result(0).calls for future in futures] == [3] * 3


def test_a_sampler_hands_queue_bound_priority_and_end_to_its_loop(tmp_path, unet, held, monkeypatch):
    cond = {name: np.zeros(shape, np.float32) for name, shape in MODEL.cond.items()}
    face, background = (
        SampleRequest(cond, SampleSettings(3, 1.0, num_inference_steps=2, options=Options(priority=priority)))
        for priority in (INTERACTIVE, BULK)
    )
    sampler = Sampler(fake_bundle(tmp_path / "bundle"), max_queue=1, whole_loop=True)
    monkeypatch.setattr(unet[-1], "follow", held.follow, raising=False)
    running = sampler.submit(face)
    assert held.entered.wait(30)
    waiting, order = [sampler.submit(background), sampler.submit(face)], []
    for name, future in zip(("background", "face"), waiting, strict=True):
        future.add_done_callback(lambda _, name=name: order.append(name))
    for request in (face, background):
        with pytest.raises(QueueFullError, match="1 requests are waiting"):
            sampler.submit(request)
    closing = threading.Thread(target=sampler.close, args=(False,))
    closing.start()
    wait_until(lambda: not sampler._whole_loop._is_draining)
    held.released.set()
    closing.join(30)
    assert running.result(0).report["whole_loop"] and order == ["face", "background"]
    for future in waiting:
        with pytest.raises(UnavailableError, match="send the request again"):
            future.result(0)
    with pytest.raises(UnavailableError, match="closed"):
        sampler.submit(face)


def wait_until(is_true) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
