"""The exceptions of the whole product, and the gRPC status each one becomes.

    ClipFaceFusionError                 base: catch this one
    ├── RequestError                    INVALID_ARGUMENT   the caller's input is wrong; names the field
    ├── UnavailableError                UNAVAILABLE        try again later
    │   └── QueueFullError              UNAVAILABLE        the queue is at its limit
    ├── RequestCancelledError           CANCELLED          the caller gave up
    ├── DeadlineExceededError           DEADLINE_EXCEEDED  no answer in time
    ├── BundleError                     FAILED_PRECONDITION  a bundle or checkpoint on disk is not what it claims
    └── EngineError                     INTERNAL           an engine failed or returned what it must not

Libraries raise these; only a `__main__` turns them into an exit status, and only the server into a gRPC status.
Messages name the thing, the value, the allowed range and the way out, and never hold a path of the server or a traceback.
"""

from __future__ import annotations


class ClipFaceFusionError(Exception):
    """Base of all exceptions of this product. `code` is the gRPC status name a server answers with."""

    code = "INTERNAL"


class RequestError(ClipFaceFusionError):
    """A request that cannot be served as it is. `field` is the name in the request table (`runtime/request.py`)."""

    code = "INVALID_ARGUMENT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self):  # type: ignore[no-untyped-def]  # keeps both arguments when crossing a process pool
        return type(self), (self.field, self.message)


class UnavailableError(ClipFaceFusionError):
    """The service cannot take this request now; the same request may succeed later. `retry_after_s`: how much later, if known."""

    code = "UNAVAILABLE"

    def __init__(self, message: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(UnavailableError):
    """The batcher's queue is at its limit."""


class RequestCancelledError(ClipFaceFusionError):
    """The caller cancelled the request; its work was stopped."""

    code = "CANCELLED"


class DeadlineExceededError(ClipFaceFusionError):
    """No answer within the caller's time limit."""

    code = "DEADLINE_EXCEEDED"


class BundleError(ClipFaceFusionError):
    """A bundle or checkpoint is missing, damaged, or made for something else. The message says what to run."""

    code = "FAILED_PRECONDITION"


class EngineError(ClipFaceFusionError):
    """An engine could not run, or its output is not finite or not of the promised shape."""


ERROR_BY_CODE: dict[str, type[ClipFaceFusionError]] = {
    cls.code: cls for cls in (UnavailableError, RequestCancelledError, DeadlineExceededError, BundleError, EngineError)
}


def first_line(error: BaseException) -> str:
    """The first line of another library's message, or the name of its exception."""
    return (str(error).splitlines() or [type(error).__name__])[0]
