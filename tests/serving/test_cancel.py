"""Callers who give up: their work stops within one step, their place is somebody else's, and nobody else notices."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from benchmarks.soak.cancel_cycles import CLOSED, EXPIRED, cycles
from runtime.client import infer_inputs
from runtime.request import GenerateRequest
from runtime.wire import LIVE_JOBS, MODEL, STREAM_MODEL
from tests.serving.raw_stream import RawStream

ROOT = Path(__file__).parents[2]
NEIGHBOUR = GenerateRequest(text="a sad boy", seed=3, num_inference_steps=60, guidance_scale=2)
ENDLESS = GenerateRequest(age=50, seed=1, num_inference_steps=1000, guidance_scale=2, preview_every=10)


def given_up(books):
    return books.ended("CANCELLED", STREAM_MODEL)


def ended(books):
    return given_up(books) + books.ended("OK", STREAM_MODEL)


@pytest.fixture(scope="module")
def alone(pipeline):
    return pipeline(NEIGHBOUR).image


@pytest.mark.parametrize("step", [1, 30, 59], ids=["first", "middle", "last"])
def test_a_stream_closed_at_any_step_leaves_its_neighbour_bit_exact_and_has_one_end(client, books, alone, step):
    before = ended(books)
    request = dataclasses.replace(ENDLESS, num_inference_steps=60, preview_every=1)
    with ThreadPoolExecutor(1) as pool, closing(client.stream(request)) as parts:
        neighbour = pool.submit(client, NEIGHBOUR)
        for part in parts:
            if getattr(part, "step", 60) >= step:
                break
        parts.close()
        np.testing.assert_array_equal(neighbour.result().image, alone)
    books.wait_until(lambda books: books.live() == 0)
    assert ended(books) == before + 1


def test_the_work_of_a_closed_stream_stops_within_one_step(client, books):
    before = given_up(books)
    parts = client.stream(ENDLESS)
    next(parts)
    parts.close()
    books.wait_until(lambda books: given_up(books) == before + 1)
    time.sleep(0.2)  # steps are counted a little later than they are made
    calls = books.unet_calls()
    time.sleep(0.5)
    assert books.unet_calls() == calls


def test_the_place_of_a_closed_stream_is_taken_at_once(client, server, books):
    """Eight guided jobs fill the batch; the ninth can only run once one of them has given up."""
    with RawStream(server.url) as others:
        for number in range(LIVE_JOBS - 1):
            others.send(str(number), request=dataclasses.replace(ENDLESS, seed=number))
        first = client.stream(ENDLESS)
        next(first)
        others.wait_for(lambda messages: len({each.request_id for each in messages if each.has_image}) == LIVE_JOBS - 1)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client, dataclasses.replace(NEIGHBOUR, num_inference_steps=1))
            books.wait_until(lambda books: books.live() == LIVE_JOBS + 1)
            assert not waiting.done()
            first.close()
            assert waiting.result(60).report["num_inference_steps"] == 1
        assert not any(message.is_final for message in others.messages)
    books.wait_until(lambda books: books.live() == 0)


def test_who_waits_or_is_only_being_decoded_can_give_up_too(server, books):
    """Many at once on one connection that goes away as soon as all are taken: in every stage there is somebody."""
    before, calls = ended(books), books.unet_calls()
    with RawStream(server.url) as stream:
        for number in range(40):
            stream.send(str(number), request=dataclasses.replace(ENDLESS, seed=number))
        books.wait_until(lambda books: books.live() == 40)
    books.wait_until(lambda books: books.live() == 0)
    assert ended(books) == before + 40
    assert books.unet_calls() - calls < ENDLESS.num_inference_steps


def test_a_stopped_and_then_killed_client_costs_the_others_nothing(client, server, books, alone):
    """While it is stopped it reads nothing: its messages wait in the server, at most `MAX_PREVIEWS` of a request."""
    before = ended(books)
    command = [sys.executable, ROOT / "tests/serving/streaming_client.py", server.url, "3"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    ) as caller:
        assert caller.stdout.readline() == "running\n"
        caller.send_signal(signal.SIGSTOP)
        np.testing.assert_array_equal(client(NEIGHBOUR).image, alone)
        caller.kill()
    books.wait_until(lambda books: books.live() == 0)
    assert ended(books) == before + 3
    np.testing.assert_array_equal(client(NEIGHBOUR).image, alone)


def test_a_cancelled_call_of_the_ensemble_runs_to_its_end_and_harms_nobody(client, server, books, alone):
    """Triton tells no cancel to a model inside an ensemble (docs/serving.md)."""
    before, calls = books.ended("OK", MODEL), books.unet_calls()
    gone = threading.Event()
    request = dataclasses.replace(ENDLESS, num_inference_steps=200, preview_every=None)
    with grpcclient.InferenceServerClient(server.url) as transport:
        call = transport.async_infer(
            MODEL, infer_inputs(request.to_tensors()), callback=lambda result, error: gone.set()
        )
        books.wait_until(lambda books: books.unet_calls() > calls)
        call.cancel()
        assert gone.wait(60)
        np.testing.assert_array_equal(client(NEIGHBOUR).image, alone)
        books.wait_until(lambda books: books.live() == 0)
    assert books.ended("OK", MODEL) == before + 2
    assert books.unet_calls() - calls >= request.num_inference_steps


def test_cycles_of_callers_who_give_up_leave_a_sound_server(client, server, books, alone):
    ledger = cycles(client, 12, seed=0)
    assert ledger.wrong == []
    assert ledger.ended.total() == 12 and ledger.ended[CLOSED] and ledger.ended[EXPIRED]
    books.wait_until(lambda books: books.live() == 0)
    assert server.problem() is None
    np.testing.assert_array_equal(client(NEIGHBOUR).image, alone)
