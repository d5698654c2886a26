"""A route: steps that are all known beforehand, as one table, so that a device can take them without asking anybody.

A deterministic DDIM step, up or down, multiplies and adds with numbers that depend on its timestep alone. Row k of `factors` has them:

    noise = uncond + guidance (cond - uncond)          the model's rows; cond alone where guidance is 1
    clean = x0_sample x + x0_output noise              clipped to ± clip
    x     = sample x + output noise + x0 clean

What adds noise, looks back at earlier predictions or holds on to something outside of the table has no route, and is walked step by step
(`runtime/trajectory.py`). Layout: C, H, W of one sample; N steps; R rows of an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from runtime.denoise import Denoise
from runtime.guidance import GUIDANCE_OFF, combine

FACTORS = ("sample", "output", "x0_sample", "x0_output", "x0", "guidance", "clip")


@dataclass(frozen=True, eq=False)
class Route:
    """The steps ahead of one sample.

    sample     (C, H, W) float32, where they start
    conds      R mappings name -> array without batch dimension: what is asked for, and if R is 2 what guidance leads away from
    timesteps  (N,) int64, where the model is evaluated
    factors    (N, 7) float32, see FACTORS
    """

    sample: np.ndarray
    conds: tuple[Mapping[str, np.ndarray], ...]
    timesteps: np.ndarray
    factors: np.ndarray


@runtime_checkable
class Foreseeable(Protocol):
    """A trajectory that may know its steps beforehand."""

    def route(self) -> Route | None:
        """The steps ahead, as far as they are known now; None where they are not, and at the end."""

    def arrive(self, sample: np.ndarray) -> None:
        """Take that route for done: `sample` is where it ended."""


def table(timesteps: np.ndarray, **factors: np.ndarray | float) -> np.ndarray:
    """(N, 7) float32 of FACTORS by name; what is not named is 0, `guidance` off and `clip` endless."""
    columns = {"guidance": GUIDANCE_OFF, "clip": np.inf, **factors}
    return np.stack(
        [np.broadcast_to(np.float32(columns.get(name, 0)), len(timesteps)) for name in FACTORS], axis=1
    ).astype(np.float32)


def follow(route: Route, denoise: Denoise) -> np.ndarray:
    """Where a route ends, in its plainest form: what a device does with it."""
    x, rows = route.sample.copy(), len(route.conds)
    cond = {name: np.stack([each[name] for each in route.conds]) for name in route.conds[0]}
    for timestep, factors in zip(route.timesteps, route.factors, strict=True):
        f = dict(zip(FACTORS, factors, strict=True))
        outputs = denoise(np.repeat(x[None], rows, axis=0), np.full(rows, timestep, np.int64), cond)
        noise = outputs[0]
        if rows > 1 and f["guidance"] != GUIDANCE_OFF:
            noise = combine(outputs[1], outputs[0], f["guidance"])
        clean = np.clip(f["x0_sample"] * x + f["x0_output"] * noise, -f["clip"], f["clip"])
        x = f["sample"] * x + f["output"] * noise + f["x0"] * clean
    return x
