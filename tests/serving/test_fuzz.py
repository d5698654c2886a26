"""Four hundred damaged requests over gRPC, the message itself among what is damaged: a real server answers or refuses each."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.soak import fuzz
from runtime.request import GenerateRequest
from runtime.wire import MODEL, STREAM_MODEL

SEED = 20_261
GOOD = GenerateRequest(text="a smiling old man", seed=4, num_inference_steps=2)


@pytest.mark.parametrize(("model", "count"), [(MODEL, 300), (STREAM_MODEL, 100)], ids=["unary", "stream"])
def test_every_damaged_request_is_answered_or_refused_and_the_server_lives(server, client, model, count):
    before = client(GOOD).image
    found = fuzz.check_served(server.url, SEED, count, model)
    assert found.problems == []
    assert found.answered + found.refused == count
    assert found.answered > count / 10 and found.refused > count / 3
    assert found.slowest_s < fuzz.ANSWER_LIMIT_S
    assert server.problem() is None
    np.testing.assert_array_equal(client(dataclasses.replace(GOOD)).image, before)
