"""Triton model `preprocess`: request tensors to checked, decoded and resized arrays. Bad input ends here.

The only model with optional inputs, in a process of its own, so that decoding what strangers send touches no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import QueueFullError, UnavailableError
from runtime.preprocess import Preprocessor
from runtime.request import GenerateRequest
from runtime.wire import MAX_LIVE_REQUESTS, STOPPING
from triton_repo.boundary import answered
from triton_repo.bundle import open_bundle
from triton_repo.live import LiveRequests


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = open_bundle(args)
        self._preprocess = Preprocessor(bundle.model, bundle.tokenizer_path, bundle.manifest.guidance_scale)
        self._stopping = Path(args["model_repository"]).parent / STOPPING
        self._live = LiveRequests()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [answered(request, self._prepared) for request in requests]

    def _prepared(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        self._live.enter()
        with self._live.left_on_failure():
            if self._stopping.exists():
                raise UnavailableError("the server is stopping; try again later or elsewhere")
            if self._live.count() > MAX_LIVE_REQUESTS:
                raise QueueFullError(f"{MAX_LIVE_REQUESTS} requests are live, no more are taken; try again later")
            return self._preprocess(GenerateRequest.from_tensors(tensors)).to_tensors()
