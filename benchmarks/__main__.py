"""`python -m benchmarks {engines,pipeline,served,cold-start,export,editing,round-trip,soak,loop,samplers}`: tables for people, and one JSON document as the last line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import cold_start, engines, export, loop, pipeline, round_trip, samplers, served, soak
from benchmarks.editing import command as editing
from benchmarks.timing import count, publish
from runtime.errors import ClipFaceFusionError
from runtime.request import DEFAULT_STEPS

GUIDANCE = 3.0
REPEATS = 5
BENCHMARKS = {
    "engines": engines,
    "pipeline": pipeline,
    "served": served,
    "cold-start": cold_start,
    "export": export,
    "editing": editing,
    "round-trip": round_trip,
    "soak": soak,
    "loop": loop,
    "samplers": samplers,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 with one line that says why nothing was measured."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        epilog="example: python -m benchmarks pipeline bundles/demo --json out/pipeline.json",
    )
    commands = parser.add_subparsers(metavar="BENCHMARK", required=True)
    for name, module in BENCHMARKS.items():
        shown = getattr(module, "EXAMPLE", f"bundles/demo --json out/{name}.json")
        example = f"example: python -m benchmarks {name} {shown}"
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__, epilog=example)
        command.set_defaults(run=module.run)
        command.add_argument("--json", type=Path, metavar="OUT", help="file that receives the JSON document as well")
        if module in (pipeline, served):
            _add_common(command)
        module.add_arguments(command)
    arguments = parser.parse_args(argv)
    try:
        publish(arguments.run(arguments), arguments.json)
    except ClipFaceFusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="DDIM steps (default %(default)s)")
    command.add_argument("--guidance", type=float, default=GUIDANCE, help="guidance scale (default %(default)s)")
    command.add_argument("--repeats", type=count, default=REPEATS, help="rounds that count (default %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
