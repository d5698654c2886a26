"""Calls a ClipFaceFusion server over gRPC: the same call as `Pipeline`, with the same requests, results and exceptions.

Knows the public model's name and tensors, through `runtime/request.py`, and nothing of bundles or engines; loads neither torch
nor an engine library. Protocol: KServe v2 inference over gRPC, as `tritonclient.grpc` speaks it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from runtime.access import Access
from runtime.client_stream import stream
from runtime.errors import ClipFaceFusionError, EngineError, RequestError
from runtime.noise import SEED_LIMIT
from runtime.options import OPTION_BY_NAME
from runtime.request import FIELD_BY_NAME, FIELDS, GenerateRequest, GenerateResult, Preview
from runtime.retry import Retry
from runtime.statuses import typed_error
from runtime.tracing import new_traceparent
from runtime.wire import CANARY_ID, MODEL, OUTPUTS, STREAM_MODEL, TRACEPARENT

PROBE_TIMEOUT_S = 5.0
INACTIVITY_S = 30.0  # the watchdog of the server's sampler is no faster
METADATA_BYTES = 64 * 2**10
RECONNECT_MS = (100, 2000)  # gRPC's own waits, up to two minutes, are longer than a restart
DEADLINE_LIMIT_MS = int(OPTION_BY_NAME["deadline_ms"].high or 0)
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class Transport(Protocol):
    """What a client needs of `tritonclient.grpc.InferenceServerClient`; a test gives its own."""

    def infer(self, model_name: str, inputs: list[InferInput], **options: Any) -> Any:
        """Answer with an object whose `as_numpy(name)` gives an output, or raise InferenceServerException."""

    def start_stream(self, callback: Callable[..., None], **options: Any) -> None:
        """From now on give `callback(result, error)` every answer of the one stream that a connection can hold."""

    def async_stream_infer(self, model_name: str, inputs: list[InferInput], **options: Any) -> None:
        """Send a request on the stream."""

    def stop_stream(self, cancel_requests: bool = False) -> None:
        """End the stream."""

    def close(self) -> None:
        """Give the connection back."""


def connection(url: str, access: Access) -> Transport:
    """A connection to the gRPC service at "host:port"; it is opened when first used."""
    authority = None if access.authority is None else str(access.authority)
    return InferenceServerClient(url, ssl=access.tls, root_certificates=authority, channel_args=channel_arguments(url))


class Client:
    """One connection to a server; a context manager, usable from many threads.

    url        "host:port" of the server's gRPC service
    timeout_s  bounds each call: waiting in the server's queue and trying again included. The server hears of it, and stops its work
    retry      when a call that was refused for now is made again; `Retry(tries=1)` for never
    access     what a gateway in front asks for: TLS, a token, a tenant (default: nothing)
    connect    makes the connection that calls share, and one for each stream
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 120.0,
        retry: Retry | None = None,
        access: Access | None = None,
        connect: Callable[[str, Access], Transport] = connection,
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}; it must be above 0 seconds")
        self.url = url
        self.timeout_s = timeout_s
        self._retry = retry or Retry()
        self._access = access or Access()
        self._connect = connect
        self._transport = connect(url, self._access)

    def __call__(
        self, request: GenerateRequest, *, request_id: str | None = None, traceparent: str | None = None
    ) -> GenerateResult:
        """Generate one face. A request without a seed gets one here, so that trying again makes the same face.

        request_id   names the request in the server's log (default: drawn); the report repeats it
        traceparent  W3C trace context of the caller, sent as it is (default: a new trace, one span per try)

        Raises RequestError (the request is wrong), UnavailableError (not now, and trying again did not help),
        DeadlineExceededError (no answer within `timeout_s`), RequestCancelledError, or EngineError (the server failed; its log has
        the detail, under the request's id). Only UnavailableError leads to another try.
        """
        for row in FIELDS:
            if row.stream_only and getattr(request, row.name) is not None:
                raise RequestError(row.name, "for streams only; use Client.stream, or leave it out")
        was_random, request_id = request.seed is None, request_id or secrets.token_hex(16)
        request, trace = _seeded(request), traceparent or new_traceparent()

        def infer(tried: int, left_s: float) -> GenerateResult:
            headers = self._headers(traceparent or new_traceparent(trace))
            result = self._infer(_bounded(request, left_s), left_s, request_id, headers)
            result.report.update(request_id=request_id, tries=tried, seed_was_random=was_random)
            return result

        return self._retry.run(infer, self.timeout_s)

    def stream(
        self,
        request: GenerateRequest,
        *,
        inactivity_s: float = INACTIVITY_S,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Generator[Preview | GenerateResult, None, None]:
        """Generate one face and hear of it meanwhile: previews every `request.preview_every` steps, then the result.

        Closing the iterator early cancels the request. It is not tried again. `inactivity_s` bounds the silence between two
        answers: a server whose process died may never say so.

        Raises as a call does, and UnavailableError after `inactivity_s` of silence.
        """
        return stream(
            self._connect(self.url, self._access),
            STREAM_MODEL,
            infer_inputs(_bounded(_seeded(request), self.timeout_s).to_tensors()),
            headers=self._headers(traceparent or new_traceparent()),
            request_id=request_id or secrets.token_hex(16),
            timeout_s=self.timeout_s,
            inactivity_s=inactivity_s,
            typed=lambda code, text: typed_error(code, text, self.url, self.timeout_s),
        )

    def ready(self) -> bool:
        """Whether the server takes a request now: False when it is stopping, full or down, or nothing answers. Makes no face.

        Triton's own readiness stays true while a server stops and when its processes have died, so this asks with a request that
        the first of them must refuse as wrong. Whether faces come out is what `/ready` on the server's health port tells.
        """
        try:
            self._infer_arrays({"text": np.array([[b""]], np.object_)}, PROBE_TIMEOUT_S, CANARY_ID, self._headers())
        except RequestError:
            return True
        except ClipFaceFusionError:
            return False
        return False  # whoever accepts that is no server of ours

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _headers(self, traceparent: str | None = None) -> dict[str, str]:
        return self._access.headers | ({TRACEPARENT: traceparent} if traceparent else {})

    def _infer(
        self, request: GenerateRequest, timeout_s: float, request_id: str, headers: dict[str, str]
    ) -> GenerateResult:
        answer = self._infer_arrays(request.to_tensors(), timeout_s, request_id, headers)
        image, report = (answer.as_numpy(name) for name in OUTPUTS)
        if image is None or report is None:
            raise EngineError(f"{self.url} answered without {' or '.join(OUTPUTS)}; is it a ClipFaceFusion server?")
        return GenerateResult(image=image[0], report=json.loads(report[0, 0]))

    def _infer_arrays(
        self, arrays: dict[str, np.ndarray], timeout_s: float, request_id: str, headers: dict[str, str]
    ) -> Any:
        outputs = [InferRequestedOutput(name) for name in OUTPUTS]
        options = {"request_id": request_id, "headers": headers, "client_timeout": timeout_s}
        try:
            return self._transport.infer(MODEL, infer_inputs(arrays), outputs=outputs, **options)
        except InferenceServerException as error:
            raise typed_error(error.status(), error.message(), self.url, timeout_s) from None


def infer_inputs(arrays: dict[str, np.ndarray]) -> list[InferInput]:
    """Request fields as Triton takes them, each with its type from the request table."""
    inputs = []
    for name, array in arrays.items():
        inputs.append(InferInput(name, list(array.shape), FIELD_BY_NAME[name].dtype))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def channel_arguments(url: str) -> list[tuple[str, int]]:
    """gRPC's options: messages as large as the server's limits allow, and no proxy to this machine itself.

    A lost connection is opened again within `RECONNECT_MS`. A refusal's text travels as metadata, and Triton's own may repeat what
    was sent, so more of it is taken than gRPC's 8 KiB.
    """
    unlimited = -1
    arguments = [("grpc.max_send_message_length", unlimited), ("grpc.max_receive_message_length", unlimited)]
    arguments += [
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_MS[0]),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS[1]),
    ]
    if url.rpartition(":")[0] in LOOPBACK_HOSTS:
        arguments.append(("grpc.enable_http_proxy", 0))  # http_proxy in the environment would be obeyed even for it
    return arguments


def _seeded(request: GenerateRequest) -> GenerateRequest:
    return request if request.seed is not None else replace(request, seed=secrets.randbelow(SEED_LIMIT))


def _bounded(request: GenerateRequest, left_s: float) -> GenerateRequest:
    """The request with no later deadline than its caller has."""
    asked, left_ms = request.options.deadline_ms, max(1, min(int(left_s * 1e3), DEADLINE_LIMIT_MS))
    if asked is not None and asked <= left_ms:
        return request
    return replace(request, options=replace(request.options, deadline_ms=left_ms))
