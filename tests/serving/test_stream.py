"""The stream of one request: previews in order, signs of life, exactly one end, and the face that the ensemble would have made."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from runtime.errors import DeadlineExceededError, RequestError
from runtime.request import GenerateRequest, GenerateResult, Preview
from tests.serving.raw_stream import Message, RawStream

REQUEST = GenerateRequest(text="an angry young woman", seed=5, num_inference_steps=40, preview_every=4)


@pytest.fixture
def raw(server):
    with RawStream(server.url) as stream:
        yield stream


def test_previews_come_in_order_and_the_end_is_the_face_of_the_ensemble(client):
    *previews, result = client.stream(REQUEST)
    assert all(type(each) is Preview for each in previews) and type(result) is GenerateResult
    steps = [preview.step for preview in previews]
    assert steps == sorted(set(steps)) and set(steps) <= set(range(4, 40, 4)) and steps
    assert {preview.num_steps for preview in previews} == {40}
    assert {preview.image.shape for preview in previews} == {result.image.shape}
    unary = client(dataclasses.replace(REQUEST, preview_every=None))
    np.testing.assert_array_equal(result.image, unary.image)
    same = {"seed", "num_inference_steps", "guidance_scale", "bundle_sha256", "conditions", "inferred"}
    assert {name: result.report[name] for name in same} == {name: unary.report[name] for name in same}


def test_previews_are_those_of_the_pipeline_whatever_the_server_skipped(client, pipeline):
    local = {}
    for part in pipeline.stream(dataclasses.replace(REQUEST, num_inference_steps=6, preview_every=1)):
        if isinstance(part, Preview):
            local[part.step] = part.image
    served = {}
    for _ in range(3):
        for part in client.stream(dataclasses.replace(REQUEST, num_inference_steps=6, preview_every=1)):
            if isinstance(part, Preview):
                served[part.step] = part.image
    common = local.keys() & served.keys()
    assert common, "both may skip some, but not all"
    for step in common:
        np.testing.assert_array_equal(served[step], local[step])


def test_an_edit_streams_as_the_pipeline_edits(client, pipeline, jpeg):
    request = GenerateRequest(
        reference=jpeg, edit_from_timestep=500, age=70, seed=1, num_inference_steps=8, preview_every=1
    )
    *previews, result = client.stream(request)
    assert previews and previews[0].num_steps == previews[-1].num_steps >= previews[-1].step
    local = pipeline(dataclasses.replace(request, preview_every=None))
    np.testing.assert_array_equal(result.image, local.image)
    assert result.report["edit"]["t0"] == 500


def test_without_preview_every_only_the_face_comes(client):
    parts = list(client.stream(dataclasses.replace(REQUEST, preview_every=None)))
    assert [type(part) for part in parts] == [GenerateResult]


def test_every_request_of_a_stream_has_exactly_one_end_and_its_steps_never_fall(raw):
    for number in range(12):
        raw.send(str(number), request=dataclasses.replace(REQUEST, seed=number, num_inference_steps=5 + 5 * number))
    raw.wait_for(lambda messages: sum(message.is_final for message in messages) == 12)
    for number in range(12):
        of_it = [message for message in raw.messages if message.request_id == str(number)]
        ends = [False] * (len(of_it) - 1) + [True]
        assert [message.is_final for message in of_it] == ends == [message.is_last for message in of_it]
        steps = [message.step for message in of_it]
        assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == 5 + 5 * number


def test_who_waits_for_a_place_hears_that_the_server_lives(raw):
    for number in range(20):
        raw.send(str(number), request=dataclasses.replace(REQUEST, num_inference_steps=1000, preview_every=None))
    raw.wait_for(lambda messages: sum(message.request_id == "19" for message in messages) >= 3)
    assert {message for message in raw.messages if message.request_id == "19"} == {
        Message("19", 0, False, False, False)
    }


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"age": np.array([[-1]], np.float32)}, "[INVALID_ARGUMENT] age: got -1, allowed 0..120"),
        ({"seed": np.array([[1]], np.int64)}, "[INVALID_ARGUMENT] request: no condition given"),
        ({"reference": np.array([[b"GIF89a"]], np.object_)}, "[INVALID_ARGUMENT] reference: "),
    ],
    ids=["range", "no condition", "photo"],
)
def test_a_refusal_is_one_coded_message_and_the_stream_goes_on(raw, arrays, message):
    raw.send("bad", **arrays)
    raw.wait_for(lambda messages: bool(messages))
    assert len(raw.messages) == 1 and raw.messages[0].error.startswith(message)
    raw.send("good", request=dataclasses.replace(REQUEST, num_inference_steps=2))
    raw.wait_for(lambda messages: messages[-1].request_id == "good" and messages[-1].is_final)


def test_our_client_raises_what_the_pipeline_raises(client, pipeline):
    request = GenerateRequest(reference=b"no photo", num_inference_steps=1)
    raised = []
    for call in (lambda: list(client.stream(request)), lambda: pipeline(request)):
        with pytest.raises(RequestError) as caught:
            call()
        raised.append((caught.value.field, str(caught.value)))
    assert raised[0] == raised[1]


def test_a_deadline_that_passes_stops_the_work_in_the_stream_and_in_the_ensemble(client, books):
    request = GenerateRequest(age=40, seed=1, num_inference_steps=1000, options={"deadline_ms": 300})
    for call in (lambda: list(client.stream(request)), lambda: client(request)):
        with pytest.raises(DeadlineExceededError):
            call()
    books.wait_until(lambda books: books.live() == 0)
    time.sleep(0.2)  # steps are counted a little later than they are made
    calls = books.unet_calls()
    with pytest.raises(DeadlineExceededError):
        client(dataclasses.replace(request, options={"deadline_ms": 1}))
    assert books.unet_calls() - calls <= 1, "its time was over before sampling began"
