"""Writes a Triton model repository from a bundle: the Python models of `triton_repo/`, and a `config.pbtxt` for each.

    client ─▶ clipfacefusion (ensemble):  preprocess ─▶ condition ─▶ ddim ─▶ client
                                                                       └─ one call per image ─▶ sampler
    client ◀▶ clipfacefusion_stream:      calls preprocess, condition and sampler, and passes on what comes

Flavour `embedded`: engines run inside the Python models, through this package. Flavour `native`: each engine that `condition`
needs is a Triton model of its own, run by NVIDIA's backends (`runtime/serving/native.py`), and `condition` calls it; the loop keeps the
UNet in the sampler's process. Every tensor in a configuration derives from `runtime/request.py` (what a client sends) or
`runtime/spec.py` (what engines take); nothing of it is written by hand. The batch dimension of the Python models is 1, because
rows with different conditions cannot share tensors; many requests at once are what the sampler's batcher is for. This module
starts no server.
"""

from __future__ import annotations

import argparse
import math
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.conditioned import SOURCE
from runtime.errors import BundleError, ClipFaceFusionError
from runtime.feature_cache import DEFAULT_BYTES
from runtime.manifest import KINDS, ONNX, read_checked
from runtime.request import FIELD_BY_NAME, FIELDS
from runtime.serving.model_config import TRITON_TYPE, Symbol, Tensor, parameters, write_config
from runtime.serving.native import CPU, DEVICES, EngineModel, Native, engine_models
from runtime.spec import ModelSpec, engine_specs
from runtime.wire import (
    CANCEL,
    ENGINES,
    FACE_PACK,
    FEATURE_CACHE_BYTES,
    FINAL,
    INNER_KEY,
    MAX_UNSEEN,
    MODEL,
    NEXT,
    NOTES,
    OUTPUTS,
    SAMPLER_ENGINES,
    SETTINGS,
    STALL_LIMIT,
    STEP,
    STREAM_MODEL,
)

EMBEDDED, NATIVE = "embedded", "native"
VERSION = "1"
STEPS = ("preprocess", "condition", "ddim")  # of the ensemble, in order

STREAM_INPUTS = tuple(Tensor(row.name, TRITON_TYPE[row.dtype], (row.width,), optional=True) for row in FIELDS)
PUBLIC_INPUTS = tuple(tensor for tensor in STREAM_INPUTS if not FIELD_BY_NAME[tensor.name].stream_only)
PUBLIC_OUTPUTS = (Tensor(OUTPUTS[0], "TYPE_UINT8", (-1, -1, 3)), Tensor(OUTPUTS[1], "TYPE_STRING", (1,)))
PART_OUTPUTS = (*PUBLIC_OUTPUTS, Tensor(STEP, "TYPE_INT32", (1,)), Tensor(FINAL, "TYPE_BOOL", (1,)))
DEFAULT_STALL_LIMIT_S = 60  # the largest network on two CPU cores takes 2 s per row, and a call has 16 at most

_MASK = Tensor("mask", "TYPE_FP32", (-1, -1, -1, -1))
_CARRIED = tuple(Tensor(name, "TYPE_STRING", (1,)) for name in (SETTINGS, NOTES))


@dataclass(frozen=True)
class Model:
    """One Python model: its tensors, how many processes run it and requests may wait for one, whether it answers outside of `execute`, and parameters of its own."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    processes: int
    decoupled: bool = False
    max_queue: int | None = None  # requests that may wait for a process; None: any number
    settings: Mapping[str, str] = field(default_factory=dict)

    def to_config(self, shared: Mapping[str, str]) -> dict[str, Any]:
        """The content of `config.pbtxt`; `shared` are parameters that all models of the repository have."""
        config = {
            "name": self.name,
            "backend": "python",
            "max_batch_size": 1,
            "input": [tensor.to_config() for tensor in self.inputs],
            "output": [tensor.to_config() for tensor in self.outputs],
            "instance_group": [{"count": self.processes, "kind": Symbol("KIND_CPU")}],
            "parameters": parameters({**shared, **self.settings}),
        }
        if self.max_queue is not None:  # a batch of one: it is Triton's only queue with a limit
            config["dynamic_batching"] = {"default_queue_policy": {"max_queue_size": self.max_queue}}
        return {**config, "model_transaction_policy": {"decoupled": True}} if self.decoupled else config


def build_repository(
    bundle: Path | str,
    out: Path,
    native: Native | None = None,
    mounted_at: str | None = None,
    feature_cache_bytes: int = DEFAULT_BYTES,
    face_pack: Path | None = None,
    stall_limit_s: float = DEFAULT_STALL_LIMIT_S,
) -> Bundle:
    """Write the repository for `bundle` into the new folder `out`, whole or not at all, and give back the opened bundle.

    native               what the native flavour needs to know; None: the embedded flavour
    mounted_at           where the server will find the bundle; default: where it lies now
    feature_cache_bytes  how much of encoders' results the server remembers; 0: nothing
    face_pack            folder of the detector that finds faces in photos (`runtime/preprocess/face_detector.py`); None: photos are of
                         aligned faces
    stall_limit_s        > 0; the sampler's process ends itself, to be started again, when one call of the UNet takes longer

    Engine files are copies, written from the bytes whose SHA-256 was checked: a bundle refuses files with a second hard link,
    and a symbolic one would lead out of a repository that is mounted into a container. The Python models read the bundle in
    place: it must stay there, and a model refuses to load once its hash differs from the one recorded here.

    Raises BundleError if the bundle is not what it claims or lacks the networks, ClipFaceFusionError if `out` exists.
    """
    if out.exists():
        raise ClipFaceFusionError(f"'{out.name}' exists; a repository is written into a new folder")
    if feature_cache_bytes < 0 or not 0 < stall_limit_s < math.inf:
        raise ClipFaceFusionError(
            f"got {feature_cache_bytes} bytes of cache and a stall limit of {stall_limit_s} s; allowed are 0 or more, and above 0"
        )
    opened = Bundle.open(bundle)
    if not opened.model.cond:
        raise BundleError(
            f"bundle '{opened.manifest.name}' draws from noise alone, and the served models take conditions; use it in process: "
            "python -m runtime generate BUNDLE --seed 7 --out face.png"
        )
    shared = {
        "bundle": mounted_at or str(Path(bundle).resolve()),
        "bundle_sha256": opened.hash,
        INNER_KEY: secrets.token_hex(16),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=out.name + ".", dir=out.parent) as unfinished:
        folder = Path(unfinished, "models")
        settings = {
            "preprocess": {}
            if face_pack is None
            else {FACE_PACK: str(face_pack if mounted_at else face_pack.resolve())},
            "condition": {FEATURE_CACHE_BYTES: str(feature_cache_bytes)}
            | ({} if native is None else {ENGINES: native.provider}),
            "sampler": {STALL_LIMIT: f"{stall_limit_s:g}"},
        }
        models = [replace(each, settings=settings.get(each.name, {})) for each in python_models(opened.model)]
        for model in models:
            _write_python_model(folder, model, shared)
        for engine in engine_models(opened.manifest, native) if native else ():
            _write_engine_model(folder, engine, opened)
        (folder / MODEL / VERSION).mkdir(parents=True)
        write_config(folder / MODEL, ensemble_config([each for each in models if each.name in STEPS], shared))
        folder.rename(out)
    return opened


def python_models(model: ModelSpec) -> tuple[Model, ...]:
    """The Python models, without settings, the steps of the ensemble first."""
    prepared, conditioned = prepared_tensors(model), conditioned_tensors(model)
    # A call either begins a sample, with all of `conditioned`, or names one, with one of the other two alone.
    naming = (Tensor(name, "TYPE_STRING", (1,), optional=True) for name in (NEXT, CANCEL))
    sampled = (*(replace(t, optional=True) for t in conditioned), *naming)
    return (
        Model("preprocess", STREAM_INPUTS, prepared, processes=2, max_queue=MAX_UNSEEN),
        Model("condition", prepared, conditioned, processes=1),
        Model("ddim", conditioned, PUBLIC_OUTPUTS, processes=1),
        Model("sampler", sampled, PART_OUTPUTS, processes=1),
        Model(STREAM_MODEL, STREAM_INPUTS, PART_OUTPUTS, processes=1, decoupled=True),
    )


def prepared_tensors(model: ModelSpec) -> tuple[Tensor, ...]:
    """What `preprocess` gives: every input of encoders, estimators and fusion that is not another engine's features.

    Absent ones cross as one-element arrays, hence sizes are free; rank and type are the engine's.
    """
    specs = engine_specs(replace(model, has_estimators=True))
    inputs = {
        tensor.name: Tensor(tensor.name, TRITON_TYPE[tensor.dtype], (-1,) * len(tensor.shape))
        for name, spec in specs.items()
        if name not in SAMPLER_ENGINES
        for tensor in spec.inputs
        if not tensor.name.endswith("_features")
    }
    return (*inputs.values(), _MASK, *_CARRIED)


def conditioned_tensors(model: ModelSpec) -> tuple[Tensor, ...]:
    """What `condition` gives and sampling needs, see `Conditioned`."""
    cond = [Tensor(name, "TYPE_FP32", shape) for name, shape in model.cond.items()]
    sources = [Tensor(SOURCE + tensor.name, "TYPE_FP32", (-1,) * len(tensor.dims)) for tensor in cond]
    return (*cond, *sources, replace(_MASK, name="image"), _MASK, *_CARRIED)


def ensemble_config(steps: Sequence[Model], shared: Mapping[str, str]) -> dict[str, Any]:
    """The public model: each step's outputs are the next one's inputs; a tensor between steps carries its maker's name."""
    scheduled = []
    for number, step in enumerate(steps):
        maker = "" if number == 0 else steps[number - 1].name + "_"
        taker = "" if step is steps[-1] else step.name + "_"
        scheduled.append(
            {
                "model_name": step.name,
                "model_version": -1,
                "input_map": [
                    {"key": t.name, "value": maker + t.name} for t in (step.inputs if maker else PUBLIC_INPUTS)
                ],
                "output_map": [{"key": t.name, "value": taker + t.name} for t in step.outputs],
            }
        )
    return {
        "name": MODEL,
        "platform": "ensemble",
        "max_batch_size": 1,
        "input": [tensor.to_config() for tensor in PUBLIC_INPUTS],
        "output": [tensor.to_config() for tensor in steps[-1].outputs],
        "ensemble_scheduling": {"step": scheduled},
        "parameters": parameters({"bundle_sha256": shared["bundle_sha256"]}),
    }


def _write_python_model(folder: Path, model: Model, shared: Mapping[str, str]) -> None:
    version = folder / model.name / VERSION
    version.mkdir(parents=True)
    source = resources.files("triton_repo").joinpath(model.name, VERSION, "model.py")
    (version / "model.py").write_bytes(source.read_bytes())
    write_config(folder / model.name, model.to_config(shared))


def _write_engine_model(folder: Path, model: EngineModel, bundle: Bundle) -> None:
    version = folder / model.name / VERSION
    version.mkdir(parents=True)
    network = read_checked(bundle.folder, model.file, bundle.manifest.files[model.file])
    (version / model.served_as).write_bytes(network)
    write_config(folder / model.name, model.to_config(bundle.hash))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `repository`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle to serve")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the model repository")
    parser.add_argument(
        "--flavour",
        choices=(EMBEDDED, NATIVE),
        default=EMBEDDED,
        help="embedded: engines run inside our Python models. native: encoders and fusion are Triton models of their own, "
        "for NVIDIA's container (default %(default)s)",
    )
    parser.add_argument(
        "--networks",
        metavar="NAME",
        help=f"native: {', '.join(KINDS)}, or a folder of TensorRT plans in the bundle's plans/ (default {ONNX})",
    )
    parser.add_argument(
        "--device", choices=DEVICES, help=f"native: what runs the networks; plans need gpu (default {CPU})"
    )
    parser.add_argument(
        "--expose-unet",
        action="store_true",
        default=None,
        help="native: also offer UNet, decoder and encoder, for callers with a loop of their own; they are loaded a second time",
    )
    parser.add_argument(
        "--mounted-at", metavar="PATH", help="where the server will find the bundle (default: where it lies now)"
    )
    parser.add_argument(
        "--face-pack",
        type=Path,
        metavar="DIR",
        help="folder, as the server will see it, of a pack whose detector finds and aligns the faces of photos",
    )
    parser.add_argument(
        "--feature-cache-mb",
        type=int,
        default=DEFAULT_BYTES // 2**20,
        metavar="N",
        help="MB of encoders' results that the server remembers, 0 = nothing (default %(default)s)",
    )
    parser.add_argument(
        "--stall-limit",
        type=float,
        default=DEFAULT_STALL_LIMIT_S,
        metavar="S",
        help="seconds after which a call of the UNet counts as hanging, and the sampler's process ends itself (default %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the repository; the exit status. Raises as `build_repository` does."""
    given = {
        name: value for name in ("networks", "device", "expose_unet") if (value := getattr(arguments, name)) is not None
    }
    if given and arguments.flavour != NATIVE:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ClipFaceFusionError(f"{flags}: only the native flavour has such models; add --flavour {NATIVE}")
    native = Native(**given) if arguments.flavour == NATIVE else None
    try:
        bundle = build_repository(
            arguments.bundle,
            arguments.out,
            native,
            arguments.mounted_at,
            feature_cache_bytes=arguments.feature_cache_mb * 2**20,
            face_pack=arguments.face_pack,
            stall_limit_s=arguments.stall_limit,
        )
    except OSError as error:
        raise ClipFaceFusionError(f"cannot write {arguments.out}: {error.strerror or error}") from None
    models = sorted(path.name for path in arguments.out.iterdir())
    print(f"{arguments.out}: {', '.join(models)}; bundle {bundle.hash[:12]}")
    return 0
