"""Which engine libraries there are, what "auto" means, and how a name becomes a loaded engine.

A new backend is one file beside this one and one entry of `BACKENDS`. Importing this module loads no engine library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.engines import Engine
from runtime.errors import ClipFaceFusionError
from runtime.spec import EngineSpec

AUTO = "auto"


def resolve(engine: str) -> str:
    """The backend that a user's choice names; ClipFaceFusionError listing what there is."""
    if engine == AUTO:
        return next(iter(BACKENDS))
    if engine not in BACKENDS:
        raise ClipFaceFusionError(f"engine '{engine}' does not exist; available: {', '.join((AUTO, *BACKENDS))}")
    return engine


def open_engine(backend: str, model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    """Load `model`, a serialized ONNX network, with a backend that `resolve` gave. Raises BundleError or EngineError."""
    return BACKENDS[backend](model, spec, threads)


def _open_onnxruntime(model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    from runtime.engines.ort import OrtEngine

    return OrtEngine(model, spec, threads)


# Exact engines, fastest first: "auto" takes the first.
BACKENDS: Mapping[str, Callable[[bytes, EngineSpec, int | None], Engine]] = {"onnxruntime": _open_onnxruntime}
