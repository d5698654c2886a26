"""Step-level batching: the one loop that denoises, for `Pipeline` and for the server alike.

Jobs at different timesteps, with different numbers of steps, guidance and samplers, share each model call; a new job joins at the
next step and a finished or cancelled one leaves at once. A job is a trajectory (`runtime/trajectory.py`), which says what the model
is asked next and what the answer does; the model is a `Denoise`. This file knows no sampler, text, picture or engine.

Order. Jobs are admitted first in, first out within their priority, without overtaking, while the most rows they may ever need fit into
`max_batch_rows`. Without bulk jobs, every admitted job advances one evaluation per call. (Jobs whose arrays differ in name, shape or
dtype cannot share a call; they stay admitted together and take turns.)

Priority. Interactive jobs come first: while there are any, bulk jobs get the rows that padding would waste, and `bulk_share` of all
rows, taking turns. So a bulk job slows an interactive one down by little more than that share, and never starves; without
interactive jobs, bulk jobs have everything. An admitted bulk job that waits for its turn keeps its state.

Exactness. Everything that belongs to a job (its sample, guidance, update, noise) is computed on its own float32 arrays
by elementwise operations, never across the batch. So if the model's rows are independent of each other, the result is
bit-equal alone, with strangers, or admitted mid-flight. A real engine may round differently for different batch
sizes: rows are therefore padded to the next bucket (with copies of the first row), and within one bucket its results
are bit-equal too.

Faults. What one job does wrong costs that job: a trajectory or callback that raises, a passed deadline, model output of its rows that
is not finite. A model call that fails costs the jobs in it.

Threads. Anyone may `submit`. Steps are driven by one thread at a time: the batcher's own (`start`, or `with`), or the
caller's through `run_until_idle`. Callbacks of a job and of its future run on the driving thread between two model
calls; they delay all jobs, so they hand work over, and they must not drive or close the batcher.

Layout: C, H, W of one sample; B rows of a call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np

from runtime.call_buffers import CallBuffers
from runtime.denoise import Denoise
from runtime.errors import (
    ClipFaceFusionError,
    DeadlineExceededError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from runtime.job import BULK, INTERACTIVE, PRIORITIES, Denoised, Job, RunningJob

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16)  # rows of a UNet call
BULK_SHARE = 1 / 8  # a bulk load then costs an interactive job an eighth of its speed


@dataclass(frozen=True)
class BatcherStats:
    """A snapshot of the counters. Every submitted job is in exactly one of the last six.

    calls      model calls that returned     rows       rows they computed for jobs
    pad_rows   rows added to reach a bucket  bulk_rows  those of `rows` that were for bulk jobs
    refused    submissions turned away by a full queue, not in `submitted`
    expired    jobs ended by their deadline
    """

    calls: int = 0
    rows: int = 0
    bulk_rows: int = 0
    pad_rows: int = 0
    refused: int = 0
    submitted: int = 0
    waiting: int = 0
    live: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @property
    def mean_batch(self) -> float:
        """Mean rows per model call, padding not counted; 0 before the first call."""
        return self.rows / self.calls if self.calls else 0.0


class Observer(Protocol):
    """Who counts what the batcher does, on the driving thread between two calls. What it raises is logged and costs nobody."""

    def waited(self, seconds: float) -> None:
        """A job takes part in its first model call, that long after its submission."""

    def stepped(self, seconds: float, rows: int) -> None:
        """A model call of `rows` rows, padding left out, has returned."""


class StepBatcher:
    """Walks jobs step by step in shared model calls.

        with StepBatcher(denoise, max_batch_rows=8) as batcher:      # a thread of its own
            sample = batcher.submit(job).result().sample

        batcher = StepBatcher(denoise, max_batch_rows=8)             # the caller's thread
        future = batcher.submit(job)
        batcher.run_until_idle()
        sample = future.result().sample

    denoise         called by one thread at a time; its output is read before the next call
    max_batch_rows  most rows of one call, >= 1; a guided job needs 2
    buckets         row counts that calls are padded up to; max_batch_rows always is one, so larger ones are never
                    used. None: no padding
    max_queue       most jobs of each priority that wait for admission, >= 1
    bulk_share      least share of the rows that bulk jobs get while interactive ones run, above 0 and at most 0.5
    clock           seconds that only grow, the one of the jobs' deadlines
    observer        told of every first call and every call
    """

    def __init__(
        self,
        denoise: Denoise,
        max_batch_rows: int,
        buckets: Sequence[int] | None = BUCKETS,
        max_queue: int = 64,
        bulk_share: float = BULK_SHARE,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
    ) -> None:
        if max_batch_rows < 1 or max_queue < 1:
            raise ValueError(f"batcher: max_batch_rows={max_batch_rows} and max_queue={max_queue} must be at least 1")
        if buckets is None:
            buckets = range(1, max_batch_rows + 1)
        if any(bucket < 1 for bucket in buckets):
            raise ValueError(f"batcher: buckets={tuple(buckets)} must be at least 1")
        if not 0 < bulk_share <= 0.5:
            raise ValueError(f"batcher: bulk_share={bulk_share!r} must be above 0, and at most 0.5")
        self._denoise = denoise
        self._max_batch_rows = max_batch_rows
        self._buckets = sorted({*buckets, max_batch_rows})
        self._max_queue = max_queue
        self._bulk_per_interactive = bulk_share / (1 - bulk_share)
        self._clock = clock
        self._observer = observer
        self._thread: threading.Thread | None = None

        self._driving = threading.Lock()  # held for a whole step: one driver at a time
        self._step_started: float | None = None
        self._buffers: CallBuffers | None = None
        self._bulk_owed = 0.0  # rows that bulk jobs are due, from having waited beside interactive ones

        self._changed = threading.Condition()  # guards all that follows, and wakes the thread
        self._waiting: dict[str, deque[RunningJob]] = {priority: deque() for priority in PRIORITIES}
        # Only the driver changes it. In each, who advanced last stands last.
        self._live: dict[str, deque[RunningJob]] = {priority: deque() for priority in PRIORITIES}
        self._counts: Counter[str] = Counter()
        self._closed = False
        self._draining = True

    def submit(self, job: Job) -> Future[Denoised]:
        """Queue a job. The future fails with RequestCancelledError, DeadlineExceededError, with EngineError if the model or the
        trajectory fails or returns what it must not, or with UnavailableError if the batcher is closed before the job is
        done. `future.cancel()` works while the job waits; `Job.is_cancelled` works always.

        Raises QueueFullError when max_queue jobs of its priority wait, UnavailableError after close, RequestError for a job that can
        never fit, ValueError for a trajectory without an evaluation.
        """
        trajectory = job.trajectory
        if trajectory.max_rows > self._max_batch_rows:
            raise RequestError(
                "guidance_scale",
                f"this request needs {trajectory.max_rows} rows per call and the batcher allows {self._max_batch_rows}; "
                "use guidance_scale 1, or serve with a larger batch",
            )
        running = RunningJob(job, self._clock())
        waiting = self._waiting[job.priority]
        with self._changed:
            if self._closed:
                raise UnavailableError("the batcher is closed; send the request to a running replica")
            if len(waiting) >= self._max_queue:
                self._counts["refused"] += 1
                raise QueueFullError(f"queue full, {self._max_queue} requests are waiting; try again later")
            waiting.append(running)
            self._counts["submitted"] += 1
            self._changed.notify()
        return running.future

    @property
    def stats(self) -> BatcherStats:
        """The counters at one moment."""
        with self._changed:
            waiting, live = (sum(map(len, jobs.values())) for jobs in (self._waiting, self._live))
            return BatcherStats(waiting=waiting, live=live, **self._counts)

    @property
    def stalled_s(self) -> float:
        """For a watchdog: how many seconds the step in progress has taken, its model call and callbacks; 0 between steps."""
        started = self._step_started
        return 0.0 if started is None else self._clock() - started

    def start(self) -> None:
        """Drive the steps from a thread of the batcher's own until `close`. Raises RuntimeError when called twice."""
        if self._thread is not None:
            raise RuntimeError("batcher: already started")
        self._thread = threading.Thread(target=self.run, name="step-batcher", daemon=True)
        self._thread.start()

    def run(self) -> None:
        """The thread's body: step while there is work, sleep while there is none, return after `close`."""
        try:
            while self._wait_for_work():
                self.step()
        finally:
            self._abandon()

    def run_until_idle(self) -> None:
        """Drive the steps from the calling thread until no job is waiting or live."""
        while self.step():
            pass

    def step(self) -> bool:
        """Drop cancelled and late jobs, admit waiting ones, advance by one model call. False when there was nothing to advance.

        A failing model fails the jobs of that call only. An interrupt (what is no `Exception`) is raised after that.
        """
        with self._driving:
            self._step_started = self._clock()
            try:
                self._drop_ended()
                self._admit()
                batch = self._choose()
                if batch:
                    self._advance(batch)
                return bool(batch)
            finally:
                self._step_started = None

    def close(self, drain: bool = True) -> None:
        """Take no more jobs; finish those submitted (drain), or fail them with UnavailableError after the current call.

        When it returns, every future is done and the thread has ended. It may be called again, also to stop a drain.
        """
        with self._changed:
            self._closed = True
            self._draining = self._draining and drain
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        elif drain:
            self.run_until_idle()
        self._abandon()

    def __enter__(self) -> StepBatcher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_jobs())
            return self._has_jobs() and (self._draining or not self._closed)

    def _has_jobs(self) -> bool:
        return any(self._waiting.values()) or any(self._live.values())

    def _present(self) -> Iterator[RunningJob]:
        for priority in PRIORITIES:
            yield from self._live[priority]
            yield from self._waiting[priority]

    def _drop_ended(self) -> None:
        """Answer every job that was cancelled or whose deadline has passed."""
        with self._changed:
            present = list(self._present())
        now = self._clock()
        for running in present:
            reason = running.reason_to_end(now)
            if reason is not None:
                self._leave(running, reason)

    def _admit(self) -> None:
        with self._changed:
            for priority in PRIORITIES:
                waiting, live = self._waiting[priority], self._live[priority]
                free = self._max_batch_rows - sum(running.max_rows for running in live)
                while waiting and waiting[0].max_rows <= free:
                    running = waiting.popleft()
                    if running.claim():
                        live.append(running)
                        free -= running.max_rows
                    else:
                        self._counts["cancelled"] += 1

    def _choose(self) -> list[RunningJob]:
        """The jobs of the next call, all of one layout: bulk jobs that are due, interactive ones, then who fits into the bucket."""
        interactive, bulk = self._live[INTERACTIVE], self._live[BULK]
        due = self._bulk_owed if interactive else self._max_batch_rows
        batch: list[RunningJob] = []
        rows = 0

        def take(candidates: Sequence[RunningJob], limit: float) -> None:
            nonlocal rows
            for running in candidates:
                fits = rows + running.rows <= limit and (not batch or running.layout == batch[0].layout)
                if fits and running not in batch:
                    batch.append(running)
                    rows += running.rows

        take(bulk, due)
        take(interactive, self._max_batch_rows)
        if batch:
            take(bulk, self._bucket(rows))
        return batch

    def _bucket(self, rows: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= rows)

    def _advance(self, batch: Sequence[RunningJob]) -> None:
        """One model call for the batch, then each job's own update."""
        layout = batch[0].layout
        if self._buffers is None or self._buffers.layout != layout:
            self._buffers = CallBuffers(layout, self._max_batch_rows)
        asking, rows = self._ask(self._buffers, batch)
        if not asking:
            return
        output = self._call(self._buffers, asking, rows)
        if output is not None:
            self._settle(asking, output, self._buffers.is_finite(output, rows))
            self._rotate(asking)

    def _ask(self, buffers: CallBuffers, batch: Sequence[RunningJob]) -> tuple[list[RunningJob], int]:
        """Write what the batch asks into the call's rows; the jobs that could be written, and their rows."""
        asking, rows = [], 0
        for running in batch:
            try:
                rows = buffers.write(running.evaluation, rows)
            except Exception as error:
                self._leave(running, running.failure("its trajectory asked for what cannot be evaluated", error))
            else:
                asking.append(running)
        return asking, rows

    def _call(self, buffers: CallBuffers, asking: Sequence[RunningJob], rows: int) -> np.ndarray | None:
        """The model's answer, or None after its failure has been told to all who asked."""
        bucket, start_s = self._bucket(rows), self._clock()
        waits = [wait for running in asking if (wait := running.count_call(rows, start_s)) is not None]
        try:
            output = buffers.call(self._denoise, rows, bucket)
        except BaseException as error:
            logger.exception("a model call of %d rows failed", rows)
            for running in asking:
                self._leave(running, running.model_error(error))
            if not isinstance(error, Exception):
                raise
            return None
        seconds = self._clock() - start_s
        for running in asking:
            running.count_answer(seconds)
        bulk_rows = sum(running.rows for running in asking if running.job.priority == BULK)
        self._owe(rows - bulk_rows, bulk_rows)
        with self._changed:
            self._counts.update(calls=1, rows=rows, bulk_rows=bulk_rows, pad_rows=bucket - rows)
        if self._observer is not None:
            self._tell_observer(self._observer, waits, seconds, rows)
        return output

    def _owe(self, interactive_rows: int, bulk_rows: int) -> None:
        """Book a call's rows: what bulk jobs could not use is not saved up, and nobody is owed anything from before he came."""
        owed = self._bulk_owed + self._bulk_per_interactive * interactive_rows - bulk_rows
        self._bulk_owed = min(max(owed, 0.0), self._max_batch_rows) if self._live[BULK] else 0.0

    def _settle(self, asking: Sequence[RunningJob], output: np.ndarray, is_finite: bool) -> None:
        """Each job goes on with its own rows, and leaves if that was its end or its fault."""
        stop = 0
        with np.errstate(over="ignore", invalid="ignore"):  # the final sample is checked for what is not finite
            for running in asking:
                start, stop = stop, stop + running.rows
                outputs = output[start:stop]
                try:
                    ended = running.advance(outputs, is_finite or bool(np.isfinite(outputs).all()))
                except EngineError as error:
                    self._leave(running, error)
                except BaseException as error:
                    self._leave(running, running.failure("it was interrupted", error))
                    raise
                else:
                    if ended:
                        self._leave(running, running.denoised(self._clock()))

    def _rotate(self, advanced: Sequence[RunningJob]) -> None:
        """Let those who could not take part be the first next time."""
        with self._changed:
            for priority, live in self._live.items():
                if not set(advanced).issuperset(live):
                    self._live[priority] = deque(sorted(live, key=advanced.__contains__))

    def _tell_observer(self, observer: Observer, waits: Sequence[float], seconds: float, rows: int) -> None:
        try:
            for wait in waits:
                observer.waited(wait)
            observer.stepped(seconds, rows)
        except Exception:
            logger.exception("the batcher's observer failed")

    def _abandon(self) -> None:
        with self._driving:
            with self._changed:
                self._closed = True
                remaining = list(self._present())
            for running in remaining:
                message = f"the batcher was closed before job '{running.job.job_id}' was done; send the request again"
                self._leave(running, UnavailableError(message))

    def _leave(self, running: RunningJob, outcome: Denoised | ClipFaceFusionError) -> None:
        """Book the job out and answer its future, which nobody does twice: only the driver calls this."""
        claimed = running.claim()
        if not claimed or isinstance(outcome, RequestCancelledError):
            end = "cancelled"
        elif isinstance(outcome, DeadlineExceededError):
            end = "expired"
        else:
            end = "finished" if isinstance(outcome, Denoised) else "failed"
        with self._changed:
            live, waiting = self._live[running.job.priority], self._waiting[running.job.priority]
            (live if running in live else waiting).remove(running)
            self._counts[end] += 1
        if not claimed:
            return
        if isinstance(outcome, Denoised):
            running.future.set_result(outcome)
        else:
            running.future.set_exception(outcome)
