"""The whole loop as one CUDA graph: N calls of a network and N steps between them, launched at once, and nothing asked on the way.

For one number of steps and of rows. Every address in the graph is a buffer of its own, so whatever stands there when it is launched (sample,
conditions, timesteps, factors) is what it computes: another seed, prompt, schedule or guidance needs no new graph. Knows neither TensorRT nor
cuda-python: it is given a context of the one and a stream of the other. **Never executed so far**, as they.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.engines import step_kernel
from runtime.engines.device import Stream
from runtime.errors import EngineError
from runtime.route import FACTORS, Route
from runtime.spec import EngineSpec

SAMPLE, TIMESTEP, OUTPUT = "sample", "timestep", "noise_pred"  # of a UNet's spec; its other inputs are conditions
TABLE = "factors"


class LoopGraph:
    """Follows routes of one shape. Not thread-safe; `close` frees its memory.

    context  an execution context that nobody else uses
    route   one of the routes to come: it tells their shapes

    Raises EngineError if the context refuses the shapes, or the GPU's memory is too small.
    """

    def __init__(self, context: Any, spec: EngineSpec, route: Route) -> None:
        self._name, self._context = spec.name, context
        self._shape, self._steps, self._rows = route.sample.shape, len(route.timesteps), len(route.conds)
        self._stream = Stream()
        self._kernel = self._stream.kernel(step_kernel.SOURCE, step_kernel.NAME, step_kernel.OPTIONS)
        self._graph: Any = None
        shapes = {name: array.shape for name, array in self._inputs(route).items()}
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape[1:] if name == TIMESTEP else shape):
                raise EngineError(f"{self._name}: the plan refuses shape {shape} of input '{name}'")
        if missing := context.infer_shapes():
            raise EngineError(f"{self._name}: the plan cannot tell the shapes of {', '.join(missing)}")
        self._addresses = {name: self._stream.buffer(name, array.nbytes) for name, array in self._inputs(route).items()}
        self._addresses[TABLE] = self._stream.buffer(TABLE, route.factors.nbytes)
        self._addresses[OUTPUT] = self._stream.buffer(OUTPUT, self._rows * route.sample.nbytes)
        for name in (*shapes, OUTPUT):
            context.set_tensor_address(name, self._addresses[name])

    def __call__(self, route: Route) -> np.ndarray:
        """Where the route ends, (C, H, W) float32. Raises EngineError if a step could not be given to the GPU, or failed there."""
        arrays = {**self._inputs(route), TABLE: np.ascontiguousarray(route.factors, np.float32)}
        for name, array in arrays.items():
            self._stream.upload(name, array)
        if self._graph is not None:
            self._stream.launch(self._graph)
        elif not self._give():
            raise EngineError(f"{self._name}: the plan did not run")
        sample = np.empty(self._shape, np.float32)
        self._stream.download(SAMPLE, sample)
        self._stream.wait()
        # A plan may allocate when it first runs with new shapes, which no capture allows; so its first route is given call by call.
        self._graph = self._graph or self._stream.capture(self._give)
        return sample

    def close(self) -> None:
        """Free the memory. Idempotent."""
        self._stream.close()

    def _give(self) -> bool:
        """All of the work to the stream; False if the plan refuses."""
        size = int(np.prod(self._shape))
        sample, outputs = self._addresses[SAMPLE], self._addresses[OUTPUT]
        for step in range(self._steps):
            timestep = self._addresses[TIMESTEP] + step * self._rows * np.dtype(np.int64).itemsize
            self._context.set_tensor_address(TIMESTEP, timestep)
            if not self._context.execute_async_v3(self._stream.handle):
                return False
            factors = self._addresses[TABLE] + step * len(FACTORS) * np.dtype(np.float32).itemsize
            blocks = -(-size // step_kernel.THREADS)
            self._stream.run(self._kernel, blocks, step_kernel.THREADS, (sample, outputs, factors), (size, self._rows))
        return True

    def _inputs(self, route: Route) -> dict[str, np.ndarray]:
        """What stands in the network's inputs before the first step; of timesteps all, (N, R)."""
        first = route.conds[0]
        cond = {name: np.stack([each[name] for each in route.conds]) for name in first}
        return {
            SAMPLE: np.repeat(route.sample[None], self._rows, axis=0),
            TIMESTEP: np.repeat(route.timesteps[:, None], self._rows, axis=1),
            **cond,
        }
