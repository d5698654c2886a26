"""Which engine libraries there are, what "auto" means, and how a name becomes a loaded engine.

A new backend is one file beside this one and one line in `open_engine`. Importing this module loads no engine library.
"""

from __future__ import annotations

from runtime.engines import Engine
from runtime.errors import ClipFaceFusionError
from runtime.spec import EngineSpec

AUTO = "auto"
BACKENDS = ("onnxruntime",)  # exact engines, fastest first: "auto" takes the first


def resolve(engine: str) -> str:
    """The backend that a user's choice names; ClipFaceFusionError listing what there is."""
    if engine == AUTO:
        return BACKENDS[0]
    if engine not in BACKENDS:
        raise ClipFaceFusionError(f"engine '{engine}' does not exist; available: {', '.join((AUTO, *BACKENDS))}")
    return engine


def open_engine(backend: str, model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    """Load `model`, a serialized ONNX network, with the library of that name. Raises BundleError or EngineError."""
    assert backend == "onnxruntime", f"resolve() lets only {BACKENDS} through, got {backend}"
    from runtime.engines.ort import OrtEngine

    return OrtEngine(model, spec, threads)
