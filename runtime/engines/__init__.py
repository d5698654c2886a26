"""One contract for everything that runs a frozen network; one file per library that does.

Importing this package loads no engine library: each backend is imported when it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from runtime.route import Route
from runtime.spec import EngineSpec


class Engine(Protocol):
    """A loaded network. `spec` is its tensor contract, `provider` the library's own name of what computes it.

    Calling it takes the spec's inputs by name and returns its outputs by name, as C-contiguous arrays that the caller may
    keep. It checks names, dtypes and shapes against the spec and raises EngineError. One thread at a time may call it.
    """

    spec: EngineSpec
    provider: str

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    def close(self) -> None: ...


@runtime_checkable
class Follower(Protocol):
    """An engine of a UNet that takes all steps of a route by itself, and so is asked once for a picture."""

    def follow(self, route: Route) -> np.ndarray:
        """Where it ends, (C, H, W) float32, the caller's. One thread at a time; beside it another may call the engine. Raises EngineError."""
