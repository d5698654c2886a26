"""Does a frozen engine compute what torch computes? Torch as an engine, the sizes that engines are compared at, and the comparison.

It knows engines only by their contract, so every backend is held to the same rule; the rungs above single calls, and all limits, are
`runtime/ladder.py`. Letters as in `runtime/spec.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch

from export.exportable import Exportable
from export.reference import ReferenceInputs
from runtime.engines import Engine
from runtime.spec import EngineSpec


@dataclass(frozen=True)
class Parity:
    """The worst difference between two runs: absolute, and relative to the largest element of its output."""

    max_abs_error: float
    relative_error: float

    def to_dict(self) -> dict[str, float | None]:
        """JSON form for the manifest; None for what is not finite."""
        return {name: float(value) if np.isfinite(value) else None for name, value in asdict(self).items()}


class Answer(NamedTuple):
    """One call of an engine, arrays by the names of the spec."""

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


class TorchEngine:
    """Torch's side of an engine, by the contract of `runtime.engines.Engine`."""

    provider = "torch"

    def __init__(self, reference: Exportable) -> None:
        self.spec = reference.spec
        self._reference = reference

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.spec.check_inputs(inputs)
        return run_torch(self._reference, inputs)

    def close(self) -> None:
        """Nothing: the weights are the model's."""


def answers(reference: Engine, inputs: ReferenceInputs) -> list[Answer]:
    """What `reference` says to every case of `cases`."""
    asked = [inputs(reference.spec, sizes) for sizes in cases(reference.spec)]
    return [Answer(arrays, reference(arrays)) for arrays in asked]


def measure(engine: Engine, expected: Iterable[Answer]) -> Parity:
    """The worst parity of `engine` with these answers, over all of them and every output."""
    return worst([compare(answer.outputs, engine(answer.inputs)) for answer in expected])


def cases(spec: EngineSpec) -> tuple[dict[str, int], dict[str, int]]:
    """Sizes to compare at: the smallest allowed, and odd ones that the exporter's example did not have."""
    low = {letter: bounds[0] for letter, bounds in spec.ranges.items()}
    odd = {
        letter: min(3, high) if letter == "B" else (low + opt) // 2 + 1
        for letter, (low, opt, high) in spec.ranges.items()
    }
    return low, odd


def compare(expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]) -> Parity:
    """Parity of two sets of outputs by name; raises KeyError for a missing one."""
    found = []
    for name, values in expected.items():
        error = np.max(np.abs(values - actual[name]))
        scale = max(np.max(np.abs(values)), np.finfo(np.float32).tiny)  # an output may be all zeros
        found.append(Parity(float(error), float(error / scale)))
    return worst(found)


def worst(found: Iterable[Parity]) -> Parity:
    """The largest of each error; NaN counts as the largest."""
    found = list(found)
    return Parity(
        float(np.max([parity.max_abs_error for parity in found])),
        float(np.max([parity.relative_error for parity in found])),
    )


@torch.no_grad()
def run_torch(engine: Exportable, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name of the torch engine for the spec's inputs by name."""
    outputs = engine(*(torch.from_numpy(inputs[tensor.name]) for tensor in engine.spec.inputs))
    return {tensor.name: output.numpy() for tensor, output in zip(engine.spec.outputs, outputs, strict=True)}
