"""Runs an engine with ONNX Runtime, on the CPU or through CUDA. The only file that knows that library.

A session is checked against its spec when it is opened, so a wrong file is refused before the first request.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from runtime.engines.backends import CUDA_OPTIONS
from runtime.engines.cores import usable_cores
from runtime.engines.onnx_wire import check_self_contained
from runtime.errors import BundleError, EngineError, first_line
from runtime.manifest import REMEDY
from runtime.spec import EngineSpec, TensorSpec

logger = logging.getLogger(__name__)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# The search for convolution algorithms would time them at every start, so that a restart could change an image.
PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = {
    CPU: {},
    CUDA: {**CUDA_OPTIONS, "cudnn_conv_algo_search": "DEFAULT"},
}
ORT_TYPE = {"float32": "tensor(float)", "int64": "tensor(int64)"}
# Threads of a session stay awake for its next operator. By default they do for tens of ms, and take cores from the network that is called
# next; a loop comes back within this (docs/decisions/0035).
SPIN = ("session.intra_op.spin_duration_us", "1000")
LOG_ERRORS_ONLY = 3  # warnings are about graph optimisation; failures arrive as exceptions


class OrtEngine:
    """One ONNX network in an ONNX Runtime session; see `runtime.engines.Engine` for the contract of a call.

    model    an ONNX file with its weights inside, or its bytes. The library always gets bytes: what was hashed is what is loaded,
             and a graph cannot reach for other files
    threads  within one operator; default every core this process may use
    provider the library's name of what is to compute. The library would take another one in silence; here that is an error
    in_order nodes run in the order of the file, as far as the library keeps them; its own order begins with what the last output needs

    FP16-stored weights are cast to FP32 once, here, by the library's constant folding.

    Raises BundleError if the network is not the one that `spec` describes, EngineError if the provider is missing.
    """

    def __init__(
        self,
        model: Path | bytes,
        spec: EngineSpec,
        threads: int | None = None,
        provider: str = CPU,
        in_order: bool = False,
    ) -> None:
        self.spec = spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = LOG_ERRORS_ONLY
        options.add_session_config_entry(*SPIN)
        if in_order:
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        if isinstance(model, Path):
            model = model.read_bytes()
        check_self_contained(spec.name, model)
        try:
            chosen = [(provider, dict(PROVIDER_OPTIONS[provider]))]
            self._session = onnxruntime.InferenceSession(model, options, providers=chosen)
        except Exception as error:  # the library's own exception classes have no public base
            raise BundleError(
                f"{spec.name}: onnxruntime cannot load the network: {first_line(error)}; {REMEDY}"
            ) from error
        self.provider = self._session.get_providers()[0]
        if self.provider != provider:
            raise EngineError(
                f"{spec.name}: onnxruntime chose {self.provider} instead of {provider}; is its GPU build installed, and a driver?"
            )
        _check_tensors(spec.name, "input", spec.inputs, self._session.get_inputs())
        _check_tensors(spec.name, "output", spec.outputs, self._session.get_outputs())
        self._output_names = [tensor.name for tensor in spec.outputs]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = self.spec.check_inputs(inputs)
        try:
            arrays = self._session.run(self._output_names, dict(inputs))
        except Exception as error:
            logger.error("%s: onnxruntime failed: %s", self.spec.name, error)  # may hold paths: not for callers
            raise EngineError(f"{self.spec.name}: onnxruntime failed; the log says why") from error
        outputs = {name: np.ascontiguousarray(a) for name, a in zip(self._output_names, arrays, strict=True)}
        self.spec.check_outputs(outputs, sizes)
        return outputs

    def close(self) -> None:
        """Free the session; the engine cannot be called afterwards."""
        del self._session


def _check_tensors(engine: str, kind: str, expected: tuple[TensorSpec, ...], found: list) -> None:
    """BundleError unless the session's tensors are those of the spec: names in order, types, ranks, fixed sizes."""
    names = [tensor.name for tensor in found]
    if names != [tensor.name for tensor in expected]:
        raise BundleError(f"{engine}: {kind}s are {names}, expected {[tensor.name for tensor in expected]}; {REMEDY}")
    for tensor, node in zip(expected, found, strict=True):
        # A free dimension has a name or None in the session, and a letter in the spec.
        fits = len(node.shape) == len(tensor.shape) and all(
            isinstance(want, str) != isinstance(have, int) and (isinstance(want, str) or have == want)
            for want, have in zip(tensor.shape, node.shape, strict=True)
        )
        if node.type != ORT_TYPE[tensor.dtype] or not fits:
            raise BundleError(
                f"{engine}: {kind} '{tensor.name}' is {node.type} {node.shape}, "
                f"expected {ORT_TYPE[tensor.dtype]} {list(tensor.shape)}; {REMEDY}"
            )
