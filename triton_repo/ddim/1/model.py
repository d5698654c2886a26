"""Triton model `ddim`: the last step of the ensemble. Hands its request to `sampler`, waits, and passes the image on.

An ensemble knows no loop of its own, so this model fetches a sample's parts until the last. It answers after `execute` has returned, so
one process that imports no engine is enough: all its requests are in the sampler's queue at once, where their priorities count.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from runtime.wire import FINAL, INNER, INNER_KEY, MAX_LIVE_REQUESTS, MODEL, OUTPUTS
from triton_repo.boundary import arrays_of, parameters_of
from triton_repo.job import Job
from triton_repo.ledger import Ledger
from triton_repo.responder import Reply, Responder
from triton_repo.sampler_process import SamplerProcess


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._ledger = Ledger(MODEL)
        self._responder = Responder(problem=SamplerProcess().problem)
        self._inner = {INNER: parameters_of(args)[INNER_KEY]}
        self._waiting = ThreadPoolExecutor(MAX_LIVE_REQUESTS, "ddim")

    def execute(self, requests: list[Any]) -> list[None]:
        for request in requests:
            reply = self._responder.open(request, self._ledger.passed_on(request))
            try:
                self._waiting.submit(self._pass_on, reply, arrays_of(request))
            except Exception as error:
                reply.fail(error)
        return [None] * len(requests)

    def finalize(self) -> None:
        self._waiting.shutdown(wait=False, cancel_futures=True)
        self._responder.close()

    def _pass_on(self, reply: Reply, conditioned: Mapping[str, np.ndarray]) -> None:
        try:
            for part in Job(reply.request_id, self._inner).parts(conditioned):
                if part[FINAL][0]:
                    reply.finish({name: part[name] for name in OUTPUTS})
        except Exception as error:
            reply.fail(error)
