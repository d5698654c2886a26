"""Triton model `condition`: prepared arrays to the cond entries, through the encoders that the request needs, and fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.conditioning import Conditioner
from runtime.preprocess.prepared import Prepared
from runtime.wire import NOTES, SAMPLING_FIELDS
from triton_repo.boundary import answered, json_array
from triton_repo.bundle import open_bundle
from triton_repo.live import LiveRequests


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._condition = Conditioner(open_bundle(args))
        self._live = LiveRequests()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [answered(request, self._conditioned) for request in requests]

    def _conditioned(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        with self._live.left_on_failure():
            cond, report = self._condition(Prepared.from_tensors(tensors))
        return {**cond, **{name: tensors[name] for name in SAMPLING_FIELDS}, NOTES: json_array(report)}
