"""`python -m benchmarks served BUNDLE`: what the server adds to a request, and how many pictures a second it makes.

The same requests go through `Pipeline` in this process and through a real server on this machine, and must give the same picture
first. The UNet's own time varies by more than a server adds, so what lies outside of it is told apart; beside it stands a server
of the same models with nothing in them (`benchmarks/empty_chain.py`): the least that Triton itself takes.
Throughput keeps a fixed number of requests in flight, which share UNet calls on both sides.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import untrained
from benchmarks.empty_chain import emptied
from benchmarks.inputs import requests
from benchmarks.timing import SETTLE_S, TOTAL, Parts, Summary, count, machine_facts, table, take_turns
from runtime.client import Client
from runtime.errors import ClipFaceFusionError
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest, GenerateResult
from runtime.serving.repository import build_repository
from runtime.serving.server import Server

Generate = Callable[[GenerateRequest], GenerateResult]

IN_PROCESS, SERVED, EMPTY = "Pipeline in process", "server, over gRPC", "server of empty models"
OUTSIDE = "outside the UNet"
CONCURRENCY = (1, 4, 8)
PACKAGES = ("onnxruntime", "numpy", "tritonclient", "nvidia-pytriton")
LEVEL_LIMIT = 0  # alone, both sides run the same engines on the same batch sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only `served` has."""
    parser.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--untrained",
        type=count,
        metavar="SIDE",
        help="instead of a bundle: small networks with random weights that denoise 3 x SIDE x SIDE pictures",
    )
    parser.add_argument("--alone", action="store_true", help="one request at a time only, no throughput")
    parser.add_argument("--kind", default="everything", help="what is asked for (default %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the tables, and return the JSON document. Raises ClipFaceFusionError if the pictures differ."""
    if (arguments.bundle is None) == (arguments.untrained is None):
        raise ClipFaceFusionError("name a bundle, or give --untrained SIDE instead")
    kinds = requests(arguments.steps, arguments.guidance)
    if arguments.kind not in kinds:  # before a bundle is made for it
        raise ClipFaceFusionError(f"--kind {arguments.kind}, allowed {', '.join(kinds)}")
    request = kinds[arguments.kind]
    machine = machine_facts(PACKAGES)
    with ExitStack() as opened:
        folder = arguments.bundle
        if folder is None:
            scratch = opened.enter_context(tempfile.TemporaryDirectory(prefix="served-benchmark-"))
            folder = untrained.write_pixel_bundle(arguments.untrained, Path(scratch))
        pipeline = opened.enter_context(Pipeline.open(folder))
        build = emptied(pipeline.bundle, request, pipeline(request))
        client, empty = (
            opened.enter_context(Client(opened.enter_context(Server(folder, build=each)).url))
            for each in (build_repository, build)
        )
        sides: dict[str, Generate] = {IN_PROCESS: pipeline, SERVED: client}
        check_same_picture({name: side(request) for name, side in sides.items()})
        contenders = {name: latency_of(side, request) for name, side in sides.items()}
        contenders[EMPTY] = latency_of(empty, request, has_unet=False)
        latency = take_turns(contenders, arguments.repeats, settle_s=SETTLE_S)
        flow = {
            name: {str(n): throughput(side, request, n, arguments.repeats) for n in CONCURRENCY}
            for name, side in sides.items()
            if not arguments.alone
        }
        print(_tables(latency, flow, arguments))
        return {
            "benchmark": "served",
            "bundle": pipeline.bundle.manifest.name,
            "bundle_sha256": pipeline.bundle.hash,
            "machine": machine,
            "asked": arguments.kind,
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


def latency_of(side: Generate, request: GenerateRequest, has_unet: bool = True) -> Callable[[], Parts]:
    """One request; its parts are the stages that the report tells, and all that is not the UNet. `has_unet` False: nothing is."""

    def timed() -> Parts:
        start = time.perf_counter()
        report = side(request).report
        total_ms = (time.perf_counter() - start) * 1e3
        if not has_unet:
            return {OUTSIDE: total_ms}
        stages = {f"{stage} stage": ms for stage, ms in report["timings_ms"].items() if stage != TOTAL}
        return {OUTSIDE: total_ms - report["unet_ms"], **stages}

    return timed


def _tables(
    latency: Mapping[str, Mapping[str, Summary]],
    flow: Mapping[str, Mapping[str, Mapping[str, Any]]],
    arguments: argparse.Namespace,
) -> str:
    settings = f"{arguments.kind}, {arguments.steps} steps, {arguments.repeats} rounds, everything on all usable cores of this machine"
    alone = [
        (name, all_.median, all_.p95, all_.min, outside.median, outside.p95, outside.min)
        for name, all_, outside in ((name, parts[TOTAL], parts[OUTSIDE]) for name, parts in latency.items())
    ]
    added = latency[SERVED][OUTSIDE].median - latency[IN_PROCESS][OUTSIDE].median
    together = [
        (name, in_flight, each["images_per_s"], each["latency_ms"]["median"], each["latency_ms"]["p95"])
        for name, counts in flow.items()
        for in_flight, each in counts.items()
    ]
    lines = [
        "",
        settings,
        table(("one request alone, ms", "median", "p95", "min", f"{OUTSIDE}: median", "p95", "min"), alone),
        f"the server adds {added:.1f} ms, by the medians of what is {OUTSIDE}",
    ]
    if together:
        lines += ["", table(("throughput", "in flight", "images/s", "median ms", "p95 ms"), together)]
    return "\n".join(lines)
