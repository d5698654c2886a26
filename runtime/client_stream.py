"""One request on a gRPC stream, as an iterator: previews while the face is made, then the face. `Client.stream` is its caller.

Knows the messages of the model `clipfacefusion_stream` (`runtime/wire.py`), and nothing of retries or of how a connection is made.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import InferInput
from tritonclient.utils import InferenceServerException

from runtime.errors import ClipFaceFusionError, EngineError
from runtime.request import GenerateResult, Preview
from runtime.wire import FINAL, OUTPUTS, STEP

if TYPE_CHECKING:
    from runtime.client import Transport


def stream(
    transport: Transport,
    model: str,
    inputs: list[InferInput],
    *,
    headers: dict[str, str],
    request_id: str,
    timeout_s: float,
    inactivity_s: float,
    typed: Callable[[str | None, str], ClipFaceFusionError],
) -> Generator[Preview | GenerateResult, None, None]:
    """Send the request when the first answer is asked for, and give its previews in order, then its result.

    Closing the iterator cancels the request on the server, whose work stops at the next step. `transport` is this request's own: a
    connection holds one stream only, and a reader who is slow delays nobody else. It is closed at the end, whatever the end is.

    typed         makes the exception for a gRPC status and a text
    inactivity_s  longest silence; the server sends a sign of life at least every `SIGN_OF_LIFE_S`, so that this bounds how long the
                  death of a process stays unnoticed, not how long a face may take
    """
    messages: queue.SimpleQueue[tuple[Any, InferenceServerException | None]] = queue.SimpleQueue()
    deadline = time.monotonic() + timeout_s
    is_answered = False
    try:
        try:
            transport.start_stream(partial(_hand_over, messages), stream_timeout=timeout_s, headers=headers)
            transport.async_stream_infer(model, inputs, request_id=request_id)
        except InferenceServerException as error:
            raise typed(error.status(), error.message()) from None
        while not is_answered:
            left_s = deadline - time.monotonic()
            try:
                answer, failure = messages.get(timeout=max(0.0, min(inactivity_s, left_s)))
            except queue.Empty:
                if left_s <= inactivity_s:
                    raise typed("DEADLINE_EXCEEDED", "") from None
                raise typed("UNAVAILABLE", f"no answer for {inactivity_s:g} s") from None
            if failure is not None:
                is_answered = True
                raise typed(failure.status(), failure.message())
            is_answered = bool(_array(answer, FINAL)[0])
            if is_answered or answer.as_numpy(OUTPUTS[0]) is not None:
                yield _part(answer, is_answered, request_id)
    finally:
        transport.stop_stream(cancel_requests=not is_answered)
        transport.close()


def _hand_over(messages: queue.SimpleQueue[Any], result: Any, error: InferenceServerException | None) -> None:
    """Called on a thread of the connection's."""
    messages.put((result, error))


def _part(answer: Any, is_final: bool, request_id: str) -> Preview | GenerateResult:
    image, report = (_array(answer, name) for name in OUTPUTS)
    facts = json.loads(report[0])
    if is_final:
        return GenerateResult(image=image, report=facts | {"request_id": request_id})
    return Preview(step=int(_array(answer, STEP)[0]), num_steps=facts["num_steps"], image=image)


def _array(answer: Any, name: str) -> Any:
    """An output without its batch dimension."""
    array = answer.as_numpy(name)
    if array is None:
        raise EngineError(f"the server answered without {name}; is it a ClipFaceFusion server?")
    return array[0]
