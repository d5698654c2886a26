"""The client's packing and its translation of gRPC statuses, against a transport that needs no server."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from runtime.client import Client
from runtime.errors import (
    ClipFaceFusionError,
    DeadlineExceededError,
    EngineError,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from runtime.request import GenerateRequest

IMAGE = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
REQUEST = GenerateRequest(text="a face", age=30)


class Answer:
    def __init__(self, **arrays: np.ndarray) -> None:
        self._arrays = arrays

    def as_numpy(self, name: str) -> np.ndarray | None:
        return self._arrays.get(name)


class FakeTransport:
    """Answers every call with `outcome`, or raises it; remembers what it was asked."""

    def __init__(self, outcome: Answer | Exception | bool) -> None:
        self.outcome = outcome
        self.inputs: dict[str, tuple[str, list[int]]] = {}
        self.options: dict = {}
        self.is_closed = False

    def infer(self, model_name, inputs, **options):
        self.model_name, self.options = model_name, options
        self.inputs = {each.name(): (each.datatype(), each.shape()) for each in inputs}
        return self._answer()

    def is_model_ready(self, model_name, **options):
        return self._answer()

    def close(self):
        self.is_closed = True

    def _answer(self):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def refused(code: str, message: str) -> FakeTransport:
    return FakeTransport(InferenceServerException(message, status=f"StatusCode.{code}"))


def answering() -> FakeTransport:
    return FakeTransport(Answer(image=IMAGE, report=np.array([[json.dumps({"seed": 7}).encode()]], dtype=object)))


def test_a_result_has_the_image_without_batch_and_the_report_as_a_dict():
    with Client("host:1", transport=answering()) as client:
        result = client(REQUEST)
    np.testing.assert_array_equal(result.image, IMAGE[0])
    assert result.report == {"seed": 7}


def test_only_given_fields_are_sent_each_with_its_type_and_a_batch_of_one():
    transport = answering()
    Client("host:1", transport=transport)(REQUEST)
    assert transport.inputs == {
        "text": ("BYTES", [1, 1]),
        "age": ("FP32", [1, 1]),
        "num_inference_steps": ("INT32", [1, 1]),
    }
    assert transport.model_name == "clipfacefusion"


def test_the_time_limit_is_passed_to_every_call():
    transport = answering()
    Client("host:1", timeout_s=3.5, transport=transport)(REQUEST)
    assert transport.options["client_timeout"] == 3.5


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("UNAVAILABLE", "queue full: 64 waiting, retry", UnavailableError),
        ("UNAVAILABLE", "failed to connect to all addresses", UnavailableError),
        ("NOT_FOUND", "Request for unknown model: 'clipfacefusion' has no available versions", UnavailableError),
        ("NOT_FOUND", "Request for unknown model: 'clipfacefusion' is not found", UnavailableError),
        ("CANCELLED", "cancelled", RequestCancelledError),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceededError),
        ("INTERNAL", "generation failed, id=7", EngineError),
        ("UNKNOWN", "what", ClipFaceFusionError),
    ],
)
def test_a_status_becomes_the_exception_of_the_same_meaning(code, message, expected):
    with pytest.raises(ClipFaceFusionError) as caught:
        Client("host:1", transport=refused(code, message))(REQUEST)
    assert type(caught.value) is expected


def test_a_server_that_shuts_down_is_not_reported_as_a_missing_model():
    transport = refused("NOT_FOUND", "Request for unknown model: 'clipfacefusion' has no available versions")
    with pytest.raises(UnavailableError, match="shutting down"):
        Client("host:1", transport=transport)(REQUEST)


def test_an_invalid_argument_names_its_field_and_loses_tritons_prefixes():
    text = "in ensemble 'clipfacefusion', [request id: <id_unknown>] age: got 130, allowed 0..120"
    with pytest.raises(RequestError) as caught:
        Client("host:1", transport=refused("INVALID_ARGUMENT", text))(REQUEST)
    assert caught.value.field == "age"
    assert str(caught.value) == "age: got 130, allowed 0..120"


def test_an_invalid_argument_of_triton_itself_is_about_the_request():
    text = "[request id: 7] inference request batch-size must be <= 1 for 'clipfacefusion'"
    with pytest.raises(RequestError) as caught:
        Client("host:1", transport=refused("INVALID_ARGUMENT", text))(REQUEST)
    assert str(caught.value) == "request: inference request batch-size must be <= 1 for 'clipfacefusion'"


def test_an_answer_without_an_image_is_an_error_and_not_a_picture():
    with pytest.raises(EngineError, match="without image"):
        Client("host:1", transport=FakeTransport(Answer()))(REQUEST)


@pytest.mark.parametrize(
    ("outcome", "expected"), [(True, True), (False, False), (InferenceServerException("connection refused"), False)]
)
def test_ready_tells_what_the_server_says_and_false_when_nothing_answers(outcome, expected):
    assert Client("host:1", transport=FakeTransport(outcome)).ready() is expected


def test_leaving_the_block_closes_the_connection():
    transport = answering()
    with Client("host:1", transport=transport):
        assert not transport.is_closed
    assert transport.is_closed


@pytest.mark.parametrize("timeout_s", [0, -1])
def test_a_time_limit_that_no_call_can_keep_is_refused(timeout_s):
    with pytest.raises(ValueError, match="timeout_s"):
        Client("host:1", timeout_s=timeout_s, transport=answering())


def test_nothing_listening_is_unavailable_over_the_real_transport():
    with Client("127.0.0.1:1", timeout_s=5) as client:
        assert not client.ready()
        with pytest.raises(UnavailableError):
            client(REQUEST)


def test_the_client_loads_neither_torch_nor_an_engine_library():
    script = "import sys, clipfacefusion; clipfacefusion.Client; print(*sorted({'torch', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
