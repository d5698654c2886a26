"""From the `cond` mapping to a picture: noise, the step-level batcher over the UNet, and the decoder.

`Sampler` is the one owner of UNet, decoder and batcher, in process and in the server alike, so both make the same pictures. It
knows no text, photo or voice. Layout: (C, H, W) samples, (H, W, 3) pictures.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from runtime.batcher import BatcherStats, Job, StepBatcher
from runtime.bundle import Bundle
from runtime.ddim import DDIMCoefficients, OnStep
from runtime.errors import EngineError, RequestError
from runtime.noise import INITIAL_NOISE, SEED_LIMIT, gaussian
from runtime.report import TIMINGS, elapsed_ms


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One picture to sample.

    cond     name -> float32 array without batch dimension, as `Conditioner` gives them
    seed     0..2**63-1
    eta      0..1, DDIM's: 0 is deterministic given the seed's initial noise, 1 adds DDPM's noise at each step
    on_step  called as on_step(step_index, num_steps, sample) between two steps of everybody's batch: it must be quick
    """

    cond: Mapping[str, np.ndarray]
    seed: int
    num_inference_steps: int
    guidance_scale: float
    eta: float = 0.0
    on_step: OnStep | None = None

    def __post_init__(self) -> None:
        # Whoever reaches the sampler past the request table still gets a coded answer.
        if not 0 <= self.seed < SEED_LIMIT:
            raise RequestError("seed", f"got {self.seed}, allowed 0..{SEED_LIMIT - 1}")
        if not np.isfinite(self.guidance_scale):
            raise RequestError("guidance_scale", f"got {self.guidance_scale}, expected a finite number")


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, (H, W, 3) uint8 sRGB, and how it was sampled."""

    image: np.ndarray
    report: dict[str, Any]


class Sampler:
    """Samples many requests at once; a context manager. Anyone may `submit`, from any thread.

    The UNet runs on the batcher's thread, the decoder on one of its own, so that no job waits for another's decoding; each
    picture is decoded alone and therefore never depends on its neighbours. The bundle stays the caller's.
    """

    def __init__(self, bundle: Bundle, max_queue: int = 64) -> None:
        self._bundle = bundle
        self._unet = bundle.engine("unet")
        self._decoder = bundle.engine("decoder") if bundle.model.is_latent else None
        self._decoding = ThreadPoolExecutor(1, "decode")
        self._batcher = StepBatcher(self._denoise, bundle.specs["unet"].ranges["B"][2], max_queue=max_queue)
        self._batcher.start()

    def submit(self, request: SampleRequest) -> Future[Sample]:
        """Queue a request. `future.cancel()` works until decoding, and stops the work at the next step.

        Raises RequestError for steps that this bundle's schedule cannot take, QueueFullError, UnavailableError after close; the
        future fails with EngineError, or with UnavailableError if the sampler is closed before the picture is done.
        """
        try:
            coefficients = DDIMCoefficients.for_steps(self._bundle.schedule, request.num_inference_steps, request.eta)
        except ValueError as error:
            raise RequestError("num_inference_steps", str(error)) from None
        answer: Future[Sample] = Future()
        job = Job(
            job_id=secrets.token_hex(4),
            sample=gaussian(request.seed, INITIAL_NOISE, self._bundle.model.sample_shape),
            cond=request.cond,
            uncond=self._bundle.uncond,
            coefficients=coefficients,
            guidance_scale=request.guidance_scale,
            seed=request.seed,
            on_step=request.on_step,
            is_cancelled=answer.cancelled,
        )
        start = time.perf_counter()
        self._batcher.submit(job).add_done_callback(partial(self._hand_over, answer, request, start))
        return answer

    @property
    def stats(self) -> BatcherStats:
        """The batcher's counters."""
        return self._batcher.stats

    def close(self, drain: bool = True) -> None:
        """Finish what was submitted (drain), or fail it with UnavailableError. Idempotent; every future is done afterwards."""
        self._batcher.close(drain)
        self._decoding.shutdown()

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    def _denoise(self, sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._unet({"sample": sample, "timestep": timestep, **cond})["noise_pred"]

    def _hand_over(
        self, answer: Future[Sample], request: SampleRequest, start: float, done: Future[np.ndarray]
    ) -> None:
        """Runs on the batcher's thread: only passes the sample on."""
        self._decoding.submit(self._finish, answer, request, start, time.perf_counter(), done)

    def _finish(
        self, answer: Future[Sample], request: SampleRequest, start: float, sampled: float, done: Future[np.ndarray]
    ) -> None:
        if not answer.set_running_or_notify_cancel():
            return  # the caller gave up; what became of the sample is nobody's business
        try:
            image = self._decode(done.result())
        except BaseException as error:
            answer.set_exception(error)
            return
        timings = {"sample": elapsed_ms(start, sampled), "decode": elapsed_ms(sampled, time.perf_counter())}
        answer.set_result(Sample(image, self._report(request) | {TIMINGS: timings}))

    def _decode(self, sample: np.ndarray) -> np.ndarray:
        """(C, H, W) float32 sample to (H, W, 3) uint8; what lies outside [-1, 1] is clipped."""
        if self._decoder is not None:
            sample = self._decoder({"latents": sample[None]})["image"][0]
            if not np.isfinite(sample).all():
                raise EngineError("decoder: output 'image' is not finite")
        levels = np.rint((np.clip(sample, -1, 1) + 1) * 127.5)
        return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))

    def _report(self, request: SampleRequest) -> dict[str, Any]:
        manifest = self._bundle.manifest
        return {
            "seed": int(request.seed),
            "num_inference_steps": int(request.num_inference_steps),
            "guidance_scale": float(request.guidance_scale),
            "engine": self._bundle.backend,
            "provider": self._unet.provider,
            "precision": manifest.precision["onnx"],
            "bundle": manifest.name,
            "bundle_sha256": self._bundle.hash,
        }
