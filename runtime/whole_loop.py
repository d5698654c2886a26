"""Whole pictures in one go: a trajectory whose steps are known beforehand is handed to an engine that takes all of them by itself.

The counterpart of the step-level batcher for a process that makes one picture at a time and wants it soonest. There is nothing between two
steps, so there are no previews, no progress and no cancelling, and a deadline is looked at once, before the first step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from runtime.engines import Engine, Follower
from runtime.errors import (
    ClipFaceFusionError,
    DeadlineExceededError,
    EngineError,
    RequestCancelledError,
    UnavailableError,
)
from runtime.job import Denoised, Job
from runtime.route import Foreseeable


class WholeLoop:
    """Walks jobs one after another, each from end to end, on a thread of its own.

    Raises EngineError for an engine that cannot take steps by itself.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(engine, Follower):
            raise EngineError(
                f"whole_loop: '{engine.provider}' runs a network call by call; engines of TensorRT and TensorRT-RTX run whole loops"
            )
        self._engine: Follower = engine
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "whole-loop")

    @staticmethod
    def can_take(job: Job) -> bool:
        """Whether its steps are known now, and nobody wants to hear of them."""
        trajectory = job.trajectory
        if job.on_step is not None or job.preview_every is not None or not isinstance(trajectory, Foreseeable):
            return False
        return trajectory.route() is not None

    def submit(self, job: Job) -> Future[Denoised]:
        """Queue a job that it can take. The future fails as the batcher's does. Raises UnavailableError after `close`."""
        try:
            return self._thread.submit(self._walk, job, self._clock())
        except RuntimeError:  # the thread has ended
            raise UnavailableError("the sampler is closed; send the request to a running replica") from None

    def close(self) -> None:
        """Finish what was submitted. Idempotent."""
        self._thread.shutdown()

    def _walk(self, job: Job, submitted: float) -> Denoised:
        started, trajectory = self._clock(), job.trajectory
        if job.is_cancelled is not None and job.is_cancelled():
            raise RequestCancelledError(f"job '{job.job_id}' was cancelled")
        if job.deadline is not None and started >= job.deadline:
            raise DeadlineExceededError(f"job '{job.job_id}': its deadline passed before its first step")
        assert isinstance(trajectory, Foreseeable), "see can_take"
        calls, rows, model_s = 0, 0, 0.0
        try:
            while (route := trajectory.route()) is not None:
                calls += len(route.timesteps)
                rows += len(route.timesteps) * len(route.conds)
                begun = self._clock()
                sample = self._engine.follow(route)
                model_s += self._clock() - begun
                trajectory.arrive(sample)
        except ClipFaceFusionError as error:
            raise EngineError(f"job '{job.job_id}': {error}") from error
        if not np.isfinite(trajectory.sample).all():
            raise EngineError(f"job '{job.job_id}': unet output not finite, in one of {calls} steps")
        if trajectory.evaluation() is not None:
            raise EngineError(f"job '{job.job_id}': its trajectory has steps that could not be foreseen")
        return Denoised(trajectory.sample, started - submitted, self._clock() - started, model_s, calls, rows / calls)
