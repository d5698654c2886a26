"""Triton model `condition`: prepared arrays to the cond entries, through the encoders that the request needs, and fusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.conditioning import Conditioner
from runtime.envelope import Envelope
from runtime.feature_cache import FeatureCache
from runtime.preprocess.prepared import Prepared
from runtime.settings import SampleSettings
from runtime.wire import FEATURE_CACHE_BYTES, INNER_KEY, MODEL, SAMPLER_ENGINES
from triton_repo.boundary import answered, arrays_of, parameters_of
from triton_repo.bundle import open_bundle
from triton_repo.ledger import Ledger
from triton_repo.metrics import CacheMetrics


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = open_bundle(args)
        parameters = parameters_of(args)
        engines = [name for name in bundle.specs if name not in SAMPLER_ENGINES]
        for name in engines:
            bundle.engine(name)  # now, so that no caller waits for it
        cache = FeatureCache(int(parameters[FEATURE_CACHE_BYTES]), CacheMetrics(engines))
        self._condition = Conditioner(bundle, cache)
        self._ledger = Ledger(MODEL, parameters[INNER_KEY])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answered(request) for request in requests]

    def _answered(self, request: Any) -> Any:
        entry = self._ledger.passed_on(request)

        def conditioned() -> Mapping[str, np.ndarray]:
            with entry.answered_on_failure():
                prepared = Prepared.from_tensors(arrays_of(request))
                SampleSettings.from_array(prepared.settings).check_deadline()  # it may have waited here for long
                tenant = Envelope.from_triton(request.request_id(), request.parameters()).tenant
                return self._condition(prepared, tenant).to_tensors()

        return answered(request, conditioned)
