"""`python -m benchmarks round-trip BUNDLE`: photos inverted to t0 and taken back, by torch and by every network of the bundle.

Not timed. Nothing is asked of the photos, so all that is missing at the end is the inversion's own error, or the autoencoder's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.editing.subject import subjects
from benchmarks.pipeline import check_same_weights
from benchmarks.timing import count, table
from runtime.bundle import Bundle
from runtime.ddim import DDIMSolver
from runtime.denoise import Denoise
from runtime.editing import to_levels
from runtime.guidance import Guidance
from runtime.inversion import Inversion, edit_timesteps, steps_back
from runtime.manifest import ONNX, ONNX_FP16, onnx_file
from runtime.preprocess.image import model_pixels
from runtime.schedule import Schedule
from runtime.similarity import psnr_db
from runtime.trajectory import GuidedTrajectory, walk
from training.checkpoint import load
from training.model import ClipFaceFusion

EXAMPLE = "bundles/demo --people 4"
ITERATIONS = (0, 2)

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Networks:
    """One implementation: `encode` (3, S, S) pixels → sample, `decode` sample → pixels, both the identity of a pixel model."""

    denoise: Denoise
    encode: Map
    decode: Map


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `round-trip`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--people", type=count, default=4, help="held-out people (default %(default)s)")
    parser.add_argument("--t0", type=count, default=500, help="timestep to invert to (default %(default)s)")
    parser.add_argument("--steps", type=count, default=50, help="steps inside [0, t0] (default %(default)s)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("bundles/demo-checkpoint"),
        metavar="DIR",
        help="checkpoint that the bundle was exported from, for torch (default %(default)s)",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """PSNR to the photo in dB, mean over people: of the autoencoder alone and of each round trip; and the most that one of them loses."""
    rows: list[tuple[str | float, ...]] = []
    with Bundle.open(arguments.bundle) as bundle:
        check_same_weights(bundle, arguments.checkpoint)
        kinds = [kind for kind in (ONNX, ONNX_FP16) if onnx_file("unet", kind) in bundle.manifest.files]
        implementations = {"torch": _of_torch(load(arguments.checkpoint).eval(), bundle)}
        implementations |= {kind: _of_bundle(bundle, kind) for kind in kinds}
        photos = [subject.photo for subject in subjects(arguments.people, bundle.model.image_size)]
        cond = dict(bundle.uncond)
        grid = edit_timesteps(arguments.t0, arguments.steps)
        for name, networks in implementations.items():
            clean = [networks.encode(model_pixels(photo, len(photo))[0]) for photo in photos]
            alone = _psnr(photos, [networks.decode(sample) for sample in clean])
            row: list[str | float] = [name, alone.mean()]
            for iterations in ITERATIONS:
                returned = [
                    _there_and_back(networks, bundle.schedule, sample, cond, grid, iterations) for sample in clean
                ]
                trip = _psnr(photos, returned)
                row += [trip.mean(), (alone - trip).max()]
            rows.append(tuple(row))
    header = ["computed by", "autoencoder dB"]
    for iterations in ITERATIONS:
        header += [f"{iterations} iterations dB", f"{iterations} lose at most dB"]
    print(table(header, rows))
    return {
        "people": len(photos),
        "t0": arguments.t0,
        "steps": arguments.steps,
        "rows": [
            dict(zip(header, (round(c, 4) if isinstance(c, float) else c for c in row), strict=True)) for row in rows
        ],
    }


def _there_and_back(
    networks: Networks,
    schedule: Schedule,
    sample: np.ndarray,
    cond: Mapping[str, np.ndarray],
    grid: np.ndarray,
    iterations: int,
) -> np.ndarray:
    inverted = walk(Inversion(schedule, sample, cond, grid, iterations), networks.denoise)
    solver = DDIMSolver(steps_back(schedule, grid), sample.shape)
    return networks.decode(walk(GuidedTrajectory(inverted, Guidance(cond), solver), networks.denoise))


def _psnr(photos: list[np.ndarray], pixels: list[np.ndarray]) -> np.ndarray:
    return np.array([psnr_db(photo, to_levels(each)) for photo, each in zip(photos, pixels, strict=True)])


def _of_bundle(bundle: Bundle, kind: str) -> Networks:
    unet = bundle.engine("unet", kind)

    def denoise(sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        return unet({"sample": sample, "timestep": timestep, **cond})["noise_pred"]

    if not bundle.model.is_latent:
        return Networks(denoise, lambda pixels: pixels, lambda sample: sample)
    encoder, decoder = bundle.engine("encoder", kind), bundle.engine("decoder", kind)
    return Networks(
        denoise,
        lambda pixels: encoder({"image": pixels[None]})["latents"][0],
        lambda sample: decoder({"latents": sample[None]})["image"][0],
    )


def _of_torch(model: ClipFaceFusion, bundle: Bundle) -> Networks:
    def computed(network: Callable[..., torch.Tensor], *arrays: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)).numpy()

    def denoise(sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        return computed(model.denoise, sample, timestep, *(cond[name] for name in bundle.model.cond))

    if not bundle.model.is_latent:
        return Networks(denoise, lambda pixels: pixels, lambda sample: sample)
    return Networks(
        denoise,
        lambda pixels: computed(model.encode, pixels[None])[0],
        lambda sample: computed(model.decode, sample[None])[0],
    )
