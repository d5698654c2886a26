"""`python -m benchmarks pipeline BUNDLE`: one picture, ours against the loops of a diffusers user, in one run on the same weights.

Nothing is timed before all contenders have made the same picture. Also times conditioning, per kind of input.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.contenders import Contender, Made, Task, onnx_loop, ours, torch_loop
from benchmarks.inputs import requests
from benchmarks.timing import TOTAL, Parts, Summary, count, machine_facts, table, take_turns, usable_cores
from runtime.bundle import Bundle
from runtime.conditioning import Conditioner
from runtime.errors import ClipFaceFusionError
from runtime.preprocess import Preprocessor
from runtime.request import GenerateRequest
from training.checkpoint import checkpoint_sha256, load

OURS, TORCH, ONNX = "clipfacefusion", "diffusers, torch eager channels_last", "diffusers loop, onnxruntime"
PACKAGES = ("torch", "diffusers", "onnxruntime", "numpy")
# FP32 engines agree to 1e-6 per call, and a UNet with guidance may amplify that over the steps; a wrong step, scale or timestep is
# off by more than 1e-2. Two levels: one of rounding, one of the decoder.
LATENT_LIMIT = 1e-3
LEVEL_LIMIT = 2


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
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("bundles/demo-checkpoint"),
        metavar="DIR",
        help="checkpoint that the bundle was exported from, for the torch peer (default %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=count,
        default=usable_cores(),
        help="threads within one operator, the same for all (default %(default)s: all usable cores)",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the tables, and return the JSON document. Raises ClipFaceFusionError if parity is off."""
    machine = machine_facts(PACKAGES)
    torch.set_num_threads(arguments.threads)
    with Bundle.open(arguments.bundle, threads=arguments.threads) as bundle:
        check_same_weights(bundle, arguments.checkpoint)
        preprocess = Preprocessor(bundle.model, bundle.tokenizer_path, arguments.guidance)
        condition = Conditioner(bundle)
        asked = requests(arguments.steps, arguments.guidance)
        cond, _ = condition(preprocess(asked["everything"]))
        task = Task(cond, bundle.uncond, 0, arguments.steps, arguments.guidance)
        with ours(bundle, task) as own:
            contenders = {
                OURS: own,
                TORCH: torch_loop(load(arguments.checkpoint), task),
                ONNX: onnx_loop(bundle, bundle.schedule.to_dict(), task, arguments.threads),
            }
            parity = compare(contenders)
            sampled = take_turns({name: each.timed for name, each in contenders.items()}, arguments.repeats)
        conditioned = take_turns(
            {name: _conditioning(preprocess, condition, request) for name, request in asked.items()}, arguments.repeats
        )
        rows = {name: per_step(parts, arguments.steps) for name, parts in sampled.items()}
        print(_tables(rows, conditioned, arguments))
        return {
            "benchmark": "pipeline",
            "bundle": bundle.manifest.name,
            "bundle_sha256": bundle.hash,
            "machine": machine,
            "threads": arguments.threads,
            "num_inference_steps": arguments.steps,
            "guidance_scale": arguments.guidance,
            "parity": {name: asdict(reached) for name, reached in parity.items()},
            "sampling_ms": {name: _summaries(parts) for name, parts in sampled.items()},
            "sampling_medians_ms": rows,
            "conditioning_ms": {name: _summaries(parts) for name, parts in conditioned.items()},
        }


def check_same_weights(bundle: Bundle, checkpoint: Path) -> None:
    """Raise ClipFaceFusionError unless the bundle was exported from this very checkpoint."""
    found = checkpoint_sha256(checkpoint) if checkpoint.is_dir() else "no folder"
    if found != bundle.manifest.checkpoint_sha256:
        raise ClipFaceFusionError(
            f"bundle '{bundle.manifest.name}' was exported from checkpoint {bundle.manifest.checkpoint_sha256[:12]}, "
            f"{checkpoint} is {found[:12]}; give the right one with --checkpoint, or export again"
        )


def compare(contenders: Mapping[str, Contender]) -> dict[str, Parity]:
    """Let everyone make the picture and print how far it is from ours; raises as `Parity.check` does."""
    made = {name: contender.make() for name, contender in contenders.items()}
    parity = {name: Parity.between(each, made[OURS]) for name, each in made.items() if name != OURS}
    for name, reached in parity.items():
        print(f"parity with {name}: {reached.levels} of 255 levels, latents {reached.latents:.1e} relative")
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
        _, report = condition(preprocess(request))
        return dict(report["timings_ms"])

    return timed


def _summaries(parts: Mapping[str, Summary]) -> dict[str, dict[str, float]]:
    return {part: summary.to_dict() for part, summary in parts.items()}


def _tables(
    rows: Mapping[str, Mapping[str, float]],
    conditioned: Mapping[str, Mapping[str, Summary]],
    arguments: argparse.Namespace,
) -> str:
    settings = (
        f"{arguments.steps} steps, guidance {arguments.guidance:g}, {arguments.threads} threads for every contender, "
        f"medians of {arguments.repeats} rounds in ms"
    )
    header = ("sampling", "image", "step", "UNet/step", "outside/step", "decode", "time vs ours")
    sampling: list[tuple[str | float, ...]] = [
        (name, *row.values(), row["image"] / rows[OURS]["image"]) for name, row in rows.items()
    ]
    conditioning: list[tuple[str | float, ...]] = [
        (name, *(parts[part].median for part in (TOTAL, "preprocess", "condition")))
        for name, parts in conditioned.items()
    ]
    return "\n".join(
        (
            "",
            settings,
            table(header, sampling),
            "",
            table(("conditioning", "all", "preprocess", "encode"), conditioning),
        )
    )
