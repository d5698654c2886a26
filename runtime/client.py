"""Calls a ClipFaceFusion server over gRPC: the same call as `Pipeline`, with the same requests, results and exceptions.

Knows the public model's name and tensors, through `runtime/request.py`, and nothing of bundles or engines; loads neither torch
nor an engine library. Protocol: KServe v2 inference over gRPC, as `tritonclient.grpc` speaks it.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from runtime.errors import (
    ERROR_BY_CODE,
    ClipFaceFusionError,
    DeadlineExceededError,
    EngineError,
    RequestError,
    UnavailableError,
)
from runtime.request import FIELD_BY_NAME, GenerateRequest, GenerateResult
from runtime.wire import MODEL, OUTPUTS

PROBE_TIMEOUT_S = 5.0
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")

# Triton puts these before a model's own message: "in ensemble 'clipfacefusion', [request id: 7] age: got -1, allowed 0..120".
_TRITON_PREFIX = re.compile(r"^(?:in ensemble '[^']*', |\[request id: [^\]]*\] )+")


class Transport(Protocol):
    """What a client needs of `tritonclient.grpc.InferenceServerClient`; a test gives its own."""

    def infer(self, model_name: str, inputs: list[InferInput], **options: Any) -> Any:
        """Answer with an object whose `as_numpy(name)` gives an output, or raise InferenceServerException."""

    def is_model_ready(self, model_name: str, **options: Any) -> bool:
        """Whether the server takes requests for the model."""

    def close(self) -> None:
        """Give the connection back."""


class Client:
    """One connection to a server; a context manager, usable from many threads.

    `url` is "host:port" of the server's gRPC service. `timeout_s` bounds each call, queueing included.
    """

    def __init__(self, url: str, timeout_s: float = 120.0, transport: Transport | None = None) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}; it must be above 0 seconds")
        self.url = url
        self.timeout_s = timeout_s
        self._transport: Transport = transport or InferenceServerClient(url, channel_args=_channel_arguments(url))

    def __call__(self, request: GenerateRequest) -> GenerateResult:
        """Generate one face.

        Raises RequestError (the request is wrong), UnavailableError (try again later), DeadlineExceededError (no answer within
        `timeout_s`), RequestCancelledError, or EngineError (the server failed; its log has the detail).
        """
        inputs = []
        for name, array in request.to_tensors().items():
            tensor = InferInput(name, list(array.shape), FIELD_BY_NAME[name].dtype)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        outputs = [InferRequestedOutput(name) for name in OUTPUTS]
        try:
            answer = self._transport.infer(MODEL, inputs, outputs=outputs, client_timeout=self.timeout_s)
        except InferenceServerException as error:
            raise self._typed(error) from None
        image, report = (answer.as_numpy(name) for name in OUTPUTS)
        if image is None or report is None:
            raise EngineError(f"{self.url} answered without {' or '.join(OUTPUTS)}; is it a ClipFaceFusion server?")
        return GenerateResult(image=image[0], report=json.loads(report[0, 0]))

    def ready(self) -> bool:
        """Whether the server says that it takes requests; False too when nothing answers. Makes no face."""
        try:
            return self._transport.is_model_ready(MODEL, client_timeout=PROBE_TIMEOUT_S)
        except InferenceServerException:
            return False

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _typed(self, error: InferenceServerException) -> ClipFaceFusionError:
        """The exception of `runtime/errors.py` that a gRPC status and message stand for."""
        code = (error.status() or "UNKNOWN").removeprefix("StatusCode.")
        message = _TRITON_PREFIX.sub("", error.message() or "")
        if code == "INVALID_ARGUMENT":
            field, colon, rest = message.partition(": ")
            named = colon and (field in FIELD_BY_NAME or field == "request")
            return RequestError(field, rest) if named else RequestError("request", message)
        if code == "NOT_FOUND":
            # A server that is shutting down answers so, and so does one that serves something else.
            if "has no available versions" in message:
                return UnavailableError(f"{self.url} is shutting down; try again later or elsewhere")
            return UnavailableError(f"{self.url} serves no model '{MODEL}'; is it a ClipFaceFusion server?")
        if code == "DEADLINE_EXCEEDED":
            return DeadlineExceededError(f"{self.url} gave no answer within {self.timeout_s:g} s")
        if code == "UNAVAILABLE":
            return UnavailableError(f"{self.url}: {message}")
        return ERROR_BY_CODE.get(code, ClipFaceFusionError)(message)


def _channel_arguments(url: str) -> list[tuple[str, int]]:
    """gRPC's options: messages as large as the server's limits allow, and no proxy to this machine itself."""
    unlimited = -1
    arguments = [("grpc.max_send_message_length", unlimited), ("grpc.max_receive_message_length", unlimited)]
    if url.rpartition(":")[0] in LOOPBACK_HOSTS:
        arguments.append(("grpc.enable_http_proxy", 0))  # http_proxy in the environment would be obeyed even for it
    return arguments
