"""Triton model `ddim`: the last step of the ensemble. Hands its request to `sampler`, waits, and passes the answer on.

An ensemble may not hold a decoupled model, so this unary one stands for it. It runs in as many processes as jobs may be live,
each of which imports no engine.
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.errors import EngineError
from runtime.wire import OUTPUTS
from triton_repo.boundary import decoded_status, refusal, status_of
from triton_repo.live import LiveRequests


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._live = LiveRequests()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._passed_on(request) for request in requests]

    def _passed_on(self, request: Any) -> Any:
        try:
            call = pb_utils.InferenceRequest(
                model_name="sampler",
                request_id=request.request_id(),
                requested_output_names=list(OUTPUTS),
                inputs=request.inputs(),
            )
            answers = [each for each in call.exec(decoupled=True) if each.has_error() or each.output_tensors()]
            if len(answers) != 1:
                raise EngineError(f"sampler: got {len(answers)} answers, expected 1")
            if answers[0].has_error():
                return refusal(*decoded_status(answers[0].error().message()))
            return pb_utils.InferenceResponse(answers[0].output_tensors())
        except Exception as error:
            return refusal(*status_of(error, request.request_id()))
        finally:
            self._live.leave()
