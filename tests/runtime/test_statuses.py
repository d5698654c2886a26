"""What a gRPC status and its text mean to a caller."""

from __future__ import annotations

import pytest

from runtime.errors import (
    ClipFaceFusionError,
    DeadlineExceededError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from runtime.statuses import typed_error


def typed(code: str, text: str) -> ClipFaceFusionError:
    return typed_error(f"StatusCode.{code}", text, "host:1", 3.0)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("UNAVAILABLE", "queue full: 64 waiting, retry after 2 s", QueueFullError),
        ("UNAVAILABLE", "failed to connect to all addresses", UnavailableError),
        ("NOT_FOUND", "Request for unknown model: 'clipfacefusion' has no available versions", UnavailableError),
        ("NOT_FOUND", "Request for unknown model: 'clipfacefusion' is not found", UnavailableError),
        ("CANCELLED", "cancelled", RequestCancelledError),
        ("CANCELLED", "deadline exceeded: 200 ms", DeadlineExceededError),
        ("CANCELLED", "in ensemble 'clipfacefusion', deadline exceeded: 200 ms", DeadlineExceededError),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceededError),
        ("INTERNAL", "generation failed, id=7", EngineError),
        ("UNKNOWN", "what", ClipFaceFusionError),
        ("UNKNOWN", "[INVALID_ARGUMENT] age: got 130, allowed 0..120", RequestError),
        ("INTERNAL", "[request id: 7] [UNAVAILABLE] queue full: 64 waiting, retry after 2 s", QueueFullError),
        ("INTERNAL", "[DEADLINE_EXCEEDED] 200 ms", DeadlineExceededError),
        ("INTERNAL", "[CANCELLED] the caller gave up", RequestCancelledError),
    ],
)
def test_a_status_becomes_the_exception_of_the_same_meaning(code, text, expected):
    assert type(typed(code, text)) is expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("queue full: 64 waiting, retry after 2 s", 2.0),
        ("queue full: 64 waiting, retry after 0.5 s", 0.5),
        ("the server is stopping; retry after 10 s", 10.0),
        ("the server is stopping", None),
    ],
)
def test_how_long_to_wait_is_read_from_the_text(text, seconds):
    assert typed("UNAVAILABLE", text).retry_after_s == seconds


def test_a_deadline_of_the_request_s_own_is_not_reported_as_the_caller_s_time_limit():
    own = typed("UNKNOWN", "[DEADLINE_EXCEEDED] job 'a': its deadline passed after 10 of 50 steps")
    assert str(own) == "host:1: job 'a': its deadline passed after 10 of 50 steps"
    assert str(typed("DEADLINE_EXCEEDED", "Deadline Exceeded")) == "host:1 gave no answer within 3 s"


def test_a_queue_that_triton_itself_finds_full_is_one():
    full = typed("UNAVAILABLE", "in ensemble 'clipfacefusion', [request id: 7] Exceeds maximum queue size")
    assert type(full) is QueueFullError and full.retry_after_s == 2


def test_a_server_that_shuts_down_is_not_reported_as_a_missing_model():
    assert "shutting down" in str(typed("NOT_FOUND", "unknown model: 'clipfacefusion' has no available versions"))


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        (
            "in ensemble 'clipfacefusion', [request id: <id_unknown>] age: got 130, allowed 0..120",
            "age",
            "got 130, allowed 0..120",
        ),
        ("options.deadline_ms: got -1, allowed 1..600000", "options.deadline_ms", "got -1, allowed 1..600000"),
        ("options: unknown key 'x'; known are y", "options", "unknown key 'x'; known are y"),
        ("request: no condition given", "request", "no condition given"),
        # Triton's own refusals name no field of ours.
        (
            "[request id: 7] inference request batch-size must be <= 1",
            "request",
            "inference request batch-size must be <= 1",
        ),
        ("what: ever", "request", "what: ever"),
        ("age.x: got 130", "request", "age.x: got 130"),
    ],
)
def test_an_invalid_argument_names_its_field_and_loses_triton_s_words(text, field, message):
    error = typed("INVALID_ARGUMENT", text)
    assert isinstance(error, RequestError)
    assert (error.field, error.message) == (field, message)
