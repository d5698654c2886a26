"""`python -m benchmarks cold-start BUNDLE`: a fresh process from its start over import and an open pipeline to the first picture.

Files of the bundle are in the system's cache after the first round, which is not counted; reading them from a disk comes on top. CPU
seconds stand beside the wall clock because they hardly depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.tables import Table
from benchmarks.timing import count, machine_facts
from runtime.engines.backends import AUTO, BACKENDS
from runtime.errors import ClipFaceFusionError

EXAMPLE = "bundles/demo --json out/cold-start.json"
PACKAGES = ("onnxruntime", "numpy")
SHOWN_MODULES = 10
# What a user's program does; it imports nothing of this folder, so that only the product's own imports are timed.
PROGRAM = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
marks = {}
def mark(name):
    global wall, cpu
    now, used = time.perf_counter(), time.process_time()
    marks[name] = [now - wall, used - cpu]
    wall, cpu = now, used
from clipfacefusion import GenerateRequest, Pipeline
mark("import")
pipeline = Pipeline.open(sys.argv[1], engine=sys.argv[2])
mark("open")
print("ready", flush=True)
pipeline(GenerateRequest(text="a smiling old man", seed=7, num_inference_steps=int(sys.argv[3])))
mark("first picture")
print(json.dumps(marks), flush=True)
pipeline.close()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `cold-start`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--engine", choices=(AUTO, *BACKENDS), default=AUTO, help="(default %(default)s)")
    parser.add_argument("--steps", type=count, default=50, help="of the first picture (default %(default)s)")
    parser.add_argument("--repeats", type=count, default=5, help="processes that count (default %(default)s)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the tables, and return the JSON document."""
    machine = machine_facts(PACKAGES)
    starts = [start(arguments.bundle, arguments.engine, arguments.steps) for _ in range(1 + arguments.repeats)][1:]
    phases = {
        name: {
            "median_s": round(statistics.median(one[name][0] for one in starts), 3),
            "least_s": round(min(one[name][0] for one in starts), 3),
            "cpu_s": round(statistics.median(one[name][1] for one in starts), 3),
        }
        for name in starts[0]
    }
    modules = slowest_imports(SHOWN_MODULES)
    rows: list[tuple[str | float, ...]] = [(name, *phase.values()) for name, phase in phases.items()]
    print(Table(f"cold start, {arguments.engine}, s", ("phase", "median", "least", "CPU"), rows).text())
    print(Table("\nimports by themselves", ("module", "ms"), list(modules.items())).text())
    return {
        "benchmark": "cold-start",
        "machine": machine,
        "bundle": arguments.bundle.name,
        "engine": arguments.engine,
        "steps": arguments.steps,
        "phases": phases,
        "slowest_imports_ms": modules,
    }


def start(bundle: Path, engine: str, steps: int) -> dict[str, tuple[float, float]]:
    """(wall seconds, CPU seconds) of each phase in a new process; "process to ready" holds the interpreter's start as well.

    Raises ClipFaceFusionError with the last line of a process that fails.
    """
    command = [sys.executable, "-c", PROGRAM, str(bundle), engine, str(steps)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        is_ready = process.stdout.readline() == "ready\n"
        ready_s = time.perf_counter() - began
        out, err = process.communicate()
    if not is_ready or process.returncode != 0:
        raise ClipFaceFusionError(f"the process failed: {(err.strip() or 'no reason given').splitlines()[-1]}")
    marks = json.loads(out)
    both = [sum(marks[name][n] for name in ("import", "open")) for n in (0, 1)]
    return {
        **{name: (wall, cpu) for name, (wall, cpu) in marks.items()},
        "import to ready": (both[0], both[1]),
        "process to ready": (ready_s, both[1]),
    }


def slowest_imports(most: int) -> dict[str, float]:
    """Module → ms that importing it took without what it imports itself, as `python -X importtime` says."""
    command = [sys.executable, "-X", "importtime", "-c", "from clipfacefusion import Pipeline; import onnxruntime"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    parts = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    own_ms = {name.strip(): int(own) / 1e3 for own, _, name in parts if own.strip().isdecimal()}
    return dict(sorted(own_ms.items(), key=lambda item: -item[1])[:most])
