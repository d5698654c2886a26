"""Writes a Triton model repository from a bundle: the Python models of `triton_repo/`, and a `config.pbtxt` for each.

    client ─▶ clipfacefusion (ensemble):  preprocess ─▶ condition ─▶ ddim ─▶ client
                                                                       └─ one call per image ─▶ sampler

Flavour `embedded`: engines run inside the Python models, through this package. Every tensor in a configuration derives from
`runtime/request.py` (what a client sends) or `runtime/spec.py` (what engines take); nothing of it is written by hand. Triton
names are used here: a tensor's `dims` leave out the batch dimension, which is 1 for every model, because rows with different
conditions cannot share tensors; many requests at once are what the sampler's batcher is for. This module starts no server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from runtime.bundle import Bundle
from runtime.request import FIELDS
from runtime.spec import ModelSpec, engine_specs
from runtime.wire import LIVE_JOBS, MODEL, NOTES, OUTPUTS, SAMPLER_ENGINES, SAMPLING_FIELDS

TRITON_TYPE = {"BYTES": "TYPE_STRING", "float32": "TYPE_FP32", "int64": "TYPE_INT64"} | {
    name: f"TYPE_{name}" for name in ("FP32", "INT32", "INT64")
}


class Symbol(str):
    """A protobuf enumeration value: written without quotes."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a Triton model; `dims` without the batch, -1 = any size."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    def to_config(self) -> dict[str, Any]:
        """The entry of `config.pbtxt`."""
        entry: dict[str, Any] = {"name": self.name, "data_type": Symbol(self.data_type), "dims": self.dims}
        return {**entry, "optional": True} if self.optional else entry


PUBLIC_INPUTS = tuple(Tensor(field.name, TRITON_TYPE[field.dtype], (field.width,), optional=True) for field in FIELDS)
PUBLIC_OUTPUTS = (Tensor(OUTPUTS[0], "TYPE_UINT8", (-1, -1, 3)), Tensor(OUTPUTS[1], "TYPE_STRING", (1,)))


@dataclass(frozen=True)
class Model:
    """One Python model: its tensors, how many processes run it, and whether it answers outside of `execute`."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    processes: int
    decoupled: bool = False

    def to_config(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        """The content of `config.pbtxt`."""
        config = {
            "name": self.name,
            "backend": "python",
            "max_batch_size": 1,
            "input": [tensor.to_config() for tensor in self.inputs],
            "output": [tensor.to_config() for tensor in self.outputs],
            "instance_group": [{"count": self.processes, "kind": Symbol("KIND_CPU")}],
            "parameters": _parameters(parameters),
        }
        return {**config, "model_transaction_policy": {"decoupled": True}} if self.decoupled else config


def build_repository(bundle: Path | str, out: Path) -> Bundle:
    """Write the repository for `bundle` into the new folder `out`, and give back the opened bundle.

    Raises BundleError if the bundle is not what it claims. The models read the bundle in place: it must stay where it is, and a
    model refuses to load once its hash differs from the one recorded here.
    """
    opened = Bundle.open(bundle)
    parameters = {"bundle": str(Path(bundle).resolve()), "bundle_sha256": opened.hash}
    models = python_models(opened.model)
    out.mkdir(parents=True)
    for model in models:
        version = out / model.name / "1"
        version.mkdir(parents=True)
        source = resources.files("triton_repo").joinpath(model.name, "1", "model.py")
        (version / "model.py").write_bytes(source.read_bytes())
        _write_config(out, model.name, model.to_config(parameters))
    (out / MODEL / "1").mkdir(parents=True)
    _write_config(out, MODEL, ensemble_config(models[:-1], parameters))
    return opened


def python_models(model: ModelSpec) -> tuple[Model, ...]:
    """The Python models: the ensemble's steps in order, then the sampler."""
    prepared, conditioned = prepared_tensors(model), conditioned_tensors(model)
    return (
        Model("preprocess", PUBLIC_INPUTS, prepared, processes=2),
        Model("condition", prepared, conditioned, processes=1),
        Model("ddim", conditioned, PUBLIC_OUTPUTS, processes=LIVE_JOBS),
        Model("sampler", conditioned, PUBLIC_OUTPUTS, processes=1, decoupled=True),
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
    return (*inputs.values(), *_sampling_tensors(), Tensor(NOTES, "TYPE_STRING", (1,)))


def conditioned_tensors(model: ModelSpec) -> tuple[Tensor, ...]:
    """What `condition` gives and sampling needs: the cond entries, how to sample, and the report so far."""
    cond = (Tensor(name, "TYPE_FP32", shape) for name, shape in model.cond.items())
    return (*cond, *_sampling_tensors(), Tensor(NOTES, "TYPE_STRING", (1,)))


def ensemble_config(steps: Sequence[Model], parameters: Mapping[str, str]) -> dict[str, Any]:
    """The public model: each step's outputs are the next one's inputs; a tensor between steps carries its maker's name."""
    scheduled = []
    for number, step in enumerate(steps):
        maker = "" if number == 0 else steps[number - 1].name + "_"
        taker = "" if step is steps[-1] else step.name + "_"
        scheduled.append(
            {
                "model_name": step.name,
                "model_version": -1,
                "input_map": [{"key": t.name, "value": maker + t.name} for t in step.inputs],
                "output_map": [{"key": t.name, "value": taker + t.name} for t in step.outputs],
            }
        )
    return {
        "name": MODEL,
        "platform": "ensemble",
        "max_batch_size": 1,
        "input": [tensor.to_config() for tensor in steps[0].inputs],
        "output": [tensor.to_config() for tensor in steps[-1].outputs],
        "ensemble_scheduling": {"step": scheduled},
        "parameters": _parameters({"bundle_sha256": parameters["bundle_sha256"]}),
    }


def _sampling_tensors() -> tuple[Tensor, ...]:
    return tuple(replace(tensor, optional=False) for tensor in PUBLIC_INPUTS if tensor.name in SAMPLING_FIELDS)


def _parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"string_value": value}} for name, value in values.items()]


def _write_config(out: Path, name: str, config: Mapping[str, Any]) -> None:
    (out / name / "config.pbtxt").write_text("\n".join(_lines(config)) + "\n", encoding="utf-8")


def _lines(message: Mapping[str, Any], indent: str = "") -> list[str]:
    """A protobuf message in text format: mappings are messages, lists of mappings repeated ones."""
    lines = []
    for name, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                lines += [f"{indent}{name} {{", *_lines(each, indent + "  "), indent + "}"]
            else:
                lines.append(f"{indent}{name}: {_scalar(each)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, Symbol):
        return value
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
