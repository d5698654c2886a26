"""`python -m benchmarks served BUNDLE`: what the server adds to a request, and how many pictures a second it makes.

The same requests go through `Pipeline` in this process and through a real server on this machine, and must give the same picture
first. Throughput keeps a fixed number of requests in flight, which share UNet calls on both sides.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.inputs import requests
from benchmarks.timing import SETTLE_S, TOTAL, Parts, Summary, machine_facts, table, take_turns
from runtime.client import Client
from runtime.errors import ClipFaceFusionError
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest, GenerateResult
from runtime.serving.server import Server

Generate = Callable[[GenerateRequest], GenerateResult]

IN_PROCESS, SERVED = "Pipeline in process", "server, over gRPC"
CONCURRENCY = (1, 4, 8)
PACKAGES = ("onnxruntime", "numpy", "tritonclient", "nvidia-pytriton")
LEVEL_LIMIT = 0  # alone, both sides run the same engines on the same batch sizes


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the tables, and return the JSON document. Raises ClipFaceFusionError if the pictures differ."""
    machine = machine_facts(PACKAGES)
    with (
        Pipeline.open(arguments.bundle) as pipeline,
        Server(arguments.bundle) as server,
        Client(server.url) as client,
    ):
        sides: dict[str, Generate] = {IN_PROCESS: pipeline, SERVED: client}
        request = requests(arguments.steps, arguments.guidance)["everything"]
        check_same_picture({name: side(request) for name, side in sides.items()})
        latency = take_turns(
            {name: _latency(side, request) for name, side in sides.items()}, arguments.repeats, settle_s=SETTLE_S
        )
        flow = {
            name: {str(n): throughput(side, request, n, arguments.repeats) for n in CONCURRENCY}
            for name, side in sides.items()
        }
        print(_tables(latency, flow, arguments))
        return {
            "benchmark": "served",
            "bundle": pipeline.bundle.manifest.name,
            "bundle_sha256": pipeline.bundle.hash,
            "machine": machine,
            "num_inference_steps": arguments.steps,
            "guidance_scale": arguments.guidance,
            "latency_ms": {
                name: {part: each.to_dict() for part, each in parts.items()} for name, parts in latency.items()
            },
            "throughput": flow,
        }


def check_same_picture(results: Mapping[str, GenerateResult]) -> None:
    """Print how far the pictures are apart; ClipFaceFusionError if that is more than `LEVEL_LIMIT`."""
    first, second = (result.image.astype(int) for result in results.values())
    levels = int(np.abs(first - second).max())
    print(f"parity of {' and '.join(results)}: {levels} of 255 levels")
    if levels > LEVEL_LIMIT:
        raise ClipFaceFusionError(
            f"the server makes another picture: {levels} levels, allowed {LEVEL_LIMIT}; not timed"
        )


def throughput(side: Generate, request: GenerateRequest, concurrency: int, rounds: int) -> dict[str, Any]:
    """Make rounds · concurrency pictures, each of its own seed, `concurrency` at a time: rate per second and latencies."""

    def latency_ms(seed: int) -> float:
        start = time.perf_counter()
        side(replace(request, seed=seed))
        return (time.perf_counter() - start) * 1e3

    with ThreadPoolExecutor(concurrency) as threads:
        start = time.perf_counter()
        latencies = list(threads.map(latency_ms, range(rounds * concurrency)))
        seconds = time.perf_counter() - start
    return {"images_per_s": round(len(latencies) / seconds, 4), "latency_ms": Summary.of(latencies).to_dict()}


def _latency(side: Generate, request: GenerateRequest) -> Callable[[], Parts]:
    """One request; its parts are the stages that the report tells, so what is left is transport and waiting."""

    def timed() -> Parts:
        return {f"{stage} stage": ms for stage, ms in side(request).report["timings_ms"].items() if stage != TOTAL}

    return timed


def _tables(
    latency: Mapping[str, Mapping[str, Summary]],
    flow: Mapping[str, Mapping[str, Mapping[str, Any]]],
    arguments: argparse.Namespace,
) -> str:
    settings = f"{arguments.steps} steps, {arguments.repeats} rounds, everything on all usable cores of this machine"
    alone = [(name, parts[TOTAL].median, parts[TOTAL].p95, parts[TOTAL].min) for name, parts in latency.items()]
    together = [
        (name, in_flight, each["images_per_s"], each["latency_ms"]["median"], each["latency_ms"]["p95"])
        for name, counts in flow.items()
        for in_flight, each in counts.items()
    ]
    return "\n".join(
        (
            "",
            settings,
            table(("one request alone, ms", "median", "p95", "min"), alone),
            "",
            table(("throughput", "in flight", "images/s", "median ms", "p95 ms"), together),
        )
    )
