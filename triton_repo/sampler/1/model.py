"""Triton model `sampler`: the one owner of UNet, decoder, noise, schedule and the step-level batcher.

Decoupled: `execute` only submits, so that a request joins the running batch at its next step. One thread, the responder, owns
every response sender from then on and ends each with FINAL: two threads at one sender, or a touch after FINAL, crash Triton.
"""

from __future__ import annotations

import json
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.report import join_reports
from runtime.sampling import Sample, Sampler, SampleRequest
from runtime.wire import NOTES, SAMPLING_FIELDS
from triton_repo.boundary import arrays_of, coded_refusal, json_array, response, status_of
from triton_repo.bundle import open_bundle


@dataclass(frozen=True)
class _Reply:
    """Everything the responder needs to answer one request."""

    sender: Any
    request_id: str
    notes: np.ndarray
    future: Future[Sample]

    def send(self) -> None:
        """Answer with the sample and its report, or with what went wrong. The future must be done."""
        try:
            sample = self.future.result()
            report = join_reports(json.loads(self.notes[0]), sample.report)
            answer = response({"image": sample.image, "report": json_array(report)})
        except Exception as error:
            answer = coded_refusal(*status_of(error, self.request_id))
        self.sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._sampler = Sampler(open_bundle(args))
        self._replies: queue.SimpleQueue[_Reply | None] = queue.SimpleQueue()
        self._responder = threading.Thread(target=self._respond, name="responder", daemon=True)
        self._responder.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            tensors = arrays_of(request)
            future = self._submitted(tensors)
            reply = _Reply(request.get_response_sender(), request.request_id(), tensors[NOTES], future)
            # The callback may run between two steps of everybody's batch, so it only hands over.
            future.add_done_callback(partial(self._hand_over, reply))

    def finalize(self) -> None:
        self._sampler.close()
        self._replies.put(None)
        self._responder.join()

    def _submitted(self, tensors: dict[str, np.ndarray]) -> Future[Sample]:
        """The future of the request's sample; one that has failed already if the sampler does not take it."""
        seed, num_inference_steps, guidance_scale = (tensors[name][0].item() for name in SAMPLING_FIELDS)
        cond = {name: array for name, array in tensors.items() if name not in (*SAMPLING_FIELDS, NOTES)}
        try:
            return self._sampler.submit(SampleRequest(cond, seed, num_inference_steps, guidance_scale))
        except Exception as error:
            refused: Future[Sample] = Future()
            refused.set_exception(error)
            return refused

    def _hand_over(self, reply: _Reply, _: Future[Sample]) -> None:
        self._replies.put(reply)

    def _respond(self) -> None:
        while (reply := self._replies.get()) is not None:
            try:
                reply.send()
            except Exception as error:  # a caller that has gone must not cost the others their responder
                status_of(error, reply.request_id)
