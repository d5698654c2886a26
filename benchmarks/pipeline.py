"""`python -m benchmarks pipeline BUNDLE`: one picture, ours against the loops of a diffusers user, in one run on the same weights.

Exact ones are timed only once all have made the same picture. Reduced precision and approximate modes stand in tables of their own, with
what they change in pictures. Also times conditioning, per kind of input.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import front
from benchmarks.contenders import Contender, Made, Task, onnx_loop, ours, torch_loop
from benchmarks.inputs import requests
from benchmarks.samplers import CONDITIONS
from benchmarks.tables import Table, add_output_arguments, write_outputs
from benchmarks.timing import SETTLE_S, TOTAL, Parts, Summary, count, machine_facts, take_turns
from runtime.bundle import Bundle
from runtime.conditioning import Conditioner
from runtime.engines.backends import AUTO, BACKENDS, resolve
from runtime.engines.cores import usable_cores
from runtime.errors import ClipFaceFusionError, first_line
from runtime.manifest import ONNX
from runtime.preprocess import Preprocessor
from runtime.request import GenerateRequest
from runtime.similarity import psnr_db
from training.checkpoint import checkpoint_sha256, load

OURS = "clipfacefusion"
TORCH, TORCH_COMPILE = "diffusers, torch eager channels_last", "diffusers, torch.compile channels_last"
TORCH_BF16, ONNX_LOOP = "diffusers, torch bf16 autocast", "diffusers loop, onnxruntime"
PEERS = (TORCH, TORCH_COMPILE, TORCH_BF16, ONNX_LOOP)
EXAMPLE = "bundles/demo --json out/pipeline.json --markdown out/pipeline.md --plot out/pipeline.png"
PACKAGES = ("torch", "diffusers", "onnxruntime", "openvino", "numpy")
# FP32 engines agree to 1e-6 per call, and a UNet with guidance may amplify that over the steps; a wrong step, scale or timestep is
# off by more than 1e-2. Two levels: one of rounding, one of the decoder.
LATENT_LIMIT = 1e-3
LEVEL_LIMIT = 2
# BF16 keeps 8 bits, and fifty steps add that up; a loop that goes wrong falls below 20 dB.
REDUCED_LEAST_DB = 20


@dataclass(frozen=True)
class Parity:
    """How far a contender's result is from ours: greatest difference of 8-bit levels, and |a - b| / |b| of the latents (L2)."""

    levels: int
    latents: float

    @classmethod
    def between(cls, made: Made, reference: Made) -> Parity:
        difference = np.abs(made[1].astype(int) - reference[1].astype(int)).max()
        return cls(int(difference), float(np.linalg.norm(made[0] - reference[0]) / np.linalg.norm(reference[0])))

    def check(self, name: str) -> None:
        """Raise ClipFaceFusionError if the pictures are not the same: a comparison of their speed would mean nothing."""
        if self.levels > LEVEL_LIMIT or not self.latents <= LATENT_LIMIT:
            raise ClipFaceFusionError(
                f"'{name}' makes another picture: {self.levels} levels (at most {LEVEL_LIMIT}), latents {self.latents:.1e} "
                f"(at most {LATENT_LIMIT:.0e}); not timed. Check the bundle with `python -m runtime verify`"
            )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only `pipeline` has."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("bundles/demo-checkpoint"),
        metavar="DIR",
        help="checkpoint that the bundle was exported from, for the torch peers (default %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=count,
        default=usable_cores(),
        help="threads within one operator, the same for all (default %(default)s: all usable cores)",
    )
    parser.add_argument(
        "--seeds", type=count, default=4, help=f"pictures per {' '.join(CONDITIONS)} and mode (default %(default)s)"
    )
    parser.add_argument(
        "--without", nargs="*", default=[], metavar="NAME", help="contenders to leave out, or engines of ours"
    )
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the tables, and return the JSON document. Raises ClipFaceFusionError if parity is off."""
    machine = machine_facts(PACKAGES)
    torch.set_num_threads(arguments.threads)
    exact, reduced = engines(arguments.without)
    with ExitStack() as stack:
        bundle = stack.enter_context(Bundle.open(arguments.bundle, AUTO, arguments.threads))
        check_same_weights(bundle, arguments.checkpoint)
        preprocess = Preprocessor(bundle.model, bundle.tokenizer_path, arguments.guidance)
        condition = Conditioner(bundle)
        asked = requests(arguments.steps, arguments.guidance)
        cond = condition(preprocess(asked["everything"])).cond
        task = Task(cond, bundle.uncond, 0, arguments.steps, arguments.guidance)
        own = {
            f"{OURS}, {engine}": stack.enter_context(
                ours(stack.enter_context(Bundle.open(arguments.bundle, engine, arguments.threads)), task)
            )
            for engine in (*exact, *reduced)
        }
        made, contenders, missing = make(own | peers(bundle, task, arguments))
        is_reduced = {TORCH_BF16, *(f"{OURS}, {engine}" for engine in reduced)}
        reference = made[f"{OURS}, {exact[0]}"]
        parity = compare({name: each for name, each in made.items() if name not in is_reduced}, reference)
        likeness_db = {name: _least_likeness(name, made[name], reference) for name in made if name in is_reduced}
        sampled = take_turns(
            {name: each.timed for name, each in contenders.items()}, arguments.repeats, settle_s=SETTLE_S
        )
        conditioned = take_turns(
            {name: _conditioning(preprocess, condition, request) for name, request in asked.items()}, arguments.repeats
        )
    found = front.measure(
        arguments.bundle, front.ways(exact[0], reduced), arguments.threads, arguments.repeats, arguments.seeds
    )
    rows = {name: per_step(parts, arguments.steps) for name, parts in sampled.items()}
    document = {
        "benchmark": "pipeline",
        "bundle": bundle.manifest.name,
        "bundle_sha256": bundle.hash,
        "machine": machine,
        "threads": arguments.threads,
        "num_inference_steps": arguments.steps,
        "guidance_scale": arguments.guidance,
        "repeats": arguments.repeats,
        "parity": {name: asdict(reached) for name, reached in parity.items()},
        "reduced_psnr_db": likeness_db,
        "not_run": missing,
        "sampling_ms": {name: _summaries(parts) for name, parts in sampled.items()},
        "sampling_medians_ms": rows,
        "conditioning_ms": {name: _summaries(parts) for name, parts in conditioned.items()},
        "front": found,
    }
    pictures = arguments.seeds * len(CONDITIONS)
    bars = {
        f"{kind}, {arguments.steps} steps": {
            name: row["image"] for name, row in rows.items() if (name in is_reduced) == reduces
        }
        for kind, reduces in (("exact FP32", False), ("reduced precision", True))
    } | {"modes, through Pipeline": {f"{one['engine']}, {one['mode']}": one["image_ms"]["median"] for one in found}}
    shown = [*tables(document), *front.tables(found, pictures)]
    command = f"python -m benchmarks pipeline {arguments.bundle} --steps {arguments.steps} --repeats {arguments.repeats} --seeds {arguments.seeds}"
    write_outputs(arguments, command, shown, "ms per picture, median", bars)
    for name, why in missing.items():
        print(f"not run: {name}: {why}")
    return document


def engines(without: list[str]) -> tuple[list[str], list[str]]:
    """The exact engines that run here, the one that `auto` means first, and the reduced ones that read the same weights."""
    here = [
        name
        for name, backend in BACKENDS.items()
        if backend.reads == ONNX and not backend.missing() and name not in without
    ]
    exact = [name for name in here if BACKENDS[name].is_exact]
    if not exact:
        raise ClipFaceFusionError(f"no exact engine is left to compare with; without: {', '.join(without)}")
    return sorted(exact, key=lambda name: name != resolve(AUTO)), [name for name in here if name not in exact]


def peers(bundle: Bundle, task: Task, arguments: argparse.Namespace) -> dict[str, Contender]:
    """The loops of diffusers' users, by name. Each has weights of its own."""

    def of_torch(**how: bool) -> Callable[[], Contender]:
        return lambda: torch_loop(load(arguments.checkpoint).eval(), task, **how)

    opened: dict[str, Callable[[], Contender]] = {
        TORCH: of_torch(),
        TORCH_COMPILE: of_torch(compiles=True),
        TORCH_BF16: of_torch(bf16=True),
        ONNX_LOOP: partial(onnx_loop, bundle, bundle.schedule.to_dict(), task, arguments.threads),
    }
    return {name: open_peer() for name, open_peer in opened.items() if name not in arguments.without}


def make(contenders: Mapping[str, Contender]) -> tuple[dict[str, Made], dict[str, Contender], dict[str, str]]:
    """Everybody's picture, those who made one, and why others did not: torch.compile needs a C++ compiler."""
    made: dict[str, Made] = {}
    missing: dict[str, str] = {}
    for name, contender in contenders.items():
        try:
            made[name] = contender.make()
        except Exception as error:
            if name != TORCH_COMPILE:
                raise
            missing[name] = f"{type(error).__name__}: {first_line(error)}"
    return made, {name: contenders[name] for name in made}, missing


def check_same_weights(bundle: Bundle, checkpoint: Path) -> None:
    """Raise ClipFaceFusionError unless the bundle was exported from this very checkpoint."""
    found = checkpoint_sha256(checkpoint) if checkpoint.is_dir() else "no folder"
    if found != bundle.manifest.checkpoint_sha256:
        raise ClipFaceFusionError(
            f"bundle '{bundle.manifest.name}' was exported from checkpoint {bundle.manifest.checkpoint_sha256[:12]}, "
            f"{checkpoint} is {found[:12]}; give the right one with --checkpoint, or export again"
        )


def compare(made: Mapping[str, Made], reference: Made) -> dict[str, Parity]:
    """Print how far each picture is from the reference; raises as `Parity.check` does."""
    parity = {name: Parity.between(each, reference) for name, each in made.items()}
    for name, reached in parity.items():
        print(f"parity of {name}: {reached.levels} of 255 levels, latents {reached.latents:.1e} relative")
    for name, reached in parity.items():
        reached.check(name)
    return parity


def per_step(parts: Mapping[str, Summary], steps: int) -> dict[str, float]:
    """Medians in ms: of a picture, and of a step with its UNet call and with what the loop adds to it.

    A step's share is what remains of a picture without its decoding, over `steps`.
    """
    image, unet, decode = (parts[part].median for part in (TOTAL, "unet", "decode"))
    return {
        "image": image,
        "step": round((image - decode) / steps, 4),
        "unet_per_step": round(unet / steps, 4),
        "outside_unet_per_step": round((image - decode - unet) / steps, 4),
        "decode": decode,
    }


def _conditioning(preprocess: Preprocessor, condition: Conditioner, request: GenerateRequest) -> Callable[[], Parts]:
    """From the request's bytes to cond; the part that preprocessing takes is told apart."""

    def timed() -> Parts:
        return dict(condition(preprocess(request)).report["timings_ms"])

    return timed


def _summaries(parts: Mapping[str, Summary]) -> dict[str, dict[str, float]]:
    return {part: summary.to_dict() for part, summary in parts.items()}


def _least_likeness(name: str, made: Made, reference: Made) -> float:
    """PSNR of a reduced contender's picture in dB; ClipFaceFusionError for another picture."""
    reached = psnr_db(made[1], reference[1])
    if reached < REDUCED_LEAST_DB:
        raise ClipFaceFusionError(
            f"'{name}' makes another picture: {reached:.1f} dB, at least {REDUCED_LEAST_DB}; not timed"
        )
    return round(reached, 2)


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Sampling, exact and reduced apart, and conditioning."""
    rows, repeats = document["sampling_medians_ms"], document["repeats"]
    settings = (
        f"{document['num_inference_steps']} steps, guidance {document['guidance_scale']:g}, {document['threads']} threads for every "
        f"contender, medians of {repeats} rounds in ms"
    )
    eager = rows.get(TORCH, {}).get("image")
    header = ("sampling", "image", "step", "UNet/step", "outside/step", "decode", "times eager", "like exact")

    def shown(name: str) -> list[str | float]:
        parity, psnr = document["parity"].get(name), document["reduced_psnr_db"].get(name)
        like = f"{parity['levels']} levels" if parity else f"{psnr} dB"
        return [name, *rows[name].values(), "–" if eager is None else eager / rows[name]["image"], like]

    conditioning = [
        (name, *(parts[part]["median"] for part in (TOTAL, "preprocess", "condition")))
        for name, parts in document["conditioning_ms"].items()
    ]
    reduced = [shown(name) for name in rows if name in document["reduced_psnr_db"]]
    return [
        Table(f"exact: FP32, {settings}", header, [shown(name) for name in rows if name in document["parity"]]),
        *([Table(f"reduced precision, {settings}", header, reduced)] if reduced else []),
        Table("conditioning, ms", ("conditioning", "all", "preprocess", "encode"), conditioning),
    ]
