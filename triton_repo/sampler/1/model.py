"""Triton model `sampler`: the one owner of UNet, decoder, noise, schedule and the step-level batcher.

Decoupled: `execute` only submits, so that a request joins the running batch at its next step, and the responder sends what comes of
it: first that the job is known, then previews and signs of life, then the image. A call that names a job's id in `cancel` ends
that job at its next step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from runtime.conditioned import Conditioned
from runtime.errors import RequestCancelledError, RequestError
from runtime.report import join_reports
from runtime.sampling import Sample, Sampler, SampleRequest
from runtime.wire import CANCEL, FAILURE, FINAL, JOB, MAX_LIVE_REQUESTS, SIGN_OF_LIFE_S, STALL_LIMIT, STEP
from triton_repo.boundary import arrays_of, coded, json_array, parameters_of, parameters_of_request, response
from triton_repo.bundle import open_bundle
from triton_repo.metrics import SamplingMetrics, publish_bundle
from triton_repo.responder import Reply, Responder
from triton_repo.watchdog import Watchdog


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        inputs = [tensor["name"] for tensor in json.loads(args["model_config"])["input"]]
        self._needed = [name for name in inputs if name != CANCEL]
        self._bundle = open_bundle(args)
        # As many may wait as the server takes at all: requests are refused there, not here.
        self._sampler = Sampler(self._bundle, MAX_LIVE_REQUESTS, SamplingMetrics())
        self._published = publish_bundle(self._bundle.manifest.name, self._bundle.hash)
        self._responder = Responder(_failure)
        self._jobs: dict[str, Future[Sample]] = {}
        self._watchdog = Watchdog(lambda: self._sampler.stalled_s, float(parameters_of(args)[STALL_LIMIT]))

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            reply = self._responder.open(request)
            try:
                tensors = arrays_of(request)
                if CANCEL in tensors:
                    self._cancel(reply, tensors[CANCEL][0].decode())
                else:
                    self._sample(reply, parameters_of_request(request).get(JOB, ""), tensors)
            except Exception as error:
                reply.fail(error)

    def finalize(self) -> None:
        self._watchdog.close()
        self._sampler.close()
        self._responder.close()

    def _sample(self, reply: Reply, job_id: str, tensors: dict[str, np.ndarray]) -> None:
        """Submit a sample; its future ends the reply. Raises what the sampler refuses it with."""
        missing = [name for name in self._needed if name not in tensors]
        if missing:
            raise RequestError(missing[0], "missing")
        conditioned = Conditioned.from_tensors(tensors)
        progress = _Progress(reply, has_previews=conditioned.settings.preview_every is not None)
        callbacks = {"on_step": progress.stepped, "on_preview": progress.previewed}
        reply.send(_part(0))  # whoever cancels comes after this
        future = self._sampler.submit(SampleRequest.of(conditioned, **callbacks))
        self._jobs[job_id] = future
        future.add_done_callback(partial(self._end, job_id, reply, progress, conditioned.report))

    def _end(
        self, job_id: str, reply: Reply, progress: _Progress, report: Mapping[str, Any], future: Future[Sample]
    ) -> None:
        """The last part. Runs on the thread that ended the future, which others wait for: it only hands over."""
        self._jobs.pop(job_id, None)
        if future.cancelled():
            reply.fail(RequestCancelledError("cancelled by its caller"))
        elif error := future.exception():
            reply.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            sample = future.result()
            report = join_reports(report, sample.report)
            reply.finish(_part(progress.num_steps, True, image=sample.image, report=json_array(report)))

    def _cancel(self, reply: Reply, job_id: str) -> None:
        """End a job; one that has ended already, or is being decoded, ends as it would have."""
        if future := self._jobs.get(job_id):
            future.cancel()
        reply.finish({FINAL: np.array([future is not None])})


class _Progress:
    """What the caller of a job hears before the image: previews, or the number of steps now and then.

    Not both, because a preview takes a while to decode, and the steps that a caller hears of are never to fall.
    """

    def __init__(self, reply: Reply, has_previews: bool) -> None:
        self.num_steps = 0
        self._reply = reply
        self._has_previews = has_previews
        self._told_at = time.monotonic()

    def stepped(self, step_index: int, num_steps: int, sample: np.ndarray) -> None:
        """Between two steps of everybody's batch, so it only hands over."""
        self.num_steps = num_steps
        now = time.monotonic()
        if not self._has_previews and now - self._told_at >= SIGN_OF_LIFE_S / 2:  # before others find it too quiet
            self._told_at = now
            self._reply.send(_part(step_index + 1))

    def previewed(self, step: int, num_steps: int, image: np.ndarray) -> None:
        """On the decoding thread."""
        self._reply.send(_part(step, image=image, report=json_array({"num_steps": num_steps})))


def _part(step: int, is_final: bool = False, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    return {**arrays, STEP: np.array([step], np.int32), FINAL: np.array([is_final])}


def _failure(code: str, text: str) -> Any:
    """A part like any other: between models, Triton loses an error that comes after a first part."""
    return response({FAILURE: np.array([coded(code, text).encode()], np.object_), FINAL: np.array([True])})
