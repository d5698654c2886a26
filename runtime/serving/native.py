"""Engines as Triton models of their own, for servers that have NVIDIA's backends: their configurations, from the engines' specs.

The backend `onnxruntime` runs the bundle's ONNX files, `tensorrt` one of its sets of plans. What an image is made of must not
depend on who else asks: an engine that `condition` calls is never batched with other callers' rows, because the batch size may
change the last bits of a row (it does in `fusion`, on a CPU). An engine of the sampler's is offered to callers with loops of
their own; no image of ours passes through it, so there Triton may batch. This module writes no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runtime.batcher import BUCKETS
from runtime.engines.backends import CUDA_OPTIONS
from runtime.errors import BundleError
from runtime.manifest import ONNX, ONNX_FP16, Manifest, onnx_file
from runtime.plans import PLANS, TENSORRT
from runtime.preprocess.prepared import TEXT_SOURCES
from runtime.serving.model_config import TRITON_TYPE, Symbol, Tensor, parameters
from runtime.spec import EngineSpec, TensorSpec
from runtime.wire import SAMPLER_ENGINES

CPU, GPU = "cpu", "gpu"
DEVICES = (CPU, GPU)
ONNXRUNTIME = "onnxruntime"  # Triton's backend of that name
PLATFORMS = {ONNXRUNTIME: "onnxruntime_onnx", TENSORRT: "tensorrt_plan"}
# By default the CUDA provider times convolution algorithms at every start, so that a restart can change an image. Here it is a
# parameter of the model, where 2 means "default": a model that has any parameter gets the exhaustive search unless this one says otherwise.
CUDA_PARAMETERS = {"cudnn_conv_algo_search": "2"}
HOT_ROWS = {  # rows of the calls that will come, as far as the engine takes them; one for all others
    "unet": BUCKETS,
    "text_encoder": tuple(range(1, len(TEXT_SOURCES) + 1)),
}


@dataclass(frozen=True)
class Native:
    """Which of a bundle's networks become Triton models, and what runs them.

    networks     `onnx`, `onnx-fp16`, or a set of TensorRT plans by the name of its folder in `plans/`
    device       `cpu` or `gpu`; plans need a GPU
    expose_unet  also offer the engines that the sampler runs in its own process: UNet, decoder, encoder
    """

    networks: str = ONNX
    device: str = CPU
    expose_unet: bool = False

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise BundleError(f"device: got {self.device!r}, allowed {' or '.join(DEVICES)}")

    @property
    def provider(self) -> str:
        """What computes the conditions, as the report of a request says it."""
        return f"Triton: {self.networks}, {self.device}"


@dataclass(frozen=True)
class EngineModel:
    """One engine as a Triton model; `file` is the bundle's, `served_as` its name in the version's folder."""

    spec: EngineSpec
    file: str
    sha256: str
    backend: str
    device: str

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def served_as(self) -> str:
        return "model.onnx" if self.backend == ONNXRUNTIME else "model.plan"

    def to_config(self, bundle_sha256: str) -> dict[str, Any]:
        """The content of `config.pbtxt`."""
        uses_cuda_provider = self.backend == ONNXRUNTIME and self.device == GPU
        origin = {"bundle_sha256": bundle_sha256, "file": self.file, "file_sha256": self.sha256}
        config = {
            "name": self.name,
            "platform": PLATFORMS[self.backend],
            "backend": self.backend,
            "version_policy": {"specific": {"versions": (1,)}},  # a folder that somebody adds is not served
            "default_model_filename": self.served_as,
            "max_batch_size": self.spec.ranges["B"][2],
            "input": [_tensor(tensor).to_config() for tensor in self.spec.inputs],
            "output": [_tensor(tensor).to_config() for tensor in self.spec.outputs],
            "instance_group": [{"count": 1, "kind": Symbol(f"KIND_{self.device.upper()}")}],
        }
        if self.name in SAMPLER_ENGINES:
            config["dynamic_batching"] = {"preferred_batch_size": tuple(rows for rows in self._hot_rows if rows > 1)}
        if self.backend == TENSORRT:
            config["optimization"] = {"cuda": {"graphs": True, "graph_spec": list(self._graphs())}}
        if uses_cuda_provider:
            provider = {"name": "cuda", "parameters": [{"key": k, "value": v} for k, v in CUDA_OPTIONS.items()]}
            config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [provider]}}
        return {
            **config,
            "model_warmup": list(self._warmups()),
            "response_cache": {"enable": False},  # nobody asks the same twice, and an answer would hold memory
            "parameters": parameters({**origin, **(CUDA_PARAMETERS if uses_cuda_provider else {})}),
        }

    @property
    def _hot_rows(self) -> tuple[int, ...]:
        return tuple(rows for rows in HOT_ROWS.get(self.name, (1,)) if rows <= self.spec.ranges["B"][2])

    @property
    def _lengths(self) -> tuple[int, ...]:
        """Bounds (1 = opt, 2 = max) at which the sizes beside the batch are hot: clips of any length, many of them the longest."""
        return (1, 2) if set(self.spec.ranges) - {"B"} else (1,)

    def _warmups(self) -> Iterable[dict[str, Any]]:
        """A run of zeros at every hot shape, before the model counts as ready: kernels are chosen and memory is taken then."""
        for rows in self._hot_rows:
            for bound in self._lengths:
                inputs = [
                    {
                        "key": tensor.name,
                        "value": {
                            "data_type": Symbol(TRITON_TYPE[tensor.dtype]),
                            "dims": self.spec.shape(tensor, bound)[1:] or (1,),
                            "zero_data": True,
                        },
                    }
                    for tensor in self.spec.inputs
                ]
                sizes = {letter: bounds[bound] for letter, bounds in self.spec.ranges.items()} | {"B": rows}
                name = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
                yield {"name": name, "batch_size": rows, "inputs": inputs}

    def _graphs(self) -> Iterable[dict[str, Any]]:
        """A CUDA graph for every hot shape. A graph fits one shape only; other calls run without one."""
        for rows in self._hot_rows:
            if self._lengths == (1,):  # the batch size says all; the backend takes the rest from the plan's profile
                yield {"batch_size": rows}
                continue
            for bound in self._lengths:
                shapes = [
                    {"key": tensor.name, "value": {"dim": self.spec.shape(tensor, bound)[1:]}}
                    for tensor in self.spec.inputs
                ]
                yield {"batch_size": rows, "input": shapes}


def engine_models(manifest: Manifest, native: Native) -> tuple[EngineModel, ...]:
    """The engines that become models. Raises BundleError for networks that the bundle lacks or Triton cannot run."""
    wanted = [name for name in manifest.engines if native.expose_unet or name not in SAMPLER_ENGINES]
    if native.networks in manifest.kinds:
        files = {name: onnx_file(name, native.networks) for name in wanted}
        backend = ONNXRUNTIME
    else:
        files = _plan_files(manifest, native.networks, wanted)
        backend = TENSORRT
        if native.device == CPU:
            raise BundleError(f"{native.networks}: TensorRT plans run on a GPU only; use --device {GPU}")
    return tuple(
        EngineModel(manifest.engines[name], file, manifest.files[file]["sha256"], backend, native.device)
        for name, file in files.items()
    )


def _plan_files(manifest: Manifest, folder: str, wanted: Iterable[str]) -> dict[str, str]:
    """Engine -> its plan's file, from the set that lies in `plans/<folder>`."""
    chosen = {plan.engine: plan for plan in manifest.plans if plan.file.startswith(f"{PLANS}/{folder}/")}
    if not chosen:
        sets = sorted({plan.file.split("/")[1] for plan in manifest.plans if plan.flavour == TENSORRT})
        raise BundleError(
            f"networks: bundle '{manifest.name}' has no {folder!r}; for Triton it has {', '.join((*manifest.kinds, *sets))}"
        )
    foreign = next((plan for plan in chosen.values() if plan.flavour != TENSORRT), None)
    if foreign:
        raise BundleError(
            f"{folder}: Triton's backend loads plans of TensorRT, not of {foreign.flavour}; on the GPU that will serve, run "
            f"python -m export CHECKPOINT BUNDLE --targets {ONNX},{ONNX_FP16},{TENSORRT}"
        )
    missing = [name for name in wanted if name not in chosen]
    if missing:
        raise BundleError(f"{folder}: has no plan of {', '.join(missing)}; export again with --targets {TENSORRT}")
    return {name: chosen[name].file for name in wanted}


def _tensor(tensor: TensorSpec) -> Tensor:
    dims = tuple(-1 if isinstance(size, str) else size for size in tensor.shape[1:])
    return Tensor(tensor.name, TRITON_TYPE[tensor.dtype], dims)
