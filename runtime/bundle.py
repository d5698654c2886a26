"""An opened bundle: everything a pipeline or a server process takes from disk, checked, with engines loaded when first asked for.

It knows neither requests nor sampling. Nothing is handed out whose bytes or spec do not match the manifest.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from runtime.engines import Engine
from runtime.engines.backends import AUTO, BACKENDS, open_engine, resolve
from runtime.errors import BundleError, EngineError
from runtime.manifest import (
    CONSTANTS,
    MANIFEST_FILE,
    ONNX,
    ONNX_FP16,
    PARITY,
    REMEDY,
    TOKENIZER,
    Manifest,
    onnx_file,
    read_checked,
    sha256_of,
)
from runtime.plans import FLAVOURS, Plan, choose
from runtime.schedule import Schedule
from runtime.spec import EngineSpec, ModelSpec


class OpenEngine(Protocol):
    """Loads one network from its bytes; a test gives one that needs no file."""

    def __call__(self, model: bytes, spec: EngineSpec) -> Engine: ...


@dataclass(frozen=True, eq=False)
class Bundle:
    """One bundle, from `Bundle.open`. Engines belong to it; `close` frees them. Usable from many threads.

    hash     SHA-256 of manifest.json, in hex
    uncond   the unconditional cond mapping: name -> float32 array without batch dimension
    backend  name of the engine library
    """

    folder: Path
    manifest: Manifest
    hash: str
    uncond: Mapping[str, np.ndarray]
    backend: str
    open_engine: OpenEngine
    _engines: dict[tuple[str, str], Engine] = field(default_factory=dict, repr=False)
    _turns: dict[str, threading.Lock] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, folder: Path | str, engine: str = AUTO, threads: int | None = None) -> Bundle:
        """Check every file's SHA-256 and read what is small. `threads` per engine: default all usable cores.

        Raises BundleError for a missing, damaged or foreign bundle, ClipFaceFusionError for an engine that does not exist.
        """
        folder, backend = Path(folder), resolve(engine)
        manifest = Manifest.read(folder)
        manifest.verify(folder)
        return cls(
            folder=folder,
            manifest=manifest,
            hash=sha256_of(folder / MANIFEST_FILE),
            uncond=_uncond(_tensors(folder, manifest, CONSTANTS), manifest.model),
            backend=backend,
            open_engine=partial(open_engine, backend, threads=threads),
        )

    @property
    def model(self) -> ModelSpec:
        return self.manifest.model

    @property
    def specs(self) -> dict[str, EngineSpec]:
        return dict(self.manifest.engines)

    @property
    def schedule(self) -> Schedule:
        return self.manifest.schedule

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / TOKENIZER

    @property
    def precision(self) -> str:
        """In what its engines compute, for reports."""
        backend = BACKENDS.get(self.backend)
        computed = ONNX if self.reads == ONNX else ONNX_FP16  # plans are made from FP16 networks
        return (backend and backend.precision) or self.manifest.precision[computed]

    @property
    def reads(self) -> str:
        """Which of the bundle's networks the backend takes."""
        backend = BACKENDS.get(self.backend)  # a test's own is not listed
        return backend.reads if backend else ONNX

    def engine(self, name: str, kind: str | None = None) -> Engine:
        """The engine of that name, loaded on the first call and the same one afterwards. Raises BundleError, EngineError.

        kind  `onnx`, which computes in FP32, `onnx-fp16`, or the plans of a TensorRT flavour; default: what the backend reads
        """
        kind = kind or self.reads
        specs = self.specs
        if name not in specs:
            raise BundleError(f"bundle '{self.manifest.name}' has no engine '{name}'; it has {', '.join(specs)}")
        file = self._plan(name, kind).file if kind in FLAVOURS else onnx_file(name, kind)
        if file not in self.manifest.files:
            raise BundleError(f"bundle '{self.manifest.name}' has no {file}; export with --targets {kind}")
        with self._lock:
            if (kind, name) not in self._engines:
                model = read_checked(self.folder, file, self.manifest.files[file])
                self._engines[kind, name] = self.open_engine(model, specs[name])
            return self._engines[kind, name]

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the engine of that name answers, for engines that several threads share: one at a time, and every value finite.

        Raises BundleError, EngineError.
        """
        engine = self.engine(name)
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        with turn:
            outputs = engine(inputs)
        for output, array in outputs.items():
            if not np.isfinite(array).all():
                raise EngineError(f"{name}: output '{output}' is not finite")
        return outputs

    def _plan(self, name: str, flavour: str) -> Plan:
        """The compiled network for this machine's GPU and library."""
        from runtime.engines.device import gpu_target
        from runtime.engines.trt import import_library

        version = str(import_library(flavour).__version__)
        return choose(self.manifest.plans, [name], flavour, version, gpu_target())[name]

    def parity_tensors(self) -> dict[str, np.ndarray]:
        """Reference tensors by name, computed by torch: "<engine>.input.<tensor>", "<engine>.output.<tensor>", and the "ladder." ones."""
        return _tensors(self.folder, self.manifest, PARITY)

    def close(self) -> None:
        """Free the engines. Idempotent."""
        with self._lock:
            while self._engines:
                self._engines.popitem()[1].close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tensors(folder: Path, manifest: Manifest, name: str) -> dict[str, np.ndarray]:
    try:
        return load(read_checked(folder, name, manifest.files[name]))
    except SafetensorError as error:
        raise BundleError(f"{name}: not a safetensors file ({error}); {REMEDY}") from None


def _uncond(constants: Mapping[str, np.ndarray], model: ModelSpec) -> dict[str, np.ndarray]:
    """The "uncond.<entry>" constants, checked against the model's cond entries."""
    uncond = {}
    for entry, shape in model.cond.items():
        array = constants.get(f"uncond.{entry}")
        if array is None or array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
            found = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise BundleError(f"{CONSTANTS}: 'uncond.{entry}' is {found}, expected finite float32 {shape}; {REMEDY}")
        uncond[entry] = array
    return uncond
