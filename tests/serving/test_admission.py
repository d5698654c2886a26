"""Who is let in, who is told to come back, and in which order those inside are served."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import np_to_triton_dtype

from runtime.client import Client
from runtime.errors import QueueFullError
from runtime.request import GenerateRequest, GenerateResult
from runtime.retry import Retry
from runtime.statuses import typed_error
from runtime.wire import LIVE_JOBS, MAX_LIVE_REQUESTS, MAX_UNSEEN, MODEL, STREAM_MODEL
from tests.serving.raw_stream import RawStream

SHORT = GenerateRequest(age=30, seed=9, num_inference_steps=2)
ENDLESS = GenerateRequest(age=50, num_inference_steps=1000, guidance_scale=2)
FULL = "queue full: 64 waiting, retry after 2 s"


@pytest.fixture(scope="module")
def impatient(server):
    """A client that takes a refusal for an answer."""
    with Client(server.url, retry=Retry(tries=1)) as client:
        yield client


@pytest.fixture
def full(server, books):
    """As many live requests as may be."""
    books.wait_until(lambda books: books.live() == 0)
    with RawStream(server.url) as stream:
        for number in range(MAX_LIVE_REQUESTS):
            stream.send(str(number), request=dataclasses.replace(ENDLESS, seed=number))
        books.wait_until(lambda books: books.live() == MAX_LIVE_REQUESTS)
        yield stream
    books.wait_until(lambda books: books.live() == 0)


def test_a_full_server_refuses_unary_calls_and_streams_alike_and_takes_them_again_afterwards(impatient, full, books):
    before = {model: books.ended("UNAVAILABLE", model) for model in (MODEL, STREAM_MODEL)}
    for call in (lambda: impatient(SHORT), lambda: list(impatient.stream(SHORT))):
        with pytest.raises(QueueFullError, match=FULL) as refused:
            call()
        assert refused.value.retry_after_s == 2
    assert {model: books.ended("UNAVAILABLE", model) for model in before} == {
        model: count + 1 for model, count in before.items()
    }
    assert not any(message.is_final for message in full.messages)
    full.close()
    books.wait_until(lambda books: books.live() == 0)
    assert impatient(SHORT).report["seed"] == 9


def test_a_burst_is_answered_to_the_last_request_and_the_books_agree_with_the_callers(impatient, server, books):
    """Twice as many as are let in, half of them streams: everybody has a face or a refusal, and all faces are the same."""
    before = {
        (model, code): books.ended(code, model) for model in (MODEL, STREAM_MODEL) for code in ("OK", "UNAVAILABLE")
    }
    request = dataclasses.replace(SHORT, num_inference_steps=40)
    seen, images = Counter(), []

    def call(number):
        model = (MODEL, STREAM_MODEL)[number % 2]
        try:
            result = impatient(request) if model == MODEL else list(impatient.stream(request))[-1]
        except QueueFullError as error:
            assert FULL in str(error)
            return model, "UNAVAILABLE", None
        assert isinstance(result, GenerateResult)
        return model, "OK", result.image

    with ThreadPoolExecutor(2 * MAX_LIVE_REQUESTS) as pool:
        for model, code, image in pool.map(call, range(2 * MAX_LIVE_REQUESTS)):
            seen[model, code] += 1
            images += [] if image is None else [image]
    assert seen.total() == 2 * MAX_LIVE_REQUESTS
    assert {key: books.ended(key[1], key[0]) - count for key, count in before.items()} == dict.fromkeys(
        before, 0
    ) | seen
    assert images and all(np.array_equal(image, images[0]) for image in images)
    assert server.problem() is None


def test_requests_that_nobody_has_looked_at_are_refused_beyond_a_number(server, impatient):
    """With both processes of `preprocess` stopped: as many as may wait there are answered when it goes on, the others at once."""
    looked_at, beyond = 2, 8
    request = {name: array for name, array in SHORT.to_tensors().items() if name in ("age", "num_inference_steps")}
    inputs = [grpcclient.InferInput(name, list(a.shape), np_to_triton_dtype(a.dtype)) for name, a in request.items()]
    for tensor in inputs:
        tensor.set_data_from_numpy(request[tensor.name()])
    answers = queue.SimpleQueue()
    stopped = [pid for pid, model in server._process._stubs.items() if model == "preprocess"]
    assert len(stopped) == looked_at
    with grpcclient.InferenceServerClient(server.url) as transport:
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            for _ in range(MAX_UNSEEN + looked_at + beyond):
                transport.async_infer(MODEL, inputs, lambda result, error: answers.put(error))
            refused = [answers.get(timeout=60) for _ in range(beyond)]
            assert answers.empty()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        later = [answers.get(timeout=120) for _ in range(MAX_UNSEEN + looked_at)]
    for error in refused:
        assert type(typed_error(error.status(), error.message(), server.url, 60)) is QueueFullError
    assert all(error is None or FULL in error.message() for error in later) and None in later
    assert impatient(SHORT).report["seed"] == 9


def test_interactive_requests_are_served_before_bulk_ones_that_came_earlier_and_bulk_is_served_too(
    impatient, server, books
):
    """All wait behind a full batch, so the order in which they end is the scheduler's. By calls of the ensemble."""
    books.wait_until(lambda books: books.live() == 0)
    ends = []

    def call(priority):
        request = dataclasses.replace(ENDLESS, num_inference_steps=30, seed=1, options={"priority": priority})
        impatient(request)
        ends.append((priority, time.monotonic()))

    with ThreadPoolExecutor(32) as pool:
        with RawStream(server.url) as blockers:
            for number in range(LIVE_JOBS):
                blockers.send(str(number), request=dataclasses.replace(ENDLESS, seed=number))
            books.wait_until(lambda books: books.live() == LIVE_JOBS)
            waiting = [pool.submit(call, "bulk") for _ in range(8)]
            books.wait_until(lambda books: books.live() == LIVE_JOBS + 8)
            waiting += [pool.submit(call, "interactive") for _ in range(16)]
            books.wait_until(lambda books: books.live() == LIVE_JOBS + 24)
        for future in waiting:
            future.result(120)
    order = [priority for priority, _ in sorted(ends, key=lambda end: end[1])]
    assert Counter(order) == {"interactive": 16, "bulk": 8}
    assert "bulk" not in order[:6], "the first wave is interactive"
    ranks = {name: np.mean([rank for rank, each in enumerate(order) if each == name]) for name in set(order)}
    assert ranks["interactive"] < ranks["bulk"]
