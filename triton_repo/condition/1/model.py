"""Triton model `condition`: prepared arrays to the cond entries, through the encoders that the request needs, and fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.conditioning import Conditioner
from runtime.preprocess.prepared import Prepared
from runtime.wire import NOTES, SAMPLER_ENGINES, SAMPLING_FIELDS
from triton_repo.boundary import answered, json_array
from triton_repo.bundle import open_bundle
from triton_repo.live import LiveRequests


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = open_bundle(args)
        for name in bundle.specs:
            if name not in SAMPLER_ENGINES:
                bundle.engine(name)  # now, so that no caller waits for it
        self._condition = Conditioner(bundle)
        self._live = LiveRequests()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [answered(request, self._conditioned) for request in requests]

    def _conditioned(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        with self._live.left_on_failure():
            cond, report = self._condition(Prepared.from_tensors(tensors))
        return {**cond, **{name: tensors[name] for name in SAMPLING_FIELDS}, NOTES: json_array(report)}
