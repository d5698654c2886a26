"""Whole pictures in one go: a trajectory whose steps are known beforehand is handed to an engine that takes all of them by itself.

The counterpart of the step-level batcher for a process that makes one picture at a time and wants it soonest. There is nothing between two
steps, so there are no previews and no progress; cancelling, deadline and the end of the sampler are looked at once, before the first step.

Order. First in, first out within a priority. Interactive jobs come first, but while both kinds wait, every eighth picture is a bulk job's
(`BULK_SHARE`, counted in pictures as the batcher counts it in rows).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from runtime.batcher import BULK_SHARE
from runtime.engines import Engine, Follower
from runtime.errors import (
    ClipFaceFusionError,
    DeadlineExceededError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    UnavailableError,
)
from runtime.job import BULK, INTERACTIVE, PRIORITIES, Denoised, Job
from runtime.route import Foreseeable

MOST_PASSED = round(1 / BULK_SHARE) - 1  # interactive jobs that may follow each other while a bulk job waits

_Waiting = tuple[Job, float, Future[Denoised]]
"""A job, when it was submitted, and its answer."""


class WholeLoop:
    """Walks jobs one after another, each from end to end, on a thread of its own.

    max_queue  most jobs of each priority that wait for their turn, >= 1; one that was cancelled keeps its place until then

    Raises EngineError for an engine that cannot take steps by itself.
    """

    def __init__(self, engine: Engine, max_queue: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        if max_queue < 1:
            raise ValueError(f"whole_loop: max_queue={max_queue} must be at least 1")
        if not isinstance(engine, Follower):
            raise EngineError(
                f"whole_loop: '{engine.provider}' runs a network call by call; engines of TensorRT and TensorRT-RTX run whole loops"
            )
        self._engine: Follower = engine
        self._clock = clock
        self._max_queue = max_queue
        self._thread = ThreadPoolExecutor(1, "whole-loop")  # one `_walk_next` for each job
        self._lock = threading.Lock()  # guards what follows
        self._waiting: dict[str, deque[_Waiting]] = {priority: deque() for priority in PRIORITIES}
        self._passed = 0  # interactive jobs since the last bulk job, while one waits
        self._is_closed = False
        self._is_draining = True

    @staticmethod
    def can_take(job: Job) -> bool:
        """Whether its steps are known now, and nobody wants to hear of them."""
        trajectory = job.trajectory
        if job.on_step is not None or job.preview_every is not None or not isinstance(trajectory, Foreseeable):
            return False
        return trajectory.route() is not None

    def submit(self, job: Job) -> Future[Denoised]:
        """Queue a job that it can take. The future fails as the batcher's does.

        Raises QueueFullError when max_queue jobs of its priority wait, UnavailableError after `close`.
        """
        answer: Future[Denoised] = Future()
        waiting = self._waiting[job.priority]
        with self._lock:
            if self._is_closed:
                raise UnavailableError("the sampler is closed; send the request to a running replica")
            if len(waiting) >= self._max_queue:
                raise QueueFullError(f"queue full, {self._max_queue} requests are waiting; try again later")
            self._thread.submit(self._walk_next)
            waiting.append((job, self._clock(), answer))
        return answer

    def close(self, drain: bool = True) -> None:
        """Take no more jobs; finish those submitted (drain), or fail those that wait with UnavailableError once the one in progress is done.

        When it returns, every future is done. It may be called again, also to stop a drain.
        """
        with self._lock:
            self._is_closed = True
            self._is_draining = self._is_draining and drain
        self._thread.shutdown()

    def _walk_next(self) -> None:
        with self._lock:
            job, submitted, answer = self._next()
        if not answer.set_running_or_notify_cancel():
            return
        try:
            denoised = self._walk(job, submitted)
        except BaseException as error:
            answer.set_exception(error)
        else:
            answer.set_result(denoised)

    def _next(self) -> _Waiting:
        interactive, bulk = self._waiting[INTERACTIVE], self._waiting[BULK]
        is_turn_of_bulk = bool(bulk) and (not interactive or self._passed >= MOST_PASSED)
        self._passed = self._passed + 1 if bulk and not is_turn_of_bulk else 0
        return (bulk if is_turn_of_bulk else interactive).popleft()

    def _walk(self, job: Job, submitted: float) -> Denoised:
        started, trajectory = self._clock(), job.trajectory
        if not self._is_draining:
            raise UnavailableError(f"the sampler was closed before job '{job.job_id}' was done; send the request again")
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
