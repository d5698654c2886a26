"""One engine's FP16 ONNX file → a compiled plan, with TensorRT-RTX (ahead of time, on any machine) or TensorRT (on the GPU it is for).

Both libraries have one API for this, and both are strongly typed: precision is what the graph says, there is no flag for it. This file
alone knows them. It uses names that TensorRT 11.4 and TensorRT-RTX 1.7 share, save where a comment says which one it is.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines import device
from runtime.engines.trt import MODULES, remembering_log
from runtime.errors import BundleError, EngineError
from runtime.plans import BUILT, PARSED, TENSORRT, TENSORRT_RTX
from runtime.spec import EngineSpec

MISSING = {
    TENSORRT_RTX: 'pip install ".[tensorrt-rtx]" (no GPU and no driver needed)',
    TENSORRT: 'on the machine with the GPU run: pip install --extra-index-url https://pypi.nvidia.com ".[tensorrt]"',
}
NO_GPU = (
    f"{TENSORRT}: no GPU here ({{reason}}), and TensorRT compiles for the GPU that it runs on; run this command on that machine. "
    f"From here, {TENSORRT_RTX}:sm75+sm80+sm86+sm89+sm120+sm121 can be compiled"
)


@dataclass(frozen=True, eq=False)
class Compiler:
    """One library, ready to build for `targets`; from `Compiler.rtx` or `Compiler.tensorrt`.

    timing_cache  file of measured kernel times that builds read and extend; TensorRT only. TensorRT-RTX measures nothing when it
                  builds, and would ignore one
    """

    flavour: str
    library: Any
    targets: tuple[str, ...]
    timing_cache: Path | None = None

    @classmethod
    def rtx(cls, targets: tuple[str, ...]) -> Compiler:
        """TensorRT-RTX for these compute capabilities. Raises BundleError if the library is missing or does not know one."""
        library = _import(TENSORRT_RTX)
        known = [name.lower() for name in library.ComputeCapability.__members__ if name.startswith("SM")]
        unknown = [target for target in targets if target not in known]
        if unknown:
            raise BundleError(
                f"{TENSORRT_RTX} {library.__version__} cannot compile for {', '.join(unknown)}; it knows {', '.join(known)}"
            )
        return cls(TENSORRT_RTX, library, targets)

    @classmethod
    def tensorrt(cls, timing_cache: Path | None = None) -> Compiler:
        """TensorRT for this machine's GPU. Raises BundleError if the library or the GPU is missing."""
        return cls(TENSORRT, _import(TENSORRT), (gpu_target(),), timing_cache)

    @property
    def version(self) -> str:
        """The library's, and so the only one that loads what this builds."""
        return str(self.library.__version__)

    def build(self, network: bytes, spec: EngineSpec) -> bytes:
        """The plan for an ONNX file's bytes, with one profile from the spec's ranges.

        The same file gives the same plan but for the numbers that the compiler's threads give to temporaries. Raises BundleError with
        the library's own words if it cannot parse the file or build the plan.
        """
        trt, log = self.library, remembering_log(self.library)
        builder = trt.Builder(log)
        definition = builder.create_network(0)
        parser = trt.OnnxParser(definition, log)
        if not parser.parse(network):
            reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise BundleError(f"{spec.name}: {self.flavour} {self.version} cannot parse the network: {reasons}")
        self._check_network(definition, spec)
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for tensor, bounds in spec.profile().items():
            profile.set_shape(tensor, *bounds)
        config.add_optimization_profile(profile)
        if self.flavour == TENSORRT_RTX:
            config.num_compute_capabilities = len(self.targets)
            for index, target in enumerate(self.targets):
                config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)
        cache = self._open_cache(config)
        plan = builder.build_serialized_network(definition, config)  # None where it fails; it never raises
        if plan is None:
            raise BundleError(
                f"{spec.name}: {self.flavour} {self.version} cannot build a plan for {'+'.join(self.targets)}: {log.reason()}. "
                "Where that names one compute capability, leave that one out of the targets"
            )
        self._save_cache(config, cache)
        return bytes(plan)

    def parse(self, plan: bytes, spec: EngineSpec) -> str:
        """How far this machine can try the plan: `parsed` if the library loads it and its tensors are the spec's, `built` without a GPU.

        Raises BundleError for a plan that a GPU of the targets refuses, or whose tensors or profile differ from the spec.
        """
        try:
            here = gpu_target()
        except BundleError:
            return BUILT  # deserializing needs a GPU, though it computes nothing
        if here not in self.targets:
            return BUILT
        trt, log = self.library, remembering_log(self.library)
        engine = trt.Runtime(log).deserialize_cuda_engine(plan)
        if engine is None:
            raise BundleError(
                f"{spec.name}: {self.flavour} {self.version} built a plan that it does not load: {log.reason()}"
            )
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            found[name] = (
                str(np.dtype(trt.nptype(engine.get_tensor_dtype(name)))),
                tuple(engine.get_tensor_shape(name)),
            )
        self._check_tensors(found, spec)
        for tensor, bounds in spec.profile().items():
            profile = [tuple(shape) for shape in engine.get_tensor_profile_shape(tensor, 0)]
            if profile != list(bounds):
                raise BundleError(
                    f"{spec.name}: the plan's profile of '{tensor}' is {profile}, expected {list(bounds)}"
                )
        return PARSED

    def _check_network(self, definition: Any, spec: EngineSpec) -> None:
        """What the library understood is what the spec promises; found before the build, where no GPU can look afterwards."""
        tensors = [definition.get_input(i) for i in range(definition.num_inputs)]
        tensors += [definition.get_output(i) for i in range(definition.num_outputs)]
        found = {t.name: (str(np.dtype(self.library.nptype(t.dtype))), tuple(t.shape)) for t in tensors}
        self._check_tensors(found, spec)

    def _check_tensors(self, found: dict[str, tuple[str, tuple[int, ...]]], spec: EngineSpec) -> None:
        expected = {}
        for tensor in (*spec.inputs, *spec.outputs):
            expected[tensor.name] = (tensor.dtype, tuple(-1 if isinstance(d, str) else d for d in tensor.shape))
        for name in {**expected, **found}:
            if not _fits(found.get(name), expected.get(name)):
                raise BundleError(
                    f"{spec.name}: {self.flavour} sees tensor '{name}' as {found.get(name)}, expected {expected.get(name)}; "
                    "this is an error of the exporter, please report it"
                )

    def _open_cache(self, config: Any) -> Any:
        if self.timing_cache is None:
            return None
        stored = self.timing_cache.read_bytes() if self.timing_cache.exists() else b""
        cache = config.create_timing_cache(stored)
        config.set_timing_cache(cache, False)  # False: times of another GPU or version are an error, not a guess
        return cache

    def _save_cache(self, config: Any, cache: Any) -> None:
        if cache is not None and self.timing_cache is not None:
            partial = self.timing_cache.with_name(self.timing_cache.name + ".partial")
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
            partial.replace(self.timing_cache)


def gpu_target() -> str:
    """The compute capability of GPU 0, "sm89". BundleError where there is none, saying what to do instead."""
    try:
        return device.gpu_target()
    except EngineError as error:
        raise BundleError(NO_GPU.format(reason=error)) from None


def _fits(found: tuple[str, tuple[int, ...]] | None, expected: tuple[str, tuple[int, ...]] | None) -> bool:
    """Equal, but that a letter with one allowed size may have become that size."""
    if found is None or expected is None or found[0] != expected[0] or len(found[1]) != len(expected[1]):
        return False
    return all(want in (-1, have) for have, want in zip(found[1], expected[1], strict=True))


def _import(flavour: str) -> Any:
    try:
        return importlib.import_module(MODULES[flavour])
    except ImportError as error:
        raise BundleError(f"{flavour}: cannot be imported ({error}); {MISSING[flavour]}") from None
