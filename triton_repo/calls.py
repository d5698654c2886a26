"""A call from one of our Triton models to another: arrays go out, and arrays or one of our exceptions come back.

Between models an exception travels as the text of `boundary.coded`, because Triton drops its status there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.errors import ERROR_BY_CODE, ClipFaceFusionError, QueueFullError, RequestError, UnavailableError
from runtime.wire import QUEUE_TOO_LONG, RETRY_AFTER_S
from triton_repo.boundary import decoded_status


def call(
    model: str, arrays: Mapping[str, np.ndarray], request_id: str, parameters: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Copies of all outputs that the unary model `model` makes of `arrays`.

    Raises what the model failed with, or UnavailableError if it could not answer: its process has ended, or the server is stopping.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        request_id=request_id,
        requested_output_names=[],  # all of them
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)[None]) for name, array in arrays.items()],
        parameters=dict(parameters),
    )
    try:
        answer = request.exec()
        if not answer.has_error():
            return {tensor.name(): np.array(tensor.as_numpy()[0]) for tensor in answer.output_tensors()}
        text = answer.error().message()
        if QUEUE_TOO_LONG in text:
            failure: ClipFaceFusionError = QueueFullError(f"queue full: retry after {RETRY_AFTER_S} s")
        else:
            failure = _error_from(text)
    except (pb_utils.TritonModelException, RuntimeError) as error:  # Triton's own words, for the log only
        pb_utils.Logger.log_error(f"{model}: {error}")
        raise UnavailableError("a part of the server does not answer; try again later") from None
    raise failure


def _error_from(text: str) -> ClipFaceFusionError:
    """The exception that `boundary.coded` wrote. RuntimeError for any other text."""
    code, message = decoded_status(text)
    if code == RequestError.code:
        field, _, message = message.partition(": ")
        return RequestError(field, message)
    return ERROR_BY_CODE[code](message)
