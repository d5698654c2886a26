"""Requests that share UNet calls: nobody's image depends on who else is there, and everybody gets exactly their own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from runtime.errors import RequestError
from runtime.request import GenerateRequest
from runtime.wire import MAX_LIVE_REQUESTS

STRANGERS = [
    GenerateRequest(age=age, seed=100 + age, num_inference_steps=2 + age % 7, guidance_scale=1 + age % 3)
    for age in range(10, 18)
]
SUBJECT = GenerateRequest(text="an angry young woman", emotion="angry", seed=5, num_inference_steps=6)
LONG = GenerateRequest(age=50, seed=1, num_inference_steps=600)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2 * MAX_LIVE_REQUESTS) as pool:
        yield pool


def test_a_face_is_bit_equal_alone_and_among_eight_strangers(client, pool):
    alone = client(SUBJECT).image
    strangers = [pool.submit(client, request) for request in STRANGERS]
    among = client(SUBJECT).image
    assert all(future.result() for future in strangers)
    np.testing.assert_array_equal(among, alone)


def test_a_face_is_bit_equal_when_it_joins_and_leaves_a_running_batch(client, pool):
    alone = client(SUBJECT)
    running = pool.submit(client, LONG)
    time.sleep(0.3)  # however the two overlap, the claim must hold; here the long one has begun
    joined = client(SUBJECT)
    assert not running.done(), "the short request waited for the long one: it did not join its batch"
    np.testing.assert_array_equal(joined.image, alone.image)
    np.testing.assert_array_equal(running.result().image, client(LONG).image)


def test_thirty_two_requests_at_once_each_get_their_own_answer(client, pool, pipeline, wav, jpeg):
    conditions = [{"age": 30}, {"text": "a sad boy"}, {"audio": wav}, {"reference": jpeg, "emotion": "calm"}]
    requests = {
        seed: GenerateRequest(**conditions[seed % 4], seed=seed, num_inference_steps=1 + seed % 5) for seed in range(32)
    }
    bad = GenerateRequest(reference=b"no photo")
    refused = [pool.submit(client, bad) for _ in range(4)]
    futures = {seed: pool.submit(client, request) for seed, request in requests.items()}
    results = {seed: future.result() for seed, future in futures.items()}
    assert [type(future.exception()) for future in refused] == [RequestError] * 4
    for seed, result in results.items():
        assert result.report["seed"] == seed
        np.testing.assert_array_equal(result.image, pipeline(requests[seed]).image)
