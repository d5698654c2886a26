"""Triton model `sampler`: the one owner of UNet, decoder, noise, schedule and the step-level batcher.

`execute` only hands over, and every call is answered when there is something to say. A call with a job's tensors is answered at once:
the job joins the running batch at its next step. A call that names it in `next` is answered with its next part: a preview, or how
far it is, and in the end the image or the error. A call that names it in `cancel` ends it at its next step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from runtime.conditioned import Conditioned
from runtime.errors import RequestCancelledError, RequestError
from runtime.report import join_reports
from runtime.sampling import Sample, Sampler, SampleRequest
from runtime.wire import CANCEL, FINAL, JOB, MAX_LIVE_REQUESTS, NEXT, SIGN_OF_LIFE_S, STALL_LIMIT, STEP
from triton_repo.boundary import arrays_of, coded_refusal, json_array, parameters_of, parameters_of_request
from triton_repo.bundle import open_bundle
from triton_repo.mailbox import Mailbox
from triton_repo.metrics import SamplingMetrics, publish_bundle
from triton_repo.responder import Reply, Responder
from triton_repo.watchdog import Watchdog


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        inputs = [tensor["name"] for tensor in json.loads(args["model_config"])["input"]]
        self._needed = [name for name in inputs if name not in (CANCEL, NEXT)]
        self._bundle = open_bundle(args)
        # As many may wait as the server takes at all: requests are refused there, not here.
        self._sampler = Sampler(self._bundle, MAX_LIVE_REQUESTS, SamplingMetrics())
        self._published = publish_bundle(self._bundle.manifest.name, self._bundle.hash)
        self._responder = Responder(coded_refusal)
        self._jobs: dict[str, _Job] = {}  # until their last part has been fetched
        self._watchdog = Watchdog(lambda: self._sampler.stalled_s, float(parameters_of(args)[STALL_LIMIT]))

    def execute(self, requests: list[Any]) -> list[None]:
        for request in requests:
            reply = self._responder.open(request)
            try:
                tensors = arrays_of(request)
                if CANCEL in tensors:
                    self._cancel(reply, tensors[CANCEL][0].decode())
                elif NEXT in tensors:
                    self._fetch(reply, tensors[NEXT][0].decode())
                else:
                    self._sample(reply, parameters_of_request(request).get(JOB), tensors)
            except Exception as error:
                reply.fail(error)
        return [None] * len(requests)

    def finalize(self) -> None:
        self._watchdog.close()
        self._sampler.close()
        self._responder.close()

    def _sample(self, reply: Reply, job_id: str | None, tensors: dict[str, np.ndarray]) -> None:
        """Submit a sample; its future ends the job. Raises what the sampler refuses it with."""
        missing = [name for name in self._needed if name not in tensors]
        if missing or not job_id:
            raise RequestError((*missing, JOB)[0], "missing")
        conditioned = Conditioned.from_tensors(tensors)
        parts = Mailbox(_has_image, partial(self._jobs.pop, job_id, None))
        progress = _Progress(parts, has_previews=conditioned.settings.preview_every is not None)
        callbacks = {"on_step": progress.stepped, "on_preview": progress.previewed}
        future = self._sampler.submit(SampleRequest.of(conditioned, **callbacks))
        self._jobs[job_id] = _Job(future, parts)
        future.add_done_callback(partial(_end, parts, progress, conditioned.report))
        reply.finish(_part(0))

    def _cancel(self, reply: Reply, job_id: str) -> None:
        """End a job; one that has ended already, or is being decoded, ends as it would have."""
        if job := self._jobs.get(job_id):
            job.future.cancel()
        reply.finish(_part(0))

    def _fetch(self, reply: Reply, job_id: str) -> None:
        """The job's next part, when there is one."""
        if job_id not in self._jobs:
            raise RequestError(NEXT, "no such job; it may have ended")
        self._jobs[job_id].parts.fetch(reply)


@dataclass(frozen=True)
class _Job:
    future: Future[Sample]
    parts: Mailbox


class _Progress:
    """What the caller of a job hears before the image: previews, or the number of steps now and then.

    Not both, because a preview takes a while to decode, and the steps that a caller hears of are never to fall.
    """

    def __init__(self, parts: Mailbox, has_previews: bool) -> None:
        self.num_steps = 0
        self._parts = parts
        self._has_previews = has_previews
        self._told_at = time.monotonic()

    def stepped(self, step_index: int, num_steps: int, sample: np.ndarray) -> None:
        """Between two steps of everybody's batch, so it only hands over."""
        self.num_steps = num_steps
        now = time.monotonic()
        if not self._has_previews and now - self._told_at >= SIGN_OF_LIFE_S / 2:  # before others find it too quiet
            self._told_at = now
            self._parts.send(_part(step_index + 1))

    def previewed(self, step: int, num_steps: int, image: np.ndarray) -> None:
        """On the decoding thread."""
        self._parts.send(_part(step, image=image, report=json_array({"num_steps": num_steps})))


def _end(parts: Mailbox, progress: _Progress, report: Mapping[str, Any], future: Future[Sample]) -> None:
    """The last part. Runs on the thread that ended the future, which others wait for: it only hands over."""
    if future.cancelled():
        parts.fail(RequestCancelledError("cancelled by its caller"))
    elif error := future.exception():
        parts.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))
    else:
        sample = future.result()
        report = join_reports(report, sample.report)
        parts.finish(_part(progress.num_steps, True, image=sample.image, report=json_array(report)))


def _part(step: int, is_final: bool = False, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    return {**arrays, STEP: np.array([step], np.int32), FINAL: np.array([is_final])}


def _has_image(part: Mapping[str, np.ndarray]) -> bool:
    return "image" in part
