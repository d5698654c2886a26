"""Request in, face out, in one process: preprocess → condition → sample, the same stages as the server's.

It owns the opened bundle and the sampler and knows no library by name; importing it loads no engine library.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.conditioning import Conditioner
from runtime.ddim import OnStep
from runtime.engines.backends import AUTO
from runtime.feature_cache import FeatureCache
from runtime.preprocess import Preprocessor
from runtime.preprocess.decode import Decode, decode
from runtime.preprocess.face import Detector
from runtime.preprocess.face_detector import FaceDetector
from runtime.report import join_reports
from runtime.request import GenerateRequest, GenerateResult, Preview
from runtime.sampling import Sample, Sampler, SampleRequest

MAX_QUEUE = 64  # requests that `batch` keeps waiting beside those in the running batch


class Pipeline:
    """Makes faces from requests with one bundle, in process. A context manager, usable from many threads.

        with Pipeline.open("bundles/demo") as pipeline:
            result = pipeline(GenerateRequest(text="a smiling old man", age=72, seed=7))

    Takes ownership of the bundle it is given. `decode` decodes the files of requests (default: in this process; strangers' files
    belong into a `DecoderProcess`), `cache` remembers what encoders gave (default: one of its default size), `whole_loop` as in `open`.
    """

    def __init__(
        self,
        bundle: Bundle,
        detector: Detector | None = None,
        decode: Decode = decode,
        cache: FeatureCache | None = None,
        whole_loop: bool = False,
    ) -> None:
        self.bundle = bundle
        self._preprocess = Preprocessor(
            bundle.model, bundle.tokenizer_path, bundle.manifest.guidance_scale, decode, detector
        )
        self._condition = Conditioner(bundle, cache)
        self._sampler = Sampler(bundle, MAX_QUEUE, whole_loop=whole_loop)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        engine: str = AUTO,
        threads: int | None = None,
        face_pack: Path | str | None = None,
        whole_loop: bool = False,
    ) -> Pipeline:
        """Open a bundle folder. `engine` is "auto" (see `resolve`) or a name; `threads` defaults to all usable cores.

        `face_pack` is the folder of an insightface pack whose detector finds and aligns the faces of photos; without one, photos
        are expected to be aligned squares. `whole_loop` takes all steps of a picture in one launch on the GPU (`runtime/whole_loop.py`),
        for the soonest single picture; TensorRT only. Raises BundleError for a bundle or a pack that is missing, damaged or foreign,
        ClipFaceFusionError for an unknown engine, EngineError for one that cannot run whole loops.
        """
        detector = None if face_pack is None else FaceDetector(Path(face_pack))
        bundle = Bundle.open(folder, engine, threads)
        try:
            return cls(bundle, detector, whole_loop=whole_loop)
        except BaseException:
            bundle.close()
            raise

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
                running.append(self._submit(request, on_step=on_step))
            results = [(report, future.result()) for report, future in running]
        except BaseException:
            for _, future in running:
                future.cancel()
            raise
        return [_result(report, sample) for report, sample in results]

    def stream(self, request: GenerateRequest) -> Iterator[Preview | GenerateResult]:
        """The previews that `request.preview_every` asks for, as they come, and last the result. Errors as in a call.

        Who takes them slowly misses some: the newest one waits. Closing the iterator early stops the work at its next step.
        """
        newest: deque[Preview] = deque(maxlen=1)
        something_new = threading.Event()

        def keep(step: int, num_steps: int, image: np.ndarray) -> None:
            newest.append(Preview(step, num_steps, image))
            something_new.set()

        report, future = self._submit(request, on_preview=keep)
        future.add_done_callback(lambda _: something_new.set())
        try:
            is_done = False
            while not is_done:
                something_new.wait()
                something_new.clear()
                is_done = future.done()  # asked first: what came before the end is shown
                if newest:
                    yield newest.pop()
            yield _result(report, future.result())
        finally:
            future.cancel()

    def close(self) -> None:
        """Finish what runs, then free the engines. Idempotent."""
        self._close(drain=True)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(drain=kind is None)

    def _submit(self, request: GenerateRequest, **callbacks: Any) -> tuple[dict[str, Any], Future[Sample]]:
        conditioned = self._condition(self._preprocess(request))
        return conditioned.report, self._sampler.submit(SampleRequest.of(conditioned, **callbacks))

    def _close(self, drain: bool) -> None:
        self._sampler.close(drain)
        self.bundle.close()


def _result(report: dict[str, Any], sample: Sample) -> GenerateResult:
    return GenerateResult(sample.image, join_reports(report, sample.report))
