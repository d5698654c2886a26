"""A stand-in for Triton's `onnxruntime` backend, for tests only: a Python model that runs the `model.onnx` beside it.

The tritonserver that installs with pip has the Python backend alone. It reads the same configuration as the real backend would, and
gets the same calls; what computes is ONNX Runtime, called without any code of ours. The log says which rows came together.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"], args["model_version"])
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self._name = args["model_name"]
        self._outputs = [output.name for output in self._session.get_outputs()]

    def execute(self, requests):
        shapes = {tensor.name(): list(tensor.as_numpy().shape) for tensor in requests[0].inputs()}
        pb_utils.Logger.log_info(f"came together: {json.dumps([self._name, len(requests), shapes])}")
        return [self._answered(request) for request in requests]

    def _answered(self, request):
        arrays = self._session.run(self._outputs, {tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self._outputs, arrays, strict=True)]
        return pb_utils.InferenceResponse(tensors)
