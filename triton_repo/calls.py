"""A call from one of our Triton models to another: arrays go out, and arrays or one of our exceptions come back.

Between models an exception travels as the text of `boundary.coded`, because Triton drops its status there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.errors import ERROR_BY_CODE, ClipFaceFusionError, RequestError, UnavailableError
from triton_repo.boundary import decoded_status


def call(
    model: str, arrays: Mapping[str, np.ndarray], request_id: str, parameters: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """All outputs that the unary model `model` makes of `arrays`. Raises as `arrays_of_answer` does."""
    request = pb_utils.InferenceRequest(
        model_name=model,
        request_id=request_id,
        requested_output_names=[],  # all of them
        inputs=inputs_of(arrays),
        parameters=dict(parameters),
    )
    try:
        answer = request.exec()
    except pb_utils.TritonModelException as error:
        raise gone(model, error) from None
    return arrays_of_answer(model, answer)


def inputs_of(arrays: Mapping[str, np.ndarray]) -> list[Any]:
    """Arrays as inputs of a call, with the batch dimension of 1."""
    return [pb_utils.Tensor(name, np.ascontiguousarray(array)[None]) for name, array in arrays.items()]


def arrays_of_answer(model: str, answer: Any) -> dict[str, np.ndarray]:
    """Copies of the outputs; none for Triton's own mark of the end.

    Raises what the model failed with, or UnavailableError if it could not answer: its process has ended, or the server is stopping.
    """
    if not answer.has_error():
        return {tensor.name(): np.array(tensor.as_numpy()[0]) for tensor in answer.output_tensors()}
    try:
        failure = error_from(answer.error().message())
    except RuntimeError as error:  # Triton wrote it
        raise gone(model, error) from None
    raise failure


def gone(model: str, error: Exception) -> UnavailableError:
    """The answer to a caller when a model cannot be reached; Triton's words are for the log only."""
    pb_utils.Logger.log_error(f"{model}: {error}")
    return UnavailableError("a part of the server does not answer; try again later")


def error_from(text: str) -> ClipFaceFusionError:
    """The exception that `boundary.coded` wrote. RuntimeError for any other text."""
    code, message = decoded_status(text)
    if code == RequestError.code:
        field, _, message = message.partition(": ")
        return RequestError(field, message)
    return ERROR_BY_CODE[code](message)
