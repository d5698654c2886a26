"""The client's side of a stream, over a connection that a test plays: order, ends, silence, and what closing does."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from runtime.client_stream import stream
from runtime.errors import DeadlineExceededError, EngineError, QueueFullError, UnavailableError
from runtime.request import GenerateResult, Preview
from runtime.statuses import typed_error

IMAGE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


class Answer:
    def __init__(self, **arrays):
        self._arrays = arrays

    def as_numpy(self, name):
        array = self._arrays.get(name)
        return None if array is None else np.asarray(array)[None]


def sign_of_life(step):
    return Answer(step=[step], final=[False])


def preview(step, num_steps=50):
    return Answer(image=IMAGE, report=[json.dumps({"num_steps": num_steps}).encode()], step=[step], final=[False])


def face(**report):
    return Answer(image=IMAGE, report=[json.dumps(report).encode()], step=[50], final=[True])


class Transport:
    """Answers a request with `messages`, from a thread of its own, then keeps silent."""

    def __init__(self, *messages, refuses=None):
        self.messages, self.refuses = messages, refuses
        self.ends = []

    def start_stream(self, callback, **options):
        self.callback, self.options = callback, options

    def async_stream_infer(self, model, inputs, request_id):
        if self.refuses:
            raise self.refuses
        self.sent = (model, inputs, request_id)
        threading.Thread(target=self._answer).start()

    def stop_stream(self, cancel_requests=False):
        self.ends.append("cancelled" if cancel_requests else "stopped")

    def close(self):
        self.ends.append("closed")

    def _answer(self):
        for message in self.messages:
            error = isinstance(message, InferenceServerException)
            self.callback(None if error else message, message if error else None)


def parts(transport, timeout_s=30.0, inactivity_s=30.0):
    return stream(
        transport,
        "model",
        ["inputs"],
        headers={"traceparent": "00-1"},
        request_id="job-1",
        timeout_s=timeout_s,
        inactivity_s=inactivity_s,
        typed=lambda code, text: typed_error(code, text, "host:1", timeout_s),
    )


def test_previews_then_the_face_come_in_order_and_signs_of_life_are_not_shown():
    transport = Transport(sign_of_life(0), preview(10), sign_of_life(15), preview(20), face(seed=7))
    first, second, result = parts(transport)
    assert (type(first), first.step, first.num_steps) == (Preview, 10, 50)
    assert second.step == 20
    assert type(result) is GenerateResult
    assert result.report == {"seed": 7, "request_id": "job-1"}
    np.testing.assert_array_equal(result.image, IMAGE)
    assert transport.sent == ("model", ["inputs"], "job-1")
    assert transport.options == {"stream_timeout": 30.0, "headers": {"traceparent": "00-1"}}
    assert transport.ends == ["stopped", "closed"]


def test_closing_early_cancels_on_the_server_and_nothing_is_sent_before_the_first_part_is_asked_for():
    transport = Transport(preview(10), preview(20))
    unused = parts(transport)
    assert not hasattr(transport, "sent")
    next(unused)
    unused.close()
    assert transport.ends == ["cancelled", "closed"]


def test_silence_is_an_error_whatever_the_server_meant_by_it():
    transport = Transport(preview(10))
    received = parts(transport, inactivity_s=0.05)
    next(received)
    with pytest.raises(UnavailableError, match=r"host:1: no answer for 0\.05 s"):
        next(received)
    assert transport.ends == ["cancelled", "closed"]


def test_the_callers_time_limit_ends_a_stream_that_goes_on():
    transport = Transport(preview(10))
    received = parts(transport, timeout_s=0.05)
    with pytest.raises(DeadlineExceededError):
        list(received)
    assert transport.ends == ["cancelled", "closed"]


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ("[UNAVAILABLE] queue full: 64 waiting, retry after 2 s", None, QueueFullError),
        ("[DEADLINE_EXCEEDED] the 5 ms of the request are over", None, DeadlineExceededError),
        ("[INTERNAL] unet output not finite at step 3", None, EngineError),
        ("Socket closed", "StatusCode.UNAVAILABLE", UnavailableError),
    ],
    ids=["queue full", "deadline", "internal", "connection lost"],
)
def test_an_error_on_the_stream_is_the_exception_that_a_call_raises(text, status, kind):
    transport = Transport(sign_of_life(0), InferenceServerException(text, status))
    with pytest.raises(kind) as raised:
        list(parts(transport))
    assert type(raised.value) is kind
    assert transport.ends == ["stopped", "closed"]


def test_a_connection_that_cannot_be_used_is_an_error_and_closed():
    transport = Transport(refuses=InferenceServerException("The stream is no longer in valid state"))
    with pytest.raises(Exception, match="valid state"):
        list(parts(transport))
    assert transport.ends == ["cancelled", "closed"]


def test_an_answer_of_something_else_is_not_taken_for_a_face():
    with pytest.raises(EngineError, match="answered without final"):
        list(parts(Transport(Answer(y=[1]))))
