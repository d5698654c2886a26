"""A job: one trajectory to walk, who wants to know about it, and how far it has come.

`Job` is what a caller hands to the batcher and `Denoised` what comes back; `RunningJob` is the batcher's own book of it. Nothing here
knows other jobs. Layout: C, H, W of the sample.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from runtime.call_buffers import layout_of_row
from runtime.ddim import OnStep
from runtime.errors import ClipFaceFusionError, DeadlineExceededError, EngineError, RequestCancelledError
from runtime.trajectory import Evaluation, Trajectory

logger = logging.getLogger(__name__)

INTERACTIVE, BULK = PRIORITIES = ("interactive", "bulk")

OnPreview = Callable[[int, np.ndarray], None]
"""Called as on_preview(steps_done, pred_x0) between two steps; the (C, H, W) float32 array is the receiver's."""


@dataclass(frozen=True, eq=False)
class Job:
    """One trajectory to walk, and who wants to know about it. The trajectory belongs to the batcher from `submit` on.

    job_id         names the job in messages and logs
    priority       one of PRIORITIES
    on_step        called after each step with (step_index from 0, number of steps, sample); the sample is read-only
                   and only lent for the call. If it raises, the job fails
    on_preview     called after every `preview_every` steps but the last, after on_step. If it raises, the job fails
    preview_every  >= 1; None: no previews
    is_cancelled   asked before each step, also while waiting; True ends the job with RequestCancelledError
    deadline       `time.monotonic()` seconds, looked at before each step, also while waiting; once passed, the job
                   ends with DeadlineExceededError

    Raises ValueError for another priority or interval.
    """

    job_id: str
    trajectory: Trajectory
    priority: str = INTERACTIVE
    on_step: OnStep | None = None
    on_preview: OnPreview | None = None
    preview_every: int | None = None
    is_cancelled: Callable[[], bool] | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ValueError(f"job '{self.job_id}': priority={self.priority!r} must be one of {', '.join(PRIORITIES)}")
        if self.preview_every is not None and self.preview_every < 1:
            raise ValueError(f"job '{self.job_id}': preview_every={self.preview_every} must be at least 1")


@dataclass(frozen=True, eq=False)
class Denoised:
    """A finished job.

    sample      (C, H, W) float32, owned by the receiver
    queue_s     seconds from `submit` to the first model call
    run_s       seconds from there to the end
    model_s     seconds of those inside model calls
    calls       model calls that it took part in
    mean_batch  mean rows of those calls, others' included, padding not
    """

    sample: np.ndarray
    queue_s: float
    run_s: float
    model_s: float
    calls: int
    mean_batch: float


class RunningJob:
    """A submitted job and how far it has come. Only the driving thread changes it."""

    def __init__(self, job: Job, now: float) -> None:
        self.job = job
        self.max_rows = job.trajectory.max_rows
        first = self._following()
        if first is None:
            raise ValueError(f"job '{job.job_id}': its trajectory has no evaluation; there is nothing to do")
        self.evaluation = first
        self.layout = layout_of_row(first.sample, first.conds[0])
        self.future: Future[Denoised] = Future()
        self._claimed: bool | None = None
        self._submitted = now
        self._started = now
        self._calls = 0
        self._batch_rows = 0
        self._model_s = 0.0

    @property
    def rows(self) -> int:
        """Rows of the next evaluation."""
        return len(self.evaluation.conds)

    def claim(self) -> bool:
        """Take the future, so that `future.cancel()` no longer works; False if the caller cancelled it before."""
        if self._claimed is None:
            self._claimed = self.future.set_running_or_notify_cancel()
        return self._claimed

    def reason_to_end(self, now: float) -> ClipFaceFusionError | None:
        """What the job's caller is told if it must not go on: cancelled, or too late."""
        job = self.job
        try:
            if self.future.cancelled() or (job.is_cancelled is not None and job.is_cancelled()):
                return RequestCancelledError(f"job '{job.job_id}' was cancelled")
        except Exception as error:
            return self.failure("its is_cancelled callback failed", error)
        if job.deadline is not None and now >= job.deadline:
            done, total = job.trajectory.steps_done, job.trajectory.num_steps
            return DeadlineExceededError(f"job '{job.job_id}': its deadline passed after {done} of {total} steps")
        return None

    def count_call(self, rows: int, now: float) -> float | None:
        """Note that a call of `rows` rows is about to be made for this job among others; how long it waited if it is its first."""
        self._calls += 1
        self._batch_rows += rows
        if self._calls > 1:
            return None
        self._started = now
        return now - self._submitted

    def count_answer(self, seconds: float) -> None:
        """Note that the call has been answered, after so long."""
        self._model_s += seconds

    def advance(self, outputs: np.ndarray, is_finite: bool) -> bool:
        """Go on with the model's rows of this job; whether that was the end. Raises EngineError."""
        job, trajectory = self.job, self.job.trajectory
        step_index = trajectory.steps_done
        if not is_finite:
            raise EngineError(f"job '{job.job_id}': unet output not finite at step {step_index}")
        try:
            pred_x0 = trajectory.pred_x0(outputs) if self._preview_is_due(step_index + 1) else None
            trajectory.advance(outputs)
            following = self._following()
        except EngineError as error:
            raise EngineError(f"job '{job.job_id}': {error}") from error
        except Exception as error:
            raise self.failure(f"its trajectory failed at step {step_index}", error) from error
        if following is None and not np.isfinite(trajectory.sample).all():  # finite predictions can overflow the update
            raise EngineError(f"job '{job.job_id}': the sample is not finite after step {step_index}")
        if trajectory.steps_done > step_index:
            self._tell(step_index, pred_x0)
        if following is None:
            return True
        self.evaluation = following
        return False

    def denoised(self, now: float) -> Denoised:
        """The outcome of a job that is done."""
        return Denoised(
            sample=self.job.trajectory.sample,
            queue_s=self._started - self._submitted,
            run_s=now - self._started,
            model_s=self._model_s,
            calls=self._calls,
            mean_batch=self._batch_rows / self._calls,
        )

    def model_error(self, error: BaseException) -> EngineError:
        """What this job's caller is told: an EngineError's own text, of anything else only that it happened."""
        cause = str(error) if isinstance(error, EngineError) else "the model call failed; the log has the cause"
        answer = EngineError(f"job '{self.job.job_id}': unet at step {self.job.trajectory.steps_done}: {cause}")
        answer.__cause__ = error
        return answer

    def failure(self, what: str, error: BaseException) -> EngineError:
        """What this job's caller is told when its own code raised; the log gets the cause."""
        logger.error("job '%s': %s", self.job.job_id, what, exc_info=error)
        answer = EngineError(f"job '{self.job.job_id}': {what}")
        answer.__cause__ = error
        return answer

    def _following(self) -> Evaluation | None:
        evaluation = self.job.trajectory.evaluation()
        if evaluation is not None and not 1 <= len(evaluation.conds) <= self.max_rows:
            raise ValueError(f"job '{self.job.job_id}': {len(evaluation.conds)} rows; 1..{self.max_rows} were reserved")
        return evaluation

    def _preview_is_due(self, steps_done: int) -> bool:
        job = self.job
        if job.on_preview is None or job.preview_every is None:
            return False
        return steps_done % job.preview_every == 0 and steps_done < job.trajectory.num_steps

    def _tell(self, step_index: int, pred_x0: np.ndarray | None) -> None:
        job = self.job
        if job.on_step is not None:
            lent = job.trajectory.sample.view()
            lent.flags.writeable = False
            try:
                job.on_step(step_index, job.trajectory.num_steps, lent)
            except Exception as error:
                raise self.failure(f"its on_step callback failed at step {step_index}", error) from error
        if job.on_preview is not None and pred_x0 is not None:
            try:
                job.on_preview(step_index + 1, pred_x0)
            except Exception as error:
                raise self.failure(f"its on_preview callback failed at step {step_index}", error) from error
