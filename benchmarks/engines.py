"""`python -m benchmarks engines BUNDLE` or `--model NAME`: one UNet in every engine that runs here, and in torch.

Parity with torch comes first. Contenders live in processes of their own and take turns call by call; so does a large matrix product,
from which follows how much of the machine's arithmetic each of them uses. Random inputs: content does not change costs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.engine_worker import (
    GEMM_BF16,
    GEMM_FP32,
    GEMM_GFLOP,
    TORCH,
    TORCH_BF16,
    TORCH_COMPILE,
    TORCH_PLAIN,
    Worker,
)
from benchmarks.flops import count_flops
from benchmarks.network import Network, of_bundle, of_yardstick
from benchmarks.tables import Table, add_output_arguments, write_outputs
from benchmarks.timing import Summary, count, machine_facts, take_turns
from benchmarks.yardsticks import YARDSTICKS
from runtime.engines.backends import BACKENDS
from runtime.engines.cores import usable_cores
from runtime.errors import ClipFaceFusionError
from runtime.manifest import ONNX

EXAMPLE = "bundles/demo --json out/engines.json --markdown out/engines.md --plot out/engines.png"
PACKAGES = ("torch", "diffusers", "onnxruntime", "openvino", "numpy")
FP32, BF16 = "fp32", "bf16"
GEMM = {FP32: GEMM_FP32, BF16: GEMM_BF16}
# Contenders of torch by the precision that they compute in; engines say theirs in `BACKENDS`.
TORCH_CONTENDERS = {TORCH: FP32, TORCH_PLAIN: FP32, TORCH_COMPILE: FP32, TORCH_BF16: BF16}
# Relative error (L2) to torch in FP32 beyond which nothing is timed; the reasons stand beside the limits of `runtime/ladder.py`.
LIMIT = {FP32: 1e-4, BF16: 8e-2}
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Measured:
    """A contender's calls of one row: its precision, its relative error, its times, and the most memory that it held."""

    precision: str
    error: float
    call: Summary
    peak_mb: float

    def gflops(self, flops: int) -> float:
        """Reached in its fastest call, in 10^9 operations a second."""
        return flops / self.call.min / 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `engines`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="folder of the bundle whose UNet is timed")
    what.add_argument("--model", choices=YARDSTICKS, help="instead of a bundle: a UNet of that size, random weights")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("bundles/demo-checkpoint"),
        metavar="DIR",
        help="checkpoint that the bundle was exported from, for torch (default %(default)s)",
    )
    parser.add_argument("--repeats", type=count, default=20, help="rounds that count (default %(default)s)")
    parser.add_argument(
        "--batches",
        type=count,
        nargs="*",
        default=list(BATCHES),
        help="rows per call of the scaling table, none to leave it out (default 1 2 4 8 16)",
    )
    parser.add_argument("--without", nargs="*", default=[], metavar="CONTENDER", help="leave out by name")
    parser.add_argument("--threads", type=count, default=usable_cores(), help="(default %(default)s: all usable cores)")
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the tables, and return the JSON document. Raises ClipFaceFusionError if parity is off."""
    machine = machine_facts(PACKAGES)
    with tempfile.TemporaryDirectory(prefix="engines-benchmark-") as scratch:
        folder = Path(scratch)
        if arguments.model is not None:
            network = of_yardstick(arguments.model, folder)
        else:
            network = of_bundle(arguments.bundle, arguments.checkpoint)
        flops = count_flops(onnx.load(network.onnx))
        precisions = {name: way for name, way in contenders().items() if name not in arguments.without}
        measured, gemm, missing = measure(network, precisions, arguments.threads, arguments.repeats, folder)
        scaling = {
            name: scale(network, name, arguments.threads, arguments.batches, arguments.repeats)
            for name in measured
            if name != TORCH_COMPILE and arguments.batches  # it would compile for a minute or more per size
        }
    document = {
        "benchmark": "engines",
        "network": network.name,
        "machine": machine,
        "threads": arguments.threads,
        "gflop_per_call": round(sum(flops.values()) / 1e9, 3),
        "flops": flops,
        "gemm_gflops": {way: round(GEMM_GFLOP / summary.min * 1e3, 1) for way, summary in gemm.items()},
        "contenders": {
            name: {
                "precision": one.precision,
                "relative_error": one.error,
                "call_ms": one.call.to_dict(),
                "gflops": round(one.gflops(sum(flops.values())), 1),
                "peak_mb": one.peak_mb,
            }
            for name, one in measured.items()
        },
        "not_run": missing,
        "scaling": scaling,
    }
    write_outputs(
        arguments, command_line(arguments), tables(document), "ms per call of one row, median", bars(document)
    )
    for name, why in missing.items():
        print(f"not run: {name}: {why}")
    return document


def contenders() -> dict[str, str]:
    """Every contender that reads FP32 weights and may run on this machine, with the precision that it computes in. torch's first."""
    engines = {
        name: FP32 if backend.is_exact else BF16
        for name, backend in BACKENDS.items()
        if backend.reads == ONNX and not backend.missing()
    }
    return {**TORCH_CONTENDERS, **engines}


def measure(
    network: Network, precisions: Mapping[str, str], threads: int, repeats: int, scratch: Path
) -> tuple[dict[str, Measured], dict[str, Summary], dict[str, str]]:
    """Calls of one row: what each contender reached, the matrix product's times by precision, and who did not run with the reason."""
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        names = [*precisions, *(GEMM[way] for way in sorted(set(precisions.values())))]
        workers = {name: stack.enter_context(Worker(network, name, threads)) for name in names}  # starting side by side
        for n, name in enumerate(names):
            try:
                workers[name].ready()
                workers[name].call(1, scratch / f"{n}.npy")
            except ClipFaceFusionError as error:
                missing[name] = str(error).removeprefix(f"{name}: ")
                del workers[name]
        if TORCH not in workers:
            raise ClipFaceFusionError(f"'{TORCH}' is what all are compared with, and it does not run: {missing[TORCH]}")
        results = {name: np.load(scratch / f"{n}.npy") for n, name in enumerate(names) if name in workers}
        errors = {name: relative_error(results[name], results[TORCH]) for name in workers if name in precisions}
        for name, away in errors.items():
            check_parity(name, away, precisions[name])
        timed = take_turns({name: partial(worker.call, 1) for name, worker in workers.items()}, repeats)
        measured = {
            name: Measured(precisions[name], errors[name], timed[name]["call"], workers[name].peak_mb())
            for name in errors
        }
        gemm = {way: timed[name]["call"] for way, name in GEMM.items() if name in timed}
    return measured, gemm, missing


def scale(network: Network, contender: str, threads: int, batches: list[int], repeats: int) -> dict[str, Any]:
    """A fresh process, all batch sizes in turn: ms per row by batch size, and the most memory once the largest has run."""
    with Worker(network, contender, threads) as worker:
        worker.ready()
        timed = take_turns({str(batch): partial(worker.call, batch) for batch in batches}, max(1, repeats // 4))
        return {
            "ms_per_row": {batch: round(parts["call"].median / int(batch), 4) for batch, parts in timed.items()},
            "peak_mb": worker.peak_mb(),
        }


def relative_error(result: np.ndarray, reference: np.ndarray) -> float:
    """|a - b| / |b| in L2."""
    return float(np.linalg.norm(result - reference) / np.linalg.norm(reference))


def check_parity(name: str, error: float, precision: str) -> None:
    """Raise ClipFaceFusionError for a contender that computes something else: its speed would mean nothing."""
    if not error <= LIMIT[precision]:
        raise ClipFaceFusionError(
            f"'{name}' computes something else: relative error {error:.1e} to torch, at most {LIMIT[precision]:.0e} in {precision}; "
            "not timed"
        )


def tables(document: Mapping[str, Any]) -> list[Table]:
    """Exact, reduced precision, and batch scaling."""
    found, gemm = document["contenders"], document["gemm_gflops"]
    eager = found[TORCH]["call_ms"]["median"]
    shown = []
    for way, title in ((FP32, "exact: FP32"), (BF16, "reduced precision: BF16")):
        ours = {name: one for name, one in found.items() if one["precision"] == way}
        if not ours:
            continue
        title += f", {document['network']}, one row, {document['gflop_per_call']} GFLOP; peak {gemm[way]} GFLOP/s"
        header = ("contender", "median ms", "p95", "least", f"times {TORCH}", "GFLOP/s", "of peak", "error", "peak MB")
        rows = [
            (
                name,
                *(one["call_ms"][part] for part in ("median", "p95", "min")),
                eager / one["call_ms"]["median"],
                one["gflops"],
                f"{one['gflops'] / gemm[way]:.0%}",
                f"{one['relative_error']:.1e}",
                f"{one['peak_mb']:.0f}",
            )
            for name, one in ours.items()
        ]
        shown.append(Table(title, header, rows))
    if document["scaling"]:
        batches = list(next(iter(document["scaling"].values()))["ms_per_row"])
        header = ("ms per row at batch", *batches, f"gain at {batches[-1]}", f"peak MB at {batches[-1]}")
        rows = [
            (name, *one["ms_per_row"].values(), _gain(one["ms_per_row"]), f"{one['peak_mb']:.0f}")
            for name, one in document["scaling"].items()
        ]
        shown.append(Table(f"batch scaling, {document['network']}", header, rows))
    return shown


def bars(document: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Median ms by contender, exact and reduced apart."""
    return {
        f"{document['network']}, {way}": {
            name: one["call_ms"]["median"] for name, one in document["contenders"].items() if one["precision"] == way
        }
        for way in (FP32, BF16)
    }


def command_line(arguments: argparse.Namespace) -> str:
    """The command that repeats this run."""
    what = f"--model {arguments.model}" if arguments.model else str(arguments.bundle)
    return f"python -m benchmarks engines {what} --repeats {arguments.repeats}"


def _gain(ms_per_row: Mapping[str, float]) -> float:
    per_row = list(ms_per_row.values())
    return per_row[0] / per_row[-1]
