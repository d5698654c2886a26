"""Does a frozen engine compute what torch computes? The comparison, the sizes it is made at, and the limit with its reason.

It knows engines only by their contract, so every backend is held to the same rule. Letters as in `runtime/spec.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from export.exportable import Exportable
from export.reference import ReferenceInputs
from runtime.engines import Engine
from runtime.spec import EngineSpec

# Largest error of an FP32 engine, relative to the largest element of the same output. Another order of summation gives 1e-7 to
# 1e-5 at the depths of these networks; a wrong epsilon, a lost mask or one FP16 kernel gives 1e-3 and more.
FP32_LIMIT = 1e-4


@dataclass(frozen=True)
class Parity:
    """The worst difference between two runs: absolute, relative to the largest element of its output, and what is allowed."""

    max_abs_error: float
    relative_error: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the relative error is within the limit. NaN is not."""
        return self.relative_error <= self.limit

    def to_dict(self) -> dict[str, float]:
        """JSON form for the manifest."""
        return asdict(self)


def measure(engine: Engine, reference: Exportable, inputs: ReferenceInputs, limit: float = FP32_LIMIT) -> Parity:
    """The worst parity of `engine` with torch's `reference`, over every case of `cases` and every output."""
    found = []
    for sizes in cases(engine.spec):
        arrays = inputs(engine.spec, sizes)
        found.append(compare(run_torch(reference, arrays), engine(arrays), limit))
    return worst(found)


def cases(spec: EngineSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes to compare at: the smallest allowed, and odd ones that the exporter's example did not have."""
    low = {letter: bounds[0] for letter, bounds in spec.ranges.items()}
    odd = {
        letter: min(3, high) if letter == "B" else (low + opt) // 2 + 1
        for letter, (low, opt, high) in spec.ranges.items()
    }
    return low, odd


def compare(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], limit: float = FP32_LIMIT) -> Parity:
    """Parity of two sets of outputs by name; raises KeyError for a missing one."""
    found = []
    for name, values in expected.items():
        error = np.max(np.abs(values - actual[name]))
        scale = max(np.max(np.abs(values)), np.finfo(np.float32).tiny)  # an output may be all zeros
        found.append(Parity(float(error), float(error / scale), limit))
    return worst(found)


def worst(found: Iterable[Parity]) -> Parity:
    """The largest of each error; NaN counts as the largest."""
    found = list(found)
    return Parity(
        float(np.max([parity.max_abs_error for parity in found])),
        float(np.max([parity.relative_error for parity in found])),
        found[0].limit,
    )


@torch.no_grad()
def run_torch(engine: Exportable, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name of the torch engine for the spec's inputs by name."""
    outputs = engine(*(torch.from_numpy(inputs[tensor.name]) for tensor in engine.spec.inputs))
    return {tensor.name: output.numpy() for tensor, output in zip(engine.spec.outputs, outputs, strict=True)}
