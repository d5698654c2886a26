"""Runs a compiled plan with TensorRT or TensorRT-RTX. The only file of the runtime that knows these libraries.

They share one API; names here are those that TensorRT 11.4 and TensorRT-RTX 1.7 have in common. **Never executed so far**: no machine with
such a GPU was at hand. It is held against a fake of the API whose names a test compares with the real bindings; `make gpu-verify` is how it is tried.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.engines.backends import LOOP
from runtime.engines.device import Stream
from runtime.engines.loop_graph import LoopGraph
from runtime.errors import BundleError, EngineError
from runtime.plans import TENSORRT, TENSORRT_RTX
from runtime.route import Route
from runtime.spec import EngineSpec

MODULES = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt_rtx"}
LOOPS_KEPT = 4  # graphs of whole loops, each with memory of its own
AGAIN = "build it again on this machine: python -m export CHECKPOINT BUNDLE --targets"


@dataclass
class _Work:
    """An execution context for inputs of some sizes, and once it has run, the CUDA graph of what it gives to the stream."""

    context: Any
    sizes: Mapping[str, int] = field(default_factory=dict)
    graph: Any = None


class TrtEngine:
    """One plan and an execution context of its own; see `runtime.engines.Engine` for the contract of a call.

    plan  the bytes of a plan for this GPU and exactly this version of the library, which `runtime.plans.choose` sees to

    The networks of the loop are launched as one CUDA graph per batch size, the batcher's few: TensorRT-RTX does that itself, for TensorRT it
    is captured here, after a size's first call, from a context that no other size uses, because a graph keeps its context's memory.

    Buffers on the GPU belong to the engine, as large as the profile allows, and are freed by `close`. Raises BundleError if the library does
    not load the plan or its tensors are not the spec's, EngineError if the library or the GPU is missing, or the GPU's memory too small.
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
        self._config = (
            _graphs_of_its_own(library, self._engine) if flavour == TENSORRT_RTX and spec.name in LOOP else None
        )
        self._captures = flavour == TENSORRT and spec.name in LOOP
        self._stream = Stream()
        self._addresses = {
            tensor.name: self._stream.buffer(tensor.name, spec.largest_bytes(tensor))
            for tensor in (*spec.inputs, *spec.outputs)
        }
        self._fresh: _Work | None = self._new_work()  # now, so that too little memory shows here
        self._work: dict[tuple[int, ...], _Work] = {}
        self._loops: dict[tuple[int, int], LoopGraph] = {}

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes = self.spec.check_inputs(inputs)
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        work = self._work_for(sizes, arrays)
        for name, array in arrays.items():
            self._stream.upload(name, array)
        self._run(work)
        outputs = {t.name: np.empty(tuple(work.context.get_tensor_shape(t.name)), t.dtype) for t in self.spec.outputs}
        for name, array in outputs.items():
            self._stream.download(name, array)
        self._stream.wait()
        self.spec.check_outputs(outputs, sizes)
        return outputs

    def follow(self, route: Route) -> np.ndarray:
        """Where a route ends, in one launch from its second time on: see `LoopGraph`. May run beside calls. Raises EngineError."""
        key = (len(route.timesteps), len(route.conds))
        loop = self._loops.pop(key, None) or LoopGraph(self._context(), self.spec, route)
        self._loops[key] = loop  # the one used last stands last
        while len(self._loops) > LOOPS_KEPT:
            self._loops.pop(next(iter(self._loops))).close()
        return loop(route)

    def close(self) -> None:
        """Free the GPU's memory; the engine cannot be called afterwards."""
        while self._loops:
            self._loops.popitem()[1].close()
        self._stream.close()
        self._work, self._fresh = {}, None
        self._engine = self._runtime = None

    def _new_work(self) -> _Work:
        """A context that knows where its tensors are, for good."""
        context = self._context(self._config)
        for name, address in self._addresses.items():
            context.set_tensor_address(name, address)
        return _Work(context)

    def _context(self, config: Any = None) -> Any:
        """A new context. For a graph of ours it has no `config`: what captures itself cannot be captured."""
        context = self._engine.create_execution_context(*(() if config is None else (config,)))
        if context is None:
            raise EngineError(f"{self.spec.name}: {self.provider} has no memory for a context: {self._log.reason()}")
        return context

    def _work_for(self, sizes: Mapping[str, int], arrays: Mapping[str, np.ndarray]) -> _Work:
        """The one context, or each size's own where graphs are captured, told of the shapes. EngineError if it refuses them."""
        key = tuple(sizes.values()) if self._captures else ()
        work = self._work.get(key)
        if work is None:
            self._fresh = work = self._fresh or self._new_work()
        if work.sizes != sizes:
            work.sizes = {}  # a refusal may leave some shapes new and others old
            for name, array in arrays.items():
                if not work.context.set_input_shape(name, array.shape):
                    raise self._failed(f"refuses shape {array.shape} of input '{name}'")
            if missing := work.context.infer_shapes():
                raise self._failed(f"cannot tell the shapes of {', '.join(missing)}")
            work.sizes, self._work[key], self._fresh = sizes, work, None
        return work

    def _run(self, work: _Work) -> None:
        """Give the work to the stream: as its graph, or call by call, and capture that for the next time."""
        if work.graph is not None:
            self._stream.launch(work.graph)
            return

        def execute() -> bool:
            return bool(work.context.execute_async_v3(self._stream.handle))

        if not execute():
            raise self._failed("did not run")
        if self._captures:
            work.graph = self._stream.capture(execute)
            self._captures = work.graph is not None  # a plan that cannot be captured at one size cannot at another

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


def _graphs_of_its_own(library: Any, engine: Any) -> Any:
    """The configuration under which TensorRT-RTX captures and launches graphs itself, for any shapes."""
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config


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
