"""How long an export takes and how much memory: a checkpoint to a bundle in a process of its own, each piece of work with its time.

Without a checkpoint, one of a preset's architecture is made with random weights: what an export costs depends on sizes alone.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import untrained
from benchmarks.timing import machine_facts, table
from runtime.errors import ClipFaceFusionError

TARGETS = "onnx,onnx-fp16,tensorrt-rtx:sm75+sm80+sm86+sm89+sm120+sm121"
EXAMPLE = "--preset paper --json out/export.json"
PACKAGES = ("torch", "onnx", "onnxruntime", "tensorrt_rtx", "numpy")
TIMED = re.compile(r"^(\S.*?) +(\d+\.\d) s$")  # how `python -m export` reports a piece of work


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags."""
    source = command.add_mutually_exclusive_group()
    source.add_argument(
        "--checkpoint", type=Path, default=Path("bundles/demo-checkpoint"), help="(default %(default)s)"
    )
    source.add_argument("--preset", help="a preset of training, with random weights, instead of a checkpoint")
    command.add_argument("--targets", default=TARGETS, metavar="LIST", help="as of the export (default %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Export once, print the table; the document. Raises ClipFaceFusionError if the export fails."""
    facts = machine_facts(PACKAGES)
    with tempfile.TemporaryDirectory(prefix="export-benchmark-") as scratch:
        checkpoint = arguments.checkpoint
        if arguments.preset is not None:
            checkpoint = Path(scratch, "checkpoint")
            write_random(arguments.preset, checkpoint)
        measured = export(checkpoint, Path(scratch, "bundle"), arguments.targets)
    rows = [(name, seconds) for name, seconds in measured["pieces_s"].items()]
    total = [("total", measured["total_s"]), ("peak memory, GB", measured["peak_memory_gb"])]
    print(table(("piece of work", "s"), rows + total))
    return {
        "benchmark": "export",
        "machine": facts,
        "source": arguments.preset or str(arguments.checkpoint),
        "targets": arguments.targets,
        **measured,
    }


def export(checkpoint: Path, bundle: Path, targets: str) -> dict[str, Any]:
    """Seconds of each piece of work and in all, the process's largest resident memory, and the bundle's size."""
    command = [sys.executable, "-m", "export", str(checkpoint), str(bundle), "--targets", targets]
    pieces: dict[str, float] = {}
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
            if found := TIMED.match(line.rstrip()):
                pieces[found[1]] = float(found[2])
    if process.returncode != 0:
        raise ClipFaceFusionError(f"the export failed: {last}")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return {
        "pieces_s": pieces,
        "total_s": round(time.monotonic() - start, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),
        "bundle_mb": round(size / 1e6, 1),
    }


def write_random(preset: str, folder: Path) -> None:
    """A checkpoint of the preset's architecture with random weights. Raises ClipFaceFusionError for no such preset."""
    from training.presets import PRESETS

    if preset not in PRESETS:
        raise ClipFaceFusionError(f"preset '{preset}' does not exist; available: {', '.join(PRESETS)}")
    untrained.write_checkpoint(PRESETS[preset].model, PRESETS[preset].vocabulary, folder)
