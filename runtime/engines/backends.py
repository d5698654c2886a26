"""Which engine libraries there are, what "auto" means, and how a name becomes a loaded engine.

A new backend is one file beside this one and one entry of `BACKENDS`. Importing this module loads no engine library.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.engines import Engine
from runtime.errors import ClipFaceFusionError, EngineError
from runtime.manifest import ONNX, ONNX_FP16
from runtime.plans import TENSORRT, TENSORRT_RTX
from runtime.spec import EngineSpec

AUTO = "auto"
BF16_ENGINE = "openvino-bf16"
# TF32 rounds the factors of every product to 10 bits, and is CUDA's default: an engine that calls itself exact does without.
CUDA_OPTIONS: Mapping[str, str] = {"use_tf32": "0"}
CUDA_LIBRARY = "libonnxruntime_providers_cuda.so"  # what the GPU build of onnxruntime has and the CPU build has not
LOOP = ("unet",)  # what BF16 pays for; all else runs once per request and stays exact
GPU_PACKAGE = "pip install --force-reinstall --no-deps 'onnxruntime-gpu[cuda,cudnn]==1.31.*'"


@dataclass(frozen=True)
class Backend:
    """One way to run networks.

    open       model bytes, spec, threads -> engine; raises BundleError or EngineError
    missing    why it cannot run here, and what to do about that; None where it can
    reads      which of a bundle's networks: `onnx`, `onnx-fp16`, or the plans of a TensorRT flavour
    precision  what reports say instead of the networks' own, where the library computes in less
    """

    open: Callable[[bytes, EngineSpec, int | None], Engine]
    missing: Callable[[], str | None]
    reads: str = ONNX
    precision: str | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it computes in FP32. Any other is never chosen by `auto`."""
        return self.reads == ONNX and self.precision is None


def resolve(engine: str) -> str:
    """The backend that a user's choice names; "auto" is the first exact one of `BACKENDS` that can run here.

    Raises ClipFaceFusionError listing what there is, or saying why that one cannot run.
    """
    if engine == AUTO:
        return next(name for name, backend in BACKENDS.items() if backend.is_exact and not backend.missing())
    if engine not in BACKENDS:
        raise ClipFaceFusionError(f"engine '{engine}' does not exist; available: {', '.join((AUTO, *BACKENDS))}")
    if missing := BACKENDS[engine].missing():
        raise ClipFaceFusionError(f"engine '{engine}': {missing}")
    return engine


def open_engine(backend: str, model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    """Load `model`, what the backend `reads`, with a backend that `resolve` gave. Raises BundleError or EngineError."""
    return BACKENDS[backend].open(model, spec, threads)


def _open_onnxruntime(model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    from runtime.engines.ort import OrtEngine

    return OrtEngine(model, spec, threads)


def _open_onnxruntime_cuda(model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    from runtime.engines.ort import CUDA, OrtEngine

    return OrtEngine(model, spec, threads, CUDA)


def _open_openvino(model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    from runtime.engines.ov import OvEngine

    return OvEngine(model, spec, threads)


def _open_openvino_bf16(model: bytes, spec: EngineSpec, threads: int | None) -> Engine:
    from runtime.engines.ov import BF16, FP32, OvEngine

    return OvEngine(model, spec, threads, BF16 if spec.name in LOOP else FP32)


def _open_plan(flavour: str) -> Callable[[bytes, EngineSpec, int | None], Engine]:
    def opened(plan: bytes, spec: EngineSpec, threads: int | None) -> Engine:
        from runtime.engines.trt import TrtEngine

        return TrtEngine(plan, spec, flavour)

    return opened


def _needs(library: str, extra: str) -> Callable[[], str | None]:
    """A backend for which it is enough that its library is installed."""

    def missing() -> str | None:
        installed = importlib.util.find_spec(library) is not None
        return None if installed else f'{library} is not installed: pip install ".[{extra}]"'

    return missing


def _no_cuda() -> str | None:
    package = importlib.util.find_spec("onnxruntime")  # looked at, not imported: whoever only asks loads no library
    folders = package.submodule_search_locations or () if package else ()
    if not any(Path(folder, "capi", CUDA_LIBRARY).is_file() for folder in folders):
        return f"this onnxruntime is the CPU build; as the last step of an installation: {GPU_PACKAGE}"
    return _no_gpu()


def _no_gpu() -> str | None:
    from runtime.engines.device import gpu_target

    try:
        gpu_target()
    except EngineError as error:
        return str(error)
    return None


def _no_tensorrt(flavour: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        from runtime.engines.trt import import_library

        try:
            import_library(flavour)
        except EngineError as error:
            return str(error)
        return _no_gpu()

    return missing


# Exact ones, what `auto` prefers first, then those that compute in less. What needs a GPU has not run on one yet.
# openvino's calls are 7 % shorter than onnxruntime's (demo 5.94 against 6.43 ms, latent-256 94.9 / 102, pixel-256 2475 / 2664), and as
# exact; but it compiles each batch size at its first call, while all who share the batch wait. From the start of a process
# onnxruntime is ahead until the fifth picture, and with all five sizes openvino takes 440 MB against 133 (docs/latency.md).
BACKENDS: Mapping[str, Backend] = {
    "onnxruntime-cuda": Backend(_open_onnxruntime_cuda, _no_cuda),
    "onnxruntime": Backend(_open_onnxruntime, _needs("onnxruntime", "")),
    "openvino": Backend(_open_openvino, _needs("openvino", "openvino")),
    BF16_ENGINE: Backend(
        _open_openvino_bf16,
        _needs("openvino", "openvino"),
        precision="bf16 compute in the UNet, fp32 compute elsewhere",
    ),
    "onnxruntime-cuda-fp16": Backend(_open_onnxruntime_cuda, _no_cuda, reads=ONNX_FP16),
    **{
        flavour: Backend(_open_plan(flavour), _no_tensorrt(flavour), reads=flavour)
        for flavour in (TENSORRT, TENSORRT_RTX)
    },
}
