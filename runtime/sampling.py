"""From the `cond` mapping to a picture: noise, the step-level batcher over the UNet, and the decoder.

`Sampler` is the one owner of UNet, decoder and batcher, in process and in the server alike, so both make the same pictures. It
knows no text, photo or voice. Layout: (C, H, W) samples, (H, W, 3) pictures.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from runtime.assessment import Assessor
from runtime.batcher import BatcherStats, Observer, StepBatcher
from runtime.bundle import Bundle
from runtime.conditioned import Conditioned
from runtime.ddim import OnStep
from runtime.editing import Edit, Editor, keep_detail, keep_outside, to_levels
from runtime.errors import EngineError, QueueFullError, RequestError, UnavailableError
from runtime.guidance import Guidance
from runtime.job import Denoised, Job
from runtime.noise import INITIAL_NOISE, gaussian
from runtime.report import EDIT, S_DIR_TEXTS, TIMINGS, elapsed_ms
from runtime.request import DEFAULT_STEPS
from runtime.settings import SampleSettings
from runtime.solvers import DDIM, SOLVERS
from runtime.trajectory import GuidedTrajectory, Trajectory
from runtime.whole_loop import WholeLoop

logger = logging.getLogger(__name__)

OnPreview = Callable[[int, int, np.ndarray], None]
"""Called as on_preview(step, num_steps, image) with the (H, W, 3) uint8 picture expected after `step` of `num_steps` steps, 1-based."""


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One picture to sample.

    cond, settings, source_cond, image, mask  as in `Conditioned`
    texts         words for the photo and for what is asked, for `Assessor`; None: there are none
    on_step       called as on_step(step_index, num_steps, sample) between two steps of everybody's batch: it must be quick
    on_preview    called after every `settings.preview_every` steps but the last, from the decoding thread: it must be quick as well.
                  While one is on its way, newer ones replace each other. What it raises is logged
    is_cancelled  asked before each step, also while waiting, on the batcher's thread
    """

    cond: Mapping[str, np.ndarray]
    settings: SampleSettings
    source_cond: Mapping[str, np.ndarray] | None = None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    texts: tuple[str, str] | None = None
    on_step: OnStep | None = None
    on_preview: OnPreview | None = None
    is_cancelled: Callable[[], bool] | None = None

    @classmethod
    def of(cls, conditioned: Conditioned, **callbacks: Any) -> SampleRequest:
        """What `Conditioner` made of a request; `callbacks` are the fields from on_step on."""
        parts = (conditioned.cond, conditioned.settings, conditioned.source_cond, conditioned.image, conditioned.mask)
        return cls(*parts, texts=conditioned.report.get(S_DIR_TEXTS), **callbacks)


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, (H, W, 3) uint8 sRGB, and how it was sampled."""

    image: np.ndarray
    report: dict[str, Any]


class SamplingObserver(Observer, Protocol):
    """Who counts what the sampler does; `finished` is called on the decoding thread."""

    def finished(self, seconds: float) -> None:
        """A picture is decoded, that long after its submission."""


class Sampler:
    """Samples many requests at once; a context manager. Anyone may `submit`, from any thread.

    The UNet runs on the batcher's thread, decoder and encoder on one of their own, so that no job waits for another's decoding; each
    picture is decoded alone and therefore never depends on its neighbours. The bundle stays the caller's.

    max_queue   most requests of each priority that wait for a place in the batch, as many that wait for their turn in one go, and most
                edits whose photo waits to be encoded
    whole_loop  requests whose steps are known beforehand, and of which nobody wants to hear, run from end to end one after another
                (`runtime/whole_loop.py`), the others in the batcher. Raises EngineError where the UNet's engine cannot do that
    """

    def __init__(
        self,
        bundle: Bundle,
        max_queue: int = 64,
        observer: SamplingObserver | None = None,
        whole_loop: bool = False,
    ) -> None:
        self._bundle = bundle
        self._unet = bundle.engine("unet")
        self._whole_loop = WholeLoop(self._unet, max_queue) if whole_loop else None
        self._decoder = bundle.engine("decoder") if bundle.model.is_latent else None
        self._max_queue = max_queue
        self._observer = observer
        self._editor = Editor(bundle)
        self._assess = Assessor(bundle)
        self._decoding = ThreadPoolExecutor(1, "decode")
        self._beginning: set[Future[None]] = set()  # edits whose photo is not encoded yet
        rows = bundle.specs["unet"].ranges["B"][2]
        self._batcher = StepBatcher(self._denoise, rows, max_queue=max_queue, observer=observer)
        self._batcher.start()

    def submit(self, request: SampleRequest) -> Future[Sample]:
        """Queue a request. `future.cancel()` works until decoding, and stops the work at the next step.

        Raises RequestError for steps that this bundle's schedule cannot take, QueueFullError, UnavailableError after close; the
        future fails with EngineError, RequestCancelledError, within a step of `settings.deadline_s` with DeadlineExceededError, or
        with UnavailableError if the sampler is closed before the picture is done.
        """
        asked = _Asked(request, time.perf_counter())
        if request.settings.edit_from_timestep is None:
            self._run(asked, self._trajectory(request))
        else:
            self._editor.check(request)
            self._begin(asked)
        return asked.answer

    @property
    def stats(self) -> BatcherStats:
        """The batcher's counters."""
        return self._batcher.stats

    @property
    def stalled_s(self) -> float:
        """For a watchdog: how many seconds the step in progress has taken; 0 between steps."""
        return self._batcher.stalled_s

    def close(self, drain: bool = True) -> None:
        """Finish what was submitted (drain), or fail it with UnavailableError; a picture whose steps are being taken in one go is finished
        either way. Idempotent; every future is done afterwards."""
        if drain:
            wait(tuple(self._beginning))
        if self._whole_loop is not None:
            self._whole_loop.close(drain)
        self._batcher.close(drain)
        self._decoding.shutdown()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    def _begin(self, asked: _Asked) -> None:
        """Have the photo of an edit encoded; its steps run afterwards. Raises QueueFullError, UnavailableError."""
        if len(self._beginning) >= self._max_queue:
            raise QueueFullError(f"queue full, {self._max_queue} edits are waiting; try again later")
        try:
            beginning = self._decoding.submit(self._encode, asked)
        except RuntimeError:  # the thread has ended
            raise UnavailableError("the sampler is closed; send the request to a running replica") from None
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)

    def _encode(self, asked: _Asked) -> None:
        if asked.answer.cancelled():
            asked.answer.set_running_or_notify_cancel()
            return
        try:
            asked.edit = self._editor.edit(asked.request)
            self._run(asked, asked.edit.trajectory)
        except BaseException as error:
            if asked.answer.set_running_or_notify_cancel():
                asked.answer.set_exception(error)

    def _run(self, asked: _Asked, trajectory: Trajectory) -> None:
        """Hand the steps to the batcher. Raises QueueFullError, UnavailableError."""
        request, previews = asked.request, None
        if request.on_preview is not None:
            show = partial(self._show, asked, trajectory.num_steps)
            previews = _NewestOnly(self._decoding, show).offer
        job = Job(
            job_id=secrets.token_hex(4),
            trajectory=trajectory,
            priority=request.settings.options.priority,
            on_step=request.on_step,
            on_preview=previews,
            preview_every=request.settings.preview_every,
            is_cancelled=_any_of(asked.answer.cancelled, request.is_cancelled),
            deadline=request.settings.deadline_s,
        )
        asked.in_one_go = self._whole_loop is not None and self._whole_loop.can_take(job)
        runs = self._whole_loop if self._whole_loop is not None and asked.in_one_go else self._batcher
        runs.submit(job).add_done_callback(partial(self._hand_over, asked))

    def _trajectory(self, request: SampleRequest) -> Trajectory:
        """The course of a new face: from noise, with the solver that was asked for. Raises RequestError."""
        settings, shape = request.settings, self._bundle.model.sample_shape
        try:
            solver = SOLVERS[settings.options.sampler](self._bundle.schedule, settings.num_inference_steps, shape)
        except ValueError as error:
            raise RequestError("num_inference_steps", str(error)) from None
        interval = settings.options.guidance_interval
        guidance = Guidance(request.cond, self._bundle.uncond, settings.guidance_scale, interval)
        return GuidedTrajectory(gaussian(settings.seed, INITIAL_NOISE, shape), guidance, solver)

    def _denoise(self, sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._unet({"sample": sample, "timestep": timestep, **cond})["noise_pred"]

    def _hand_over(self, asked: _Asked, done: Future[Denoised]) -> None:
        """Runs on the batcher's thread: only passes the sample on."""
        self._decoding.submit(self._finish, asked, time.perf_counter(), done)

    def _finish(self, asked: _Asked, sampled: float, done: Future[Denoised]) -> None:
        if not asked.answer.set_running_or_notify_cancel():
            return  # the caller gave up; what became of the sample is nobody's business
        try:
            sample = self._sample(asked, done.result(), sampled)
        except BaseException as error:
            asked.answer.set_exception(error)
            return
        if self._observer is not None:
            try:
                self._observer.finished(time.perf_counter() - asked.start)
            except Exception:
                logger.exception("the sampler's observer failed")
        asked.answer.set_result(sample)

    def _sample(self, asked: _Asked, denoised: Denoised, sampled: float) -> Sample:
        """The picture and its report. Raises EngineError."""
        request, edit = asked.request, asked.edit
        image = self._decode(denoised.sample)
        if edit is not None and edit.report["detail_kept"] and request.image is not None:
            image = keep_detail(image, request.image[0], self._decode(edit.clean))
        image = _masked(request, image)
        decoded = time.perf_counter()
        timings = {
            "queue": elapsed_ms(0, denoised.queue_s),
            "sample": elapsed_ms(0, denoised.run_s),
            "decode": elapsed_ms(sampled, decoded),
        }
        if edit is not None:
            timings = {"encode": edit.encode_ms, **timings}
        seen = {}
        if request.image is not None and request.settings.options.assess:
            seen = self._assess(request.image[0], image, request.texts)
            timings["assess"] = elapsed_ms(decoded, time.perf_counter())
        return Sample(
            image,
            self._report(asked, denoised) | ({} if edit is None else {EDIT: edit.report}) | seen | {TIMINGS: timings},
        )

    def _show(self, asked: _Asked, num_steps: int, step: int, pred_x0: np.ndarray) -> None:
        """Hand a preview to its caller, unless nobody waits for it any more."""
        request = asked.request
        if asked.answer.cancelled() or request.on_preview is None:
            return
        try:
            request.on_preview(step, num_steps, _masked(request, self._decode(pred_x0)))
        except Exception:
            logger.exception("a preview of step %d failed; its picture goes on", step)

    def _decode(self, sample: np.ndarray) -> np.ndarray:
        """(C, H, W) float32 sample to (H, W, 3) uint8; what lies outside [-1, 1] is clipped."""
        if self._decoder is not None:
            sample = self._decoder({"latents": sample[None]})["image"][0]
            if not np.isfinite(sample).all():
                raise EngineError("decoder: output 'image' is not finite")
        return to_levels(sample)

    def _report(self, asked: _Asked, denoised: Denoised) -> dict[str, Any]:
        request, manifest = asked.request, self._bundle.manifest
        return {
            "seed": request.settings.seed,
            "num_inference_steps": request.settings.num_inference_steps,
            "guidance_scale": request.settings.guidance_scale,
            **_how(request.settings),
            "engine": self._bundle.backend,
            "provider": self._unet.provider,
            "precision": self._bundle.precision,
            "bundle": manifest.name,
            "bundle_sha256": self._bundle.hash,
            "unet_calls": denoised.calls,
            "unet_ms": elapsed_ms(0, denoised.model_s),
            "mean_batch": round(denoised.mean_batch, 2),
            **({"whole_loop": True} if asked.in_one_go else {}),
        }


@dataclass(eq=False)
class _Asked:
    """A submitted request, since when (`time.perf_counter()`), whose future it answers, how it is edited once that is known, and
    whether its steps are taken in one go."""

    request: SampleRequest
    start: float
    answer: Future[Sample] = field(default_factory=Future)
    edit: Edit | None = None
    in_one_go: bool = False


def _masked(request: SampleRequest, image: np.ndarray) -> np.ndarray:
    """Outside the mask of a request, the photo itself."""
    if request.mask is None or request.image is None:
        return image
    return keep_outside(image, request.image[0], request.mask[0, 0])


class _NewestOnly:
    """Hands a preview to a thread, the newest one: while it has not begun with one, a newer one takes its place."""

    def __init__(self, thread: Executor, show: Callable[[int, np.ndarray], None]) -> None:
        self._thread = thread
        self._show = show
        self._lock = threading.Lock()
        self._newest: tuple[int, np.ndarray] | None = None

    def offer(self, step: int, pred_x0: np.ndarray) -> None:
        """Called on the batcher's thread; returns at once."""
        with self._lock:
            is_waiting, self._newest = self._newest is not None, (step, pred_x0)
        if not is_waiting:
            self._thread.submit(self._take)

    def _take(self) -> None:
        with self._lock:
            newest, self._newest = self._newest, None
        assert newest is not None, "only an offer asks for this"
        self._show(*newest)


def _how(settings: SampleSettings) -> dict[str, Any]:
    """How the steps were taken, for the report. `approximates` names what a new face is a cheaper likeness of, if it is one."""
    options = settings.options
    report: dict[str, Any] = {"sampler": options.sampler}
    if options.guidance_interval is not None:
        report["guidance_interval"] = list(options.guidance_interval)
    is_exact = report == {"sampler": DDIM} and settings.num_inference_steps >= DEFAULT_STEPS
    if settings.edit_from_timestep is None and not is_exact:
        report["approximates"] = f"{DDIM}, {DEFAULT_STEPS} steps"
    return report


def _any_of(first: Callable[[], bool], second: Callable[[], bool] | None) -> Callable[[], bool]:
    return first if second is None else lambda: first() or second()
