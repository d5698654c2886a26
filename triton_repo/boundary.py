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

from runtime.errors import ClipFaceFusionError

# Names of `pb_utils.TritonError` codes, which exist only once a model is loaded. Every other status becomes INTERNAL.
_TRITON_CODE = {"INVALID_ARGUMENT": "INVALID_ARG", "UNAVAILABLE": "UNAVAILABLE", "CANCELLED": "CANCELLED"}


def arrays_of(request: Any) -> dict[str, np.ndarray]:
    """Copies of the inputs that are given: Triton takes the originals' memory back when `execute` returns."""
    return {tensor.name(): tensor.as_numpy()[0].copy() for tensor in request.inputs()}


def answered(request: Any, function: Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]) -> Any:
    """The response with the arrays that `function` makes from the request's, or with the status of what it raises."""
    try:
        return response(function(arrays_of(request)))
    except Exception as error:
        return refusal(*status_of(error, request.request_id()))


def response(arrays: Mapping[str, np.ndarray]) -> Any:
    """A response that holds `arrays`."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array[None]) for name, array in arrays.items()])


def refusal(code: str, message: str) -> Any:
    """A response with a status, named as in gRPC, instead of arrays."""
    triton_code = getattr(pb_utils.TritonError, _TRITON_CODE.get(code, "INTERNAL"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, triton_code))


def status_of(error: Exception, request_id: str) -> tuple[str, str]:
    """The gRPC status name and the text a caller may see. What is not ours goes to the log, and only an id to the caller."""
    if isinstance(error, ClipFaceFusionError):
        return error.code, str(error)
    shown_id = request_id if re.fullmatch(r"[\w.-]{1,64}", request_id) else secrets.token_hex(8)
    detail = "".join(traceback.format_exception(error))
    pb_utils.Logger.log_error(f"id={shown_id}: {detail}")
    return "INTERNAL", f"generation failed, id={shown_id}"


def coded_refusal(code: str, message: str) -> Any:
    """A refusal that says its status in the text as well: a call from model to model keeps only the text."""
    return refusal(code, f"[{code}] {message}")


def decoded_status(text: str) -> tuple[str, str]:
    """The status name and text of a `coded_refusal`. RuntimeError for any other text: Triton itself wrote that one."""
    match = re.fullmatch(r"\[([A-Z_]+)\] (.*)", text, flags=re.DOTALL)
    if match is None:
        raise RuntimeError(text)
    return match[1], match[2]


def json_array(value: Any) -> np.ndarray:
    """A value as a BYTES tensor [1] that holds its JSON."""
    return np.array([json.dumps(value).encode()], dtype=np.object_)
