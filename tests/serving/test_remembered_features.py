"""On a real server: the same photo with new words is read once for one tenant, and nobody's picture changes by it."""

from __future__ import annotations

import io
import urllib.request

import numpy as np
import pytest
from PIL import Image

from runtime.access import Access
from runtime.client import Client
from runtime.request import GenerateRequest

PHOTO_READERS = {"image_encoder", "identity_encoder", "age_estimator", "emotion_estimator"}


@pytest.fixture
def photo(request) -> bytes:
    """A photo that no other test sends."""
    pixels = np.random.default_rng(sum(request.node.name.encode())).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def asks(server, tenant: str) -> Client:
    """A client of one tenant."""
    return Client(server.url, access=Access(tenant=tenant))


def look_ups(server) -> dict[str, int]:
    """Result -> look-ups of the image encoder so far, as the metrics say."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(server.metrics_url) as answer:
        lines = answer.read().decode().splitlines()
    found = [
        line for line in lines if line.startswith("clipfacefusion_cache_lookups_total{") and '"image_encoder"' in line
    ]
    return {
        result: int(float(line.split()[-1])) for line in found for result in ("hit", "miss") if f'"{result}"' in line
    }


def test_the_same_photo_with_new_words_is_read_once_and_the_face_is_the_same(server, client, pipeline, photo):
    before = look_ups(server)
    requests = [
        GenerateRequest(reference=photo, text=text, seed=2, num_inference_steps=2)
        for text in ("a red house", "a blue house")
    ]
    first, second = (client(request) for request in requests)
    after = look_ups(server)
    assert PHOTO_READERS.isdisjoint(first.report["remembered"])
    assert set(second.report["remembered"]) >= PHOTO_READERS
    assert {name: after[name] - before[name] for name in after} == {"miss": 1, "hit": 1}
    for request, answer in zip(requests, (first, second), strict=True):
        np.testing.assert_array_equal(answer.image, pipeline(request).image)


def test_another_tenant_never_gets_a_hit(server, client, photo):
    request = GenerateRequest(reference=photo, seed=2, num_inference_steps=1)
    with asks(server, "acme") as acme, asks(server, "rival") as rival:
        answers = [ask(request) for ask in (acme, rival, client, acme)]
    remembered = [set(answer.report["remembered"]) >= PHOTO_READERS for answer in answers]
    assert remembered == [False, False, False, True]
    assert PHOTO_READERS.isdisjoint(answers[1].report["remembered"] + answers[2].report["remembered"])
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer.image, answers[0].image)


def test_a_tenant_on_a_stream_is_the_same_tenant(server, photo):
    request = GenerateRequest(reference=photo, seed=2, num_inference_steps=1)
    with asks(server, "acme") as acme, asks(server, "rival") as rival:
        acme(request)
        *_, streamed = acme.stream(request)
        *_, foreign = rival.stream(request)
    assert set(streamed.report["remembered"]) >= PHOTO_READERS
    assert PHOTO_READERS.isdisjoint(foreign.report["remembered"])
