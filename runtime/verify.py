"""Does a bundle still compute on this machine what torch computed when it was exported? Needs no torch: the answers are in the bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.manifest import PARITY, REMEDY

ONNX_PARITY = "onnx"  # the entry of the manifest's `parity` for the FP32-compute networks


@dataclass(frozen=True)
class EngineCheck:
    """One engine's largest error, relative to the largest element of the same output, and the manifest's limit for it."""

    engine: str
    relative_error: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the error is within the limit. NaN is not."""
        return self.relative_error <= self.limit


def verify(bundle: Bundle) -> Iterator[EngineCheck]:
    """Run every engine of an opened bundle (whose hashes are therefore checked) on its stored inputs.

    Raises BundleError if a reference or a limit is missing, EngineError if an engine fails.
    """
    tensors = bundle.parity_tensors()
    for name, spec in bundle.specs.items():
        try:
            inputs = {tensor.name: tensors[f"{name}.input.{tensor.name}"] for tensor in spec.inputs}
            expected = {tensor.name: tensors[f"{name}.output.{tensor.name}"] for tensor in spec.outputs}
            limit = float(bundle.manifest.parity[ONNX_PARITY][name]["limit"])
        except KeyError as error:
            raise BundleError(
                f"{PARITY}: nothing to compare engine '{name}' with, {error} is missing; {REMEDY}"
            ) from None
        outputs = bundle.engine(name)(inputs)
        errors = [_relative_error(values, outputs[output]) for output, values in expected.items()]
        yield EngineCheck(name, float(np.max(errors)), limit)  # np.max, unlike max, lets NaN through


def _relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    scale = max(float(np.max(np.abs(expected))), float(np.finfo(np.float32).tiny))  # an output may be all zeros
    return float(np.max(np.abs(expected - actual))) / scale
