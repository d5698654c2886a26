"""An engine that is a Triton model of the same name: a call to it is a call from this model to that one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.engines import Engine
from runtime.errors import EngineError
from runtime.spec import EngineSpec


class CalledEngine:
    """See `runtime.engines.Engine` for the contract of a call. It owns nothing: Triton loads the model and frees it."""

    def __init__(self, spec: EngineSpec, provider: str) -> None:
        self.spec = spec
        self.provider = provider

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = self.spec.check_inputs(inputs)
        call = pb_utils.InferenceRequest(
            model_name=self.spec.name,
            requested_output_names=[tensor.name for tensor in self.spec.outputs],
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
            # The answer of a model on a GPU would stay there otherwise, where numpy cannot see it.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        answer = call.exec()
        if answer.has_error():
            # Triton's words may hold paths and addresses, so they are for the log only.
            pb_utils.Logger.log_error(f"{self.spec.name}: {answer.error().message()}")
            raise EngineError(f"{self.spec.name}: the model failed; the server's log says why")
        outputs = {tensor.name(): np.array(tensor.as_numpy()) for tensor in answer.output_tensors()}
        self.spec.check_outputs(outputs, sizes)
        return outputs

    def close(self) -> None:
        """Nothing is held here."""


def open_called(model: bytes, spec: EngineSpec, provider: str) -> Engine:
    """The engine whose network Triton has loaded; the bundle's own copy of it, `model`, is not needed any more."""
    return CalledEngine(spec, provider)
