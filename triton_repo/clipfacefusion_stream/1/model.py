"""Triton model `clipfacefusion_stream`: the same faces as the ensemble's, with previews on the way, and a caller may give up.

Decoupled. Calls `preprocess`, `condition` and `sampler` in turn, one thread per request, and passes on what the sampler sends. A
caller's cancel, deadline or death is seen by the responder, wherever the request is by then. Every error is the last message of its
request and begins with its status, "[UNAVAILABLE] queue full: …", since Triton gives errors on a stream no status.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from runtime.envelope import Envelope
from runtime.errors import RequestCancelledError
from runtime.wire import FINAL, INNER, INNER_KEY, MAX_LIVE_REQUESTS, STEP, STREAM_MODEL
from triton_repo.admission import Admission
from triton_repo.boundary import arrays_of, coded_refusal, parameters_of, parameters_of_request
from triton_repo.calls import call
from triton_repo.job import Job
from triton_repo.ledger import Ledger
from triton_repo.responder import Reply, Responder
from triton_repo.sampler_process import SamplerProcess


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._inner_key = parameters_of(args)[INNER_KEY]
        self._ledger = Ledger(STREAM_MODEL)
        self._admission = Admission(args)
        self._responder = Responder(coded_refusal, problem=SamplerProcess().problem)
        self._relays = ThreadPoolExecutor(MAX_LIVE_REQUESTS, "relay")

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            entry = self._ledger.taken(request)
            parameters = {**parameters_of_request(request), INNER: self._inner_key}
            relay = _Relay(request.request_id(), parameters)
            reply = self._responder.open(request, entry, relay.job.cancel, relay.sign_of_life)
            try:
                self._admission.check(entry.live)
                Envelope.from_triton(request.request_id(), request.parameters())
                self._relays.submit(relay.run, reply, arrays_of(request))
            except Exception as error:
                reply.fail(error)

    def finalize(self) -> None:
        self._relays.shutdown(wait=False, cancel_futures=True)
        self._responder.close()


class _Relay:
    """One request on its way through the models."""

    def __init__(self, request_id: str, parameters: Mapping[str, Any]) -> None:
        self.job = Job(request_id, {INNER: parameters[INNER]})
        self._request_id = request_id
        self._parameters = parameters
        self._step = np.zeros(1, np.int32)

    def run(self, reply: Reply, tensors: Mapping[str, np.ndarray]) -> None:
        """Everything between the request and its last answer; ends with exactly one of those."""
        try:
            for part in self.job.parts(self._called("condition", self._called("preprocess", tensors))):
                self._step = part[STEP]
                if part[FINAL][0]:
                    reply.finish(part)
                else:
                    reply.send(part)
        except Exception as error:
            reply.fail(error)

    def sign_of_life(self) -> Mapping[str, np.ndarray]:
        """The step that was last heard of, and nothing new."""
        return {STEP: self._step, FINAL: np.zeros(1, np.bool_)}

    def _called(self, model: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = call(model, tensors, self._request_id, self._parameters)
        if self.job.is_cancelled:
            raise RequestCancelledError("cancelled by its caller")
        return outputs
