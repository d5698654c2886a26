"""Runs a compiled plan with TensorRT or TensorRT-RTX. The only file of the runtime that knows these libraries.

They share one API; names here are those that TensorRT 11.4 and TensorRT-RTX 1.7 have in common. **Never executed so far**: no machine with
such a GPU was at hand. It is held against a fake of the API whose names a test compares with the real bindings; `make gpu-verify` is how it is tried.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime.engines.device import Stream
from runtime.errors import BundleError, EngineError
from runtime.plans import TENSORRT, TENSORRT_RTX
from runtime.spec import EngineSpec

MODULES = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt_rtx"}
AGAIN = "build it again on this machine: python -m export CHECKPOINT BUNDLE --targets"


class TrtEngine:
    """One plan and an execution context of its own; see `runtime.engines.Engine` for the contract of a call.

    plan  the bytes of a plan for this GPU and exactly this version of the library, which `runtime.plans.choose` sees to

    Buffers on the GPU belong to the engine and are freed by `close`. Raises BundleError if the library does not load the plan or its
    tensors are not the spec's, EngineError if the library or the GPU is missing.
    """

    def __init__(self, plan: bytes, spec: EngineSpec, flavour: str) -> None:
        self.spec, self.provider = spec, flavour
        library = import_library(flavour)
        self._log = remembering_log(library)
        self._runtime = library.Runtime(self._log)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)  # None where it fails; it never raises
        if self._engine is None:
            raise BundleError(
                f"{spec.name}: {flavour} {library.__version__} does not load the plan: {self._log.reason()}; {AGAIN} {flavour}"
            )
        self._check_tensors(library)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{spec.name}: {flavour} has no memory for a context: {self._log.reason()}")
        self._stream = Stream()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = self.spec.check_inputs(inputs)
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, array.shape):
                raise self._failed(f"refuses shape {array.shape} of input '{name}'")
            self._context.set_tensor_address(name, self._stream.upload(name, array))
        if missing := self._context.infer_shapes():
            raise self._failed(f"cannot tell the shapes of {', '.join(missing)}")
        outputs = {}
        for tensor in self.spec.outputs:
            outputs[tensor.name] = np.empty(tuple(self._context.get_tensor_shape(tensor.name)), tensor.dtype)
            self._context.set_tensor_address(tensor.name, self._stream.buffer(tensor.name, outputs[tensor.name].nbytes))
        if not self._context.execute_async_v3(self._stream.handle):
            raise self._failed("did not run")
        for name, array in outputs.items():
            self._stream.download(name, array)
        self._stream.wait()
        self.spec.check_outputs(outputs, sizes)
        return outputs

    def close(self) -> None:
        """Free the GPU's memory; the engine cannot be called afterwards."""
        self._stream.close()
        self._context = self._engine = self._runtime = None

    def _failed(self, what: str) -> EngineError:
        return EngineError(f"{self.spec.name}: {self.provider} {what}: {self._log.reason()}")

    def _check_tensors(self, library: Any) -> None:
        """BundleError unless the plan's tensors are the spec's: names, types, and shapes where both are fixed."""
        expected = {t.name: (t.dtype, t.shape) for t in (*self.spec.inputs, *self.spec.outputs)}
        found = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = str(np.dtype(library.nptype(self._engine.get_tensor_dtype(name))))
            found[name] = (dtype, tuple(self._engine.get_tensor_shape(name)))
        for name in {**expected, **found}:
            if not _fits(expected.get(name), found.get(name)):
                raise BundleError(
                    f"{self.spec.name}: the plan has tensor '{name}' as {found.get(name)}, expected {expected.get(name)}; "
                    f"{AGAIN} {self.provider}"
                )


def import_library(flavour: str) -> Any:
    """The Python bindings of a flavour; EngineError saying what to install."""
    try:
        return importlib.import_module(MODULES[flavour])
    except ImportError as error:
        raise EngineError(f'{flavour}: cannot be imported ({error}); pip install ".[{flavour}]"') from None


def _fits(expected: tuple[str, tuple[Any, ...]] | None, found: tuple[str, tuple[int, ...]] | None) -> bool:
    if expected is None or found is None or expected[0] != found[0] or len(expected[1]) != len(found[1]):
        return False
    return all(isinstance(want, str) or want == have for want, have in zip(expected[1], found[1], strict=True))


def remembering_log(library: Any) -> Any:
    """A logger of the library's own kind that prints nothing and remembers errors: `reason()` is the last ones in one line."""

    class Log(library.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

        def reason(self) -> str:
            return "; ".join(self.errors[-2:]) or "the library gave no reason"

    return Log()
