"""The client's packing and its translation of gRPC statuses, against a transport that needs no server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from runtime.access import Access
from runtime.client import Client
from runtime.errors import DeadlineExceededError, EngineError, QueueFullError, RequestError, UnavailableError
from runtime.request import GenerateRequest
from runtime.retry import Retry

IMAGE = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
REQUEST = GenerateRequest(text="a face", age=30)


class Answer:
    def __init__(self, **arrays: np.ndarray) -> None:
        self._arrays = arrays

    def as_numpy(self, name: str) -> np.ndarray | None:
        return self._arrays.get(name)


class FakeTransport:
    """Answers each call with the next of `outcomes`, or raises it, the last one for ever; remembers what it was asked."""

    def __init__(self, *outcomes: Answer | Exception) -> None:
        self.outcomes = deque(outcomes)
        self.calls: list[dict] = []
        self.is_closed = False

    def infer(self, model_name, inputs, **options):
        sent = {each.name(): (each.datatype(), each.shape()) for each in inputs}
        raw = {each.name(): each._get_content() for each in inputs}
        self.calls.append({"model": model_name, "inputs": sent, "raw": raw, **options})
        outcome = self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.popleft()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def close(self):
        self.is_closed = True


def client(transport: FakeTransport, **options) -> Client:
    return Client("host:1", connect=lambda url, access: transport, **options)


def refusal(code: str, message: str) -> InferenceServerException:
    return InferenceServerException(message, status=f"StatusCode.{code}")


def answering() -> FakeTransport:
    return FakeTransport(answer())


def answer() -> Answer:
    return Answer(image=IMAGE, report=np.array([[json.dumps({"seed": 7}).encode()]], dtype=object))


SOON = Retry(tries=4, first_wait_s=0.001, longest_wait_s=0.002)
FULL = refusal("UNAVAILABLE", "in ensemble 'clipfacefusion', queue full: 64 waiting, retry after 0.01 s")
DOWN = refusal("UNAVAILABLE", "failed to connect to all addresses")


def test_a_result_has_the_image_without_batch_and_the_report_as_a_dict():
    with client(answering()) as opened:
        result = opened(REQUEST, request_id="mine")
    np.testing.assert_array_equal(result.image, IMAGE[0])
    assert result.report == {"seed": 7, "seed_was_random": True, "request_id": "mine", "tries": 1}


def test_only_given_fields_are_sent_each_with_its_type_and_a_batch_of_one():
    transport = answering()
    client(transport)(replace(REQUEST, seed=3))
    (call,) = transport.calls
    assert call["model"] == "clipfacefusion"
    assert call["inputs"] == {
        "text": ("BYTES", [1, 1]),
        "age": ("FP32", [1, 1]),
        "seed": ("INT64", [1, 1]),
        "num_inference_steps": ("INT32", [1, 1]),
        "options": ("BYTES", [1, 1]),
    }


@pytest.mark.parametrize(("asked_ms", "sent_ms"), [(None, 3500), (9000, 3500), (200, 200)])
def test_the_server_is_told_a_deadline_no_later_than_the_call_s_own(asked_ms, sent_ms):
    transport = answering()
    client(transport, timeout_s=3.5)(replace(REQUEST, options={"deadline_ms": asked_ms}))
    length, text = transport.calls[0]["raw"]["options"][:4], transport.calls[0]["raw"]["options"][4:]
    assert int.from_bytes(length, "little") == len(text)
    assert json.loads(text)["deadline_ms"] == pytest.approx(sent_ms, abs=50)


def test_a_call_has_at_most_the_time_that_is_left():
    transport = FakeTransport(DOWN, answer())
    client(transport, timeout_s=3.5, retry=SOON)(REQUEST)
    first, second = (call["client_timeout"] for call in transport.calls)
    assert 0 < second < first <= 3.5


@pytest.mark.parametrize("failure", [FULL, DOWN], ids=["queue full", "connection lost"])
def test_what_is_unavailable_is_tried_again_with_the_same_seed_and_id_in_a_span_of_its_own(failure):
    transport = FakeTransport(failure, failure, answer())
    result = client(transport, retry=SOON)(REQUEST)
    assert result.report["tries"] == len(transport.calls) == 3
    assert len({call["raw"]["seed"] for call in transport.calls}) == 1
    assert {call["request_id"] for call in transport.calls} == {result.report["request_id"]}
    versions, traces, spans, flags = zip(
        *(c["headers"]["traceparent"].split("-") for c in transport.calls), strict=True
    )
    assert set(versions) == {"00"} and set(flags) == {"01"}
    assert len(set(traces)) == 1 and len(set(spans)) == 3


def test_two_requests_without_a_seed_get_different_ones():
    transport = answering()
    for _ in range(2):
        client(transport)(REQUEST)
    assert transport.calls[0]["raw"]["seed"] != transport.calls[1]["raw"]["seed"]


@pytest.mark.parametrize(
    ("code", "raised"),
    [("INVALID_ARGUMENT", RequestError), ("INTERNAL", EngineError), ("DEADLINE_EXCEEDED", DeadlineExceededError)],
)
def test_nothing_else_is_ever_tried_again(code, raised):
    transport = FakeTransport(refusal(code, "age: got 130, allowed 0..120"))
    with pytest.raises(raised):
        client(transport, retry=SOON)(REQUEST)
    assert len(transport.calls) == 1


def test_the_last_refusal_is_raised_when_the_tries_are_spent():
    transport = FakeTransport(FULL)
    with pytest.raises(QueueFullError, match="queue full: 64 waiting") as caught:
        client(transport, retry=SOON)(REQUEST)
    assert caught.value.retry_after_s == 0.01
    assert len(transport.calls) == SOON.tries


def test_the_caller_s_trace_tenant_and_id_are_sent_as_they_are():
    transport = answering()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client(transport, access=Access(tenant="acme"))(REQUEST, request_id="r1", traceparent=traceparent)
    assert transport.calls[0]["headers"] == {"traceparent": traceparent, "x-tenant": "acme"}
    assert transport.calls[0]["request_id"] == "r1"


def test_a_field_for_streams_is_refused_before_anything_is_sent():
    transport = answering()
    with pytest.raises(RequestError, match=r"preview_every: for streams only"):
        client(transport)(replace(REQUEST, preview_every=2))
    assert transport.calls == []


def test_an_answer_without_an_image_is_an_error_and_not_a_picture():
    with pytest.raises(EngineError, match="without image"):
        client(FakeTransport(Answer()))(REQUEST)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (refusal("INVALID_ARGUMENT", "text: empty; allowed 1..1000 characters"), True),
        (refusal("UNAVAILABLE", "the server is stopping; try again later or elsewhere"), False),
        (FULL, False),
        (DOWN, False),
        (refusal("INTERNAL", "generation failed, id=canary"), False),
        (Answer(), False),
    ],
    ids=["refuses what is wrong", "stopping", "full", "down", "broken", "somebody else's"],
)
def test_a_server_is_ready_that_refuses_a_wrong_request_as_wrong(outcome, expected):
    transport = FakeTransport(outcome)
    assert client(transport, retry=SOON).ready() is expected
    (call,) = transport.calls
    assert call["request_id"] == "canary"


def test_leaving_the_block_closes_the_connection():
    transport = answering()
    with client(transport):
        assert not transport.is_closed
    assert transport.is_closed


@pytest.mark.parametrize("timeout_s", [0, -1])
def test_a_time_limit_that_no_call_can_keep_is_refused(timeout_s):
    with pytest.raises(ValueError, match="timeout_s"):
        client(answering(), timeout_s=timeout_s)


def test_nothing_listening_is_unavailable_over_the_real_transport():
    with Client("127.0.0.1:1", timeout_s=5, retry=SOON) as opened:
        assert not opened.ready()
        with pytest.raises(UnavailableError):
            opened(REQUEST)


def test_the_client_loads_neither_torch_nor_an_engine_library():
    script = "import sys, clipfacefusion; clipfacefusion.Client; print(*sorted({'torch', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
