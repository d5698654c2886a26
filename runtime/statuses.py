"""From a gRPC status and its text to the exception of `runtime/errors.py` that they stand for, on the caller's side.

The reverse of `triton_repo/boundary.py`. Triton puts words of its own in front of a model's, and has no name for some statuses, which
therefore travel in the text.
"""

from __future__ import annotations

import re

from runtime.errors import (
    ERROR_BY_CODE,
    ClipFaceFusionError,
    DeadlineExceededError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from runtime.request import FIELD_BY_NAME
from runtime.wire import DEADLINE_TEXT, MODEL, QUEUE_TOO_LONG, RETRY_AFTER_S

# "in ensemble 'clipfacefusion', [request id: 7] age: got -1, allowed 0..120", and "[DEADLINE_EXCEEDED] no answer within …".
_TRITON_PREFIX = re.compile(r"^(?:in ensemble '[^']*', |\[request id: [^\]]*\] )+")
_CODE_IN_TEXT = re.compile(r"^\[([A-Z_]+)\] ")
_RETRY_AFTER = re.compile(r"retry after (\d+(?:\.\d+)?) s\b")


def typed_error(code: str | None, text: str | None, url: str, timeout_s: float) -> ClipFaceFusionError:
    """The exception for status `code` ("INTERNAL", also "StatusCode.INTERNAL") with `text`, from the server at `url`.

    `timeout_s` is what the caller had allowed. A status at the start of the text, "[CANCELLED] …", counts before `code`.
    """
    code = (code or "UNKNOWN").removeprefix("StatusCode.")
    text = _TRITON_PREFIX.sub("", text or "")
    if coded := _CODE_IN_TEXT.match(text):
        code, text = coded[1], text[coded.end() :]
        if code == "DEADLINE_EXCEEDED":  # ours, of the request's own deadline
            return DeadlineExceededError(f"{url}: {text}")
    if code == "INVALID_ARGUMENT":
        return _request_error(text)
    if code == "NOT_FOUND":
        # A server that is shutting down answers so, and so does one that serves something else.
        if "has no available versions" in text:
            return UnavailableError(f"{url} is shutting down; try again later or elsewhere")
        return UnavailableError(f"{url} serves no model '{MODEL}'; is it a ClipFaceFusion server?")
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(f"{url} gave no answer within {timeout_s:g} s")
    if code == "CANCELLED" and text.startswith(DEADLINE_TEXT):
        return DeadlineExceededError(f"{url}: {text}")
    if code == "UNAVAILABLE":
        after = _RETRY_AFTER.search(text)
        if QUEUE_TOO_LONG in text:
            return QueueFullError(f"{url}: {text}", retry_after_s=RETRY_AFTER_S)
        kind = QueueFullError if "queue full" in text else UnavailableError
        return kind(f"{url}: {text}", retry_after_s=float(after[1]) if after else None)
    return ERROR_BY_CODE.get(code, ClipFaceFusionError)(text)


def _request_error(text: str) -> RequestError:
    """The field is what stands before the first colon, if the request table has it; Triton's own refusals name none."""
    name, colon, rest = text.partition(": ")
    field, _, option = name.partition(".")
    is_named = (
        colon and (field in ("request", "settings") or field in FIELD_BY_NAME) and (not option or field == "options")
    )
    return RequestError(name, rest) if is_named else RequestError("request", text)
