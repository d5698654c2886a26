"""What every model does where it meets Triton: arrays in, arrays out, exceptions to statuses.

Runs inside Triton's Python processes only (`triton_python_backend_utils` exists nowhere else). Arrays inside have no batch
dimension; Triton's tensors have one of size 1.
"""

from __future__ import annotations

import json
import re
import secrets
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.errors import ClipFaceFusionError, RequestError
from runtime.wire import DEADLINE_TEXT, INNER

# Names of `pb_utils.TritonError` codes, which exist only once a model is loaded. Every other status becomes INTERNAL.
_TRITON_CODE = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "UNAVAILABLE": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "DEADLINE_EXCEEDED": "CANCELLED",  # Triton has no such status; the text says it
}


def parameters_of(arguments: Mapping[str, str]) -> dict[str, str]:
    """The parameters of the model's configuration, from `initialize`'s arguments."""
    entries = json.loads(arguments["model_config"])["parameters"]
    return {name: entry["string_value"] for name, entry in entries.items()}


def parameters_of_request(request: Any) -> dict[str, Any]:
    """What came with a request beside its tensors."""
    return json.loads(request.parameters() or "{}")


def arrays_of(request: Any) -> dict[str, np.ndarray]:
    """Copies of the inputs that are given: Triton takes the originals' memory back when `execute` returns.

    Raises RequestError for an input without rows, which Triton lets pass to a decoupled model.
    """
    arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    for name, array in arrays.items():
        if array.ndim < 2 or len(array) != 1:
            raise RequestError(name, f"got shape {list(array.shape)}, expected [1, …]")
    return {name: array[0].copy() for name, array in arrays.items()}


def answered(request: Any, function: Callable[[], Mapping[str, np.ndarray]]) -> Any:
    """The response to a request with the arrays that `function` makes, or with the status of what it raises."""
    try:
        return response(function())
    except Exception as error:
        refuse = coded_refusal if INNER in parameters_of_request(request) else refusal
        return refuse(*status_of(error, request.request_id()))


def response(arrays: Mapping[str, np.ndarray]) -> Any:
    """A response that holds `arrays`."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array[None]) for name, array in arrays.items()])


def refusal(code: str, message: str) -> Any:
    """A response with a status, named as in gRPC, instead of arrays."""
    triton_code = getattr(pb_utils.TritonError, _TRITON_CODE.get(code, "INTERNAL"))
    if code == "DEADLINE_EXCEEDED":
        message = DEADLINE_TEXT + message
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, triton_code))


def status_of(error: Exception, request_id: str) -> tuple[str, str]:
    """The gRPC status name and the text a caller may see. What is not ours goes to the log, and only an id to the caller."""
    if isinstance(error, ClipFaceFusionError):
        return error.code, str(error)
    shown_id = request_id if re.fullmatch(r"[\w.-]{1,64}", request_id) else secrets.token_hex(8)
    detail = "".join(traceback.format_exception(error))
    pb_utils.Logger.log_error(f"id={shown_id}: {detail}")
    return "INTERNAL", f"generation failed, id={shown_id}"


def coded(code: str, message: str) -> str:
    """A text that begins with its status: all that is left of one in a call from model to model, and on a stream."""
    return f"[{code}] {message}"


def coded_refusal(code: str, message: str) -> Any:
    """A refusal whose text says its status as well."""
    triton_code = getattr(pb_utils.TritonError, _TRITON_CODE.get(code, "INTERNAL"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(coded(code, message), triton_code))


def decoded_status(text: str) -> tuple[str, str]:
    """The status name and text of `coded`. RuntimeError for any other text: Triton itself wrote that one."""
    match = re.fullmatch(r"\[([A-Z_]+)\] (.*)", text, flags=re.DOTALL)
    if match is None:
        raise RuntimeError(text)
    return match[1], match[2]


def json_array(value: Any) -> np.ndarray:
    """A value as a BYTES tensor [1] that holds its JSON."""
    return np.array([json.dumps(value).encode()], dtype=np.object_)
