"""Request in, face out, in one process: preprocess → condition → sample, the same stages as the server's.

It owns the opened bundle and the sampler and knows no library by name; importing it loads no engine library.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.conditioning import Conditioner
from runtime.ddim import OnStep
from runtime.engines.backends import AUTO
from runtime.preprocess import Preprocessor
from runtime.report import join_reports
from runtime.request import GenerateRequest, GenerateResult
from runtime.sampling import Sample, Sampler, SampleRequest

MAX_QUEUE = 64  # requests that `batch` keeps waiting beside those in the running batch


class Pipeline:
    """Makes faces from requests with one bundle, in process. A context manager, usable from many threads.

        with Pipeline.open("bundles/demo") as pipeline:
            result = pipeline(GenerateRequest(text="a smiling old man", age=72, seed=7))

    Takes ownership of the bundle it is given.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._preprocess = Preprocessor(bundle.model, bundle.tokenizer_path, bundle.manifest.guidance_scale)
        self._condition = Conditioner(bundle)
        self._sampler = Sampler(bundle, MAX_QUEUE)

    @classmethod
    def open(cls, folder: Path | str, engine: str = AUTO, threads: int | None = None) -> Pipeline:
        """Open a bundle folder. `engine` is "auto" (the fastest exact one) or a name; `threads` defaults to all usable cores.

        Raises BundleError for a bundle that is missing, damaged or foreign, ClipFaceFusionError for an unknown engine.
        """
        return cls(Bundle.open(folder, engine, threads))

    def __call__(self, request: GenerateRequest, on_step: OnStep | None = None) -> GenerateResult:
        """One face. Raises RequestError for input that cannot be used, EngineError if a network fails.

        `on_step(step_index, num_steps, sample)` is called after each step, from the sampler's thread.
        """
        return self.batch([request], on_step)[0]

    def batch(self, requests: Iterable[GenerateRequest], on_step: OnStep | None = None) -> list[GenerateResult]:
        """Many faces, in the order of the requests; they share UNet calls, and each is what it would be alone.

        The first error is raised, and what was still running is cancelled.
        """
        running: list[tuple[dict[str, Any], Future[Sample]]] = []
        try:
            for request in requests:
                if len(running) >= MAX_QUEUE:
                    running[len(running) - MAX_QUEUE][1].result()
                running.append(self._submit(request, on_step))
            results = [(report, future.result()) for report, future in running]
        except BaseException:
            for _, future in running:
                future.cancel()
            raise
        return [GenerateResult(sample.image, join_reports(report, sample.report)) for report, sample in results]

    def close(self) -> None:
        """Finish what runs, then free the engines. Idempotent."""
        self._close(drain=True)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(drain=kind is None)

    def _submit(self, request: GenerateRequest, on_step: OnStep | None) -> tuple[dict[str, Any], Future[Sample]]:
        prepared = self._preprocess(request)
        cond, report = self._condition(prepared)
        sample = SampleRequest(
            cond=cond,
            seed=int(prepared.seed[0]),
            num_inference_steps=int(prepared.num_inference_steps[0]),
            guidance_scale=float(prepared.guidance_scale[0]),
            on_step=on_step,
        )
        return report, self._sampler.submit(sample)

    def _close(self, drain: bool) -> None:
        self._sampler.close(drain)
        self.bundle.close()
