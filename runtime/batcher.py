"""Step-level batching: the one loop that denoises, for `Pipeline` and for the server alike.

Jobs at different timesteps, with different numbers of steps and different guidance, share each model call; a new job
joins at the next step and a finished or cancelled one leaves at once. It knows nothing of texts, pictures or engines:
a job is arrays, and the model is a `Denoise`.

Order. Jobs are admitted first in, first out, without overtaking, while their rows fit into `max_batch_rows`; a guided
job has two rows, conditional and unconditional. Every admitted job advances one step per call. (Jobs whose arrays differ
in name, shape or dtype cannot share a call; they stay admitted together and take turns.)

Exactness. Everything that belongs to a job (its sample, guidance, update, noise) is computed on its own float32 arrays
by elementwise operations, never across the batch. So if the model's rows are independent of each other, the result is
bit-equal alone, with strangers, or admitted mid-flight. A real engine may round differently for different batch
sizes: rows are therefore padded to the next bucket (with copies of the first row), and within one bucket its results
are bit-equal too.

Threads. Anyone may `submit`. Steps are driven by one thread at a time: the batcher's own (`start`, or `with`), or the
caller's through `run_until_idle`. Callbacks of a job and of its future run on the driving thread between two model
calls; they delay all jobs, so they hand work over, and they must not drive or close the batcher.

Layout: C, H, W of one sample; B rows of a call.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType

import numpy as np

from runtime.ddim import DDIMCoefficients, OnStep
from runtime.denoise import Denoise
from runtime.errors import (
    ClipFaceFusionError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from runtime.guidance import GUIDANCE_OFF, combine
from runtime.noise import SEED_LIMIT, gaussian, step_stream

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16)  # rows of a UNet call

Layout = tuple[tuple[str, tuple[int, ...], str], ...]
"""What must agree for two jobs to share a call: (name, shape, dtype) of the sample and of each cond array."""


@dataclass(frozen=True, eq=False)
class Job:
    """One sample to denoise. Arrays are copied on construction, so the caller may reuse its own.

    job_id          names the job in messages and logs
    sample          (C, H, W) float32, the sample at the noise level of the first timestep (initial noise, or an
                    inverted photo)
    cond            name -> array without a batch dimension
    coefficients    timesteps and update factors; they also carry eta
    uncond          the same names, shapes and dtypes as cond; may be empty when guidance_scale is 1
    guidance_scale  finite; 1 is off and saves the unconditional row
    seed            0..2**63-1, of the noise that steps with eta > 0 add (streams `step_stream(k)`)
    on_step         called after each step with (step_index from 0, number of steps, sample); the sample is read-only
                    and only lent for the call. If it raises, the job fails
    is_cancelled    asked before each step, also while waiting; True ends the job with RequestCancelledError

    Raises ValueError for arrays that cannot be denoised together.
    """

    job_id: str
    sample: np.ndarray
    cond: Mapping[str, np.ndarray]
    coefficients: DDIMCoefficients
    uncond: Mapping[str, np.ndarray] = field(default_factory=dict)
    guidance_scale: float = GUIDANCE_OFF
    seed: int = 0
    on_step: OnStep | None = None
    is_cancelled: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample", _owned(np.asarray(self.sample, dtype=np.float32)))
        object.__setattr__(self, "cond", MappingProxyType({k: _owned(v) for k, v in self.cond.items()}))
        object.__setattr__(self, "uncond", MappingProxyType({k: _owned(v) for k, v in self.uncond.items()}))
        if self.sample.ndim != 3:
            raise ValueError(f"job '{self.job_id}': sample has shape {self.sample.shape}; it must be (C, H, W)")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"job '{self.job_id}': guidance_scale={self.guidance_scale!r} must be finite")
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"job '{self.job_id}': seed={self.seed} is outside 0..{SEED_LIMIT - 1}")
        if self.is_guided and _layout(self.sample, self.uncond) != self.layout:
            raise ValueError(
                f"job '{self.job_id}': guidance_scale={self.guidance_scale} needs uncond arrays like cond; cond is "
                f"{self.layout[1:]}, uncond is {_layout(self.sample, self.uncond)[1:]}"
            )

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale != GUIDANCE_OFF

    @property
    def branches(self) -> tuple[Mapping[str, np.ndarray], ...]:
        """What each of the job's rows is conditioned on: cond, and uncond as well when guided."""
        return (self.cond, self.uncond) if self.is_guided else (self.cond,)

    @property
    def layout(self) -> Layout:
        return _layout(self.sample, self.cond)


@dataclass(frozen=True)
class BatcherStats:
    """A snapshot of the counters. Every submitted job is in exactly one of the last five.

    calls      model calls that returned     rows      rows they computed for jobs
    pad_rows   rows added to reach a bucket  refused   submissions turned away by a full queue, not in `submitted`
    """

    calls: int = 0
    rows: int = 0
    pad_rows: int = 0
    refused: int = 0
    submitted: int = 0
    waiting: int = 0
    live: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def mean_batch(self) -> float:
        """Mean rows per model call, padding not counted; 0 before the first call."""
        return self.rows / self.calls if self.calls else 0.0


class StepBatcher:
    """Runs jobs step by step in shared model calls.

        with StepBatcher(denoise, max_batch_rows=8) as batcher:      # a thread of its own
            sample = batcher.submit(job).result()

        batcher = StepBatcher(denoise, max_batch_rows=8)             # the caller's thread
        future = batcher.submit(job)
        batcher.run_until_idle()
        sample = future.result()

    denoise         called by one thread at a time; its output is read before the next call
    max_batch_rows  most rows of one call, >= 1; a guided job needs 2
    buckets         row counts that calls are padded up to; max_batch_rows always is one, so larger ones are never
                    used. None: no padding
    max_queue       most jobs that wait for admission, >= 1
    """

    def __init__(
        self,
        denoise: Denoise,
        max_batch_rows: int,
        buckets: Sequence[int] | None = BUCKETS,
        max_queue: int = 64,
    ) -> None:
        if max_batch_rows < 1 or max_queue < 1:
            raise ValueError(f"batcher: max_batch_rows={max_batch_rows} and max_queue={max_queue} must be at least 1")
        if buckets is None:
            buckets = range(1, max_batch_rows + 1)
        if any(bucket < 1 for bucket in buckets):
            raise ValueError(f"batcher: buckets={tuple(buckets)} must be at least 1")
        self._denoise = denoise
        self._max_batch_rows = max_batch_rows
        self._buckets = sorted({*buckets, max_batch_rows})
        self._max_queue = max_queue
        self._thread: threading.Thread | None = None

        self._driving = threading.Lock()  # held for a whole step: one driver at a time
        self._buffers: _CallBuffers | None = None

        self._changed = threading.Condition()  # guards all that follows, and wakes the thread
        self._waiting: deque[_Running] = deque()
        self._live: deque[_Running] = deque()  # only the driver changes it
        self._counts: Counter[str] = Counter()
        self._closed = False
        self._draining = True

    def submit(self, job: Job) -> Future[np.ndarray]:
        """Queue a job; the future yields its final sample, (C, H, W) float32, owned by the receiver.

        The future fails with RequestCancelledError, with EngineError if the model fails or returns what it must not,
        or with UnavailableError if the batcher is closed before the job is done. `future.cancel()` works while the
        job waits; `Job.is_cancelled` works always.

        Raises QueueFullError when max_queue jobs wait, UnavailableError after close, RequestError for guidance that
        can never fit.
        """
        if len(job.branches) > self._max_batch_rows:
            raise RequestError(
                "guidance_scale",
                f"{job.guidance_scale} needs {len(job.branches)} rows per call and the batcher allows "
                f"{self._max_batch_rows}; use {GUIDANCE_OFF}, or serve with a larger batch",
            )
        running = _Running(job)
        with self._changed:
            if self._closed:
                raise UnavailableError("the batcher is closed; send the request to a running replica")
            if len(self._waiting) >= self._max_queue:
                self._counts["refused"] += 1
                raise QueueFullError(f"queue full, {self._max_queue} requests are waiting; try again later")
            self._waiting.append(running)
            self._counts["submitted"] += 1
            self._changed.notify()
        return running.future

    @property
    def stats(self) -> BatcherStats:
        """The counters at one moment."""
        with self._changed:
            return BatcherStats(waiting=len(self._waiting), live=len(self._live), **self._counts)

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
        """Drop cancelled jobs, admit waiting ones, advance by one model call. False when there was nothing to advance.

        A failing model fails the jobs of that call only. An interrupt (what is no `Exception`) is raised after that.
        """
        with self._driving:
            self._drop_cancelled()
            self._admit()
            if not self._live:
                return False
            layout = self._live[0].layout
            batch = [running for running in self._live if running.layout == layout]
            self._advance(batch, layout)
            with self._changed:  # jobs of another layout are next
                self._live = deque(sorted(self._live, key=lambda running: running.layout == layout))
            return True

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
            self._changed.wait_for(lambda: self._closed or self._waiting or self._live)
            return bool(self._waiting or self._live) and (self._draining or not self._closed)

    def _drop_cancelled(self) -> None:
        with self._changed:
            present = [*self._live, *self._waiting]
        for running in present:
            try:
                cancelled = running.is_cancelled()
            except Exception:
                logger.exception("job '%s': is_cancelled raised", running.job.job_id)
                self._leave(running, EngineError(f"job '{running.job.job_id}': its is_cancelled callback failed"))
                continue
            if cancelled:
                self._leave(running, RequestCancelledError(f"job '{running.job.job_id}' was cancelled"))

    def _admit(self) -> None:
        with self._changed:
            free = self._max_batch_rows - sum(len(running.job.branches) for running in self._live)
            while self._waiting and len(self._waiting[0].job.branches) <= free:
                running = self._waiting.popleft()
                if running.claim():
                    self._live.append(running)
                    free -= len(running.job.branches)
                else:
                    self._counts["cancelled"] += 1

    def _advance(self, batch: list[_Running], layout: Layout) -> None:
        """One model call for the batch, then each job's own update."""
        if self._buffers is None or self._buffers.layout != layout:
            self._buffers = _CallBuffers(layout, self._max_batch_rows)
        rows = sum(len(running.job.branches) for running in batch)
        bucket = next(bucket for bucket in self._buckets if bucket >= rows)
        try:
            output = self._buffers.call(self._denoise, batch, bucket)
        except BaseException as error:
            logger.exception("a model call of %d rows failed", rows)
            for running in batch:
                self._leave(running, running.model_error(error))
            if not isinstance(error, Exception):
                raise
            return
        with self._changed:
            self._counts.update(calls=1, rows=rows, pad_rows=bucket - rows)
        start = 0
        for running in batch:
            stop = start + len(running.job.branches)
            try:
                running.advance(output[start:stop])
            except EngineError as error:
                self._leave(running, error)
            else:
                if running.step_index == len(running.job.coefficients):
                    self._leave(running, running.sample)
            start = stop

    def _abandon(self) -> None:
        with self._driving:
            with self._changed:
                self._closed = True
                remaining = [*self._live, *self._waiting]
            for running in remaining:
                message = f"the batcher was closed before job '{running.job.job_id}' was done; send the request again"
                self._leave(running, UnavailableError(message))

    def _leave(self, running: _Running, outcome: np.ndarray | ClipFaceFusionError) -> None:
        """Book the job out and answer its future, which nobody does twice: only the driver calls this."""
        claimed = running.claim()
        if not claimed or isinstance(outcome, RequestCancelledError):
            end = "cancelled"
        else:
            end = "failed" if isinstance(outcome, ClipFaceFusionError) else "finished"
        with self._changed:
            (self._live if running in self._live else self._waiting).remove(running)
            self._counts[end] += 1
        if not claimed:
            return
        if isinstance(outcome, ClipFaceFusionError):
            running.future.set_exception(outcome)
        else:
            running.future.set_result(outcome)


class _Running:
    """A submitted job and how far it has come. Only the driving thread changes it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.layout = job.layout
        self.sample = job.sample
        self.step_index = 0
        self.future: Future[np.ndarray] = Future()
        self._claimed: bool | None = None

    def claim(self) -> bool:
        """Take the future, so that `future.cancel()` no longer works; False if the caller cancelled it before."""
        if self._claimed is None:
            self._claimed = self.future.set_running_or_notify_cancel()
        return self._claimed

    def is_cancelled(self) -> bool:
        return self.future.cancelled() or (self.job.is_cancelled is not None and self.job.is_cancelled())

    def advance(self, rows: np.ndarray) -> None:
        """One DDIM step from the model's output rows of this job. Raises EngineError."""
        job, step_index = self.job, self.step_index
        noise = None
        if job.coefficients.needs_noise(step_index):
            noise = gaussian(job.seed, step_stream(step_index), self.sample.shape)
        with np.errstate(over="ignore", invalid="ignore"):  # the check below reports what is not finite
            noise_pred = combine(rows[1], rows[0], job.guidance_scale) if job.is_guided else rows[0]
            sample = job.coefficients.step(step_index, self.sample, noise_pred, noise)
        # Checked after the update, which an infinite prediction cannot pass (0 * inf is NaN), and which can overflow.
        if not np.isfinite(sample).all():
            raise EngineError(f"job '{job.job_id}': unet output not finite at step {step_index}")
        self.sample = sample
        self.step_index += 1
        if job.on_step is None:
            return
        lent = self.sample.view()
        lent.flags.writeable = False
        try:
            job.on_step(step_index, len(job.coefficients), lent)
        except Exception as error:
            logger.exception("job '%s': on_step raised at step %d", job.job_id, step_index)
            raise EngineError(f"job '{job.job_id}': its on_step callback failed at step {step_index}") from error

    def model_error(self, error: BaseException) -> EngineError:
        """What this job's caller is told: an EngineError's own text, of anything else only that it happened."""
        cause = str(error) if isinstance(error, EngineError) else "the model call failed; the log has the cause"
        answer = EngineError(f"job '{self.job.job_id}': unet at step {self.step_index}: {cause}")
        answer.__cause__ = error
        return answer


class _CallBuffers:
    """Input arrays of the model calls for one layout: allocated once for the largest call, the first rows of it used."""

    def __init__(self, layout: Layout, max_batch_rows: int) -> None:
        self.layout = layout
        (_, self._sample_shape, _), *cond = layout
        self._sample = np.empty((max_batch_rows, *self._sample_shape), dtype=np.float32)
        self._timestep = np.empty(max_batch_rows, dtype=np.int64)
        self._cond = {name: np.empty((max_batch_rows, *shape), dtype=dtype) for name, shape, dtype in cond}

    def call(self, denoise: Denoise, batch: Sequence[_Running], bucket: int) -> np.ndarray:
        """Fill, pad to `bucket` rows, call. (bucket, C, H, W) float32; EngineError for another shape or kind."""
        row = 0
        for running in batch:
            for cond in running.job.branches:
                self._sample[row] = running.sample
                self._timestep[row] = running.job.coefficients.timesteps[running.step_index]
                for name, array in self._cond.items():
                    array[row] = cond[name]
                row += 1
        inputs: list[np.ndarray] = [self._sample, self._timestep, *self._cond.values()]
        for array in inputs:
            array[row:bucket] = array[0]
        cond_rows = {name: array[:bucket] for name, array in self._cond.items()}
        output = np.asarray(denoise(self._sample[:bucket], self._timestep[:bucket], cond_rows))
        expected = (bucket, *self._sample_shape)
        if output.shape != expected or output.dtype.kind != "f":
            raise EngineError(f"output is {output.dtype} of shape {output.shape}; it must be float32 of {expected}")
        return output.astype(np.float32, copy=False)


def _layout(sample: np.ndarray, cond: Mapping[str, np.ndarray]) -> Layout:
    arrays = (("sample", sample), *sorted(cond.items()))
    return tuple((name, array.shape, array.dtype.str) for name, array in arrays)


def _owned(array: np.ndarray) -> np.ndarray:
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy
