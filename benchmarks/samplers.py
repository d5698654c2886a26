"""`python -m benchmarks samplers BUNDLE`: how much each way of taking fewer or cheaper steps changes the picture, and what it saves.

Every mode makes the same pictures (conditions × seeds) as DDIM with 50 steps. Likeness is PSNR and SSIM to those; cost is rows of UNet
calls, which neither the machine nor its load changes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import requests
from benchmarks.timing import count, table
from runtime.options import Options
from runtime.pipeline import Pipeline
from runtime.request import DEFAULT_STEPS, GenerateRequest, GenerateResult
from runtime.similarity import psnr_db, ssim
from runtime.solvers import DDIM, SOLVERS

CONDITIONS = ("text", "audio", "age", "emotion")
MIDDLE = (200, 800)  # timesteps: guidance neither at the highest nor at the lowest noise levels


@dataclass(frozen=True)
class Mode:
    """A sampler, its number of steps, and further options of the request."""

    sampler: str
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def of(self, request: GenerateRequest) -> GenerateRequest:
        """The same request in this mode."""
        return replace(
            request, num_inference_steps=self.steps, options=Options.of({"sampler": self.sampler, **self.options})
        )

    @property
    def label(self) -> str:
        return f"{self.sampler}, {self.steps} steps" + "".join(
            f", {name} {value}" for name, value in self.options.items()
        )


REFERENCE = Mode(DDIM, DEFAULT_STEPS)
MODES = (
    *(Mode(DDIM, steps) for steps in (25, 20, 15, 10)),
    *(Mode(sampler, steps) for sampler in SOLVERS if sampler != DDIM for steps in (25, 20, 15, 10, 8, 6)),
    Mode(DDIM, DEFAULT_STEPS, {"guidance_interval": MIDDLE}),
    *(Mode("unipc", steps, {"guidance_interval": MIDDLE}) for steps in (15, 10)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `samplers`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--seeds", type=count, default=4, help="pictures per kind of condition (default %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the pictures, print the table, and return the JSON document."""
    with Pipeline.open(arguments.bundle) as pipeline:
        asked = [
            replace(requests(DEFAULT_STEPS)[name], seed=seed) for name in CONDITIONS for seed in range(arguments.seeds)
        ]
        exact = [pipeline(REFERENCE.of(request)) for request in asked]
        measured = [compare(mode, exact, [pipeline(mode.of(request)) for request in asked]) for mode in MODES]
        print(
            f"{len(asked)} pictures per mode, against {REFERENCE.label} ({measured[0]['exact_rows']:.0f} UNet rows per picture)"
        )
        header = ("mode", "UNet rows", "times fewer", "PSNR dB", "least", "SSIM")
        keys = ("rows", "times_fewer", "psnr_db", "least_psnr_db", "ssim")
        print(table(header, [(one["mode"], *(one[key] for key in keys)) for one in measured]))
        return {
            "benchmark": "samplers",
            "bundle": pipeline.bundle.manifest.name,
            "bundle_sha256": pipeline.bundle.hash,
            "reference": REFERENCE.label,
            "pictures": len(asked),
            "modes": measured,
        }


def compare(mode: Mode, exact: list[GenerateResult], made: list[GenerateResult]) -> dict[str, Any]:
    """Likeness of a mode's pictures to the exact ones, means over all, and what each costs."""
    likeness = [psnr_db(one.image, other.image) for one, other in zip(made, exact, strict=True)]
    rows, exact_rows = (float(np.mean([_rows(result) for result in results])) for results in (made, exact))
    return {
        "mode": mode.label,
        "rows": round(rows, 1),
        "exact_rows": round(exact_rows, 1),
        "times_fewer": round(exact_rows / rows, 2),
        "psnr_db": round(float(np.mean(likeness)), 2),
        "least_psnr_db": round(min(likeness), 2),
        "ssim": round(float(np.mean([ssim(a.image, b.image) for a, b in zip(made, exact, strict=True)])), 4),
    }


def _rows(result: GenerateResult) -> float:
    """UNet rows of a picture that was made alone."""
    return float(result.report["unet_calls"] * result.report["mean_batch"])
