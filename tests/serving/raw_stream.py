"""A stream of `clipfacefusion_stream` as any Triton client sees it, without ours."""

from __future__ import annotations

import threading
from typing import NamedTuple

import tritonclient.grpc as grpcclient

from runtime.client import infer_inputs
from runtime.wire import STREAM_MODEL

LIMIT_S = 120  # only a hang takes so long


class Message(NamedTuple):
    """`is_final` is our own mark of the end, `is_last` Triton's. An error has neither id nor step."""

    request_id: str = ""
    step: int = -1
    has_image: bool = False
    is_final: bool = True
    is_last: bool = True
    error: str = ""


class RawStream:
    """A stream of many requests; `messages` are all that came, in order."""

    def __init__(self, url):
        self._transport = grpcclient.InferenceServerClient(url)
        self._came = threading.Condition()
        self.messages: list[Message] = []
        self._transport.start_stream(self._take)

    def send(self, request_id, **arrays):
        request = arrays.pop("request", None)
        inputs = infer_inputs(request.to_tensors() if request else arrays)
        self._transport.async_stream_infer(STREAM_MODEL, inputs, request_id=request_id)

    def wait_for(self, holds):
        with self._came:
            assert self._came.wait_for(lambda: holds(self.messages), LIMIT_S), f"it did not come: {self.messages[-3:]}"

    def close(self):
        """Cancel what runs, then close the connection. Idempotent."""
        self._transport.stop_stream(cancel_requests=True)
        self._transport.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _take(self, result, error):
        with self._came:
            self.messages.append(Message(error=error.message()) if error is not None else _message(result))
            self._came.notify_all()


def _message(result):
    response = result.get_response()
    step, final = result.as_numpy("step"), result.as_numpy("final")
    return Message(
        request_id=response.id,
        step=int(step[0, 0]),
        has_image=result.as_numpy("image") is not None,
        is_final=bool(final[0, 0]),
        is_last=response.parameters["triton_final_response"].bool_param,
    )
