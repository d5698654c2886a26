"""What a caller may see of an exception, held without Triton: a stand-in takes the place of its Python module."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.errors import (
    BundleError,
    DeadlineExceededError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    RequestError,
)


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


@pytest.fixture
def log():
    return []


@pytest.fixture
def boundary(monkeypatch, log):
    stand_in = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(tensors=tensors, error=error),
        TritonError=lambda message, code: SimpleNamespace(message=message, code=code),
        Logger=SimpleNamespace(log_error=log.append),
    )
    for code in ("INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"):
        setattr(stand_in.TritonError, code, code)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    monkeypatch.delitem(sys.modules, "triton_repo.boundary", raising=False)
    yield importlib.import_module("triton_repo.boundary")
    sys.modules.pop("triton_repo.boundary", None)


def request(request_id="", parameters="", **arrays):
    tensors = [Tensor(name, array) for name, array in arrays.items()]
    return SimpleNamespace(inputs=lambda: tensors, request_id=lambda: request_id, parameters=lambda: parameters)


def test_arrays_lose_the_batch_on_the_way_in_and_get_it_back_on_the_way_out(boundary):
    sent = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    asked = request(x=sent)
    answer = boundary.answered(asked, lambda: {"y": boundary.arrays_of(asked)["x"] + 1})
    assert answer.error is None
    np.testing.assert_array_equal(answer.tensors[0].as_numpy(), sent + 1)


def test_inputs_are_copies_because_triton_takes_its_memory_back(boundary):
    sent = np.zeros((1, 2), np.float32)
    arrays = boundary.arrays_of(request(x=sent))
    sent += 1
    assert arrays["x"].tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(0, 1), (2, 1), (1,), ()], ids=str)
def test_an_input_that_is_not_one_row_is_refused(boundary, shape):
    asked = request(age=np.zeros(shape, np.float32))
    answer = boundary.answered(asked, lambda: boundary.arrays_of(asked))
    assert answer.error.code == "INVALID_ARG"
    assert answer.error.message == f"age: got shape {list(shape)}, expected [1, …]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("age", "got -1, allowed 0..120"), "INVALID_ARG"),
        (QueueFullError("queue full: 64 waiting, retry"), "UNAVAILABLE"),
        (RequestCancelledError("cancelled"), "CANCELLED"),
        (EngineError("unet: output not finite at step 3"), "INTERNAL"),
        (BundleError("the bundle changed"), "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_our_errors_reach_the_caller_with_their_text_and_status(boundary, log, error, code):
    answer = boundary.answered(request(), _raising(error))
    assert (answer.error.message, answer.error.code) == (str(error), code)
    assert log == []


def test_any_other_error_shows_an_id_to_the_caller_and_its_detail_to_the_log_only(boundary, log):
    answer = boundary.answered(request("job-7"), _raising(KeyError("/secret/path")))
    assert (answer.error.message, answer.error.code) == ("generation failed, id=job-7", "INTERNAL")
    assert "id=job-7" in log[0] and "/secret/path" in log[0] and "Traceback" in log[0]


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a\nE1120 forged line", "\x1b[31m"])
def test_a_request_id_that_could_disturb_the_log_is_replaced(boundary, log, request_id):
    answer = boundary.answered(request(request_id), _raising(KeyError()))
    shown = answer.error.message.removeprefix("generation failed, id=")
    assert len(shown) == 16 and int(shown, 16) >= 0
    assert f"id={shown}" in log[0]


def test_a_status_survives_the_call_from_model_to_model(boundary):
    answer = boundary.coded_refusal("UNAVAILABLE", "queue full:\n64 waiting")
    assert boundary.decoded_status(answer.error.message) == ("UNAVAILABLE", "queue full:\n64 waiting")


def test_one_of_our_models_is_told_the_status_in_the_text_and_a_caller_is_not(boundary):
    answers = [
        boundary.answered(request(parameters=parameters), _raising(RequestError("age", "got -1")))
        for parameters in ("", '{"inner": "key"}')
    ]
    assert [answer.error.message for answer in answers] == ["age: got -1", "[INVALID_ARGUMENT] age: got -1"]


def test_a_passed_deadline_is_a_cancel_whose_text_says_it_because_triton_has_no_such_status(boundary):
    answer = boundary.answered(request(), _raising(DeadlineExceededError("the 5 ms of the request are over")))
    assert answer.error.code == "CANCELLED"
    assert answer.error.message == "deadline exceeded: the 5 ms of the request are over"


def test_a_text_that_triton_wrote_is_not_taken_for_ours(boundary):
    with pytest.raises(RuntimeError, match="not healthy"):
        boundary.decoded_status("Stub process 'sampler_0_0' is not healthy.")


def _raising(error):
    def run():
        raise error

    return run
