"""`python -m benchmarks soak BUNDLE`: long load, faults, cancels and damaged requests against a real server, with both sides' books.

Every request has an id and must end in exactly one outcome, its picture must be the one that it has alone, the server's counters and
log must say the same, and no process may grow. Scenarios run one after the other, each on a server of its own; what they find is
appended to docs/log.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.soak import breakdowns, cancels, flood, fuzzing, load, mix
from benchmarks.soak.record import record
from benchmarks.soak.scenario import Finding, Plan
from benchmarks.timing import count, machine_facts
from runtime.errors import ClipFaceFusionError

PACKAGES = ("onnxruntime", "numpy", "tritonclient", "nvidia-pytriton")
SCENARIOS: Mapping[str, Callable[[Plan], Finding]] = {
    module.__name__.rpartition(".")[2]: module.run for module in (load, flood, cancels, fuzzing, breakdowns, mix)
}
EXAMPLE = "bundles/demo --only mix --minutes 5"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of `soak`."""
    default = Plan(Path())
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle to serve")
    command.add_argument("--minutes", type=_positive, default=default.minutes, help="of the mix (default %(default)s)")
    command.add_argument(
        "--seed", type=int, default=default.seed, help="of everything that is drawn (default %(default)s)"
    )
    command.add_argument(
        "--callers", type=count, default=default.callers, help="of the mix at once (default %(default)s)"
    )
    command.add_argument("--steps", type=count, default=default.steps, help="of a good request (default %(default)s)")
    command.add_argument(
        "--scale",
        type=_positive,
        default=default.scale,
        help="factor on the sizes of all other scenarios (default %(default)s)",
    )
    command.add_argument(
        "--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="scenarios (default: all)"
    )
    command.add_argument("--perf-analyzer", type=Path, help="perf_analyzer's binary (default: fetched with pip)")
    command.add_argument("--log", type=Path, help="Markdown file that gets the results appended, such as docs/log.md")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the scenarios and return the JSON document. Raises ClipFaceFusionError, after recording, if one of them failed."""
    plan = Plan(
        arguments.bundle,
        arguments.minutes,
        arguments.seed,
        arguments.callers,
        arguments.steps,
        arguments.scale,
        arguments.perf_analyzer,
    )
    machine, findings = machine_facts(PACKAGES), []
    for name in arguments.only:
        start = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        finding = _found(name, plan)
        finding.facts["took_s"] = round(time.monotonic() - start, 1)
        findings.append(finding)
        print(
            f"{name}: {'passed' if not finding.problems else 'FAILED'}", *finding.problems[:20], sep="\n  ", flush=True
        )
    if arguments.log:
        record(arguments.log, "python -m benchmarks " + shlex.join(sys.argv[1:]), machine, findings)
    failed = [finding.name for finding in findings if finding.problems]
    document = {"benchmark": "soak", "machine": machine, "scenarios": [finding.to_dict() for finding in findings]}
    if failed:
        print(document, file=sys.stderr)
        raise ClipFaceFusionError(f"soak: {', '.join(failed)} failed; see above")
    return document


def _found(name: str, plan: Plan) -> Finding:
    """What a scenario finds; one that cannot run has failed, and the others still run."""
    try:
        return SCENARIOS[name](plan)
    except (ClipFaceFusionError, RuntimeError) as error:
        return Finding(name, problems=[f"{type(error).__name__}: {error}"])


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a number above 0")
    return value
