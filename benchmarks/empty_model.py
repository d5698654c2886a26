"""A Triton model that computes nothing: it answers every request with the arrays that lie beside it. See `benchmarks/empty_chain.py`.

`ddim` still asks `sampler` for the picture, by one call, as the real one must.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from benchmarks.empty_chain import ANSWERS


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        outputs = json.loads(args["model_config"])["output"]
        texts = {tensor["name"] for tensor in outputs if tensor["data_type"] == "TYPE_STRING"}
        self._asks_sampler = args["model_name"] == "ddim"
        self._outputs = [tensor["name"] for tensor in outputs]
        with np.load(Path(args["model_repository"], ANSWERS), allow_pickle=False) as file:
            self._answers = {
                name: np.array([file[name].tobytes()], np.object_) if name in texts else file[name]
                for name in file.files
            }

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answered({tensor.name(): tensor.as_numpy() for tensor in each.inputs()}) for each in requests]

    def _answered(self, inputs: dict[str, np.ndarray]) -> Any:
        answers = self._sampled(inputs) if self._asks_sampler else self._answers
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, answers[name][None]) for name in self._outputs])

    def _sampled(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = [pb_utils.Tensor(name, array) for name, array in inputs.items()]
        request = pb_utils.InferenceRequest(model_name="sampler", requested_output_names=[], inputs=tensors)
        return {tensor.name(): tensor.as_numpy()[0] for tensor in request.exec().output_tensors()}
