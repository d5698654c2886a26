"""Runs an engine with OpenVINO on the CPU, in FP32, or in BF16 where the processor has it. The only file that knows that library.

It compiles a network for fixed sizes into a much faster one than for free ones (the demo's UNet: 15 instead of 27 ms in BF16), so each
batch size that is met gets a compilation of its own: for the demo's UNet 0.6 CPU seconds at its first call, and 60 MB. Networks with
another free size, the length of a voice, are compiled once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino
from openvino.passes import ConstantFolding, Manager

from runtime.engines.cores import usable_cores
from runtime.engines.onnx_wire import check_self_contained
from runtime.errors import BundleError, EngineError, first_line
from runtime.manifest import REMEDY
from runtime.spec import EngineSpec, TensorSpec

logger = logging.getLogger(__name__)

DEVICE = "CPU"
FP32, BF16 = "f32", "bf16"
TYPE = {"float32": "f32", "int64": "i64"}


class OvEngine:
    """One ONNX network in OpenVINO; see `runtime.engines.Engine` for the contract of a call.

    model      the bytes of an ONNX file with its weights inside
    threads    within one operator; default every core this process may use
    precision  FP32 or BF16, of the arithmetic; inputs and outputs are the spec's either way

    Raises BundleError if the network is not the one that `spec` describes, EngineError if this processor has no BF16.
    """

    def __init__(self, model: bytes, spec: EngineSpec, threads: int | None = None, precision: str = FP32) -> None:
        self.spec = spec
        check_self_contained(spec.name, model)
        self._core = openvino.Core()
        if precision == BF16 and (why := no_bf16()):
            raise EngineError(f"{spec.name}: {why}")
        self._settings = {
            # Always said: the library's own default is BF16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
        }
        try:
            self._model = self._core.read_model(model)
        except Exception as error:  # RuntimeError today; its classes are not documented
            raise BundleError(
                f"{spec.name}: openvino cannot load the network: {first_line(error)}; {REMEDY}"
            ) from error
        _check_tensors(spec.name, "input", spec.inputs, self._model.inputs)
        _check_tensors(spec.name, "output", spec.outputs, self._model.outputs)
        _widen_weights(self._model)
        self._only_batch_is_free = set(spec.ranges) == {"B"}
        self._requests: dict[int, Any] = {}  # batch size, 0 for any -> compiled and ready to be called
        self.provider = f"OpenVINO {DEVICE} {precision}"

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = self.spec.check_inputs(inputs)
        try:
            request = self._request(sizes["B"] if self._only_batch_is_free else 0)
            answers = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            outputs = {tensor.name: np.array(answers[tensor.name], order="C") for tensor in self.spec.outputs}
        except Exception as error:
            logger.error("%s: openvino failed: %s", self.spec.name, error)  # may hold paths: not for callers
            raise EngineError(f"{self.spec.name}: openvino failed; the log says why") from error
        self.spec.check_outputs(outputs, sizes)
        return outputs

    def close(self) -> None:
        """Free everything compiled; the engine cannot be called afterwards."""
        self._requests.clear()
        del self._model, self._core

    def _request(self, batch: int) -> Any:
        """The compiled network for this batch size, 0 for any."""
        if batch not in self._requests:
            model = self._model
            if batch:
                model = model.clone()
                model.reshape({t.name: [batch, *t.shape[1:]] for t in self.spec.inputs})
            self._requests[batch] = self._core.compile_model(model, DEVICE, self._settings).create_infer_request()
        return self._requests[batch]


def _widen_weights(model: openvino.Model) -> None:
    """Cast FP16-stored weights to FP32 here, once: each compilation would do it again, and keep its own copy."""
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)


def no_bf16() -> str | None:
    """Why this machine cannot compute in BF16, and the way out; None where it can."""
    offered = openvino.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    if "BF16" in offered:
        return None
    return (
        f"this processor has no BF16 (it offers {', '.join(sorted(offered))}); use the engine openvino, which is FP32"
    )


def _check_tensors(engine: str, kind: str, expected: tuple[TensorSpec, ...], found: list[Any]) -> None:
    """BundleError unless the network's tensors are those of the spec: names in order, types, ranks, fixed sizes."""
    names = [port.any_name for port in found]
    if names != [tensor.name for tensor in expected]:
        raise BundleError(f"{engine}: {kind}s are {names}, expected {[tensor.name for tensor in expected]}; {REMEDY}")
    for tensor, port in zip(expected, found, strict=True):
        kind_found, shape = port.element_type.get_type_name(), list(port.partial_shape)
        # An output's batch may have been computed from a constant and be unknown as well as free.
        fits = len(shape) == len(tensor.shape) and all(
            size.is_dynamic if isinstance(want, str) else size.is_static and size.get_length() == want
            for want, size in zip(tensor.shape, shape, strict=True)
        )
        if kind_found != TYPE[tensor.dtype] or not fits:
            raise BundleError(
                f"{engine}: {kind} '{tensor.name}' is {kind_found} {port.partial_shape}, "
                f"expected {TYPE[tensor.dtype]} {list(tensor.shape)}; {REMEDY}"
            )
