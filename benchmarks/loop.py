"""`python -m benchmarks loop`: what the loop adds to each UNet call. One job at a time, over a model that costs nothing.

A step is timed from call to call, so everything is in it: batching, guidance, the check for what is not finite, the update. The
least of many steps is the loop's own cost; medians hold what else the machine was doing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.timing import count, machine_facts, table
from runtime.batcher import StepBatcher
from runtime.guidance import Guidance
from runtime.job import Job
from runtime.noise import gaussian
from runtime.schedule import Schedule
from runtime.solvers import SOLVERS
from runtime.trajectory import GuidedTrajectory

STEPS = 50
COND = (16,)
EXAMPLE = "--side 256 --json out/loop.json"


class FreeModel:
    """Answers at once with the same random rows, and notes when it was asked."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.asked_s: list[float] = []
        self._rows = np.stack([gaussian(row, 0, shape) for row in range(2)])

    def __call__(self, sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        self.asked_s.append(time.perf_counter())
        return self._rows[: len(sample)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only `loop` has."""
    parser.add_argument("--side", type=count, default=256, help="of a 3-channel sample (default %(default)s)")
    parser.add_argument("--runs", type=count, default=40, help=f"of {STEPS} steps each (default %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the table, and return the JSON document."""
    machine = machine_facts(("numpy",))
    shape = (3, arguments.side, arguments.side)
    rows: list[tuple[str | float, ...]] = []
    measured = []
    for solver in SOLVERS:
        for clips in (False, True):
            for scale in (1.0, 3.0):
                steps_ms = [
                    step_ms
                    for _ in range(arguments.runs)
                    for step_ms in steps_outside_model(solver, shape, clips, scale)
                ]
                least, median = min(steps_ms), statistics.median(steps_ms)
                rows.append(
                    (solver, "clipped" if clips else "free", "guided" if scale != 1 else "plain", least, median)
                )
                measured.append(
                    {
                        "solver": solver,
                        "clip_sample": clips,
                        "guidance_scale": scale,
                        "least_ms": round(least, 4),
                        "median_ms": round(median, 4),
                    }
                )
    print(f"ms per step outside the model, {shape[0]}x{shape[1]}x{shape[2]}, one job")
    print(table(("solver", "x0", "guidance", "least", "median"), rows))
    return {"benchmark": "loop", "machine": machine, "shape": shape, "steps": STEPS, "per_step": measured}


def steps_outside_model(solver: str, shape: tuple[int, int, int], clips: bool, scale: float) -> list[float]:
    """ms from each of a job's calls of a free model to the next."""
    model = FreeModel(shape)
    batcher = StepBatcher(model, max_batch_rows=2)
    guidance = Guidance({"cond": np.ones(COND, np.float32)}, {"cond": np.zeros(COND, np.float32)}, scale)
    steps = SOLVERS[solver](Schedule(clip_sample=clips, timestep_spacing="trailing"), STEPS, shape)
    batcher.submit(Job("measured", GuidedTrajectory(gaussian(7, 0, shape), guidance, steps)))
    batcher.run_until_idle()
    return (np.diff(model.asked_s) * 1e3).tolist()
